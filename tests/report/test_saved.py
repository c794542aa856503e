"""A kept report: what an earlier version wrote is read as what it means today."""

import json
from pathlib import Path

import pytest

from finetune.comparison.caveats import NoteKind
from finetune.comparison.compare import compare
from finetune.report import write
from finetune.report.formats import saved
from tests.support.records import classified, correctness, save, save_accuracies, started

ROOT = Path(__file__).parents[2]
KEPT = [ROOT / "results" / name for name in ("cpu", "first-runs")]

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
    assert saved.earlier_kind(text) is kind


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
