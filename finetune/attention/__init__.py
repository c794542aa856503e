"""The variants of attention that can be compared: the paper's, then the controls.

``controls.py`` is the one file to edit to add one.
"""

from finetune.attention.controls import CONTROLS
from finetune.attention.functions import PAPER, Variant
from finetune.errors import unknown

__all__ = ["VARIANTS", "Variant", "get_variant"]

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (*PAPER, *CONTROLS)}


def get_variant(name: str) -> Variant:
    """The variant called ``name``; ``UserError`` with the nearest name where there is none."""
    if name not in VARIANTS:
        raise unknown("attention variant", name, VARIANTS)
    return VARIANTS[name]
