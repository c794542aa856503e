"""Looking at the training of a language model: the same run, by distance, and at greater lengths."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.cli.main import main
from finetune.records import diagnostics, store
from tests.training.test_language import OPTIONS

HEADS = 2  # of scratch:tiny


def pretrained(root: Path, *options: str) -> Path:
    """The folder of a run of six steps of windows of 32 tokens."""
    assert main([*OPTIONS, "--attention", "sa-softmax", "--output", str(root), *options]) == 0
    (folder,) = (path.parent for path in root.rglob(store.FILE))
    return folder


@pytest.fixture(scope="module", params=["kerple", "dapev2-kerple"])
def looked_at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ["--diagnose", "--model.position", request.param]
    if request.param == "dapev2-kerple":
        options += ["--language.documents", "isolate"]
    return pretrained(tmp_path_factory.mktemp("looked"), *options)


def test_a_pretraining_is_the_same_when_it_is_looked_at(looked_at: Path, tmp_path: Path) -> None:
    config = store.read(looked_at)["config"]
    plain = pretrained(tmp_path, "--model.position", config["model"]["position"],
                       "--language.documents", config["language"]["documents"])  # fmt: skip
    one, other = (load_file(folder / "model.safetensors") for folder in (looked_at, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert store.read(looked_at)["metrics"] == store.read(plain)["metrics"]
    assert store.read(plain)["diagnostics"] is None


def test_what_a_pretraining_writes(looked_at: Path) -> None:
    found = diagnostics.read(looked_at / diagnostics.FILE)
    assert [snapshot["step"] for snapshot in found["samples"]] == list(range(6))
    assert found["faint"] == 0.01
    isolated = store.read(looked_at)["config"]["language"]["documents"] == "isolate"
    for snapshot in found["samples"]:
        for layer in snapshot["layers"]:
            assert layer["kind"] == "decoder"
            assert [each["start"] for each in layer["by_distance"]] == [0, 1, 2, 4, 8, 16]
            assert sum(each["keys"] for each in layer["by_distance"]) == layer["counts"]["all"]
            sums = sum(each["weight"] * each["rows"] for each in layer["by_distance"])
            rows = sum(each["rows"] for each in layer["by_keys"])
            assert sums / rows == pytest.approx(layer["row_sum"]["mean"], rel=1e-4)
            assert rows == 4 * HEADS * 31 or (isolated and rows < 4 * HEADS * 31)  # first tokens see one key
            assert layer["norm"]["softmax"]["all"] > 0  # type: ignore[operator]
    first, last = (found["samples"][place]["layers"][0]["learned"] for place in (0, -1))
    assert {name: len(values) for name, values in first.items()} == {"p": HEADS, "a": HEADS}
    assert first != last
    weights = dict(finetune.load(looked_at)[0].named_parameters())
    (trained,) = (
        weight for name, weight in weights.items() if name.endswith("layers.0.attention.position.p")
    )
    assert last["p"] == pytest.approx(trained.flatten().tolist(), abs=0.01)  # but for the last update


def test_a_finished_pretraining_is_looked_at_over_greater_lengths(
    looked_at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = Path(shutil.copytree(looked_at, tmp_path / "run"))

    def samples(*options: str) -> list[Any]:
        assert main(["diagnose", str(where), "--rows", "3", *options]) == 0
        return diagnostics.read(where / diagnostics.FILE)["samples"][6:]

    usual, longer = samples()[0], samples("--length", "64")[1]
    assert (usual["after_training"], longer["after_training"]) == (True, True)
    assert ("length" in usual, longer["length"]) == (False, 64)
    for snapshot, most in ((usual, 32), (longer, 64)):
        assert snapshot["rows"] == 3
        for layer in snapshot["layers"]:
            assert layer["by_keys"][-1]["start"] == most
            assert layer["by_distance"][-1]["start"] == most // 2
    assert samples("--length", "64") == [usual, longer]
    shown = capsys.readouterr().out
    assert "note: " not in shown
    heads = [line.split() for line in shown.splitlines() if line.startswith("layer")]
    assert heads[-1] == ["layer", "kind", "2", "4", "8", "16", "32", "64"]
    sums = longer["layers"][-1]["by_keys"]
    row = shown.splitlines()[-3]  # then the line about rows near 0, and the file
    assert row.split()[2:] == [f"{each['row_sum']:.3g}" for each in sums]

    assert samples("--length", "90000")[-1]["rows"] == 3  # more than any document has
    assert re.search(
        r"none of the rows looked at has 90000 tokens, the longest has \d+\n", capsys.readouterr().out
    )

    for length, words in (("31", "less than the run's own, 32"), ("0", "--length takes"), ("x", "--length")):
        assert main(["diagnose", str(where), "--length", length]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_masked_pretraining_is_looked_at(tmp_path: Path) -> None:
    """Its windows see before and behind; afterwards the same tokens are masked each time."""
    words = ["pretrain", "--objective", "masked", "--data", "sample", "--data.train_rows", "30",
             "--data.validation_rows", "4", "--data.test_rows", "4", "--data.max_length", "32",
             "--model.vocab_size", "300", "--language.tokens_per_step", "128", "--train.max_steps", "3",
             "--train.per_device_train_batch_size", "4", "--train.eval_strategy", "no",
             "--train.save_strategy", "no", "--attention", "sa-softmax", "--diagnose"]  # fmt: skip
    assert main([*words, "--output", str(tmp_path)]) == 0
    (folder,) = (path.parent for path in tmp_path.rglob(store.FILE))
    looks = []
    for _ in range(2):
        assert main(["diagnose", str(folder), "--rows", "5"]) == 0
        looks.append(diagnostics.read(folder / diagnostics.FILE)["samples"])
    assert looks[0] == looks[1] and [snapshot["step"] for snapshot in looks[0]] == [0, 1, 2, 3]
    for layer in (layer for snapshot in looks[0] for layer in snapshot["layers"]):
        assert layer["kind"] == "encoder" and layer["norm"]["softmax"]["all"] > 0  # type: ignore[operator]
        assert sum(each["keys"] for each in layer["by_distance"]) == layer["counts"]["all"]
        sums = sum(each["weight"] * each["rows"] for each in layer["by_distance"])  # type: ignore[operator]
        rows = sum(each["rows"] for each in layer["by_keys"])
        assert sums / rows == pytest.approx(layer["row_sum"]["mean"], rel=1e-4)


def test_more_tokens_than_a_model_has_positions_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoders have tables of positions."""
    words = ["classify", "--data", "sample", "--attention", "softmax", "--data.train_rows", "20",
             "--data.validation_rows", "4", "--data.test_rows", "4", "--data.max_length", "16",
             "--model.vocab_size", "300", "--train.max_steps", "1"]  # fmt: skip
    assert main([*words, "--output", str(tmp_path)]) == 0
    (folder,) = (path.parent for path in tmp_path.rglob(store.FILE))
    capsys.readouterr()
    assert main(["diagnose", str(folder), "--length", "100000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "more than the model has positions for" in line
