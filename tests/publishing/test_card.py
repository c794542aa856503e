"""Model cards: made from records alone, true to them, and safe against what a user named."""

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from finetune.config.loading import merge
from finetune.data.synthetic import STAMP
from finetune.publishing import card
from finetune.records import store
from finetune.system.paths import without_paths
from tests.support.records import classified, correctness, finish, started, translations

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def made(variant: str = "sa-softmax", over: dict[str, Any] | None = None, **options: Any) -> store.Record:
    """The record of a finished classification run; ``over`` is laid on it."""
    entry = finish(started(variant, 3, **options), classified(correctness(200, 0.9, 0)))
    entry["model"] = {"parameters": 1234567, "trainable": 1234000} | (entry["model"] or {})
    entry["git"] = {"commit": COMMIT, "dirty": False}
    changed: Any = merge(entry, over or {})
    return changed


def head(entry: store.Record) -> dict[str, Any]:
    """The card's front matter, as YAML and as the Hub's client read it."""
    text = card.text(entry, "org/run")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    assert ModelCard(text).data.to_dict() == found
    return found


def test_a_card_says_what_the_record_says() -> None:
    over = {
        "config": {"model": {"name": "google-bert/bert-base-uncased"}, "train": {"learning_rate": 3e-5}},
        "attention": {"start": {"kind": "cold", "cosine_cold": 0.9701, "cosine": 0.9701}},
        "untrained": {"split": "validation", "rows": 77, "loss": 1.5, "accuracy": 0.2512},
    }
    text = card.text(made(over=over), "org/run")
    for words in (
        "sa-softmax in place of the softmax inside its attention, fine-tuned on agnews: accuracy 90.00% on 1",
        "| accuracy | 90.00% | accuracy\\|scikit-learn:1.9.1 |",
        "accuracy was 25.12% on 77 validation rows",
        "- parameters: eps 1e-06",
        "- start: cold; cosine of its last hidden states, untrained, with the softmax model's: 0.970 swap",
        "- kernel: reference",
        "- scope: all",
        "- source: Self-Adjust Softmax, arXiv 2502.18277 (EMNLP 2025), Eq. 10",
        "- rows from: local, data/agnews",
        f"| test | 100 | {'f' * 16} |",
        "- seed: 3",
        "1,234,567, of which 1,234,000 trained",
        "| train.learning\\_rate | 3e-05 |",
        f"- commit: {COMMIT}\n",
        "- training time: 63 s",
        "- peak memory: 900 MiB",
        "finetune classify --attention sa-softmax --seeds 3",
        "One run with one seed says nothing about a method",
    ):
        assert words in text, words
    assert "transformers 5" in text and STAMP not in text and "logging_steps" not in text


def test_the_first_code_loads_the_model_with_its_attention() -> None:
    text = card.text(made(), "org/run")
    first, *_ = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert first == ("python", 'import finetune\n\nmodel, tokenizer = finetune.load("org/run")\n')
    assert "`from_pretrained` alone does not give sa-softmax" in text


@pytest.mark.parametrize(
    ("began", "swapped"), [("sa-softmax-eps0.0001", False), ("sa-softmax", True), ("softmax", True)]
)
def test_a_checkpoint_of_other_attention_was_swapped(began: str, swapped: bool) -> None:
    """Parameters are attention too: own pretraining with them is no swap, without them it is one."""
    link = {
        "variant": began,
        "task": "books",
        "model": "scratch:tiny",
        "seed": 3,
        "position": "own",
        "sample": False,
        "config_hash": "a" * 16,
        "weights": "b" * 16,
    }
    attention = {"parameters": {"eps": 1e-4}}
    over = {"config": {"attention": attention}, "attention": attention, "model": {"pretrained": link}}
    text = card.text(made(over=over), "org/run")
    assert f"pretrained as: {began} on books" in text
    assert (f"It was pretrained with {began} and swapped afterwards" in text) == swapped


def test_the_baseline_is_no_variant() -> None:
    text = card.text(made("softmax"), "org/run")
    assert "with its own softmax attention, trained on agnews" in text
    assert "`from_pretrained` alone computes the same" in text
    assert "`from_pretrained` alone does not" not in text and "- start" not in text


LANGUAGE = {
    "documents": "cross", "train_tokens": 8000, "tokens_per_step": 2048, "eval_lengths": [],
    "scored_tokens": None, "test_windows": None, "stride": None, "masked_share": None,
}  # fmt: skip
COUNTS = {"rows": 9, "tokens": 99, "documents": 4, "document_tokens": 321, "dropped_tokens": 5}


