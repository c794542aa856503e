"""Not there yet."""

from torch import Tensor

from finetune.attention.inputs import Inputs, Normaliser


def why_not(inputs: Inputs, normaliser: Normaliser) -> str | None:
    """Why this kernel cannot do these inputs; None if it can."""
    return "it is not there yet"


def attend(inputs: Inputs, normaliser: Normaliser) -> Tensor:
    """The output, (batch, query, heads, value width)."""
    raise NotImplementedError
