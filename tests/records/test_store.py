"""Records: written wholly or not at all, read with one clear line about what is wrong."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from finetune.errors import UserError
from finetune.records import store
from finetune.records.run import Run
from tests.support.records import classified, run_config, save, started


def _entry() -> store.Record:
    return store.new(run_config(), command="finetune classify", task={"labels": ["a", "b"]})


def test_a_new_record_has_every_key_and_survives_the_disk(tmp_path: Path) -> None:
    entry = _entry()
    assert set(entry) == set(store.Record.__annotations__)
    assert entry["task"] == {"name": "agnews", "kind": "classification", "pair": None, "labels": ["a", "b"]}
    assert (entry["status"], entry["metrics"]) == ("running", None)
    file = store.write(tmp_path / "new" / "run", entry)
    assert file == tmp_path / "new" / "run" / store.FILE
    assert store.read(file.parent) == store.read(file) == entry
    assert [path.name for path in file.parent.iterdir()] == [store.FILE]


def test_numbers_of_numpy_and_non_finite_ones_become_json(tmp_path: Path) -> None:
    entry = _entry()
    entry["curve"] = [{"step": np.int64(3), "loss": np.float32(0.5), "bad": float("nan"), "folder": tmp_path}]
    store.write(tmp_path, entry)
    expected = {"step": 3, "loss": 0.5, "bad": None, "folder": str(tmp_path)}
    assert store.read(tmp_path)["curve"] == [expected]
    assert type(store.read(tmp_path)["curve"][0]["step"]) is int


def test_unknown_keys_and_values_are_the_programmers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing or unknown: extra"):
        store.write(tmp_path, _entry() | {"extra": 1})  # type: ignore[typeddict-item]
    entry = _entry()
    entry["curve"] = [{"x": {1, 2}}]
    with pytest.raises(TypeError, match="set does not go"):
        store.write(tmp_path, entry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": "finetune-rec', "truncated"),
        ("", "truncated"),
        ("[1, 2]", "no record of this program"),
        ('{"schema": "other", "version": 1}', "no record of this program"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema": "finetune-record", "version": 5}', "has version 5.*upgrade"),
        ('{"schema": "finetune-record", "version": 1}', "damaged.*missing or unknown keys: attention"),
        ('{"schema": "finetune-record", "version": "x"}', "damaged"),
        (b"\xff\xfa", "not UTF-8"),
        ('{"schema": ' + "1" * 5000 + "}", "thousands of digits"),
    ],
)
def test_a_record_that_is_not_one_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / store.FILE).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        store.read(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    found, problems = store.find(tmp_path)
    assert (found, problems) == ([], [str(error.value)])


def test_a_status_that_is_none_of_ours_and_a_missing_file(tmp_path: Path) -> None:
    store.write(tmp_path, _entry())
    content = json.loads((tmp_path / store.FILE).read_text()) | {"status": "done"}
    (tmp_path / store.FILE).write_text(json.dumps(content))
    allowed = "'running', 'finished', 'failed' or 'preempted'"
    with pytest.raises(UserError, match=rf"damaged .status: input should be {allowed}"):
        store.read(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        store.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"data": "x"}, "data: "),
        ({"model": "x"}, "model: "),
        ({"attention": "x"}, "attention: "),
        ({"times": "x"}, "times: "),
        ({"times": {"train_s": "x"}}, "times.train_s: "),
        ({"metrics": "x"}, "metrics: "),
        ({"metrics": {"accuracy": 0.9}}, "metrics.accuracy: "),
        ({"metrics": {"accuracy": {"value": float("nan")}}}, "a number that is none"),
        ({"metrics": {"accuracy": {"value": 10**400}}}, "metrics.accuracy.value: "),
        ({"versions": None}, "versions: "),
        ({"hardware": None}, "hardware: "),
        ({"hardware": {"device": "cpu", "cpu": None, "devices": "two"}}, "hardware.devices: "),
        ({"git": {"a": 1}}, "git.commit: "),
        ({"peak_memory_mib": "x"}, "peak_memory_mib: "),
        ({"command": None}, "command: "),
        ({"reason": "\ud800"}, "unable to parse raw data as a unicode string"),
        ({"curve": json.loads("[" * 300 + "]" * 300)}, "recursion limit"),
        ({"config": {}}, "config.seed: "),
        ({"config": {"seed": True}}, "config.seed: "),
        ({"task": {"name": "a", "kind": "other", "pair": None}}, "task.kind: "),
        ({"versions": {"a\nb": 1}}, "versions.a b: "),
    ],
)
def test_a_damaged_value_is_named_on_one_line(tmp_path: Path, damage: dict[str, object], named: str) -> None:
    folder = save(tmp_path, started("softmax", 0), classified([True, False]))
    content = json.loads((folder / store.FILE).read_text()) | damage
    (folder / store.FILE).write_text(json.dumps(content))
    found, (problem,) = store.find(tmp_path)
    assert found == []
    assert f"{folder / store.FILE} is damaged (" in problem and named in problem
    assert "\n" not in problem


def test_a_record_of_earlier_days_is_read(tmp_path: Path) -> None:
    """Without the number of devices, the initial weights and the tokenizer; a class may be called "value"."""
    folder = save(tmp_path, started("softmax", 0), classified([True, False]))
    content = json.loads((folder / store.FILE).read_text())
    del content["hardware"]["devices"]
    content["model"] = {"name": "m", "revision": None}
    content["metrics"]["per_class"] = {"value": {"f1": 1.0}}
    (folder / store.FILE).write_text(json.dumps(content))
    assert store.read(folder) == content


def test_texts_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    entry = _entry() | {"command": "finetune --data caf\udce9"}
    store.write(tmp_path, entry)  # type: ignore[arg-type]
    assert store.read(tmp_path)["command"] == "finetune --data caf\\udce9"


def test_find_lists_runs_in_order_and_keeps_out_of_checkpoints(tmp_path: Path) -> None:
    names = ["b/seed-1", "b/seed-0", "a/seed-0", "a/seed-0/checkpoint-10"]
    for name in names:
        store.write(tmp_path / name, _entry())
    found, problems = store.find(tmp_path)
    assert [folder.relative_to(tmp_path).as_posix() for folder, _ in found] == [
        "a/seed-0",
        "b/seed-0",
        "b/seed-1",
    ]
    assert problems == []
    with pytest.raises(UserError, match="no folder"):
        store.find(tmp_path / "nowhere")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_record_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = _entry()
    store.write(tmp_path, old)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(UserError, match="No space left on device") as error:
        store.write(tmp_path, _entry() | {"status": "failed"})
    assert str(tmp_path) in str(error.value)
    monkeypatch.undo()
    assert store.read(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == [store.FILE]


def test_a_file_that_may_not_grow_is_reported_by_the_real_system(tmp_path: Path) -> None:
    """The kernel's own refusal to write on, through RLIMIT_FSIZE, in a process of its own."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from finetune.records import store\n"
        "from finetune.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "try: store.write_predictions(Path(sys.argv[1]), [{'row': i, 'prediction': 0} for i in range(99)])\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"cannot write predictions.jsonl in the folder {tmp_path}: File too large"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"in the folder .*file/run: Not a directory"):
        store.write(tmp_path / "file" / "run", _entry())


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        file = store.write(tmp_path, _entry())
    finally:
        os.umask(old)
    assert file.stat().st_mode & 0o777 == 0o644


