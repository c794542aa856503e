"""Tensors of which each process of a run holds a share (torch's ``DTensor``), and others."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def shared_out(tensor: "Tensor") -> bool:
    """Whether this process holds no more than a share of ``tensor``."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_share(tensor: "Tensor") -> "Tensor":
    """What this process holds of ``tensor``: its share, or all of it."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: "Tensor") -> "Tensor":
    """All of ``tensor``. Of one that is shared out all processes must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
