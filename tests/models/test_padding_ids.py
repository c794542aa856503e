"""Padding and end tokens as the files of real models have them: missing, shared, or another in each file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from finetune.data.collate import longest_first
from finetune.errors import UserError
from finetune.models import admission
from tests.support.cuts import Base, assert_same_answers, assert_the_same, save_base, texts, tokenizer_of
from tests.support.pretrained_models import change_json
from tests.support.tiny_models import enlarge

# What a tokenizer says of padding, and what the model's configuration says: None is nothing at all.
PADDING: dict[str, tuple[str | None, int | None]] = {
    "missing": (None, None),
    "missing in the tokenizer": (None, 7),
    "the end token": ("</s>", 3),
    "the end token by the tokenizer": ("</s>", 0),
    "the unknown token": ("<unk>", 1),
    "another one": ("<s>", 99),
}


def exhaustive(family: str) -> Any:
    return pytest.param(family, marks=pytest.mark.exhaustive)


def padded(folder: Path, kind: str, family: str, name: str) -> Path:
    """A base model whose files say of padding what ``PADDING`` has under ``name``."""
    save_base(kind, family, folder)
    token, number = PADDING[name]
    change_json(folder / "tokenizer_config.json", pad_token=token)
    for file in {"config.json", "generation_config.json"} & {path.name for path in folder.iterdir()}:
        change_json(folder / file, pad_token_id=number)
    return folder


def hold_evaluations(base: Base) -> None:
    """Admitted, and the same answers in batches of 1, 7 and all rows."""
    rows = base.rows(texts(9))
    admission.check(base.config(), base.objective, base.built, {"train": rows})
    wanted = base.answers(rows, per_device_eval_batch_size=1)
    for size, order in ((7, rows), (64, longest_first(rows))):
        assert_same_answers(base.answers(order, per_device_eval_batch_size=size), wanted)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("family", ["llama", "gpt2", exhaustive("qwen3"), exhaustive("gpt_neox")])
def test_a_decoder_classifies_the_same_however_it_is_padded(
    tmp_path: Path, family: str, padding: str
) -> None:
    base = Base("classification", padded(tmp_path, "classification", family, padding))
    assert base.built.tokenizer.padding_side == "right"
    hold_evaluations(base)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["t5", "m2m100", exhaustive("bart"), exhaustive("mbart"), exhaustive("marian")]
)
def test_a_translator_that_pads_with_its_end_token_does_the_same(tmp_path: Path, family: str) -> None:
    base = Base("translation", padded(tmp_path, "translation", family, "the end token"))
    hold_evaluations(base)
    rows = base.rows(texts(11))
    assert_the_same(base.trained(rows, 2, 4), base.trained(rows, 8))


def unframed(folder: Path) -> None:
    change_json(folder / "tokenizer.json", post_processor=None)


def framed_twice(folder: Path) -> None:
    """A tokenizer that begins each text with its end token too."""
    file = folder / "tokenizer.json"
    frame = json.loads(file.read_text())["post_processor"]
    change_json(file, post_processor={**frame, "single": [frame["single"][-1], *frame["single"]]})


def another_end(folder: Path) -> None:
    change_json(folder / "config.json", eos_token_id=9)


def shared_with_padding(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", pad_token="</s>")
    change_json(folder / "config.json", pad_token_id=tokenizer_of("translation").eos_token_id)


ENDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "padding": (shared_with_padding, "pads with that too"),
    "no end": (unframed, "frames no text with the end token"),
    "two ends": (framed_twice, "gives row 0 of train 2 of them"),
    "another end": (another_end, "classifies at the end token 9"),
}


@pytest.mark.parametrize("fault", ENDS)
@pytest.mark.parametrize("family", ["bart", "mbart", "t5"])
def test_a_classifier_at_the_end_token_needs_one_a_row(tmp_path: Path, family: str, fault: str) -> None:
    save_base("classification", family, tmp_path)
    spoil, said = ENDS[fault]
    spoil(tmp_path)
    base = Base("classification", tmp_path)
    with pytest.raises(UserError, match=said):
        admission.check(base.config(), base.objective, base.built, {"train": base.rows(texts(3))})


def test_a_model_that_reads_padding_is_refused(tmp_path: Path) -> None:
    """MobileBERT puts beside each token its neighbours, padding too."""
    tokenizer = tokenizer_of("classification")
    sizes = {"hidden_size": 24, "intra_bottleneck_size": 24, "embedding_size": 24, "intermediate_size": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": tokenizer.pad_token_id}
    stock = hf.MobileBertConfig(vocab_size=len(tokenizer), num_labels=5, **sizes, **layers)
    enlarge(hf.MobileBertForSequenceClassification(stock)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = Base("classification", tmp_path)
    rows = base.rows(texts(5))
    with pytest.raises(UserError, match="padded to the length of a longer one"):
        admission.check(base.config(), base.objective, base.built, {"train": rows})
    admission.check(base.config(), base.objective, base.built, {"train": rows.select([2])})


def test_a_text_without_a_token_is_refused(tmp_path: Path) -> None:
    save_base("classification", "gpt2", tmp_path)
    unframed(tmp_path)
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    change_json(tmp_path / "tokenizer.json", normalizer=strip)
    base = Base("classification", tmp_path)
    with pytest.raises(UserError, match="finds no token in 1 texts of split 'train', the first is row 1 "):
        admission.check(
            base.config(), base.objective, base.built, {"train": base.rows(["a cat", "\u2003", "the dog"])}
        )
