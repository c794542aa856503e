"""Buckets of distances, and of numbers of keys: 0, 1, 2 to 3, 4 to 7, and so on, each twice as wide."""

import torch
from torch import Tensor


def bucket(numbers: Tensor) -> Tensor:
    """The bucket of each whole number, 0 or more: the number of its binary digits."""
    # x = m * 2^e with .5 <= m < 1: exact below 2^53.
    return torch.frexp(numbers.double()).exponent.long()


def start(number: int) -> int:
    """The least number in a bucket."""
    return 2 ** (number - 1) if number else 0


def sums(values: Tensor, buckets: Tensor) -> Tensor:
    """``values``, (rows, key), summed by ``buckets`` of the same shape: (rows, buckets)."""
    count = int(buckets.max()) + 1 if buckets.numel() else 0
    values = values if values.is_floating_point() else values.float()
    return values.new_zeros(len(values), count).scatter_add_(1, buckets, values)
