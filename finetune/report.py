"""A comparison as a terminal table, as ``report.md`` and as ``report.json``; all from the same numbers."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from finetune.compare import Comparison, p_text
from finetune.record import write_text
from finetune.tables import Arm, Table

NAMES = {"accuracy": "accuracy (%)", "macro_f1": "macro-F1 (%)", "bleu": "BLEU", "chrf": "chrF"}
SAMPLE = "SAMPLE: synthetic data; these numbers say nothing about any method"
WIDTH = 110  # of wrapped lines in the terminal
METHOD = """\
Runs are compared only where their configuration, rows, devices, model revision and attention dropout are
equal, and a seed only where both runs began from the same weights: they differ in attention and seed alone.
Values are means over seeds ± sample standard deviation. Differences are variant minus softmax over the seeds
that both finished, in points of the metric. "95% rows" is a percentile bootstrap over test rows with the
trained models taken as given; "95% seeds" is Student's t interval over seeds with the test rows taken as
given. p is two-sided: exact sign flips over seeds where there are enough seeds to reach 0.05 after Holm's
adjustment; else over test rows, by McNemar's exact test (its extension by sign flips for several seeds) for
accuracy, and by sacrebleu's approximate randomisation for BLEU. p (Holm) is adjusted for the comparisons of
one table (one task, model and setting), each table being a question of its own: it does not allow for the
number of tables. A difference is claimed only where p (Holm) is below 0.05 and both intervals leave out 0,
so never from one seed. Training time is the mean over seeds, memory the highest. Runs that failed or are
missing count as such.
"""


def text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    parts = [_text_of(table) for table in comparison.tables] or ["No run was found."]
    if comparison.problems:
        parts.append("\n".join(["Records that could not be used:", *_bullets(comparison.problems)]))
    # A folder's name may be no text; a terminal would refuse it.
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def markdown(comparison: Comparison) -> str:
    """The comparison as ``report.md``; whatever a user named is escaped."""
    parts = ["# Attention softmaxes compared\n"]
    parts += [_markdown_of(table) for table in comparison.tables] or ["No run was found.\n"]
    if comparison.problems:
        parts.append("## Records that could not be used\n\n" + _items(comparison.problems))
    return "\n".join([*parts, "## How to read this\n", METHOD])


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``report.json`` and ``report.md`` into ``folder``; ``UserError`` where it cannot be written."""
    content = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    return [
        write_text(folder / "report.json", [content, "\n"]),
        write_text(folder / "report.md", [markdown(comparison)]),
    ]


def _text_of(table: Table) -> str:
    rows = [list(column) for column in zip(*_columns(table), strict=True)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [_title(table)] + ([SAMPLE] if table.sample else [])
    for row in rows:
        first, *others = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join([first, *others]).rstrip())
    lines += textwrap.wrap(
        f"=> {table.sentence}", WIDTH, subsequent_indent="   ", break_on_hyphens=False, break_long_words=False
    )
    for heading, items in _lists(table):
        lines += [f"{heading}:", *_bullets(items)]
    return "\n".join(lines)


def _markdown_of(table: Table) -> str:
    rows = [[escape(cell) for cell in row] for row in zip(*_columns(table), strict=True)]
    ruler = ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], ruler, *rows[1:]]]
    parts = [f"## {escape(_title(table))}\n"]
    parts += [f"**{SAMPLE}**\n"] if table.sample else []
    parts += [f"{escape(table.sentence)}\n", "\n".join(lines) + "\n", _items(_facts(table))]
    parts += [f"{heading}:\n\n{_items(items)}" for heading, items in _lists(table)]
    return "\n".join([*parts, _run_list(table)])


