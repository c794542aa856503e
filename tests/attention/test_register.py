"""The transformers idiom: every variant is an ``attn_implementation``, and a checkpoint says which it has."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from finetune.attention import VARIANTS, Variant, register_variant
from finetune.attention.swap import swap
from finetune.errors import UserError
from tests.support.tiny_models import FAMILIES, batch, kept_logits


def logits(model: Any, family: str) -> torch.Tensor:
    kind = FAMILIES[family].kind
    return kept_logits(model.eval(), batch(kind), kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_by_the_name_of_a_variant_equals_a_swapped_one(family: str) -> None:
    named, swapped = FAMILIES[family].build(), FAMILIES[family].build()
    named.set_attn_implementation("sa-softmax")
    swap(swapped, "sa-softmax")
    torch.testing.assert_close(logits(named, family), logits(swapped, family))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_an_attention_implementation(variant: str) -> None:
    swapped = FAMILIES["llama"].build()
    named = type(swapped)._from_config(copy.deepcopy(swapped.config), attn_implementation=variant)
    named.load_state_dict(swapped.state_dict())
    swap(swapped, variant)
    torch.testing.assert_close(logits(named, "llama"), logits(swapped, "llama"))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_checkpoint_comes_back_with_its_variant_and_parameters(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family].build()
    swap(model, "sa-softmax", parameters={"eps": 0.5})
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert said["attn_implementation"] == "sa-softmax"
    assert said["finetune_attention"] == {"variant": "sa-softmax", "parameters": {"eps": 0.5}, "scope": "all"}
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, family), logits(model, family))
    plain = type(model).from_pretrained(tmp_path, attn_implementation="sdpa")
    assert not torch.allclose(logits(plain, family), logits(model, family))


@pytest.mark.slow
def test_without_finetune_a_checkpoint_is_refused_and_not_computed_with_softmax(tmp_path: Path) -> None:
    model = FAMILIES["bert"].build()
    swap(model, "sa-softmax")
    model.save_pretrained(tmp_path)
    code = "import sys, transformers; transformers.AutoModel.from_pretrained(sys.argv[1])"
    for first, refused in (("", True), ("import finetune; ", False)):
        done = subprocess.run(
            [sys.executable, "-c", first + code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert ('`attn_implementation="sa-softmax"` is not supported' in done.stderr) == refused
        assert (done.returncode != 0) == refused, done.stderr


def test_a_model_swapped_back_to_softmax_says_nothing(tmp_path: Path) -> None:
    model = FAMILIES["bert"].build()
    swap(model, "sa-softmax")
    swap(model, "softmax")
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert not {"finetune_attention", "attn_implementation"} & said.keys()
    torch.testing.assert_close(logits(type(model).from_pretrained(tmp_path), "bert"), logits(model, "bert"))


def test_a_variant_within_a_scope_needs_a_swap(tmp_path: Path) -> None:
    model = FAMILIES["bart"].build()
    swap(model, "sa-softmax", scope="cross")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no attention variant: load a run by finetune\.load"):
        logits(loaded, "bart")
    loaded.set_attn_implementation("sa-softmax")
    with pytest.raises(UserError, match=r"in its cross attention alone: .*scope=\"cross\"\)"):
        logits(loaded, "bart")
    swap(loaded, "sa-softmax", scope="cross")
    torch.testing.assert_close(logits(loaded, "bart"), logits(model, "bart"))


def test_a_refused_swap_leaves_the_configuration_as_it_was() -> None:
    model = FAMILIES["bert"].build()
    swap(model, "sa-softmax", parameters={"eps": 0.5})
    before = model.config.to_dict()
    with pytest.raises(UserError, match="has no cross attention"):
        swap(model, "sa-softmax-raw", scope="cross")
    assert model.config.to_dict() == before


def test_a_variant_of_ones_own_is_an_attention_implementation_too() -> None:
    def halved(scores: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        return VARIANTS["softmax"].weigh(scores, allowed) / 2

    register_variant(Variant("halved", halved, paper="", equation="p / 2", summary=""))
    named, plain = FAMILIES["bert"].build(), FAMILIES["bert"].build()
    named.set_attn_implementation("halved")
    swap(plain, "halved")
    torch.testing.assert_close(logits(named, "bert"), logits(plain, "bert"))
    for name in ("eager", "sdpa", "finetune", "flash-softmax"):
        with pytest.raises(UserError, match=f"'{name}' is or looks like a name of transformers' own"):
            register_variant(Variant(name, halved, paper="", equation="", summary=""))


def test_a_pipeline_and_the_auto_classes_take_the_name(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_config(FAMILIES["bert"].build().config)
    model.save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    hf.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    for variant, same in (("softmax", True), ("sa-softmax", False)):
        options = {"attn_implementation": variant}
        classify = pipeline("text-classification", str(tmp_path), model_kwargs=options, device="cpu")
        assert classify.model.config._attn_implementation == variant
        stock = pipeline("text-classification", str(tmp_path), device="cpu")
        scores = [each("a text a a", top_k=1)[0]["score"] for each in (classify, stock)]
        assert (abs(scores[0] - scores[1]) < 1e-6) == same
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="ssmax")
    assert found.config._attn_implementation == "ssmax"
    with pytest.raises(ValueError, match="is not supported"):
        AutoModel.from_pretrained(tmp_path, attn_implementation="sa-softmx")
