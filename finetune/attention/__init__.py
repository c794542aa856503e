"""The variants of attention that can be compared; ``functions.py`` is the one file to edit to add one."""

from finetune.attention.functions import VARIANTS, Variant
from finetune.errors import unknown

__all__ = ["VARIANTS", "Variant", "get_variant"]


def get_variant(name: str) -> Variant:
    """The variant called ``name``; ``UserError`` with the nearest name where there is none."""
    if name not in VARIANTS:
        raise unknown("attention variant", name, VARIANTS)
    return VARIANTS[name]
