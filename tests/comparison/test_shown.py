"""A comparison as values: its JSON, old and new, a data frame, and what a notebook shows."""

import json
import math
from pathlib import Path

import pandas
import pytest

from finetune.comparison.caveats import NoteKind, earlier_kind
from finetune.comparison.compare import Comparison, compare
from finetune.report import write
from finetune.report.formats import saved
from tests.support.records import classified, correctness, save, save_accuracies, started

ROOT = Path(__file__).parents[2]
KEPT = [ROOT / "results" / name for name in ("cpu", "first-runs")]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    save_accuracies(root, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(root, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(root, "sigmoid", [0.80, 0.82, 0.78])
    save_accuracies(root, "softmax", [0.5], task="yelp")
    other = started("sa-softmax", 0, task="yelp")
    other["status"], other["reason"] = "failed", "<b>no memory</b>"
    save(root, other)
    return compare(root)


def test_a_frame_has_a_row_a_table_and_variant(comparison: Comparison) -> None:
    frame = comparison.to_frame()
    assert list(frame["variant"]) == ["softmax", "sa-softmax", "sigmoid", "softmax", "sa-softmax"]
    better = frame[(frame["task"] == "agnews") & (frame["variant"] == "sa-softmax")].iloc[0]
    found = comparison.tables[0].variants[1].difference
    assert found is not None and found.interval is not None
    assert (better["metric"], better["n"], better["verdict"]) == ("accuracy", 3, "better")
    assert better["mean"] == pytest.approx(85.08, abs=0.01) and better["sd"] > 0
    assert better["difference"] == found.mean and better["p"] == found.p
    assert [better["interval_low"], better["interval_high"]] == found.interval
    assert better["why"] == found.why
    baseline = frame.iloc[0]
    assert math.isnan(baseline["difference"]) and pandas.isna(baseline["verdict"])
    assert frame.iloc[4]["n"] == 0 and math.isnan(frame.iloc[4]["mean"])
    assert len(compare_nothing().to_frame()) == 0


def compare_nothing() -> Comparison:
    return Comparison([], [])


def test_a_notebook_shows_a_small_table_in_which_nothing_runs(comparison: Comparison) -> None:
    html = Comparison(comparison.tables, ["<script>x</script> is no record"])._repr_html_()
    assert html.count("<tr>") == 1 + 5
    assert "<td>sa-softmax</td><td>3</td><td>85.08%</td><td>+5.08</td>" in html
    assert "<td>better</td>" in html and "<td>not significant</td>" in html
    assert "&lt;script&gt;" in html and "<script" not in html
    assert "is significantly better than softmax by 5.08 points" in html


def test_json_keeps_its_words_and_gives_the_kinds_of_notes_beside_their_texts(comparison: Comparison) -> None:
    content = json.loads(json.dumps(comparison.to_json()))
    table = content["tables"][0]
    assert [each["name"] for each in table["arms"]] == ["softmax", "sa-softmax", "sigmoid"]
    assert all(isinstance(note, str) for note in table["notes"])
    assert table["note_kinds"] == ["kernels"]
    assert set(content) == {"schema", "version", "alpha", "power", "tables", "problems", "overall"}


EARLIER = {
    "sa-softmax: no comparison over rows: cannot read the predictions x": NoteKind.NO_ROWS,
    "runs/x is left out: a newer run of this arm and seed is there": NoteKind.LEFT_OUT,
    "a did not learn in 1 of 2 runs (seed 0: bleu 0.00; at or near chance)": NoteKind.UNLEARNED,
    "training time and memory are not like for like: attention kernels were a x, b y": NoteKind.KERNELS,
    "softmax: its runs differ in attention kernel": NoteKind.MIXED_KERNELS,
    "precision inside attention is not like for like: in bfloat16 the kernels": NoteKind.PRECISION,
    "what was computed (precision, optimizer) is not in these records": NoteKind.UNRECORDED,
    "the runs differ in hardware: CPU / GPU": NoteKind.HARDWARE,
    "the runs differ in package versions: torch 1 / 2": NoteKind.VERSIONS,
    "the runs differ in the project's commit: a / b": NoteKind.COMMIT,
    "a line of another version": NoteKind.OTHER,
}


@pytest.mark.parametrize(("text", "kind"), EARLIER.items(), ids=EARLIER.values())
def test_a_note_of_an_earlier_report_gets_its_kind(text: str, kind: NoteKind) -> None:
    assert earlier_kind(text) is kind


def test_notes_of_today_have_the_kinds_they_are_written_with(tmp_path: Path) -> None:
    """What is written is read by its kind; the words could be any."""
    save_accuracies(tmp_path, "softmax", [0.8])
    other = started("sa-softmax", 0)
    other["hardware"] = other["hardware"] | {"device": "NVIDIA H200"}
    save(tmp_path, other, classified(correctness(400, 0.25, 0)))
    first = compare(tmp_path)
    content = json.loads(json.dumps(first.to_json()))
    kinds = [note.kind for note in first.tables[0].notes]
    assert kinds == [NoteKind.UNLEARNED, NoteKind.KERNELS, NoteKind.HARDWARE]
    content["tables"][0]["notes"] = ["in", "other", "words"]
    (tmp_path / saved.FILE).write_text(json.dumps(content))
    assert [note.kind for note in write.read(tmp_path).tables[0].notes] == kinds


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_every_note_of_a_kept_report_has_a_kind(folder: Path) -> None:
    notes = [note for table in write.read(folder).tables for note in table.notes]
    assert notes and not any(note.kind is NoteKind.OTHER for note in notes)
