"""``finetune diff``: what is typed, what is joined from the user's data, and what is written."""

import json
import re
import shutil
from pathlib import Path

import pytest

from finetune.cli.main import main
from finetune.config import build
from finetune.data import dataset, sources
from finetune.records import store
from finetune.tasks import get_task
from tests.support.records import save, started

ROWS = 24


def predicted(wrong: int) -> list[dict[str, int]]:
    return [{"row": row, "label": row % 4, "prediction": (row + (row == wrong)) % 4} for row in range(ROWS)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for name, count in (("train", 40), ("test", ROWS)):
        lines = [json.dumps({"text": f"{name} news {row}", "label": row % 4}) for row in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    over = {"data": {"validation_rows": 8, "train_rows": None, "test_rows": None}}
    config = build.build(started("softmax", 0, **over)["config"])
    task = get_task("agnews")
    source = sources.resolve(task, None, str(data))
    info = dataset.load(task, None, source, config.data).info
    root = tmp_path_factory.mktemp("runs")
    for variant, wrong in (("softmax", 3), ("sa-softmax", 5)):
        for seed in range(2):
            entry = started(variant, seed, fingerprint=info["splits"]["test"]["fingerprint"], **over)
            assert entry["data"] is not None
            entry["data"]["location"] = str(data)
            save(root, entry, predicted(wrong + seed))
    return root


def run_folder(root: Path, variant: str, seed: int = 0) -> str:
    return str(
        next(file.parent for file in root.rglob(store.FILE) if file.parts[-3:-1] == (variant, f"seed-{seed}"))
    )


def test_two_variants_and_two_runs_with_their_texts(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["diff", str(runs)]) == 0
    out = capsys.readouterr().out
    assert (
        "2 pairs of runs; 24 test rows in each" in out
        and "test news 3" in out
        and "words of the input" in out
    )
    assert "Accuracy by length" in out and re.search(r"^3 +24 +95.83%", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80
    assert main(["diff", str(runs), "--variants", "sa-softmax", "softmax"]) == 0
    assert "sa-softmax → softmax" in capsys.readouterr().out
    assert main(["diff", run_folder(runs, "softmax"), run_folder(runs, "softmax", 1)]) == 0
    out = capsys.readouterr().out
    assert "softmax, seed 0 → softmax, seed 1" in out
    counts = out.partition("Confusion, ")[2].partition("Accuracy by length")[0]
    assert re.search(r"\d", counts) and not re.search(r"\d\.\d", counts), "rows of one run are whole numbers"


def test_runs_without_a_partner_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (alone,) = (path for path in runs.rglob("seed-1") if path.parent.name == "softmax")
    hidden = alone.rename(runs.parent / f"{runs.name}-hidden")
    try:
        assert main(["diff", str(runs)]) == 0
        assert "Left out, as one side alone has finished them: seeds 1." in capsys.readouterr().out
        assert main(["diff", str(alone.parent), str(alone.parents[1] / "sa-softmax")]) == 0
        assert "seeds 1." in capsys.readouterr().out
    finally:
        hidden.rename(alone)


def test_a_side_of_two_settings_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [Path(run_folder(runs, variant)).parent for variant in ("softmax", "sa-softmax")]
    for name in ("one", "two"):
        shutil.copytree(both[0], tmp_path / name / "softmax")
    assert main(["diff", str(tmp_path), str(both[1])]) == 2
    error = capsys.readouterr().err
    assert "holds several runs of one seed: name the folder of one setting" in error
    assert str(tmp_path / "one" / "softmax") in error and error.count("\n") == 1


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_a_file_holds_texts_only_where_asked(runs: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"diff.{form}"
    assert main(["diff", str(runs), "--output", str(file), "--quiet"]) == 0
    bare = file.read_text()
    assert "news" not in bare.replace("agnews", "") and "2" in bare
    assert main(["diff", str(runs), "--output", str(file), "--with-texts"]) == 0
    assert "test news 3" in file.read_text()


def test_without_the_data_the_numbers_are_there_and_other_data_is_refused(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = data.rename(data.with_name("elsewhere"))
    try:
        assert main(["diff", str(runs)]) == 0
        out = capsys.readouterr().out
        assert (
            "Without texts, and lengths of the input: the rows of " in " ".join(out.split())
            and "of 2 " in out
        )
        assert main(["diff", str(runs), "--data", str(hidden)]) == 0
        assert "test news 3" in capsys.readouterr().out
        data.mkdir()
        for name in ("train", "test"):
            (data / f"{name}.jsonl").write_text(
                (hidden / f"{name}.jsonl").read_text().replace("news", "tales")
            )
        assert main(["diff", str(runs)]) == 2
        error = capsys.readouterr().err
        assert (
            "are not those that" in error and "give its data with --data" in error and error.count("\n") == 1
        )
    finally:
        shutil.rmtree(data, ignore_errors=True)
        hidden.rename(data)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["RUNS", "--variants", "softmax", "sa-sofmax"], "did you mean 'sa-softmax'"),
        (["RUNS", "RUNS"], "holds runs of several variants: name one folder, and --variants A B"),
        (["RUNS", "RUNS", "RUNS"], "takes two runs, or one folder"),
        (["RUNS", "--output", "diff.txt"], "--output writes .html, .md, .json"),
        (["RUNS", "--examples", "none"], "--examples"),
        (["EMPTY"], "there is no finished run in"),
    ],
)
def test_a_mistake_is_one_line(
    runs: Path, tmp_path: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"RUNS": str(runs), "EMPTY": str(tmp_path)}
    assert main(["diff", *(known.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