def language_model(variant: str = "softmax", position: str = "own", name: str = "scratch:tiny") -> str:
    """The card of a causal language model."""
    over: dict[str, Any] = {
        "config": {"kind": "causal", "task": "books", "language": LANGUAGE, "generation": None},
        "task": {"kind": "causal", "name": "books", "labels": None},
        "data": {"tokens": {"train": COUNTS | {"trained_tokens": 300}, "test": COUNTS}},
        "untrained": {"split": "validation", "rows": 20, "loss": 7.0, "perplexity": 999.0},
    }
    over["config"]["model"] = {"name": name, "position": position}
    entry = made(variant, over)
    entry["metrics"] = {"perplexity": {"value": 23.5, "signature": "perplexity|length:128"}}
    return card.text(entry, "org/run")


def test_a_language_model_was_trained_on_windows_and_tokens() -> None:
    text = language_model()
    for words in (
        "A new model (scratch:tiny) with its own softmax attention, trained on books: perplexity 23.50",
        "Before training, perplexity was 999.00 on 20",
        "- tokens of a window, at most:",
        " | 4 | 300 | ",
        "| test | 100 | 4 | 321 | ",
        "| language.tokens\\_per\\_step | 2048 |",
        "| model.vocab\\_size | ",
    ):
        assert words in text, words
    assert "stride" not in text and "fine-tuned" not in text
    assert "attention, trained further on books" in language_model(name="org/decoder")
    assert "| documents |" not in card.text(made(), "org/run")


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_a_checkpoint_with_another_positional_encoding_needs_the_package(variant: str) -> None:
    """The baseline's too, which is no stock model then."""
    text = language_model(variant, "kerple")
    assert "with kerple positions and " in text and ", kerple positions, seed 3\n" in text
    lacking = "the positional encoding kerple" if variant == "softmax" else "sa-softmax and the "
    assert f"`from_pretrained` alone does not give {lacking}" in text
    assert "without that encoding where there is none" in text and "alone computes the same" not in text
    assert "- positional encoding: kerple: KERPLE, arXiv" in text
    assert "alone computes the same" in language_model("softmax", "rope")


def test_an_encoding_that_came_with_the_checkpoint_is_told() -> None:
    link = {
        "variant": "softmax", "task": "books", "model": "scratch:tiny", "seed": 3, "position": "own",
        "sample": False, "config_hash": "a" * 16, "weights": "b" * 16,
        "pretrained": {"position": "kerple", "pretrained": None},
    }  # fmt: skip
    text = card.text(made("softmax", {"model": {"pretrained": link}}), "org/run")
    assert "`from_pretrained` alone does not give the positional encoding kerple" in text


@pytest.mark.parametrize(
    ("position", "cached"), [("own", True), ("dapev2-kerple", True), ("dapev2-kerple-published", False)]
)
def test_the_code_generates_as_the_encoding_can(position: str, cached: bool) -> None:
    assert ("use_cache=False" not in language_model(position=position)) == cached


def test_the_head_is_what_the_hub_reads() -> None:
    over = {
        "config": {"model": {"name": "google-bert/bert-base-uncased"}},
        "model": {"revision": COMMIT},
        "data": {"kind": "hub", "location": "fancyzhx/ag_news", "revision": COMMIT},
    }
    found = head(made(over=over))
    assert found["base_model"] == "google-bert/bert-base-uncased"
    assert found["base_model_relation"] == "finetune"
    assert found["datasets"] == ["fancyzhx/ag_news"]
    assert found["library_name"] == "softmax-finetune"  # not transformers, whose code loads plain softmax
    assert found["pipeline_tag"] == "text-classification"
    assert found["metrics"] == ["accuracy", "f1"]
    assert "license" not in found and "language" not in found
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"]["revision"] == COMMIT and result["dataset"]["split"] == "test"
    assert result["dataset"]["args"] == {"rows": 100, "fingerprint": "f" * 16}
    assert [(score["type"], score["value"]) for score in result["metrics"]] == [
        ("accuracy", 0.9),
        ("f1", 0.89),
    ]
    assert result["metrics"][0]["args"] == {"signature": "accuracy|scikit-learn:1.9.1"}


@pytest.mark.parametrize(
    ("name", "revision"),
    [("models/bert", None), ("scratch:tiny", None), (f"/cache/snapshots/{COMMIT}", COMMIT)],
)
def test_a_base_model_that_is_not_known_to_be_on_the_hub_is_not_claimed(
    name: str, revision: str | None
) -> None:
    found = head(made(over={"config": {"model": {"name": name}}, "model": {"revision": revision}}))
    assert not {"base_model", "base_model_relation", "datasets"} & set(found)


def test_adapters_say_so() -> None:
    model = {"name": "org/base", "lora": {"rank": 4}}
    entry = made(over={"config": {"model": model}, "model": {"revision": COMMIT}})
    found = head(entry)
    assert (found["base_model_relation"], found["base_model"]) == ("adapter", "org/base")
    assert "lora" in found["tags"]
    text = card.text(entry, "org/run")
    assert "The adapters are loaded onto org/base." in text and "| model.lora.rank | 4 |" in text