def test_predictions_survive_the_disk_and_are_checked(tmp_path: Path) -> None:
    rows = [
        {"row": 0, "reference": "é\u2028 \n|", "prediction": ""},
        {"row": 7, "reference": "b", "prediction": "ß"},
    ]
    file = store.write_predictions(tmp_path, iter(rows))
    assert store.read_predictions(tmp_path) == rows
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="line 2: truncated"):
        store.read_predictions(tmp_path)
    file.write_text('{"prediction": 1}\n')
    with pytest.raises(UserError, match="line 1: no prediction"):
        store.read_predictions(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        store.read_predictions(tmp_path)


def test_probabilities_survive_the_disk_at_both_ends(tmp_path: Path) -> None:
    """A logarithm as float16 tells 1 - 1e-5 from 1 and 1e-9 from 0; what is lower than any is finite."""
    logs = np.log(np.array([[1 - 1e-5, 1e-5 - 1e-9, 1e-9], [0.2, 0.3, 0.5], [1.0, 1e-30, 1e-300]]))
    logs[2, 2] = -1e6
    file = store.write_probabilities(tmp_path, [0, 7, 2**40], logs.astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    rows, found = store.read_probabilities(tmp_path)
    assert rows.tolist() == [0, 7, 2**40] and found.dtype == np.float32
    np.testing.assert_allclose(found[:2], logs[:2], rtol=6e-3)
    assert found[2].tolist() == [0.0, pytest.approx(logs[2, 1], rel=1e-3), -65504.0]
    assert store.write_probabilities(tmp_path / "again", rows, found).read_bytes() == file.read_bytes()


def test_probabilities_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the probabilities .*parquet: No such file"):
        store.read_probabilities(tmp_path)
    file = store.write_probabilities(tmp_path, [0, 1], np.log(np.full((2, 3), 1 / 3)))
    whole = file.read_bytes()
    for damaged in (b"", whole[:-20], whole[:20], b"x" * 100, b"\0" * 60 + whole[60:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="probabilities") as error:
            store.read_probabilities(tmp_path)
        assert "\n" not in str(error.value)
    parquet.write_table(pyarrow.table({"row": [0, 1], "log_probability": [0.1, 0.2]}), file)
    with pytest.raises(UserError, match="holds no probabilities by row and class"):
        store.read_probabilities(tmp_path)


def test_a_record_of_the_version_before_has_no_probabilities(tmp_path: Path) -> None:
    folder = save(tmp_path, started("softmax", 0), classified([True, False]))
    content = json.loads((folder / store.FILE).read_text()) | {"version": 3}
    del content["probabilities"]
    (folder / store.FILE).write_text(json.dumps(content))
    assert store.read(folder)["probabilities"] is None
    assert Run(folder, store.read(folder)).probabilities() is None


def test_a_saved_run_is_found_with_its_predictions(tmp_path: Path) -> None:
    rows = classified([True, False, True])
    folder = save(tmp_path, started("softmax", 0), rows)
    ((found, entry),), problems = store.find(tmp_path)
    assert (found, problems) == (folder, [])
    assert (entry["status"], entry["predictions"]) == ("finished", store.PREDICTIONS)
    assert store.read_predictions(folder) == rows
