"""What a comparison looks like run by run: the values of each seed, and the learning curves."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from finetune.evidence import SCALE
from finetune.reports import words
from finetune.reports.figures import (
    INK,
    MUTED,
    ROW,
    WIDTH,
    Look,
    Palette,
    Plot,
    draw,
    log_scale,
    name_row,
    only_rows,
)
from finetune.reports.histories import Curve, History, mean_curve
from finetune.tables import Table


def seeds(table: Table, palette: Palette, key: str) -> Plot | None:
    """The primary metric of every seed, the same seed's values joined."""
    arms = [arm for arm in table.arms if arm.metrics.get(table.metric)]
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
            axis.plot(list(each.values()), [-i] * len(each), look.marker, color=look.colour, markersize=6)
            name_row(axis, words.arm_name(arm), words.score(arm.metrics[table.metric]), -i)
        axis.set_xlabel(words.NAMES.get(table.metric, table.metric))
        only_rows(axis, len(arms))

    told = "; ".join(
        f"{arm.name} {words.score(arm.metrics[table.metric])}, {words.plural(len(each), 'seed')}"
        for arm, each in zip(arms, values, strict=True)
    )
    svg = draw(key, f"Values by seed: {told}", paint, size=(WIDTH, 60 + ROW * len(arms)))
    counts = words.counts({arm.name: len(each) for arm, each in zip(arms, values, strict=True)}, "seed")
    caption = f"One point a seed, lines join the same seed, the bar is the mean. n: {counts}."
    return Plot(svg, "Seed by seed", caption)


def curves(table: Table, found: Sequence[History], palette: Palette, key: str) -> list[Plot]:
    """Training loss, validation loss and validation metric by step."""
    metric = words.NAMES.get(table.metric, table.metric)
    scale = SCALE.get(table.metric, 1.0)
    wanted = [
        ("loss", "Training loss", "training loss", 1.0),
        ("eval_loss", "Validation loss", "validation loss", 1.0),
        (f"eval_{table.metric}", "Validation metric", f"validation {metric}", scale),
    ]
    plots = []
    for name, heading, label, unit in wanted:
        by_arm = {
            arm.name: {h.seed: h.curve(name) for h in found if h.arm == arm.name and h.curve(name)}
            for arm in table.arms
        }
        by_arm = {arm: each for arm, each in by_arm.items() if each}
        if by_arm:
            plots.append(_curve_plot(by_arm, palette, (f"{key}-{name}", heading, label, unit)))
    return plots


def _curve_plot(
    by_arm: Mapping[str, Mapping[int, Curve]], palette: Palette, what: tuple[str, str, str, float]
) -> Plot:
    key, heading, label, unit = what

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for arm, each in by_arm.items():
            line(axis, mean_curve(list(each.values())), palette[arm], unit)
            for curve in each.values() if len(each) > 1 else ():
                axis.plot(
                    list(curve),
                    [unit * v for v in curve.values()],
                    color=palette[arm].colour,
                    linewidth=0.7,
                    alpha=0.45,
                )
        values = [v for each in by_arm.values() for curve in each.values() for v in curve.values()]
        if min(values) > 0 and max(values) > 20 * min(values):
            log_scale(axis)
        axis.set(xlabel="step", ylabel=label)

    counts = words.counts({arm: len(each) for arm, each in by_arm.items()}, "run")
    last = "; ".join(_last(arm, mean_curve(list(each.values())), unit) for arm, each in by_arm.items())
    spoken = f"{heading} by training step. {last}"
    caption = f"Mean over seeds, over the steps that all of them logged; thin: each seed. n: {counts}."
    return Plot(draw(key, spoken, paint), heading, caption)


def line(axis: Axes, curve: Curve, look: Look, unit: float = 1.0) -> None:
    """A thick line with a few markers."""
    steps, values = list(curve), [unit * value for value in curve.values()]
    axis.plot(
        steps,
        values,
        color=look.colour,
        linestyle=look.dash,
        linewidth=2,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(steps) // 6),
    )


def _last(arm: str, curve: Curve, unit: float) -> str:
    if not curve:
        return f"{arm}: no step that all seeds have"
    step = max(curve)
    return f"{arm}: {unit * curve[step]:.4g} at step {step}"
