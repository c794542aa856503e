"""The kernels as a repository of the Hub: stock transformers takes them by name, without finetune."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from finetune.attention.swap import swap
from finetune.errors import UserError
from finetune.publishing.kernel_repository import BACKENDS, write
from tests.support.tiny_models import FAMILIES, batch

# In a process that cannot import finetune. Where the `kernels` package that this transformers wants is
# installed, it loads the repository; else its steps are gone through here: the folder of the variant, the
# name in its metadata, the module by importlib.
ALONE = """
import importlib.util, json, os, sys
from pathlib import Path
import torch
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "finetune":
            raise ImportError("finetune is not here")
sys.meta_path.insert(0, Refuse())
folder, name = Path(sys.argv[1]), sys.argv[2]
from transformers import AutoModel
from transformers.integrations import hub_kernels
if hub_kernels.is_kernels_available():
    os.environ["LOCAL_KERNELS"] = f"org/{name}={folder / name}"
else:
    def load(repository, **_):
        assert repository == f"org/{name}"
        variant = folder / name / "build" / "torch-cpu"
        about = json.loads((variant / "metadata.json").read_text())
        spec = importlib.util.spec_from_file_location(about["id"], variant / "__init__.py")
        sys.modules[about["id"]] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    hub_kernels.is_kernels_available = lambda: True
    hub_kernels.get_kernel = load
options = {"attn_implementation": f"org/{name}", "allow_all_kernels": True}
model = AutoModel.from_pretrained(folder / "model", **options).eval()
inputs = torch.load(folder / "inputs.pt")
output = model(**inputs)[0]
output.square().sum().backward()
gradients = [p.grad for p in model.parameters() if p.grad is not None]
torch.save([output.detach(), *gradients], folder / "found.pt")
assert "finetune" not in sys.modules
"""


@pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
def test_a_repository_holds_all_that_it_needs(variant: str, tmp_path: Path) -> None:
    written = write(tmp_path, variant)
    python_name = variant.replace("-", "_")
    assert tomllib.loads((tmp_path / "build.toml").read_text())["general"]["name"] == variant
    assert variant in (tmp_path / "README.md").read_text()
    for backend in BACKENDS:
        place = tmp_path / "build" / f"torch-{backend}"
        about = json.loads((place / "metadata.json").read_text())
        assert (about["name"], about["backend"], about["license"]) == (
            variant,
            {"type": backend},
            "Apache-2.0",
        )
        for source in ("native.c", "threads.h"):
            assert (place / "attention/kernels/native" / source).is_file()
        assert (place / "attention/kernels/triton/backward.py").is_file()
        assert f'VARIANT = "{variant}"' in (place / "attention/standalone.py").read_text()
        source = {path.relative_to(place) for path in place.rglob("*.py")}
        assert source == {
            path.relative_to(tmp_path / "torch-ext" / python_name)
            for path in (tmp_path / "torch-ext" / python_name).rglob("*.py")
        }
    for path in written:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                assert not isinstance(node, ast.Import) or "finetune" not in node.names[0].name
                if isinstance(node, ast.ImportFrom) and node.level:
                    folder = path.parents[node.level - 1] / (node.module or "").replace(".", "/")
                    assert folder.is_dir() or folder.with_suffix(".py").is_file(), (path, node.module)
                assert not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("finetune")


def test_two_versions_have_operators_of_their_own(tmp_path: Path) -> None:
    names = set()
    for variant in ("sa-softmax", "sa-softmax-raw"):
        write(tmp_path / variant, variant)
        text = (
            tmp_path / variant / "build/torch-cuda/attention/kernels/triton/triton_attention.py"
        ).read_text()
        assert '"finetune::' not in text
        names |= {line.partition("::")[0] for line in text.splitlines() if "custom_op(" in line}
    assert len(names) == 2


@pytest.mark.parametrize("variant", ["softmax-plus-one", "sa-softmaxx"])
def test_a_variant_without_kernels_is_refused(variant: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sa-softmax-raw"):
        write(tmp_path, variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
def test_stock_transformers_takes_it_by_name(variant: str, tmp_path: Path) -> None:
    write(tmp_path / variant, variant)
    model, inputs = FAMILIES["bert"].build(num_hidden_layers=2).base_model, batch("encoder")
    model.save_pretrained(tmp_path / "model")
    torch.save(inputs, tmp_path / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), variant], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "passed over" not in done.stderr
    swap(model.eval(), variant)
    output = model(**inputs)[0]
    output.square().sum().backward()
    expected = [output.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    found = torch.load(tmp_path / "found.pt")
    assert len(found) == len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
