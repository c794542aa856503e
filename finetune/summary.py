"""``report.json`` -> one short Markdown table of all that is in it, for a README; and into the README."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.compare import p_text
from finetune.errors import UserError
from finetune.record import write_text
from finetune.report import NAMES, escape

HEAD = ("task", "model", "attention", "runs", "score", "difference", "95% interval", "p (Holm)", "claim")
MARK = "<!-- summary of {} -->"
END = "<!-- end of summary -->"


def read(file: Path) -> dict[str, Any]:
    """A comparison as ``finetune compare`` wrote it; ``UserError`` where ``file`` is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: name a report.json that finetune compare wrote") from error
    if not isinstance(content, dict) or content.get("schema") != "finetune-comparison":
        raise UserError(f"{file} is no comparison: name a report.json that finetune compare wrote")
    return content


def markdown(comparison: dict[str, Any]) -> str:
    """One table; a row for each arm, in the units of the reports. Runs on the sample are left out."""
    rows = [row for table in comparison["tables"] if not table["sample"] for row in _rows(table)]
    ruler = ["---"] * 3 + ["---:"] * 5 + ["---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(HEAD), ruler, *rows]) + "\n"


def insert(text: str, document: Path, source: Path) -> None:
    """Put ``text`` between the marks of ``source`` in ``document``; ``UserError`` where there are none."""
    mark = MARK.format(source.as_posix())
    try:
        before = document.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {document}: {error.strerror}") from error
    pattern = re.compile(rf"({re.escape(mark)}\n).*?({re.escape(END)})", re.DOTALL)
    if not pattern.search(before):
        raise UserError(f"{document} has no place for it: write the lines '{mark}' and '{END}' there")
    write_text(document, [pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", before)])


def _rows(table: dict[str, Any]) -> Iterator[list[str]]:
    task = f"{table['task']} {table['pair']}" if table["pair"] else table["task"]
    for arm in table["arms"]:
        found = arm["metrics"].get(table["metric"])
        if found is None:
            continue
        sd = "" if found["sd"] is None else f" ± {found['sd']:.2f}"
        score = f"{found['mean']:.2f}{sd} {NAMES[table['metric']]}"
        cells = [task, table["model"], arm["name"], str(len(found["per_seed"])), score]
        yield [escape(cell) for cell in cells] + _difference(arm["difference"])


def _difference(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    between = "{:+.2f} to {:+.2f}".format(*found["interval"]) if found["interval"] else ""
    p = "" if found["p_adjusted"] is None else p_text(found["p_adjusted"]).removeprefix("p ")
    claim = {"none": "none", "better": "**better**", "worse": "**worse**"}[found["verdict"]]
    return [f"{found['mean']:+.2f}", between, escape(p.removeprefix("= ")), claim]
