"""The runs of a folder as ``explore.html``: one page that needs no network, with every prediction in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from finetune.comparison import churn
from finetune.comparison.pairing import RunGroup, groups
from finetune.comparison.tables import apart, setting
from finetune.config.schema import BASELINE
from finetune.data.synthetic import STAMP
from finetune.errors import UserError
from finetune.explorer import columns
from finetune.explorer.columns import Store, packed
from finetune.explorer.texts import inputs
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records.run import Run, find_runs, is_number
from finetune.system.files import write_text
from finetune.system.text import clean, visible

FILE = "explore.html"
HERE = Path(__file__).parent
CARRIED = ("tabulator", "uplot")
SCRIPTS = (
    "carried/tabulator/tabulator.min.js",
    "carried/uplot/uPlot.iife.min.js",
    *(f"assets/{name}.js" for name in ("base", "numbers", "table", "curves", "examples", "compare", "main")),
)
"""In the order in which they need each other."""
STYLES = ("carried/tabulator/tabulator.min.css", "carried/uplot/uPlot.min.css", "assets/explore.css")
TIMINGS = re.compile(r"step|epoch|total_flos|.*(_runtime|_per_second)")
"""Keys of Trainer's log that are no learning curve."""


@dataclass
class Written:
    """What was written: the file, how many runs, of how many the predictions, and what could not be read."""

    file: Path
    runs: int = 0
    predictions: int = 0
    problems: list[str] = field(default_factory=list)


def write(root: Path, file: Path, *, texts: bool = False) -> Written:
    """Writes the page of every run below ``root``, with texts where ``texts`` asks for them.

    Raises ``UserError`` where ``root`` is no folder or holds no run.
    """
    runs, problems = find_runs(root)
    if not runs:
        raise UserError(
            problems[0] if problems else f"there is no run in {root}: give the folder that --output named"
        )
    written = Written(file, len(runs), problems=problems)
    write_text(file, _pieces(root, runs, written, texts))
    return written


def _pieces(root: Path, runs: Sequence[Run], written: Written, texts: bool) -> Iterator[str]:
    """The page in parts, of which one run's predictions are held at a time."""
    scripts = [_script(name) for name in SCRIPTS]
    index = Index(root, runs, texts)
    yield from _template().generate(
        policy=_policy(scripts),
        style=Markup("\n".join(_text(name) for name in STYLES)),
        scripts=[Markup(script) for script in scripts],
        columns=(Markup(line) for line in index.lines(written)),
        index=lambda: Markup(as_script(index.content(written))),
        stamp=STAMP if any(run.sample for run in runs) else "",
        licenses=[(name, _text(f"carried/{name}/LICENSE")) for name in CARRIED],
    )


