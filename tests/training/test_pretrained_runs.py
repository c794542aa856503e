"""Fine-tuning from runs of the same variant and seed: what is trained and recorded, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.cli.main import main
from finetune.comparison.compare import compare
from finetune.config.loading import read_yaml
from finetune.publishing import card, push
from finetune.records import pretraining, store
from tests.support.small_runs import COMMON, folder
from tests.support.trained import GRID, Trained

VARIANTS = ("softmax", "sa-softmax")
VOCABULARY = COMMON.index("--model.vocab_size")
OPTIONS = ["--task", "dbpedia", *COMMON[:VOCABULARY], *COMMON[VOCABULARY + 2 :]]


def classify(output: Path, source: str, *options: str) -> int:
    return main(["classify", "--output", str(output), *OPTIONS, "--model", source, *GRID, *options])


def run_of(output: Path, slug: str, variant: str) -> Path:
    return output / "dbpedia" / slug / variant / "seed-0"


def link(where: Path) -> dict[str, Any]:
    began = (store.read(where)["model"] or {})["pretrained"]
    assert isinstance(began, dict)
    return began


@pytest.fixture(scope="module")
def first(trained: Trained) -> Path:
    """Classifiers of AG News, in the place of a pretraining."""
    return trained("classify", *GRID)


@pytest.fixture(scope="module")
def own(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers of DBpedia, each from the checkpoint of its own variant, and all from that of softmax."""
    output = tmp_path_factory.mktemp("own")
    assert classify(output, f"pretrained:{first}") == 0
    assert classify(output, f"pretrained:softmax@{first}") == 0
    return output


def slugs(first: Path) -> tuple[str, str]:
    end = f"{first.parent.name}--{first.name}"
    return f"pretrained-{end}", f"pretrained-softmax-{end}"


def test_each_variant_begins_from_its_own_checkpoint_and_the_record_says_which(
    first: Path, own: Path
) -> None:
    mine, swapped = slugs(first)
    for slug, begun in ((mine, VARIANTS), (swapped, ("softmax", "softmax"))):
        for variant, origin in zip(VARIANTS, begun, strict=True):
            where, source = run_of(own, slug, variant), folder("classify", first, origin)
            record, began = store.read(where), link(where)
            assert record["config"]["model"]["name"].startswith("pretrained:")
            assert began["folder"] == str(source) and began["variant"] == origin
            assert began["config_hash"] == store.read(source)["config_hash"]
            assert began["weights"] == pretraining.weights(source)
            assert record["model"] is not None and record["model"]["tokenizer"] == _tokenizer(source)
            assert record["model"]["new_weights"] == ["classifier.bias", "classifier.weight"]
            assert read_yaml(where / "origin.yaml")["pretrained"] == began
            assert card._training(finetune.Run(where, record))["pretrained as"].startswith(
                f"{origin} on agnews"
            )
    assert link(run_of(own, mine, "softmax"))["settings"] == link(run_of(own, mine, "sa-softmax"))["settings"]


def test_what_is_compared_is_paired_within_a_start_and_shown_beside_the_others(own: Path) -> None:
    tables = compare([own]).tables
    assert sorted(table.model.startswith("pretrained:softmax@") for table in tables) == [False, True]
    for table in tables:
        assert not table.refused
        assert [result.difference is not None for result in table.variants] == [False, True]


def test_a_record_of_another_checkpoint_under_the_same_name_is_no_pair(
    first: Path, own: Path, tmp_path: Path
) -> None:
    """As it would be if a variant had been fine-tuned from another variant's checkpoint."""
    mine, _ = slugs(first)
    for variant in VARIANTS:
        shutil.copytree(run_of(own, mine, variant), tmp_path / variant)
    record = json.loads((tmp_path / "sa-softmax" / store.FILE).read_text())
    record["model"]["pretrained"] = link(run_of(own, mine, "softmax"))
    (tmp_path / "sa-softmax" / store.FILE).write_text(json.dumps(record))
    (table,) = compare([tmp_path]).tables
    (refused,) = table.refused
    assert "began from a checkpoint of softmax" in refused and "pretrained:softmax@" in refused


def test_a_finetuned_model_is_loaded_with_its_attention(first: Path, own: Path) -> None:
    for slug in slugs(first):
        model, tokenizer = finetune.load(run_of(own, slug, "sa-softmax"))
        assert model.config.num_labels == 14
        with torch.no_grad():
            assert model(**tokenizer("a short text", return_tensors="pt")).logits.shape == (1, 14)


def test_adapters_on_a_pretraining_run_are_loaded_onto_it(first: Path, tmp_path: Path) -> None:
    options = ["--model.lora.rank", "2", "--attention", "sa-softmax"]
    assert classify(tmp_path, f"pretrained:{first}", *options) == 0
    where = run_of(tmp_path, f"{slugs(first)[0]}-lora2", "sa-softmax")
    assert read_yaml(where / "origin.yaml")["base"]["path"] == str(folder("classify", first, "sa-softmax"))
    model, _ = finetune.load(where)
    assert model.base_model.model.config.num_labels == 14


