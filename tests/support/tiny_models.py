"""Tiny random models of every supported family: odd sizes, and weights so large that attention matters."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import transformers as hf
from torch import Tensor

VOCAB = 37
PAD, EOS, START = 0, 1, 2
KEPT = (9, 6, 1)  # unpadded tokens of each row of a batch
LEN = 9
TARGET_LEN = 6

Kind = Literal["encoder", "decoder", "seq2seq"]
_TOKENS = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": EOS}
_BERT = {
    **_TOKENS,
    "hidden_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 11,
    "max_position_embeddings": 32,
    "num_labels": 5,
}
_SEQ2SEQ = {
    **_TOKENS,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
    "d_model": 12,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 11,
    "decoder_ffn_dim": 13,
    "max_position_embeddings": 32,
    "dropout": 0.2,
    "attention_dropout": 0.1,
}
_T5 = {
    **_TOKENS,
    "decoder_start_token_id": START,
    "d_model": 14,
    "d_kv": 5,
    "d_ff": 11,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 9,
}
_DISTILBERT = {
    **_TOKENS,
    "dim": 18,
    "n_layers": 3,
    "n_heads": 3,
    "hidden_dim": 11,
    "max_position_embeddings": 32,
    "num_labels": 5,
}
_NARROW = {**_BERT, "embedding_size": 7}
_MODERNBERT = {
    **_BERT,
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "cls_token_id": START,
    "sep_token_id": EOS,
}
_GPT2 = {**_TOKENS, "n_embd": 15, "n_layer": 3, "n_head": 3, "n_positions": 32, "n_inner": 11}
_GROUPED = {**_BERT, "hidden_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
_QWEN3 = {**_GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


@dataclass(frozen=True)
class Family:
    """How to build one family's tiny model."""

    kind: Kind
    config_class: Any
    model_class: Any
    sizes: dict[str, Any]

    def build(self, seed: int = 0, model_class: Any = None, **overrides: Any) -> Any:
        """A model in eval mode with eager attention; equal for equal seeds."""
        torch.manual_seed(seed)
        config = self.config_class(**{**self.sizes, **overrides})
        model = (model_class or self.model_class)(config)
        model.set_attn_implementation("eager")
        return enlarge(model).eval()


FAMILIES = {
    "bert": Family("encoder", hf.BertConfig, hf.BertForTokenClassification, _BERT),
    "roberta": Family("encoder", hf.RobertaConfig, hf.RobertaForTokenClassification, _BERT),
    "distilbert": Family("encoder", hf.DistilBertConfig, hf.DistilBertForTokenClassification, _DISTILBERT),
    "albert": Family("encoder", hf.AlbertConfig, hf.AlbertForTokenClassification, _NARROW),
    "electra": Family("encoder", hf.ElectraConfig, hf.ElectraForTokenClassification, _NARROW),
    "modernbert": Family("encoder", hf.ModernBertConfig, hf.ModernBertForTokenClassification, _MODERNBERT),
    "gpt2": Family("decoder", hf.GPT2Config, hf.GPT2LMHeadModel, _GPT2),
    "gpt_neox": Family("decoder", hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, {**_BERT, "hidden_size": 24}),
    "llama": Family("decoder", hf.LlamaConfig, hf.LlamaForCausalLM, _GROUPED),
    "qwen3": Family("decoder", hf.Qwen3Config, hf.Qwen3ForCausalLM, _QWEN3),
    "t5": Family("seq2seq", hf.T5Config, hf.T5ForConditionalGeneration, _T5),
    "bart": Family("seq2seq", hf.BartConfig, hf.BartForConditionalGeneration, _SEQ2SEQ),
    "mbart": Family("seq2seq", hf.MBartConfig, hf.MBartForConditionalGeneration, _SEQ2SEQ),
    "marian": Family("seq2seq", hf.MarianConfig, hf.MarianMTModel, _SEQ2SEQ),
    "m2m100": Family("seq2seq", hf.M2M100Config, hf.M2M100ForConditionalGeneration, _SEQ2SEQ),
}


FEW = ("bert", "llama", "t5", "marian")
"""Families that stand for all where not every one is tried, or not in the fast set."""


def all_but_few_slow() -> list[Any]:
    """Every family, as the cases of a test of which each takes its time."""
    return [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in FAMILIES]


def names(*kinds: Kind) -> list[str]:
    """The families of some kinds (of all kinds without an argument)."""
    return [name for name, family in FAMILIES.items() if not kinds or family.kind in kinds]


def enlarge(model: Any) -> Any:
    """Draws larger weights: at the usual 0.02 attention is nearly uniform and every test would pass."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.4 if parameter.ndim > 1 else 0.1)
    return model


def batch(kind: Kind, padded: bool = True, seed: int = 1) -> dict[str, Tensor]:
    """Inputs (3, 9) with rows of 9, 6 and 1 tokens where padded: left for decoders, else right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (len(KEPT), LEN), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask = (torch.arange(LEN)[None] < torch.tensor(KEPT)[:, None]).long()
        mask = mask.flip(1) if kind == "decoder" else mask
    inputs = {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.randint(3, VOCAB, (len(KEPT), TARGET_LEN), generator=generator)
    return inputs


def kept_logits(model: Any, inputs: dict[str, Tensor], kind: Kind, **keywords: Any) -> Tensor:
    """The logits of the tokens that count: (tokens, classes or vocabulary)."""
    logits = model(**inputs, **keywords).logits
    return logits.flatten(0, 1) if kind == "seq2seq" else logits[inputs["attention_mask"].bool()]
