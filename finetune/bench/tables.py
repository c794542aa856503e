"""A result -> its tables, as aligned text for a terminal and as Markdown. Nothing is measured here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.bench.cases import MASK_TITLES
from finetune.system.sheet import Sheet
from finetune.system.tables import escape
from finetune.system.tables import markdown as markdown_table
from finetune.system.text import clean

Result = Mapping[str, Any]
PASS_TITLES = {"forward": "forward", "both": "forward+backward"}
COLUMNS = (
    "shape", "attention", "forward", "peak", "forward+backward", "its peak", "over softmax", "MiB",
    "MiB ratio", "least MiB",
)  # fmt: skip
SPARED = ("least MiB", "MiB ratio", "MiB", "over softmax", "peak", "its peak", "forward")
SPREAD = "median (quartiles) of interleaved repeats, each ratio taken within one round"


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text: the first column names a row, the others hold figures."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]
    align: str = "lr"
    least: Sequence[str] = ()  # heads of columns that a narrow terminal can do without, the first most easily
    keys: int = 1  # columns that name a row


def text(result: Result, width: float = math.inf) -> str:
    """Everything, aligned, for a terminal of ``width`` cells a line."""
    sheet = Sheet(width)
    parts = [
        f"{sheet.prose(clean(table.title))}\n"
        + sheet.table([table.header, *table.rows], table.align, table.least, table.keys)
        for table in tables(result)
    ]
    prose = [sheet.prose(clean(line)) for line in (heading(result), *notes(result))]
    return "\n\n".join([prose[0], *parts, *filter(None, [sheet.note()]), *prose[1:]])


def markdown(result: Result, plots: Sequence[str] = ()) -> str:
    """Everything as a page that shows the files ``plots``."""
    parts = ["# Benchmark", escape(heading(result))]
    parts += [f"![{name.partition('.')[0].replace('-', ' ')}]({name})" for name in plots]
    for table in tables(result):
        rows = markdown_table([table.header, *table.rows], table.align).rstrip()
        parts.append(f"## {escape(table.title)}\n\n{rows}")
    return "\n\n".join([*parts, *map(escape, notes(result))]) + "\n"


def heading(result: Result) -> str:
    """What was measured on what, in a few sentences."""
    hardware, versions, git = result["hardware"], result["versions"], result["git"]
    commit = f"commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else "no commit"
    stopped = "" if result["finished"] else "Unfinished: this is what was measured before it ended. "
    quick = " (quick: too few repeats to rely on)" if result["settings"]["quick"] else ""
    return (
        f"{stopped}Measured by {result['command']}{quick} on {device(result)}, {hardware['cores']} cores, "
        f"threads: {result['threads']}, {hardware['memory_gib']} GiB; Python {versions['python']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}; {commit}; seed "
        f"{result['settings']['seed']}; {result['started']}, took {result['seconds']:.0f} s. "
        f"Figures are the {SPREAD}."
    )


def device(result: Result) -> str:
    """The name of the device that computed."""
    hardware = result["hardware"]
    return str(hardware["cpu"] if result["settings"]["device"] == "cpu" else hardware["device"])


def tables(result: Result) -> list[TextTable]:
    """Every table of a result."""
    made: list[TextTable] = []
    if result["attention"]:
        made += _attention(result["attention"])
    if result["steps"]:
        made.append(_steps(result["steps"]))
    if result["pretraining"]:
        made += _pretraining(result["pretraining"])
    return made


def _attention(part: Mapping[str, Any]) -> list[TextTable]:
    """One table a mask and width of a head: a row for each shape and implementation."""
    made = []
    for (mask, width), rows in groups(part["rows"]).items():
        where = f"{MASK_TITLES[mask]}, {rows[0]['heads']} heads of {width}, {rows[0]['dtype']}"
        body = [_line(row) for row in rows if row["forward"] or row["both"] or row["memory_mib"] is not None]
        title = f"Attention: {where}; time as a ratio to SDPA"
        made.append(TextTable(title, COLUMNS, body, align="llr", least=SPARED, keys=2))
    if growth := part["growth"]:
        half, longest = growth[0]["lengths"]
        header = ["attention", f"MiB at {half}", f"MiB at {longest}", "ratio"]
        body = [[name(row), *(f"{mib:,.1f}" for mib in row["mib"]), f"{row['ratio']:.2f}"] for row in growth]
        title = f"Memory at twice the length, batch {growth[0]['batch']}: linear is 2, quadratic 4"
        made.append(TextTable(title, header, body))
    return [*made, _errors(part["errors"])]


def _line(row: Mapping[str, Any]) -> list[str]:
    """The cells of ``COLUMNS``."""
    cells = [f"{row['batch']} x {row['length']}", name(row)]
    for which in PASS_TITLES:
        timed = row[which] or {"ratio": None, "of_peak": None}
        of_peak = "" if timed["of_peak"] is None else f"{timed['of_peak']:.0%}"
        cells += [spread_text(timed["ratio"]), of_peak]
    control = row["both"] and row["both"]["control"]
    cells.append(number(control["median"]) if control else "")
    figures = {"memory_mib": ",.0f", "memory_ratio": ".2f", "least_mib": ",.0f"}
    return [*cells, *("" if row[key] is None else f"{row[key]:{shape}}" for key, shape in figures.items())]


def groups(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """Rows by mask and width of a head, in the order they were measured in."""
    by_shape: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_shape.setdefault((row["mask"], row["width"]), []).append(row)
    return by_shape


def name(row: Mapping[str, Any]) -> str:
    """``sa-softmax native``."""
    return f"{row['variant']} {row['kernel']}"


def spread_text(ratio: Mapping[str, Any] | None) -> str:
    """``1.23 (1.20-1.31)``; without the quartiles for a single repeat."""
    if ratio is None:
        return ""
    if ratio["repeats"] == 1:
        return number(ratio["median"])
    return f"{number(ratio['median'])} ({number(ratio['low'])}-{number(ratio['high'])})"


def number(value: float) -> str:
    """Three digits or so: 0.123, 1.23, 12.3, 123, 1,234."""
    return f"{value:,.{3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def _errors(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """The largest errors of each implementation, over all masks and widths."""
    worst: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        worst.setdefault(name(row), []).append(row)
    body = []
    for label, same in worst.items():
        largest = [f"{max(row[key] for row in same):.1e}" for key in ("output", "gradients")]
        body.append([label, *largest, "yes" if all(row["exact"] for row in same) else "NO: WRONG"])
    header = ["attention", "output", "gradients", "within the limit"]
    return TextTable("Relative error against the definition in float64, the worst of all masks", header, body)


def _steps(part: Mapping[str, Any]) -> TextTable:
    title = f"Fine-tuning {_model(part['model'], part['parameters'])}, rows per second"
    header = ["setup", "computed by"]
    for which in ("training", "evaluation"):
        header += [f"{which}, rows/s", "time, ratio to softmax", "speed, ratio to stock sdpa"]
    body = []
    for setup in part["arms"]:
        line = [setup["name"], setup["computes"]]
        for which in ("train", "evaluate"):
            line += [spread_text(setup[which][key]) for key in ("rows_per_s", "time_ratio", "speed_ratio")]
        body.append(line)
    return TextTable(title, header, body)


def _model(name: str, parameters: int) -> str:
    """``scratch:mini (3.2M parameters)``; of a folder its last name."""
    short = name if name.count("/") <= 1 else name.rstrip("/").rpartition("/")[2]
    return f"{short} ({parameters / 1e6:.1f}M parameters)"


def _pretraining(part: Mapping[str, Any]) -> list[TextTable]:
    """A table for each length of a window."""
    by_length: dict[int, list[Mapping[str, Any]]] = {}
    for row in part["rows"]:
        by_length.setdefault(row["length"], []).append(row)
    header = ["encoding, setup", "computed by", "tokens/s", "time, ratio to softmax auto"]
    header.append("speed, ratio to stock sdpa")
    made = []
    for length, rows in by_length.items():
        model = _model(part["model"], rows[0]["parameters"])
        body = [
            [f"{row['position']}, {row['name']}", row["computes"]]
            + [spread_text(row[key]) for key in ("tokens_per_s", "time_ratio", "speed_ratio")]
            for row in rows
        ]
        title = f"Pretraining {model} on windows of {length} tokens, tokens per second"
        made.append(TextTable(title, header, body))
    return made


def notes(result: Result) -> list[str]:
    """How to read the tables, and what is not in them."""
    texts = []
    if attention := result["attention"]:
        control = attention["control"]
        automatic = ", ".join(f"{kernel} for {variant}" for variant, kernel in attention["automatic"].items())
        how = (
            "the growth of the process's resident set, exact to a MiB or so"
            if result["settings"]["device"] == "cpu"
            else "what torch's allocator gave out, to the byte"
        )
        top = attention["peak"]
        texts.append(
            "A shape is rows x tokens. Peak is the part of the device's peak that the operations that a "
            "result needs (products over visible keys: 2 forward, 5 backward) reach: "
            + (f"{top['flops'] / 1e9:,.0f} GFLOP/s ({top['source']})" if top else "not known here")
            + ". Over softmax is the time of forward and backward over that of softmax on the same kernel "
            f"({control['variant']} on {control['kernel']}). Least MiB are those of query, key, value, "
            "output and their gradients, which have to be moved."
        )
        texts.append(
            "SDPA is torch's scaled_dot_product_attention as a model calls it, its output transposed and "
            "contiguous. Where there is padding, rows are evenly spread over half to the whole length; a "
            "single row has three quarters. Memory is the peak of forward and backward beyond inputs and "
            f"output's gradient, measured once: {how}. The limit of the relative error is 1e-5 in float32, "
            f"and in half precision 1.5 times SDPA's own. The kernel auto takes {automatic}."
        )
    if steps := result["steps"]:
        train, test = steps["data"]["train"], steps["data"]["test"]
        texts.append(
            f"Stock is transformers' Trainer as it comes, rows padded to {steps['padded_to']} tokens, in "
            "random order, with its eager or sdpa attention; the other setups are this toolkit's runs. All "
            f"have the same {steps['data']['source']} rows ({train['rows']} for training, {test['rows']} for "
            f"evaluation, {train['tokens_mean']:.0f} tokens in the mean), model, dropout, optimizer and "
            f"batches of {steps['batch']} and {steps['evaluation_batch']} rows. Start-up is not counted."
        )
    if pretraining := result["pretraining"]:
        texts += _pretraining_notes(pretraining)
    return [*texts, *_absent(attention)]


def _pretraining_notes(part: Mapping[str, Any]) -> list[str]:
    sizes = {row["length"]: (row["step_tokens"], row["batch"]) for row in part["rows"]}
    steps = "".join(
        f"; at {length} each of {tokens:,} tokens in batches of {batch}"
        for length, (tokens, batch) in sizes.items()
    )
    texts = [
        "In pretraining stock is transformers' Trainer as it comes, with its sdpa attention and rope; the "
        f"other setups are this toolkit's runs. All read the same windows of {part['data']['source']} text. "
        f"A figure is of {part['steps']} optimizer steps together, without start-up{steps}. The ratio of "
        "time is to softmax auto with the same encoding and length; stock is in the rounds of every encoding."
    ]
    texts += [
        f"Not measured: {row['position']} on windows of {row['length']} tokens: {row['reason']}."
        for row in part["absent"]
    ]
    return texts


def _absent(part: Mapping[str, Any] | None, failed_only: bool = False) -> list[str]:
    """One line a reason, naming what was not measured for it."""
    reasons: dict[str, dict[str, None]] = {}
    for row in part["rows"] if part else ():
        if row["reason"] and row["failed"] >= failed_only:
            reasons.setdefault(row["reason"], {})[name(row)] = None
        if row["memory_reason"] and row["memory_failed"] >= failed_only:
            reasons.setdefault(f"memory: {row['memory_reason']}", {})[name(row)] = None
    return [f"Not measured: {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def failures(result: Result) -> list[str]:
    """What went wrong, as against what was left out: a kernel that failed, or is not exact."""
    texts = _absent(result["attention"], failed_only=True)
    for row in (result["attention"] or {"errors": []})["errors"]:
        if not row["exact"]:
            sizes = f"{row['output']:.1e} in the output, {row['gradients']:.1e} in the gradients"
            texts.append(
                f"Wrong: {name(row)}, {row['mask']}, heads of {row['width']}: relative error {sizes}."
            )
    return [clean(line) for line in texts]
