"""Captures of a terminal, as SVG: the end of a comparison, and what one sees of a run while it goes on."""

import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from rich.console import Console
from rich.live import Live
from rich.text import Text

from finetune.report import write
from finetune.studies.progress import OneByOne
from finetune.studies.state import RunState, Status
from finetune.system.live import Foot
from finetune.training.progress import Progress

RESULTS = Path(__file__).parents[2] / "results"
WIDTHS = (80, 120)
COMPARE = "finetune compare --from results/cpu"
RUN = 'finetune classify --preset small --attention "softmax sa-softmax" --seeds 0-2'
BEFORE = (
    "data: the Hub data set fancyzhx/ag_news at eb185aade064a813bc0b7f42de02595523103ca4",
    "[1/6] agnews | softmax | sentence-transformers/all-MiniLM-L6-v2 | seed 0 | "
    "4000 train / 500 validation / 7600 test rows | 125 steps",
    "[1/6] accuracy 89.34% | runs/agnews/sentence-transformers--all-MiniLM-L6-v2/softmax/seed-0 | 276 s",
    "[2/6] agnews | sa-softmax | sentence-transformers/all-MiniLM-L6-v2 | seed 0 | "
    "4000 train / 500 validation / 7600 test rows | 125 steps",
)
# Of rich, without the web fonts that it would fetch; the font is the reader's own.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def captures() -> dict[str, str]:
    """File below docs/assets -> its SVG."""
    made = {}
    for width in WIDTHS:
        for name, title, text in (("compare", COMPARE, comparison(width)), ("run", RUN, run(width))):
            console = Console(
                record=True, width=width, file=StringIO(), highlight=False, force_terminal=True,
                color_system="truecolor", legacy_windows=False, _environ={},
            )  # fmt: skip
            console.print(Text(text))
            about = f"terminal-{name}-{width}"
            made[f"{about}.svg"] = _plain(
                console.export_svg(title=title, code_format=FORMAT, unique_id=about)
            )
    return made


def comparison(width: int) -> str:
    """The first table of the kept study and what comes last, with what lies between left out."""
    blocks = write.text(write.read(RESULTS / "cpu" / "report.json"), width).split("\n\n")
    left_out = [block for block in blocks if block.startswith("Left out")]
    return "\n\n".join([blocks[0], "...", *left_out, *blocks[-2:]])


def run(width: int) -> str:
    """A grid of six runs in its second one: lines that stay, and below them the two that are drawn again."""
    foot = Foot(Live(console=Console(width=width, file=StringIO(), _environ={})))
    with (
        patch.object(time, "monotonic", lambda: clock.now),
        patch("finetune.system.live.current", lambda: foot),
    ):
        clock = SimpleNamespace(now=0.0)
        cells = [object() for _ in range(6)]
        grid = OneByOne(foot, dict.fromkeys(cells, Status(RunState.MISSING)))
        clock.now = 276.0
        grid.ended(cells[0], Status(RunState.DONE), 0.0)
        progress, state = Progress("[2/6]"), SimpleNamespace(global_step=0, max_steps=125)
        progress.on_train_begin(None, state, None)
        for step in range(1, 89):
            clock.now += 1.37
            state.global_step = step
            progress.on_step_end(None, state, None)
        progress.on_log(None, state, None, logs={"loss": 0.4127})
        progress.on_log(None, state, None, logs={"eval_loss": 0.3391, "eval_accuracy": 0.884})
        shown = [str(line) for line in foot.picture().renderables]
    lines = [line[i : i + width] for line in BEFORE for i in range(0, len(line), width)]
    return "\n".join([f"$ {RUN}"[:width], *lines, *shown])


def _plain(svg: str) -> str:
    """An SVG without blanks at the ends of its lines, nor empty ones."""
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"
