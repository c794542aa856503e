"""The sizes of models from random weights, ``scratch:SIZE``. Imports neither torch nor transformers."""

from collections.abc import Mapping
from typing import Any

MODERNBERT = "modernbert"


def _modernbert(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": MODERNBERT,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,  # gated, and so as many weights as three quarters of BERT's 4 widths
    }


# Encoders: layers, width (features), heads, feed-forward width (features). Those without a model_type are
# BERTs; tiny, small and base are the sizes of those names in Turc et al., 2019 (arXiv 1908.08962, table 1).
# The ModernBERTs (Warner et al., 2024, arXiv 2412.13663: pre-norm, rotary positions, gated feed-forward
# layers) are ours. They learn from masked tokens in fewer steps than a BERT (docs/language-models.md).
ENCODERS: Mapping[str, dict[str, Any]] = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "small": {
        "num_hidden_layers": 4,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "base": {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "modernbert-tiny": _modernbert(2, 128, 2),
    "modernbert-mini": _modernbert(4, 256, 4),
    "modernbert-small": _modernbert(4, 512, 8),
}


def _encoder_decoder(layers: int, width: int, heads: int, feed_forward: int) -> dict[str, int]:
    return {
        "encoder_layers": layers,
        "decoder_layers": layers,
        "d_model": width,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": feed_forward,
        "decoder_ffn_dim": feed_forward,
    }


# Marian encoder-decoders (Vaswani et al., 2017: post-norm, sinusoidal positions). iwslt has the sizes of
# fairseq's transformer_iwslt_de_en: 6 layers, 512 features, 4 heads, 1024 feed-forward features.
ENCODER_DECODERS: Mapping[str, dict[str, int]] = {
    "tiny": _encoder_decoder(2, 128, 4, 256),
    "mini": _encoder_decoder(3, 256, 4, 512),
    "small": _encoder_decoder(3, 512, 8, 1024),
    "iwslt": _encoder_decoder(6, 512, 4, 1024),
}


def _decoder(layers: int, width: int, heads: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


# GPT-NeoX decoders. 125m is the size that DAPE trains (Zheng et al., 2024, arXiv 2405.14722); the larger ones
# have the standard shapes of GPT-NeoX, and the three smaller ones are ours.
DECODERS: Mapping[str, dict[str, int]] = {
    "tiny": _decoder(2, 128, 2),
    "mini": _decoder(4, 256, 4),
    "small": _decoder(6, 512, 8),
    "125m": _decoder(12, 768, 12),
    "350m": _decoder(24, 1024, 16),
    "1.3b": _decoder(24, 2048, 16),
    "2.7b": _decoder(32, 2560, 32),
}


def size_of(options: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Layers, features, heads and feed-forward features of an encoder's or a decoder's size."""
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    layers, width, heads, feed_forward = (options[name] for name in names)
    return layers, width, heads, feed_forward
