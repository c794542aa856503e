"""A run with a variant of the user's own file: trained, recorded, compared, loaded and looked at again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune
from finetune.attention import VARIANTS
from finetune.attention.swap import calls_by_kernel
from finetune.cli.main import main
from finetune.errors import UserError
from finetune.system.checksum import sha256
from tests.support import small_runs
from tests.support.small_runs import run

FILE = """
from finetune.attention import VARIANTS, Variant

def halved(scores, allowed=None):
    return VARIANTS["softmax"].weigh(scores, allowed) / 2

VARIANT = Variant("halved", halved, paper="none", equation="p / 2", summary="half of softmax")
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    VARIANTS.pop("halved", None)


def test_a_file_s_variant_goes_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, root = tmp_path / "mine.py", tmp_path / "runs"
    file.write_text(FILE, encoding="utf-8")
    assert run("classify", root, "--attention", str(file)) == 0
    folder = small_runs.folder("classify", root, f"halved-{sha256(file)[:8]}")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["config"]["attention"]["file"] == {"path": str(file), "sha256": sha256(file)}
    assert record["attention"]["variant"] == "halved" and record["attention"]["kernel"] == "reference"
    assert run("classify", root, "--attention", str(file)) == 0  # found again by the same name
    assert "finished already, skipped" in capsys.readouterr().out

    del VARIANTS["halved"]  # as in another process
    model, tokenizer = finetune.load(folder)
    model(**tokenizer("a text", return_tensors="pt"))
    assert calls_by_kernel(model, "halved")

    del VARIANTS["halved"]
    moved = file.rename(tmp_path / "moved.py")
    with pytest.raises(UserError, match=r"there is no file '.*mine\.py': put that file back, or say where"):
        finetune.load(folder)
    finetune.load(folder, attention=moved)
    del VARIANTS["halved"]
    assert main(["diagnose", str(folder), "--rows", "4", "--attention", str(moved)]) == 0

    del VARIANTS["halved"]
    moved.rename(folder / "mine.py")
    (folder / "finetune.yaml").write_text(
        (folder / "finetune.yaml").read_text(encoding="utf-8").replace(str(file), str(folder / "mine.py")),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"not run by itself: look at it, and pass finetune\.load"):
        finetune.load(folder)  # a file that came with a run is somebody else's code


@pytest.mark.slow
def test_the_runs_of_a_study_find_the_file(tmp_path: Path) -> None:
    """Each run is a process of its own, which is given its configuration."""
    file, study, root = tmp_path / "mine.py", tmp_path / "mine.yaml", tmp_path / "runs"
    file.write_text(FILE, encoding="utf-8")
    words = small_runs.COMMON
    keys = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True) if "." in name}
    grid = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    study.write_text(
        f"name: own\nseeds: [0]\nworkers: 1\ngrids:\n  a:\n    task: agnews\n    data.source: sample\n"
        f"    variants: [{file}]\n{grid}",
        encoding="utf-8",
    )
    assert main(["study", str(study), "--output", str(root)]) == 0
    (record,) = root.glob(f"**/halved-{sha256(file)[:8]}/seed-0/record.json")
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "finished"
