"""The evidence as a page: how each step went, and its tables. Nothing is measured here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from finetune.bench.datasheet import SOURCE
from finetune.system.tables import escape
from finetune.system.tables import markdown as table
from finetune.system.text import clean

Rows = Sequence[Mapping[str, Any]]
BY_LENGTH = {"forward": "Forward", "both": "Forward and backward"}
MASK_TITLES = {"whole": "no mask", "causal": "causal mask"}


def markdown(result: Mapping[str, Any]) -> str:
    """The whole page; of an unfinished measurement what there is so far."""
    steps = {step["name"]: step for step in result["steps"]}
    parts = ["# Evidence from a device", escape(_heading(result, steps["environment"]["rows"]))]
    if not result["finished"]:
        parts.append("**Unfinished: this is what was measured so far.**")
    if result["plan"]["toy"]:
        parts.append("**Toy sizes: the path was tried, and no figure here says anything.**")
    parts.append(_overview(result["steps"]))
    for name, step in steps.items():
        rows, make = step["rows"], _TABLES[name]
        parts.append(f"## {name.capitalize()}")
        parts += make(rows) if rows else ["Nothing was measured."]
        parts += [escape(line) for line in _absent(step)]
    return "\n\n".join(parts).rstrip() + "\n"


def tiles(rows: Rows) -> dict[str, dict[str, dict[str, list[int]]]]:
    """The best tile by major compute capability, kernel, and "WIDTH,BYTES": as ``launch`` reads them."""
    best: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = str(row["capability"]), row["kernel"], f"{row['width']},{row['bytes']}"
        if key not in best or row["sum"] < best[key]["sum"]:
            best[key] = row
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for (capability, kernel, size), row in best.items():
        found.setdefault(capability, {}).setdefault(kernel, {})[size] = row["tile"]
    return found


def _heading(result: Mapping[str, Any], rows: Rows) -> str:
    surroundings = next((row for row in rows if row["what"] == "environment"), None)
    device = "a device that did not answer"
    if surroundings is not None:
        gpu, versions = surroundings["gpu"], surroundings["versions"]
        name = surroundings["hardware"]["cpu"]
        if gpu is not None:
            name = (
                f"{gpu['name']} ({gpu['multiprocessors']} multiprocessors, compute capability "
                f"{gpu['capability']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']})"
            )
        commit = (surroundings["git"] or {}).get("commit", "no commit")[:12]
        device = (
            f"{name}; Python {versions['python']}, torch {versions['torch']}, triton {versions['triton']}, "
            f"transformers {versions['transformers']}; commit {commit}"
        )
    return (
        f"Measured by {result['command']} on {device}; {result['started']}, {result['seconds']:.0f} s of a "
        f"budget of {result['plan']['budget']:.0f} s."
    )


def _overview(steps: Rows) -> str:
    rows = [["step", "came to", "seconds", "figures", "failed", "no figure", "left out for time"]]
    for step in steps:
        failed = sum(each["failed"] for each in step["absent"])
        left_out = "" if step["left_out"] is None else str(step["left_out"])
        counts = [len(step["rows"]), failed, len(step["absent"]) - failed]
        rows.append([step["name"], step["status"], f"{step['seconds']:.0f}", *map(str, counts), left_out])
    return table(rows, "llr").rstrip()


def _absent(step: Mapping[str, Any]) -> list[str]:
    """A line a reason, with the figures that have it."""
    reasons: dict[tuple[bool, str], list[str]] = {}
    for each in step["absent"]:
        reasons.setdefault((each["failed"], clean(each["reason"])), []).append(each["title"])
    lines = []
    for (failed, reason), titles in reasons.items():
        shown = "; ".join(titles[:4]) + (f"; and {len(titles) - 4} more" if len(titles) > 4 else "")
        lines.append(f"{'Failed' if failed else 'Not measured'}: {shown}: {reason}.")
    return lines


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['variant']} {row['by']}"


def _environment(rows: Rows) -> list[str]:
    cells = [["what", "measured", "datasheet"]]
    gpu = next((row["gpu"] for row in rows if row["what"] == "environment" and row["gpu"]), None)
    for row in rows:
        if row["what"] == "product":
            top = gpu and gpu["peak_tflops"][row["dtype"]]
            stated = f"{top:,.0f} TFLOP/s" if top else ""
            title = f"matrix product of {row['size']}, {row['dtype']}"
            cells.append([title, f"{_digits(row['tflops'])} TFLOP/s", stated])
        elif row["what"] == "copy":
            cells.append([f"copy of {row['bytes'] / 2**20:,.0f} MiB", f"{row['gb_per_s']:,.0f} GB/s", ""])
    return [table(cells).rstrip(), escape(f"Peaks are of {SOURCE}.")]


def _correctness(rows: Rows) -> list[str]:
    """The worst errors of each call, by type and width, and which are beyond the limit."""
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_name(row), row["dtype"], row["width"]), []).append(row)
    cells = [["attention", "type", "head", "checks", "output", "gradients", "limit", "right"]]
    for (name, dtype, width), same in groups.items():
        worst = [f"{max(row[key] for row in same):.1e}" for key in ("output", "gradients")]
        wrong = [row["kind"] for row in same if not row["right"]]
        verdict = f"WRONG: {', '.join(wrong)}" if wrong else "yes"
        cells.append([name, dtype, str(width), str(len(same)), *worst, f"{same[0]['limit']:.0e}", verdict])
    dropped = [row["deviation"] for row in rows if "deviation" in row]
    note = "Relative errors against float64, the worst of all checks."
    if dropped:
        note += (
            f" The share of weights that dropout kept was at most {max(dropped):.1f} standard deviations off."
        )
    return [table(cells, "lll" + "r" * 4 + "l").rstrip(), note]


def _times(rows: Rows) -> list[str]:
    """A table a mask and pass: milliseconds, share of the peak, by length."""
    made = []
    for mask in dict.fromkeys(row["mask"] for row in rows):
        for which, title in BY_LENGTH.items():
            same = [row for row in rows if row["mask"] == mask]
            first = same[0]

            def cell(row: Mapping[str, Any], which: str = which) -> str:
                found = row[which]
                share = "" if found["of_peak"] is None else f" ({found['of_peak']:.0%})"
                graph = found["graph_seconds"]
                replayed = "" if graph is None else f" [{_digits(graph * 1e3)}]"
                return f"{_digits(found['seconds']['median'] * 1e3)}{replayed}{share}"

            where = f"{MASK_TITLES[mask]}, {first['heads']} heads of {first['width']}, {first['dtype']}"
            made += [f"### {title}, {where}: ms", _by_length(same, cell)]
    note = (
        "Medians of calls timed by the device; in brackets a call in a replayed graph, without what Python "
        "and a launch cost; in parentheses useful operations over the datasheet's peak. A batch has "
        "as many rows as make up its tokens."
    )
    return [*made, escape(note)]


def _by_length(rows: Rows, cell: Callable[[Mapping[str, Any]], str]) -> str:
    lengths = sorted({row["length"] for row in rows})
    by_name: dict[str, dict[int, str]] = {}
    for row in rows:
        by_name.setdefault(_name(row), {})[row["length"]] = cell(row)
    head = ["attention", *(f"{length:,}" for length in lengths)]
    body = [[name, *(cells.get(length, "") for length in lengths)] for name, cells in by_name.items()]
    return table([head, *body]).rstrip()


def _tiles(rows: Rows) -> list[str]:
    cells = [["kernel", "head", "tiles tried", "tile of the table", "best tile", "time, ratio"]]
    for key in dict.fromkeys((row["kernel"], row["width"], row["bytes"]) for row in rows):
        same = [row for row in rows if (row["kernel"], row["width"], row["bytes"]) == key]
        best = min(same, key=lambda row: row["sum"])
        usual = next((row for row in same if row["usual"]), None)
        ratio = f"{best['sum'] / usual['sum']:.2f}" if usual else ""
        shown = ["x".join(map(str, row["tile"])) if row else "" for row in (usual, best)]
        cells.append([key[0], str(key[1]), str(len(same)), *shown, ratio])
    note = (
        "Queries x keys x warps x stages. The ratio is of forward and backward with this kernel's tile "
        "changed alone. evidence.json has the best ones under tiles, as kernels/triton/tiles.json takes them."
    )
    return [table(cells).rstrip(), escape(note)]


def _training(rows: Rows) -> list[str]:
    cells = [["setup", "computed by", "length", "batch", "rows/s", "tokens/s", "ms a step", "TFLOP/s", "MFU"]]
    for row in rows:
        speeds = [_digits(row[key]) if key in row else "" for key in ("rows_per_s", "tokens_per_s")]
        share = f"{row['mfu']:.1%}" if row["mfu"] is not None else ""
        rate = _digits(row["tflops"])
        sizes = [str(row["length"]), str(row["batch"])]
        name = _name(row)
        cells.append([name, row["computes"], *sizes, *speeds, _digits(row["seconds"] * 1e3), rate, share])
    return [table(cells, "llr").rstrip(), "Random weights and random tokens: speeds alone mean something."]


def _memory(rows: Rows) -> list[str]:
    note = (
        "MiB at the peak of forward and backward beyond inputs and the output's gradient; one row, no mask."
    )
    return [_by_length(rows, lambda row: f"{row['mib']:,.1f}"), note]


def _digits(value: float) -> str:
    return f"{value:,.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def failures(result: Mapping[str, Any]) -> list[str]:
    """What went wrong, as against what was left out."""
    lines = []
    for step in result["steps"]:
        lines += [line for line in _absent(step) if line.startswith("Failed")]
        wrong: Iterable[Mapping[str, Any]] = (row for row in step["rows"] if row.get("right") is False)
        lines += [
            f"Wrong: {_name(row)}, {row['kind']}, heads of {row['width']}, {row['dtype']}: relative error "
            f"{row['output']:.1e} in the output, {row['gradients']:.1e} in the gradients."
            for row in wrong
        ]
    return lines


_TABLES: Mapping[str, Callable[[Rows], list[str]]] = {
    "environment": _environment,
    "correctness": _correctness,
    "times": _times,
    "tiles": _tiles,
    "fine-tuning": _training,
    "pretraining": _training,
    "memory": _memory,
}
