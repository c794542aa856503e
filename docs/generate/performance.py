"""What the page of performance says in numbers, from the benchmarks kept in ``results/``."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from docs.generate.markdown import code, table

RESULTS = Path(__file__).parents[2] / "results"
FILE = RESULTS / "bench-cpu" / "bench.json"
PRETRAINING = RESULTS / "bench-pretraining" / "bench.json"
SHAPES = ((32, 128), (8, 512), (2, 2048), (1, 4096))  # rows, tokens


@cache
def bench(file: Path = FILE) -> Any:
    """Every measurement of a kept benchmark."""
    return json.loads(file.read_text(encoding="utf-8"))


def _rows(**wanted: Any) -> Iterator[Mapping[str, Any]]:
    for row in bench()["attention"]["rows"]:
        if all(row[key] == value for key, value in wanted.items()):
            yield row


def attention() -> str:
    """Tabulates forward and backward time over torch's fused attention, and the fraction of peak.

    With a padding mask and 12 heads of 64.
    """
    sdpa = [_one(shape, "softmax", "sdpa") for shape in SHAPES]
    rows = [[code("softmax"), "sdpa", *map(_cell, sdpa), "1.00"]]
    for variant in ("sa-softmax", "sa-softmax-raw"):
        for kernel in ("native", "blocked", "reference"):
            found = [_one(shape, variant, kernel) for shape in SHAPES]
            rows.append([code(variant), kernel, *map(_cell, found), f"{found[-1]['memory_ratio']:.2f}"])
    shapes = [f"{batch} × {length}" for batch, length in SHAPES]
    return table(["variant", "kernel", *shapes, f"peak memory at {SHAPES[-1][1]}"], rows, numbers=5)


def _one(shape: tuple[int, int], variant: str, kernel: str) -> Mapping[str, Any]:
    batch, length = shape
    (row,) = _rows(mask="padded", width=64, batch=batch, length=length, variant=variant, kernel=kernel)
    return row


def _cell(row: Mapping[str, Any]) -> str:
    """``0.56 (53%)``: the ratio to SDPA and the fraction of peak."""
    both = row["both"]
    of_peak = both.get("of_peak")  # of a result that has it
    return f"{both['ratio']['median']:.2f}" + (f" ({of_peak:.0%})" if of_peak else "")


def _conditions(result: Mapping[str, Any]) -> dict[str, str]:
    """The machine, the versions and the time that a benchmark took."""
    return {
        "cpu": str(result["hardware"]["cpu"]),
        "cores": str(result["hardware"]["cores"]),
        "minutes": f"{result['seconds'] / 60:.0f}",
        "torch": result["versions"]["torch"].partition("+")[0],
        "transformers": result["versions"]["transformers"],
    }


def figures() -> dict[str, str]:
    """Name -> number, as it is written."""
    result = bench()
    setups = {each["name"]: each["train"] for each in result["steps"]["arms"]}
    ours = setups["sa-softmax auto"]
    native = [
        [row["both"] for row in _rows(width=64, variant="sa-softmax", kernel="native", mask=mask)]
        for mask in ("padded", "whole", "causal")
    ]
    added = [
        row["both"]["control"]["median"]
        for row in _rows(mask="padded", variant="sa-softmax", kernel="native")
    ]
    return {
        **_conditions(result),
        "step": f"{ours['time_ratio']['median']:.2f}",
        "stock": f"{ours['speed_ratio']['median']:.2f}",
        "rows": f"{result['steps']['data']['train']['rows']:,}",
        **{
            f"ratio_{mask}": _range([both["ratio"]["median"] for both in found])
            for mask, found in zip(("padded", "whole", "causal"), native, strict=True)
        },
        "added": f"{max(added) * 100 - 100:.0f}%",
    }


def _range(values: list[float]) -> str:
    """``0.51 to 0.62``"""
    return f"{min(values):.2f} to {max(values):.2f}"


def pretraining() -> str:
    """Tabulates the time of steps of pretraining over softmax's, and their speed over the stock recipe's."""
    by_setup: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in bench(PRETRAINING)["pretraining"]["rows"]:
        if row["recipe"] == "toolkit":
            by_setup.setdefault((row["position"], row["name"]), {})[row["length"]] = row
    lengths = sorted({length for rows in by_setup.values() for length in rows})
    body = []
    for (position, name), rows in by_setup.items():
        cells = [code(position), name, " and ".join(sorted({row["computes"] for row in rows.values()}))]
        for key in ("time_ratio", "speed_ratio"):
            cells += [f"{rows[length][key]['median']:.2f}" if length in rows else "" for length in lengths]
        body.append(cells)
    titles = [f"{what}, {length}" for what in ("time", "speed") for length in lengths]
    return table(["encoding", "setup", "kernel", *titles], body, numbers=len(titles))


def pretraining_figures() -> dict[str, str]:
    """Name -> number or name, as it is written, of the benchmark of pretraining."""
    result = bench(PRETRAINING)
    rows = result["pretraining"]["rows"]
    times = {
        (row["length"], row["variant"], row["kernel"]): row["time_ratio"]["median"]
        for row in rows
        if row["position"] == "rope" and row["recipe"] == "toolkit"
    }
    ours = {length: time for (length, *setup), time in times.items() if setup == ["sa-softmax", "auto"]}
    added = [time / times[length, "softmax", "native"] for length, time in ours.items()]
    return {
        **_conditions(result),
        "rope": f"{max(ours.values()):.2f}",
        "same_kernel": f"{max(added):.2f}",
        "model": result["pretraining"]["model"],
        "parameters": f"{rows[0]['parameters'] / 1e6:.1f}M",
        "step": f"{rows[0]['step_tokens']:,}",
    }
