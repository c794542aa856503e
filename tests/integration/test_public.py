"""The public names of the package: each is there, and importing it loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import finetune

PACKAGE = Path(finetune.__file__).parent


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


def test_type_checkers_see_what_is_listed() -> None:
    (block,) = [
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    aliases = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {alias.name for alias in aliases} - {"Any"} == set(finetune.__all__)
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.slow
def test_the_variants_are_registered_where_transformers_is_there_before() -> None:
    """The other order of imports is that of every test of ``attention.register``."""
    code = "import transformers.modeling_utils as m, finetune; assert 'sa-softmax' in m.AttentionInterface()"
    subprocess.run([sys.executable, "-c", code], check=True)
