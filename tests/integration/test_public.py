"""The public names of the package: each is there, and importing it loads nothing heavy."""

import subprocess
import sys

import pytest

import finetune


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    script = f"import sys; import finetune; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", finetune.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(finetune, name) is not None
    assert name in dir(finetune) and finetune._MODULES.keys() == set(finetune.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("pass") & {"torch", "transformers", "pydantic", "numpy", "yaml"}
    assert "torch" not in loaded_by(
        "finetune.VARIANTS, finetune.tasks.TASKS, finetune.Run, finetune.Comparison"
    )


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        finetune.nothing  # noqa: B018
