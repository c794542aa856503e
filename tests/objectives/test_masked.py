"""Masked language models: what a batch holds, what is refused, and what is made of the answers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset

from finetune import objectives
from finetune.data.collate import IGNORED
from finetune.errors import UserError
from finetune.metrics.perplexity import masked_metrics
from finetune.models.builder import Built, build_model
from finetune.models.scratch import BERT, NEOX, train_tokenizer
from finetune.objectives.language import _sums
from tests.support.records import run_config
from tests.support.tiny_models import FAMILIES

TEXTS = [f"the name of baker {n} is told first, and asked for much later. " * (1 + n % 3) for n in range(9)]


def config_of(variant: str = "softmax", **over: Any) -> Any:
    model = {"name": "scratch:tiny", "vocab_size": 300, **over.pop("model", {})}
    data = {"max_length": 16, **over.pop("data", {})}
    return run_config(
        variant, kind="masked", task="books", pair=None, generation=None, model=model, data=data, **over
    )


def built_of(config: Any) -> Built:
    return build_model(config, objectives.of(config), iter(TEXTS), None)


def split() -> Dataset:
    """Three documents, of several rows each."""
    names = [f"book {n % 3}" for n in range(len(TEXTS))]
    return Dataset.from_dict({"row": list(range(len(TEXTS))), "text": TEXTS, "document": names})


def test_a_classifier_reads_by_the_same_tokenizer() -> None:
    classifier, masked = (objectives.get(kind).scratch for kind in ("classification", "masked"))
    assert classifier == masked


@pytest.mark.parametrize("documents", ["cross", "isolate"])
def test_windows_are_framed_and_of_documents_as_asked(documents: str) -> None:
    config = config_of(language={"documents": documents})
    objective, tokenizer = objectives.of(config), built_of(config).tokenizer
    train = objective.tokenize(split(), "train", tokenizer, config)
    assert set(train.column_names) == {"row", "input_ids", "labels"}
    between = [ids[1:-1].count(tokenizer.sep_token_id) for ids in train["input_ids"]]
    assert bool(sum(between)) == (documents == "cross")
    assert all(ids[0] == tokenizer.cls_token_id for ids in train["input_ids"])
    assert all(ids[-1] == tokenizer.sep_token_id and len(ids) <= 16 for ids in train["input_ids"])
    scored = objective.tokenize(split(), "test", tokenizer, config)
    assert set(scored["document"]) == {0, 1, 2}
    asked = [sum(token != IGNORED for token in row) for row in scored["labels"]]
    assert all(asked)
    again = objective.tokenize_again(split(), scored["row"][2:5], tokenizer, config)
    assert again.to_dict() == scored.select(range(2, 5)).to_dict()


def test_every_setting_that_decides_windows_is_among_the_settings_of_the_cache() -> None:
    objective = objectives.get("masked")
    names = {
        "train": ("documents", "train_tokens"),
        "validation": ("masked_share",),
        "test": ("masked_share",),
    }
    other: dict[str, Any] = {"documents": "isolate", "train_tokens": 77, "masked_share": 0.4}
    for name, keys in names.items():
        for key in keys:
            one, two = (
                objective.token_settings(config_of(language=language), name)
                for language in ({}, {key: other[key]})
            )
            assert one != two, (name, key)
    settings = {name: str(objective.token_settings(config_of(), name)) for name in names}
    assert settings["train"] != settings["test"] == settings["validation"]


def test_masks_are_of_the_seed_alone_and_padding_shows_in_no_sum() -> None:
    config, other = config_of(), config_of("sa-softmax")
    built = built_of(config)
    objective = objectives.of(config)
    rows = list(objective.tokenize(split(), "train", built.tokenizer, config))[:4]
    one, two = (objective.collator(built.tokenizer, built.model, each)(rows) for each in (config, other))
    assert torch.equal(one["input_ids"], two["input_ids"]) and torch.equal(one["labels"], two["labels"])
    assert set(one) == {"input_ids", "attention_mask", "labels"}
    seeded = objective.collator(built.tokenizer, built.model, config_of(seed=1))(rows)
    assert not torch.equal(one["labels"], seeded["labels"])
    scored = list(objective.tokenize(split(), "test", built.tokenizer, config))
    short = sorted(scored, key=lambda row: len(row["input_ids"]))
    for padding in ("longest", "max_length"):
        padded = config_of(batches={"padding": padding}, data={"max_length": 40})
        collate = objective.collator(built.tokenizer, built.model, padded)
        with torch.no_grad():
            together = sums_of(built.model, collate([short[0], short[-1]]))[0]
            torch.testing.assert_close(
                together, sums_of(built.model, collate([short[0]]))[0], atol=1e-4, rtol=0
            )
        width = collate([short[0]])["attention_mask"]
        assert int(width.sum()) == len(short[0]["input_ids"])


def sums_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    labels = batch.pop("labels")
    sums: torch.Tensor = _sums(model.eval()(**batch).logits, labels)
    return sums


MODELS = {
    "bert": hf.BertForMaskedLM, "roberta": hf.RobertaForMaskedLM, "distilbert": hf.DistilBertForMaskedLM,
    "albert": hf.AlbertForMaskedLM, "electra": hf.ElectraForMaskedLM, "modernbert": hf.ModernBertForMaskedLM,
}  # fmt: skip


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_every_family_of_encoders_can_go_on(family: str, variant: str, tmp_path: Any) -> None:
    tokenizer = train_tokenizer(BERT.recipe, iter(TEXTS), 300)
    model = FAMILIES[family].build(
        model_class=MODELS[family], vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = config_of(
        variant, model={"name": str(tmp_path), "dropout": None, "attention_dropout": None}, seed=3
    )
    built = built_of(config)
    objective = objectives.of(config)
    objective.check_model(config, built, {})
    rows = objective.tokenize(split(), "test", built.tokenizer, config)
    batch = objective.collator(built.tokenizer, built.model, config)(list(rows)[:3])
    sums = sums_of(built.model, batch)
    assert torch.isfinite(sums).all() and (sums > 0).all()


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    config = config_of(model={"name": "m"})
    decoder = train_tokenizer(NEOX.recipe, iter(TEXTS), 300)
    with pytest.raises(UserError, match="'m' has no mask_token"):
        objectives.get("masked").tokenize(split(), "train", decoder, config)


@pytest.mark.parametrize("family", ["bart", "bert"])
def test_a_model_that_does_not_see_both_sides_is_refused(family: str) -> None:
    model = FAMILIES[family].build(**({"is_decoder": True} if family == "bert" else {}))
    config = config_of(model={"name": "m"})
    with pytest.raises(UserError, match="no encoder that sees both sides"):
        objectives.get("masked").check_model(config, Built(model, model, None, None, {}), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("language"), "needs the section language"),
        (lambda values: values["language"].update(masked_share=None), "set it, e.g. to 0.15"),
        (
            lambda values: values["language"].update(eval_lengths=[32]),
            r"eval_lengths is for .*set it to \[\]",
        ),
        (lambda values: values["language"].update(stride=3), "stride is for .*set it to null"),
        (lambda values: values["language"].update(scored_tokens=3), "scored_tokens is for"),
        (lambda values: values["language"].update(test_windows=3), "test_windows is for"),
    ],
)
def test_a_section_that_is_of_no_use_is_named(change: Callable[[Any], Any], message: str) -> None:
    language = {"eval_lengths": [], "stride": None, "masked_share": 0.15}
    values: dict[str, Any] = {"generation": None, "train": {}, "language": language}
    objectives.get("masked").check(values)
    change(values)
    with pytest.raises(UserError, match=message):
        objectives.get("masked").check(values)


def test_a_window_needs_room_for_a_text() -> None:
    config = config_of(data={"max_length": 4}, language={"tokens_per_step": 8})
    with pytest.raises(UserError, match="set it to 8 or more"):
        objectives.get("masked").settled(config)


def test_sums_of_windows_become_those_of_documents() -> None:
    objective = objectives.get("masked")
    found = [(0, 3.0, 2), (1, 4.0, 3), (0, 1.0, 1)]
    predictions = {
        row: {"document": document, "length": 0, "nats": nats, "tokens": tokens}
        for row, (document, nats, tokens) in enumerate(found)
    }
    rows = objective.rows(split(), predictions)
    assert rows == [
        {"row": 0, "document": "book 0", "nats": 4.0, "tokens": 3},
        {"row": 1, "document": "book 1", "nats": 4.0, "tokens": 3},
    ]
    scores = objective.score(rows, config_of(), labels=None, tokenizer="t", generation=None)
    assert scores == masked_metrics(rows, tokenizer="t", length=16, masked_share=0.15)
    assert scores["masked_loss"]["value"] == pytest.approx(8 / 6)