def test_a_pretraining_run_is_held_to_what_it_was(
    first: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another tokenizer, a missing variant, cut weights; and one that was made again after it was used."""
    shutil.copytree(first, tmp_path / "first")
    place = folder("classify", tmp_path / "first", "sa-softmax")

    def refused(*options: str) -> str:
        capsys.readouterr()
        assert classify(tmp_path / "out", f"pretrained:{tmp_path / 'first'}", *options) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "holds no run of sa-softmax, seed 3" in refused("--seeds", "3", "--attention", "sa-softmax")
    record = json.loads((place / store.FILE).read_text())
    record["model"]["tokenizer"] = "0" * 16
    (place / store.FILE).write_text(json.dumps(record))
    assert "have different tokenizers" in refused()
    assert "is another one than that run was trained with" in refused("--attention", "sa-softmax")
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "is damaged: its model.safetensors has" in refused("--attention", "sa-softmax")


def test_a_folder_of_a_run_is_as_much_its_origin_and_brings_its_stamp(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On real rows, from what was pretrained on the sample; also from a checkpoint, and from one on that."""
    rows = [{"text": f"{word} text {i}", "label": i % 4} for i, word in enumerate(["a", "b", "c"] * 30)]
    for name in ("train", "test"):
        lines = [json.dumps(row | {"text": f"{row['text']} of {name}"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    place = tmp_path / "first"
    shutil.copytree(folder("classify", first), place)
    checkpoint = place / "checkpoint-2"
    checkpoint.mkdir()
    for file in place.iterdir():
        if file.is_file() and file.name not in (store.FILE, "manifest.json"):
            shutil.copy(file, checkpoint)
    one, two, three = (tmp_path / f"out-{i}" for i in range(3))
    options = [
        "--task",
        "agnews",
        "--data",
        str(tmp_path),
        "--train.max_steps",
        "1",
        "--attention",
        "softmax",
    ]
    options += ["--model.vocab_size", "300"]
    chain = [(one, place), (two, checkpoint)]
    for output, model in chain:
        capsys.readouterr()
        assert classify(output, str(model), *options) == 0
        assert " steps | SAMPLE data" in capsys.readouterr().out
        (where,) = (file.parent for file in output.rglob(store.FILE))
        assert link(where)["folder"] == str(model) and link(where)["weights"] == pretraining.weights(place)
        assert not store.read(where)["data"]["sample"] and finetune.Run(where, store.read(where)).sample
    assert classify(three, str(where), *options) == 0
    (last,) = (file.parent for file in three.rglob(store.FILE))
    assert link(last)["pretrained"] == link(where) and link(last)["sample"]


def test_a_run_is_not_taken_for_finished_once_its_origin_was_made_again(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = f"pretrained:{first}", ["--attention", "softmax"]
    assert classify(tmp_path, source, *options) == 0
    monkeypatch.setattr(pretraining, "weights", lambda folder: "f" * 16)
    assert classify(tmp_path, source, *options) == 2
    assert "began from other weights than" in capsys.readouterr().err


def test_a_decoder_brings_its_tokenizer_and_its_position_to_a_classifier(tmp_path: Path) -> None:
    words = ["--language.tokens_per_step", "120", "--language.scored_tokens", "8", "--eval_lengths", "24"]
    words += ["--train.max_steps", "3", "--model.position", "kerple", "--attention", "sa-softmax"]
    assert main(["pretrain", "--output", str(tmp_path / "lm"), *COMMON, *words]) == 0
    source = tmp_path / "lm" / "books" / "scratch-tiny-kerple"
    frozen = ["--train.max_steps", "1", "--train.learning_rate", "1e-30", "--train.weight_decay", "0"]
    frozen += ["--attention", "sa-softmax"]
    assert classify(tmp_path / "out", f"pretrained:{source}", *frozen) == 0
    where = run_of(tmp_path / "out", "pretrained-books--scratch-tiny-kerple", "sa-softmax")
    origin = source / "sa-softmax" / "seed-0"
    assert link(where)["position"] == "kerple"
    (before, _), (after, _) = finetune.load(origin), finetune.load(where)
    kept = {name: weight for name, weight in before.base_model.state_dict().items() if ".position." in name}
    assert kept and all(torch.allclose(after.base_model.state_dict()[name], kept[name]) for name in kept)
    assert (where / "tokenizer.json").read_text() == (origin / "tokenizer.json").read_text()


def _tokenizer(where: Path) -> str:
    return str((store.read(where)["model"] or {})["tokenizer"])


def test_what_is_published_says_what_the_model_was_pretrained_as_and_no_path(
    first: Path, own: Path, tmp_path: Path
) -> None:
    where = run_of(own, slugs(first)[1], "sa-softmax")
    push._lay_out(where, store.read(where), "org/name", tmp_path)
    texts = {file.name: file.read_text() for file in tmp_path.iterdir() if file.suffix != ".safetensors"}
    assert [name for name, text in texts.items() if str(first.parent) in text] == []
    assert "pretrained as: softmax on agnews: scratch:tiny, seed 0" in texts["README.md"]
    assert "It was pretrained with softmax and swapped afterwards" in texts["README.md"]
    model, _ = finetune.load(tmp_path)
    assert model.config.num_labels == 14
