"""Models that two processes share out by torch's own ``fully_shard``, over gloo, on the CPU."""

import json
import sys
from typing import Any

import pytest

from tests.support.processes import launch
from tests.support.tiny_models import FAMILIES, FEW

OTHERS = [name for name in FAMILIES if name not in FEW]
SETS = [[*FEW, "encodings"], pytest.param(OTHERS, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SETS, ids=["few", "others"])
def cases(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Families, tied and not, and encodings that learn: shared out against whole."""
    ended = launch([sys.executable, "-m", "tests.support.sharded_steps", *request.param], 2, timeout=500)
    for each in ended:
        assert each.status == 0, each.output[-3000:]
    found: list[dict[str, Any]] = json.loads(ended[0].output.strip().splitlines()[-1])
    return found


def test_steps_are_those_of_a_whole_model(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        whole, shared = case["losses"]
        assert shared == pytest.approx(whole, rel=1e-3), case
        assert case["norms"][1] == pytest.approx(case["norms"][0], rel=1e-3), case
        assert case["weights"] < 1e-4, case


def test_a_process_holds_half_of_every_model(cases: list[dict[str, Any]]) -> None:
    for case in cases:  # rows of a weight that do not divide stay with the first
        assert 0.5 <= case["share"] < 0.54, case


def test_gathered_weights_are_what_was_trained(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert case["alike"], case


def test_a_weight_that_is_no_number_is_seen_by_all(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert case["spoiled"] == 1, case
