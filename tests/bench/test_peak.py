"""The processor's peak, and the operations that are held against it."""

import pytest
import torch

from finetune.attention.kernels.native import build
from finetune.bench.cases import Case, make
from finetune.bench.peak import peak_flops, useful_operations


@pytest.mark.parametrize("mask", ["whole", "padded", "causal"])
@pytest.mark.parametrize(("batch", "length"), [(1, 7), (4, 10)])
def test_useful_operations_are_products_over_visible_keys(mask: str, batch: int, length: int) -> None:
    case = Case(mask, batch, length, heads=3, width=5, dtype="float32")
    inputs, _ = make(case, "cpu", seed=0)
    allowed = inputs.all_allowed()
    visible = torch.ones(()) if allowed is None else allowed
    pairs = int(visible.expand(batch, 3, length, length).sum())
    assert useful_operations(case, "forward") == 2 * 2 * pairs * 5
    assert useful_operations(case, "both") == 2 * 7 * pairs * 5


def test_the_peak_is_a_processor_s() -> None:
    peak = peak_flops(threads=1)
    assert peak is not None
    assert 1e9 < peak < 1e12
    one, two = (build.library().peak_operations(100, threads) for threads in (1, 2))
    assert two == 2 * one


def test_there_is_no_peak_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "why_not", lambda: "there is no C compiler")
    assert peak_flops(threads=1) is None