class Index:
    """All that the page says of runs but for columns: names, scores, settings, and which columns exist."""

    def __init__(self, root: Path, runs: Sequence[Run], texts: bool) -> None:
        self._root, self._texts = root, texts
        self._store = Store(texts, lambda run: inputs(run, root))
        self._groups: list[dict[str, Any]] = []
        self._runs: list[tuple[Run, dict[str, Any]]] = []
        for siblings in groups(runs):
            for group in siblings:
                self._add(siblings, group)

    def _add(self, siblings: list[RunGroup], group: RunGroup) -> None:
        baseline = group.finished(BASELINE)
        unlike = {name: group.unlike_starts(name) for name in group.variants[1:]}
        self._groups.append(
            {
                "task": group.first.title,
                "model": group.first.model,
                "setting": apart(setting(siblings, group.first)),
                "sample": group.sample,
                "metric": group.first.metric.name,
            }
        )
        for run in (*group.runs, *group.spare):
            fair = run.finished and run.variant != BASELINE and run.seed in baseline
            refused = unlike.get(run.variant, {}).get(run.seed)
            paired = fair and not refused
            self._runs.append(
                (
                    run,
                    {
                        "id": len(self._runs),
                        "group": len(self._groups) - 1,
                        "variant": run.variant,
                        "seed": run.seed,
                        "status": run.status,
                        "reason": run.reason or "",
                        "unlike": refused or "",
                        "score": run.value if run.finished else None,
                        "difference": run.value - baseline[run.seed].value if paired else None,
                        "metrics": run.metrics,
                        "device": run.hardware,
                        "seconds": run.total_s,
                        "started": run.record["started"],
                        "folder": str(run.folder.relative_to(self._root)),
                        "set": None,
                        "columns": [],
                    },
                )
            )

    def lines(self, written: Written) -> Iterator[str]:
        """The columns of each run; fills in which there are, and what is wrong with those that are not."""
        for number, group in enumerate(self._groups):
            answers: dict[tuple[str, int], tuple[int, Any]] = {}  # of the runs that count; set, and outputs
            members = [(run, line) for run, line in self._runs if line["group"] == number]
            for run, line in members:
                found = []
                if curves := _curves(run):
                    found.append(packed(f"run-{line['id']}-curves", curves))
                try:
                    if run.finished and run.record["predictions"]:
                        test_set, own, outputs = self._store.add(line["id"], run)
                        line["set"] = test_set.number
                        found += own
                        written.predictions += 1
                        if not line["unlike"]:
                            answers.setdefault((run.variant, run.seed), (test_set.number, outputs))
                except UserError as error:
                    written.problems.append(str(error))
                line["columns"] = [each.key for each in found]
                yield from columns.lines(found)
            group["churn"] = _churn(members[0][0].metric, answers)
        yield from columns.lines(self._store.finish())
        if self._texts:
            written.problems += [each.note for each in self._store.sets.values() if each.note]

    def content(self, written: Written) -> dict[str, Any]:
        """What the page's scripts begin with; complete once ``lines`` has come to its end."""
        names = {run.metric.name for run, _ in self._runs} | {
            name for run, _ in self._runs for name in run.metrics
        }
        return {
            "folder": str(self._root),
            "texts": self._texts,
            "baseline": BASELINE,
            "groups": self._groups,
            "runs": [line for _, line in self._runs],
            "sets": [
                {
                    "view": each.view,
                    "rows": each.rows,
                    "labels": each.labels,
                    "columns": each.columns,
                    "note": each.note,
                }
                for each in self._store.sets.values()
            ],
            "metrics": {name: _declared(name) for name in sorted(names)},
            "problems": [clean(problem) for problem in written.problems],
        }


def _churn(metric: Metric, answers: Mapping[tuple[str, int], tuple[int, Any]]) -> dict[str, Any]:
    """What each variant changes against the baseline beside it, in words and with intervals."""
    found = {}
    for name in dict.fromkeys(variant for variant, _ in answers if variant != BASELINE):
        seeds = sorted(s for variant, s in answers if variant == name and (BASELINE, s) in answers)
        sides = [[answers[variant, seed] for seed in seeds] for variant in (BASELINE, name)]
        if len({test_set for side in sides for test_set, _ in side}) != 1:
            continue  # no seed in common, or other test rows
        first, second = ([outputs for _, outputs in side] for side in sides)
        if (known := churn.between(seeds, first, second, metric)) is not None:
            found[name] = asdict(known) | {"sentence": churn.sentence(known, metric)}
    return found


def _declared(name: str) -> dict[str, Any]:
    """What is needed to show values of a metric."""
    metric = registry.get(name)
    return {
        "title": metric.title,
        "label": metric.label,
        "unit": metric.unit,
        "percent": metric.percent,
        "decimals": metric.decimals,
        "higher": metric.higher_is_better,
        "bounded": metric.highest != float("inf"),
        "moved": asdict(metric.moved) if metric.moved else None,
    }


def _curves(run: Run) -> dict[str, list[list[float]]]:
    """Each quantity of Trainer's log that has two points or more: steps, and values of six digits."""
    keys = dict.fromkeys(key for entry in run.record["curve"] for key in entry if not TIMINGS.fullmatch(key))
    curves = {key: run.curve(key) for key in keys}
    return {
        key: [list(curve), [float(f"{value:.6g}") for value in curve.values()]]
        for key, curve in curves.items()
        if len(curve) > 1
    }


def as_script(value: Any) -> str:
    """JSON that can stand in a script element whatever it holds, its texts in letters that can be seen."""
    text = json.dumps(_shown(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(value: Any) -> Any:
    """A copy of plain values with each invisible character marked."""
    if isinstance(value, dict):
        return {visible(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        return visible(value)
    return value if not isinstance(value, float) or is_number(value) else None


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    """A script, without the name of a file beside it that a debugger would fetch."""
    return re.sub(r"\n//# sourceMappingURL=.*\n?", "\n", _text(name))


def _policy(scripts: Sequence[str]) -> str:
    """A policy by which nothing is fetched, and no script runs but these."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("explore.html.jinja")
