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
    """Tabulates forward and backward time over torch's fused attention: a padding mask, 12 heads of 64."""
    rows = []
    for variant in ("sa-softmax", "sa-softmax-raw"):
        for kernel in ("native", "blocked", "reference"):
            cells, memory = [], ""
            for batch, length in SHAPES:
                (row,) = _rows(
                    mask="padded", width=64, batch=batch, length=length, variant=variant, kernel=kernel
                )
                cells.append(f"{row['both']['ratio']['median']:.2f}")
                memory = f"{row['memory_ratio']:.2f}"
            rows.append([code(variant), kernel, *cells, memory])
    shapes = [f"{batch} × {length}" for batch, length in SHAPES]
    return table(["variant", "kernel", *shapes, f"peak memory at {SHAPES[-1][1]}"], rows, numbers=5)


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
    variants = {(each["recipe"], each["variant"], each["kernel"]): each for each in result["steps"]["arms"]}
    ours = variants["toolkit", "sa-softmax", "auto"]["train"]
    added = [
        row["both"]["control"]["median"]
        for row in _rows(mask="padded", variant="sa-softmax", kernel="native")
    ]
    return {
        **_conditions(result),
        "step": f"{ours['time_ratio']['median']:.2f}",
        "stock": f"{ours['speed_ratio']['median']:.2f}",
        "added": f"{max(added) * 100 - 100:.0f}%",
    }


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