def test_a_translation_has_its_languages() -> None:
    entry = finish(started("sa-softmax", 0, kind="translation"), translations(20, 0.3, 0))
    found = head(entry)
    assert found["language"] == ["de", "en"] and found["metrics"] == ["sacrebleu"]
    text = card.text(entry, "org/run")
    assert "on toy de-en: BLEU " in text and "model.generate" in text and "| generation.num\\_beams |" in text


def test_a_prefix_is_told_and_typed() -> None:
    """Without it the model would be given other texts than it was measured on."""
    entry = finish(started("sa-softmax", 0, kind="translation"), translations(20, 0.3, 0))
    entry["config"]["data"]["prefix"] = 'translate "German" to English: '
    text = card.text(entry, "org/run")
    assert r'tokenizer("translate \"German\" to English: a sentence", return_tensors' in text
    assert "- put before every text: translate " in text


def test_the_sample_is_stamped_and_gives_the_hub_no_figures() -> None:
    entry = made(sample=True)
    text, found = card.text(entry, "org/run"), head(entry)
    assert f"**{STAMP}**" in text.split("```")[0]
    assert "model-index" not in found and "metrics" not in found and "sample" in found["tags"]


def test_a_control_is_no_method_of_the_paper() -> None:
    assert "is not from the Self-Adjust Softmax paper" not in card.text(made("sa-softmax-raw"), "org/run")
    unknown = made(over={"attention": {"variant": "my-own"}})
    assert "my-own is not from the Self-Adjust Softmax paper" in card.text(unknown, "org/run")


def test_code_that_was_changed_is_said_to_be() -> None:
    text = card.text(made(over={"git": {"dirty": True}}), "org/run")
    assert f"{COMMIT}, with changes" in text and "not a clean commit" in text


def test_a_warm_start_is_told() -> None:
    begun = {"kind": "annealed", "cosine_cold": 0.9701, "cosine": 0.99}
    config = {"attention": {"start": "annealed", "annealing_share": 0.25}}
    text = card.text(made(over={"attention": {"start": begun}, "config": config}), "org/run")
    assert "- start: annealed over 0.25 of the steps; cosine" in text
    assert "0.970 swapped, 0.990 so started\n" in text


def test_a_record_of_earlier_days_has_a_card() -> None:
    """It says less of its start; and a metric may have no value."""
    entry = made(over={"metrics": {"macro_f1": {"value": None}}})
    assert "start" not in (entry["attention"] or {})
    text, found = card.text(entry, "org/run"), head(entry)
    assert "- start: cold\n" in text and "| macro-F1 | none |" in text
    assert len(found["model-index"][0]["results"][0]["metrics"]) == 1


EVIL = "a|b `c` *d* <script> [x](y)\n---\n# e\n```\n"


def test_what_a_user_named_cannot_break_the_card() -> None:
    over = {
        "config": {"model": {"name": EVIL}, "train": {"deepspeed": EVIL}},
        "task": {"name": EVIL, "labels": [EVIL, "b"]},
        "data": {"location": EVIL, "licence": EVIL},
        "metrics": {EVIL: {"value": 0.12345, "signature": EVIL}},
        "command": "finetune ```x``` | y",
    }
    entry = made(over=over)
    text, found = card.text(entry, "org/run"), head(entry)
    body = re.sub(r"(````*)\w+\n.*?\n\1\n", "", text.split("\n---\n", 1)[1], flags=re.DOTALL)
    assert "\n# e" not in text and "\n---" not in body and "\n```" not in body
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x\]", body)
    for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table
    assert "````sh\n" in text
    assert found["model-index"][0]["name"].startswith("sa-softmax on a|b")


def test_absolute_paths_stay_at_home() -> None:
    command = "finetune classify --data '/disk/me/my rows' --model=~/nets/bert --output runs/x"
    entry = made(over={"command": f"{command} --metrics '[/disk/me/m.py, bleu]' --x=file:///disk/me/q"})
    entry["config"]["model"]["name"] = "/disk/me/nets/bert"
    entry["config"]["train"]["deepspeed"] = "/disk/me/ds.json"
    assert entry["data"] and entry["metrics"]
    entry["data"]["location"] = "/disk/me/my rows"
    entry["metrics"]["/disk/me/m.py"] = {"value": 1.0}
    entry["task"]["labels"] = ["/b/", "~", "and/or"]
    shared = without_paths(entry)
    assert shared["command"] == (
        "finetune classify --data 'my rows' --model=bert --output runs/x --metrics '[m.py, bleu]' --x=q"
    )
    assert shared["data"]["location"] == "my rows"
    assert shared["config"]["train"]["deepspeed"] == "ds.json"
    assert "m.py" in shared["metrics"] and shared["task"]["labels"] == ["/b/", "~", "and/or"]
    assert "/disk" not in str(shared) and "/disk" not in card.text(entry, "org/run")
    assert entry["data"]["location"] == "/disk/me/my rows"  # a copy was changed
