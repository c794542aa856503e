"""Tiny GPT-NeoX decoders with any variant and positional encoding, and tokens for them."""

from typing import Any

import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, set_seed

from finetune.attention.position_bias import POSITION
from finetune.attention.swap import swap
from finetune.positions import get_encoding
from finetune.positions.attach import attach, free

HEADS, WIDTH, LENGTH = 3, 24, 23


def stock(**options: Any) -> GPTNeoXConfig:
    """The stock configuration, without an encoding's switch."""
    return GPTNeoXConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, max_position_embeddings=128, hidden_dropout=0.0,
        attention_dropout=0.0, use_parallel_residual=False,
        **options,
    )  # fmt: skip


def decoder(
    name: str, variant: str = "sa-softmax", kernel: str = "auto", seed: int = 0
) -> GPTNeoXForCausalLM:
    """A model with an encoding, its weights large enough for attention to differ by place."""
    config = stock()
    free(config, name)
    set_seed(seed)
    model = GPTNeoXForCausalLM(config)
    swap(model, variant, kernel=kernel)
    attach(model, *get_encoding(name), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if f".{POSITION}." not in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
            elif "network" in key or "first" in key or "second" in key:
                weight.mul_(3.0)  # so that what reads the scores shows
    return model.eval()


def tokens(seed: int = 0, batch: int = 2) -> Tensor:
    """Ids, (batch, LENGTH)."""
    return torch.randint(0, 50, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))
