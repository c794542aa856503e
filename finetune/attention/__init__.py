"""Attention variants: what they compute (``functions``, ``controls``), how they come into a model (``swap``)
and what computes them fast (``kernels``). Importing this package imports no torch.
"""

from finetune.attention.variants import PAPER, VARIANTS, Variant, get_variant

__all__ = ["PAPER", "VARIANTS", "Variant", "get_variant"]
