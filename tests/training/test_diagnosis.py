"""Looking at a training: the same run when it is looked at, its file, and finished runs looked at later."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

import finetune.training.diagnosis
from finetune.cli.main import main
from finetune.errors import UserError
from finetune.records import diagnostics, store
from finetune.training.diagnosis import sampled_steps
from tests.support.nested import flat
from tests.support.small_runs import folder, run


def same_run(one, other):
    """Metrics, predictions, learning curve and weights to the last bit."""
    records = [store.read(where) for where in (one, other)]
    assert records[0]["metrics"] == records[1]["metrics"]
    losses = [[(p.get("loss"), p.get("eval_loss"), p.get("grad_norm")) for p in r["curve"]] for r in records]
    assert losses[0] == losses[1]
    assert (one / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    weights = [load_file(where / "model.safetensors") for where in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return records


OPTIONS = ["--attention", "sa-softmax", "--train.save_strategy", "steps", "--train.save_steps", "7"]
OPTIONS += ["--train.save_total_limit", "3"]


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    root = tmp_path_factory.mktemp("looked-at")
    assert run("classify", root, "--diagnose", *OPTIONS) == 0
    return folder("classify", root, "sa-softmax")


@pytest.mark.slow
def test_a_run_is_the_same_when_it_is_looked_at(tmp_path, looked_at):
    """With dropout, which draws from the generator that looking must leave alone."""
    assert run("classify", tmp_path, *OPTIONS) == 0
    found, plain = same_run(looked_at, folder("classify", tmp_path, "sa-softmax"))
    assert found["attention"]["dropout"] == pytest.approx(0.1)
    assert (found["diagnostics"], plain["diagnostics"]) == ("diagnostics.json", None)
    assert found["config_hash"] == plain["config_hash"]


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    """Two micro-batches a step, of which the first is looked at; annealed, so that samples have a share."""
    root = tmp_path_factory.mktemp("translated")
    options = ["--attention", "sa-softmax", "--train.gradient_accumulation_steps", "2"]
    options += ["--attention.start", "annealed", "--attention.annealing_share", "0.5"]
    options += ["--data.validation_rows", "12", "--data.test_rows", "3", "--generation.max_new_tokens", "5"]
    for name in ("with", "without"):
        assert run("translate", root / name, *options, *["--diagnose"] * (name == "with")) == 0
    label = "sa-softmax-annealed0.5"
    return [folder("translate", root / name, label) for name in ("with", "without")]


@pytest.mark.slow
def test_a_translation_is_the_same_when_it_is_looked_at(translated):
    one, other = translated
    same_run(one, other)
    found = diagnostics.read(one / "diagnostics.json")
    assert [sample["step"] for sample in found["samples"]] == list(range(10))
    assert {len(sample["layers"]) for sample in found["samples"]} == {2 + 2 * 2}
    shares = [sample.get("share", 1.0) for sample in found["samples"]]
    assert shares[0] < 0.3 and shares == sorted(shares) and shares[5:] == [1.0] * 5
    assert "share" not in found["samples"][-1]


def test_what_a_run_writes(looked_at):
    found = diagnostics.read(looked_at / "diagnostics.json")
    assert found["variant"] == "sa-softmax" and found["total_steps"] == 20 and found["rows"] == 8
    assert (found["saturated"], found["suppressed"]) == (0.99, 0.01)
    assert [sample["step"] for sample in found["samples"]] == [0, 2, 4, 6, 8, 11, 13, 15, 17, 19]
    for sample in found["samples"]:
        # The batches hold fewer than 8; 48 rows make nine of 5 and one of 3, at steps 9 and 19.
        assert sample.get("rows") == (3 if sample["step"] == 19 else 5)
        assert [layer["kind"] for layer in sample["layers"]] == ["encoder", "encoder"]
        for layer in sample["layers"]:
            assert 0.3 < layer["row_sum"]["mean"] < 1.0 and layer["counts"]["all"] > 100
            assert set(layer["reach"]) == {"softmax", "sa-softmax", "sa-softmax-raw"}


def test_a_resumed_run_loses_no_sample_and_takes_none_twice(tmp_path, looked_at, capsys):
    where = tmp_path / "agnews/scratch-tiny/sa-softmax/seed-0"
    shutil.copytree(looked_at, where)
    shutil.rmtree(where / "checkpoint-20")  # as if it had been killed after step 14
    store.write(where, {**store.read(where), "status": "running", "diagnostics": None})
    assert run("classify", tmp_path, "--diagnose", *OPTIONS) == 0
    assert "resumes from its checkpoint" in capsys.readouterr().out
    same_run(looked_at, where)
    assert (where / "diagnostics.json").read_bytes() == (looked_at / "diagnostics.json").read_bytes()
    assert store.read(where)["diagnostics"] == "diagnostics.json"


@pytest.mark.parametrize(("total", "samples", "expected"), [
    (378, 10, {0, 42, 84, 126, 168, 209, 251, 293, 335, 377}), (3, 10, {0, 1, 2}), (1, 10, {0}),
])  # fmt: skip
def test_steps_are_evenly_spaced_from_the_first_to_the_last(total, samples, expected):
    assert sampled_steps(total, samples) == expected


def copied(tmp_path, looked_at):
    where = tmp_path / "run"
    shutil.copytree(looked_at, where)
    return where


def test_a_finished_run_can_be_looked_at(tmp_path, looked_at, capsys):
    where = copied(tmp_path, looked_at)
    before = diagnostics.read(where / "diagnostics.json")
    for rows in ("9", "11"):
        assert main(["diagnose", str(where), "--rows", rows]) == 0
    found = diagnostics.read(where / "diagnostics.json")
    assert found["samples"][:-1] == before["samples"]
    last = found["samples"][-1]
    assert (last["step"], last["after_training"], last["rows"]) == (20, True, 11)
    shown = capsys.readouterr().out
    assert "11 validation rows" in shown and shown.count("encoder") == 2 * 2 * 2
    rows = sum(layer["extent"]["rows"] for layer in last["layers"])
    assert f"Of {rows} rows of scores 0 see one key" in shown and "Largest |dLoss/dscore|: softmax" in shown
    same_run(looked_at, where)

    (where / "diagnostics.json").unlink()
    store.write(where, {**store.read(where), "diagnostics": None})
    assert main(["diagnose", str(where), "--rows", "11"]) == 0
    assert diagnostics.read(where / "diagnostics.json")["samples"] == [last]
    assert store.read(where)["diagnostics"] == "diagnostics.json"


@pytest.mark.slow
def test_adapters_and_translations_can_be_looked_at(tmp_path, looked_at, translated):
    """Loaded adapters ask for no gradient; 12 rows pass in two parts."""
    adapters = ["--model", str(looked_at), "--model.lora.rank", "2", "--train.max_steps", "3"]
    assert run("classify", tmp_path / "lora", "--diagnose", *OPTIONS, *adapters) == 0
    (lora,) = (tmp_path / "lora").glob("agnews/*/*/*")
    shutil.copytree(translated[1], tmp_path / "translation")
    for where, calls in ((lora, 2), (tmp_path / "translation", 6)):
        assert main(["diagnose", str(where)]) == 0
        last = diagnostics.read(where / "diagnostics.json")["samples"][-1]
        assert last["after_training"] and last["rows"] == 12 and len(last["layers"]) == calls
        assert all(layer["gradient"]["query"] > 0 for layer in last["layers"])
    assert len(diagnostics.read(lora / "diagnostics.json")["samples"]) == 3 + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_parts_of_the_rows_give_what_all_of_them_give(tmp_path, looked_at, translated, monkeypatch, kind):
    """12 rows pass in parts of 5, padded otherwise than together; the loss is the mean over all targets."""
    where = copied(tmp_path, looked_at if kind == "classification" else translated[1])
    found = []
    for size in (5, 12):
        monkeypatch.setattr(finetune.training.diagnosis, "BATCH", size)
        found.append(finetune.training.diagnosis.diagnose(where, 12, None, None).sample["layers"])
    for one, other in zip(*found, strict=True):
        assert one["counts"] == other["counts"]
        for part in ("gradient", "reach", "row_sum"):
            assert flat(one[part]) == {
                n: v and pytest.approx(v, rel=1e-3) for n, v in flat(other[part]).items()
            }


def test_what_cannot_be_looked_at_is_one_line(tmp_path, looked_at, capsys):
    where = copied(tmp_path, looked_at)
    entry = store.read(where)

    def said(*options):
        assert main(["diagnose", str(where), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--rows takes a number of rows" in said("--rows", "0")
    assert "--data says where" in said("--data", str(tmp_path / "nowhere"))
    split = {**entry["data"]["splits"]["validation"], "fingerprint": "0" * 16}
    splits = {**entry["data"]["splits"], "validation": split}
    store.write(where, {**entry, "data": {**entry["data"], "splits": splits}})
    assert "other validation rows" in said()
    store.write(where, {**entry, "status": "running"})
    assert "did not finish" in said()
    store.write(where, entry)
    (where / "diagnostics.json").write_text("{}")
    assert "damaged" in said()
    where = tmp_path
    assert "not a run folder" in said()


@pytest.mark.parametrize("spoil", [
    lambda text: text[:-20], lambda text: "[]", lambda text: text.replace('"version": 1', '"version": 2'),
    lambda text: text.replace('"counts"', '"count"'),
    lambda text: text.replace('"step": 0', '"step": "0"'),
    lambda text: text.replace('"saturated": 0.99', '"saturated": NaN'),
    lambda text: text.replace('"mean": ', '"mean": 1e999, "then": '),
    lambda text: text.replace('"step": 0', '"step": 0, "step": 0'),
])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, looked_at, spoil):
    file = tmp_path / "diagnostics.json"
    file.write_text(spoil((looked_at / "diagnostics.json").read_text()))
    with pytest.raises(UserError, match="are damaged"):
        diagnostics.read(file)
    with pytest.raises(UserError, match="cannot read"):
        diagnostics.read(tmp_path / "none.json")
