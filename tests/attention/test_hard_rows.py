"""Where float32 gradients are far from those in float64, it is the method: no kernel adds to it."""

from functools import cache

import pytest
import torch

from tests.support import hard_rows
from tests.support.hard_rows import CASES, KERNELS, NAMES, ROUNDING


@cache
def exact(case):
    return hard_rows.exact(case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_as_exact_as_its_inputs_and_its_terms_allow(kernel, case):
    """Its error is what one ulp of the inputs does to the exact results, or some roundings of its terms."""
    truth = exact(case)
    found = hard_rows.results_of(KERNELS[kernel], truth.inputs, torch.float32)
    errors = hard_rows.distances(found, truth.results)
    for name in NAMES:
        size = truth.terms.get(name, float(truth.results[name].norm()))
        assert errors[name] <= 2 * truth.moved[name] + 16 * ROUNDING * size, name


def test_rows_with_all_scores_near_0_have_large_gradients_that_are_exact():
    for case, size in (("around 0, spread 1e-7", 1e-7), ("around 0, spread 1e-3", 1e-3)):
        truth = exact(case)
        assert truth.extent == pytest.approx(5 * size, rel=0.5)
        for attend in KERNELS.values():
            found = hard_rows.results_of(attend, truth.inputs, torch.float32)
            error = hard_rows.distances(found, truth.results)
            assert hard_rows.relative(error, truth.results) < 1e-6
    few, many = (exact(f"around 0, spread {size}").results["query"].norm() for size in ("1e-3", "1e-7"))
    assert 1e3 < many / few < 4e3  # as 1 / (M - m + eps), with M - m of 4e-3 and 4e-7
