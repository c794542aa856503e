"""Names that a configuration chooses from and that the attention functions go by.

They are no part of the schema's module, whose checks need pydantic: attention and its measurements also run
from a checkout on a machine that has torch, Triton and transformers alone.
"""

from typing import Literal

BASELINE = "softmax"  # the variant that every other one is compared with

Scope = Literal["all", "encoder", "decoder", "cross"]
KernelChoice = Literal["auto", "reference", "blocked", "native", "triton"]