def _columns(table: Table) -> list[list[str]]:
    """Columns of cells under their heads; one that would be empty is left out."""
    names = list(dict.fromkeys(name for arm in table.arms for name in [table.metric, *arm.metrics]))
    columns = [
        ["attention", *(arm.name for arm in table.arms)],
        ["runs", *(str(arm.finished) for arm in table.arms)],
        *([NAMES.get(name, name), *(_value(arm, name) for arm in table.arms)] for name in names),
        ["difference", *(_differences(arm, "mean", "{:+.2f}") for arm in table.arms)],
        ["95% rows", *(_differences(arm, "interval_rows", "{:+.2f} to {:+.2f}") for arm in table.arms)],
        ["95% seeds", *(_differences(arm, "interval_seeds", "{:+.2f} to {:+.2f}") for arm in table.arms)],
        ["p", *(_p(arm, "p") for arm in table.arms)],
        ["p (Holm)", *(_p(arm, "p_adjusted") for arm in table.arms)],
        ["train", *(_duration(arm.train_s) for arm in table.arms)],
        ["memory", *(_memory(arm.peak_memory_mib) for arm in table.arms)],
    ]
    return [column for column in columns if any(column[1:])]


def _value(arm: Arm, name: str) -> str:
    found = arm.metrics.get(name)
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.sd is None else f"{found.mean:.2f} ± {found.sd:.2f}"


def _differences(arm: Arm, field: str, form: str) -> str:
    value = getattr(arm.difference, field) if arm.difference else None
    return "" if value is None else form.format(*(value if isinstance(value, list) else [value]))


def _p(arm: Arm, field: str) -> str:
    value = getattr(arm.difference, field) if arm.difference else None
    return "" if value is None else p_text(value).removeprefix("p ").removeprefix("= ")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _memory(mib: float | None) -> str:
    if mib is None:
        return ""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def _title(table: Table) -> str:
    task = f"{table.task} {table.pair}" if table.pair else table.task
    apart = ", ".join(f"{key} = {value}" for key, value in table.setting.items())
    return " · ".join(part for part in (task, table.model, apart, "SAMPLE" if table.sample else "") if part)


def _facts(table: Table) -> list[str]:
    """Where the numbers come from, one line each."""
    data: dict[str, Any] = table.data or {}
    facts = (
        [f"data: {data.get('kind')}, {data.get('location')}, revision {data.get('revision') or 'none'}"]
        if data
        else []
    )
    for name, split in data.get("splits", {}).items():
        facts.append(f"{name}: {split.get('rows'):,} rows, fingerprint {split.get('fingerprint')}")
    facts += [f"signature: {table.signature}"] if table.signature else []
    if table.generation:
        facts.append("generation: " + ", ".join(f"{key} {value}" for key, value in table.generation.items()))
    facts += [f"{arm.name}: {_attention(arm.attention)}" for arm in table.arms if arm.attention]
    facts += [f"{arm.name}, p from: {arm.difference.test}" for arm in table.arms if arm.difference]
    facts += [f"ran on: {place}" for place in table.ran_on]
    return facts


def _attention(report: dict[str, Any]) -> str:
    layers = ", ".join(f"{count} {kind}" for kind, count in report.get("layers", {}).items())
    parameters = ", ".join(f"{key} {value:g}" for key, value in report.get("parameters", {}).items())
    swapped = f"{layers} of {report.get('total')} attention calls, kernel {report.get('kernel')}"
    return ", ".join(part for part in (swapped, f"dropout {report.get('dropout')}", parameters) if part)


def _lists(table: Table) -> list[tuple[str, list[str]]]:
    named = [("Missing", table.missing), ("Not compared", table.refused), ("Notes", table.notes)]
    return [(heading, items) for heading, items in named if items]


def _run_list(table: Table) -> str:
    runs = [(arm.name, run) for arm in table.arms for run in arm.runs]
    lines = ["| run | seed | status | value | folder |", "| --- | ---: | --- | ---: | --- |"]
    for name, run in runs:
        value = "" if run.value is None else f"{run.value:.2f}"
        cells = [name, str(run.seed), run.status, value, run.folder]
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    commands = "\n".join(run.command for _, run in runs)
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    return "\n".join([*lines, "", f"{fence}sh", commands, fence, ""])


def _bullets(lines: list[str]) -> list[str]:
    return [f"  - {line}" for line in lines]


def _items(lines: list[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)


def escape(words: str) -> str:
    """``words`` as they are, wherever they stand in Markdown: on one line, with no mark-up and no cell end.

    >>> print(escape("a|b *c* <d>"))
    a\\|b \\*c\\* \\<d\\>
    """
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", " ".join(words.split()))
