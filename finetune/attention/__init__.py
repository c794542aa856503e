"""Attention variants: what they compute (``functions``, ``controls``), how they come into a model (``swap``)
and what computes them fast (``kernels``). Importing this package imports no torch.
"""

from finetune.attention.variants import (
    PAPER,
    VARIANTS,
    Variant,
    find_variant,
    get_variant,
    register_variant,
)

__all__ = ["PAPER", "VARIANTS", "Variant", "find_variant", "get_variant", "register_variant"]
