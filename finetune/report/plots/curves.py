"""What a comparison looks like run by run: the values of each seed, and the learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from finetune.comparison.tables import ResultTable
from finetune.metrics import registry
from finetune.report import words
from finetune.report.histories import Curve, History, mean_curve
from finetune.report.plots.figures import (
    INK,
    MUTED,
    ROW,
    WIDTH,
    Look,
    Palette,
    Plot,
    by_step,
    draw,
    log_scale,
    name_row,
    only_rows,
)


def seeds(table: ResultTable, palette: Palette, key: str) -> Plot | None:
    """The primary metric of every seed, the same seed's values joined."""
    arms = [arm for arm in table.variants if arm.metrics.get(table.metric)]
    values = [arm.metrics[table.metric].per_seed for arm in arms]
    if sum(map(len, values)) < 2:
        return None

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for seed in sorted({seed for each in values for seed in each}):
            joined = [(each[seed], -i) for i, each in enumerate(values) if seed in each]
            axis.plot(*zip(*joined, strict=True), color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)
        for i, (arm, each) in enumerate(zip(arms, values, strict=True)):
            look, mean = palette[arm.name], arm.metrics[table.metric].mean
            axis.plot([mean, mean], [-i - 0.16, -i + 0.16], color=INK, linewidth=2, zorder=2)
            axis.plot(list(each.values()), [-i] * len(each), look.marker, color=look.color, markersize=6)
            name_row(axis, words.variant_name(arm), words.score(arm.metrics[table.metric]), -i)
        axis.set_xlabel(registry.get(table.metric).label)
        only_rows(axis, len(arms))

    told = "; ".join(
        f"{arm.name} {words.score(arm.metrics[table.metric])}, {words.plural(len(each), 'seed')}"
        for arm, each in zip(arms, values, strict=True)
    )
    svg = draw(key, f"Values by seed: {told}", paint, size=(WIDTH, 60 + ROW * len(arms)))
    counts = words.counts({arm.name: len(each) for arm, each in zip(arms, values, strict=True)}, "seed")
    caption = f"One point a seed, lines join the same seed, the bar is the mean. n: {counts}."
    return Plot(svg, "Seed by seed", caption)


def curves(table: ResultTable, found: Sequence[History], palette: Palette, key: str) -> list[Plot]:
    """Training loss, validation loss and validation metric by step."""
    metric = registry.get(table.metric).label
    wanted = [
        _Quantity("loss", "Training loss", "training loss"),
        _Quantity("eval_loss", "Validation loss", "validation loss"),
        _Quantity(f"eval_{table.metric}", "Validation metric", f"validation {metric}"),
    ]
    plots = []
    for quantity in wanted:
        logged = [history for history in found if history.curve(quantity.name)]
        by_arm = {
            arm.name: [history for history in logged if history.variant == arm.name] for arm in table.variants
        }
        if logged:
            by_arm = {arm: runs for arm, runs in by_arm.items() if runs}
            plots.append(_curve_plot(by_arm, palette, quantity, f"{key}-{quantity.name}"))
    return plots


@dataclass(frozen=True)
class _Quantity:
    name: str  # in Trainer's log
    heading: str
    label: str

    def of(self, history: History) -> Curve:
        return history.curve(self.name)

    def mean(self, runs: Sequence[History]) -> Curve:
        """Over the finished runs: one that failed would end the curve where it failed."""
        finished = [run for run in runs if run.run.finished]
        return mean_curve([self.of(run) for run in finished or runs])


def _curve_plot(
    by_arm: Mapping[str, Sequence[History]], palette: Palette, quantity: _Quantity, key: str
) -> Plot:
    means = {arm: quantity.mean(runs) for arm, runs in by_arm.items()}

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        values: list[float] = []
        for arm, runs in by_arm.items():
            line(axis, means[arm], palette[arm])
            for run in runs:
                curve = quantity.of(run)
                thin_line(axis, curve, palette[arm])
                values += curve.values()
        if min(values) > 0 and max(values) > 20 * min(values):
            log_scale(axis)
        by_step(axis, ylabel=quantity.label)

    counts = words.counts({arm: len(runs) for arm, runs in by_arm.items()}, "run")
    last = "; ".join(_last(arm, curve) for arm, curve in means.items())
    several = "Mean over the finished runs, at the steps that all of them logged; thin: each run. "
    caption = f"{several if any(len(runs) > 1 for runs in by_arm.values()) else ''}n: {counts}."
    svg = draw(key, f"{quantity.heading} by training step. {last}", paint)
    return Plot(svg, quantity.heading, caption)


def thin_line(axis: Axes, curve: Curve, look: Look) -> None:
    """One run, or one layer, behind the mean of them; a dot where there is one step only."""
    marker = look.marker if len(curve) == 1 else ""
    axis.plot(*points(curve), color=look.color, linewidth=0.7, alpha=0.45, marker=marker, markersize=3)


def line(axis: Axes, curve: Curve, look: Look) -> None:
    """A thick line with a few markers."""
    axis.plot(
        *points(curve),
        color=look.color,
        linestyle=look.dash,
        linewidth=2,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(curve) // 6),
    )


def points(curve: Curve) -> tuple[list[int], list[float]]:
    """Steps and values."""
    return list(curve), list(curve.values())


def _last(arm: str, curve: Curve) -> str:
    if not curve:
        return f"{arm}: no step that all runs logged"
    return f"{arm}: {curve[max(curve)]:.4g} at step {max(curve)}"
