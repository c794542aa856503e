"""What the page of performance says in numbers, from ``results/bench-cpu/bench.json``."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from docs.generate.markdown import code, table

FILE = Path(__file__).parents[2] / "results" / "bench-cpu" / "bench.json"
SHAPES = ((32, 128), (8, 512), (2, 2048), (1, 4096))  # rows, tokens


@cache
def bench() -> Any:
    """``bench.json``: every measurement of the kept benchmark."""
    return json.loads(FILE.read_text(encoding="utf-8"))


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
        "cpu": str(result["hardware"]["cpu"]),
        "cores": str(result["hardware"]["cores"]),
        "minutes": f"{result['seconds'] / 60:.0f}",
        "torch": result["versions"]["torch"].partition("+")[0],
        "transformers": result["versions"]["transformers"],
        "step": f"{ours['time_ratio']['median']:.2f}",
        "stock": f"{ours['speed_ratio']['median']:.2f}",
        "added": f"{max(added) * 100 - 100:.0f}%",
    }
