"""A part ``pretraining`` of a benchmark, as it is written."""

from collections.abc import Mapping
from typing import Any


def spread(median: float) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median, "repeats": 5}


def row(length: int, position: str, name: str, computes: str, speed: float) -> dict[str, Any]:
    """A row whose speed is ``speed``, where softmax's and the stock recipe's are 1,000 tokens a second."""
    return {
        "length": length,
        "position": position,
        "recipe": "stock" if name.startswith("stock") else "toolkit",
        "variant": name.partition(" ")[0],
        "kernel": name.partition(" ")[2],
        "name": name,
        "computes": computes,
        "parameters": 5_200_000,
        "batch": 4,
        "step_tokens": 2048,
        "tokens_per_s": spread(speed),
        "time_ratio": spread(1000 / speed),
        "speed_ratio": spread(speed / 1000),
    }


PRETRAINING = {
    "model": "scratch:mini",
    "data": {"source": "sample"},
    "steps": 2,
    "bf16": False,
    "rows": [
        row(512, "rope", "stock sdpa", "sdpa", 1000.0),
        row(512, "rope", "softmax native", "native", 1300.0),
        row(512, "rope", "sa-softmax auto", "native", 1250.0),
        row(2048, "kerple", "sa-softmax auto", "native", 800.0),
    ],
    "absent": [{"length": 2048, "position": "dapev2-kerple", "reason": "less memory is free"}],
}


def with_pretraining(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result that has the part too."""
    return {**result, "pretraining": PRETRAINING}
