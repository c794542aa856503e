"""Does a variant gain more under one positional encoding than under another? Differences of differences.

With the difference from softmax under an encoding e written as d(e), an interaction is d(e) - d(reference),
over the seeds and test rows of all four variants at once, judged by the rule of ``claims``. The interactions
of one task and model are one family.

Encodings differ in their level, and a difference of perplexities grows with it where one of nats does not:
so interactions are tested on the scale that the metric declares for them (``Metric.interaction_scale``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.comparison import claims
from finetune.comparison.claims import Difference, Paired
from finetune.comparison.pairing import RunGroup, differing_settings
from finetune.comparison.rescoring import Predictions
from finetune.comparison.sentence import p_text
from finetune.comparison.tables import apart, setting
from finetune.config.schema import BASELINE, OWN
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.records.run import Run

REFERENCES = ("rope", OWN)  # the encodings that others are held against, where they are there


@dataclass(frozen=True)
class Interaction:
    """How much more a variant differs from softmax under one positional encoding than under another."""

    title: str  # of the task
    model: str
    sample: bool
    metric: str  # on whose scale it is: the interaction_scale of the tables' metric
    variant: str
    position: str
    reference: str
    difference: Difference  # that under ``position`` minus that under ``reference``
    apart: str = ""  # the setting, in words, where the task and model have several


def interactions(groups: Sequence[Sequence[RunGroup]], predictions: Predictions) -> list[Interaction]:
    """Tests every variant under each positional encoding of a task and model against the reference.

    Where a task and model have several settings, each that has the reference is tested for itself.
    """
    models: dict[tuple[str, str, bool], list[tuple[RunGroup, str]]] = {}
    for siblings in groups:
        for group in siblings:
            key = group.first.title, group.first.base_model, group.sample
            models.setdefault(key, []).append((group, apart(setting(siblings, group.first))))
    found: list[Interaction] = []
    for (title, model, sample), members in models.items():
        positions = {_position(group) for group, _ in members}
        reference = next((name for name in REFERENCES if name in positions), min(positions))
        ones = [group for group, _ in members if _position(group) == reference]
        if ones[0].first.metric.interaction_scale is None:
            continue
        scale = registry.get(ones[0].first.metric.interaction_scale)
        pairs = {
            (variant, _position(other), where): paired
            for other, where in members
            if _position(other) != reference
            for variant in other.variants[1:]
            for one in ones
            if (paired := _paired(one, other, variant, predictions))
        }
        judged = claims.judge(list(pairs.values()), scale)
        found += [
            Interaction(title, model, sample, scale.name, variant, position, reference, difference, where)
            for (variant, position, where), difference in zip(pairs, judged, strict=True)
        ]
    return found


def _position(group: RunGroup) -> str:
    return group.first.position or OWN


def _paired(one: RunGroup, other: RunGroup, variant: str, predictions: Predictions) -> Paired | None:
    """Pairs the seeds of a variant and softmax in two groups, where these differ in position alone."""
    keys = differing_settings(one.first.settings(), other.first.settings())
    metric = one.first.metric
    if any(not key.startswith("model.position") for key in keys):
        return None
    sides: list[dict[int, Run]] = []
    for group in (one, other):
        unlike = group.unlike_starts(variant)
        fair = {seed: run for seed, run in group.finished(variant).items() if seed not in unlike}
        sides += [group.finished(BASELINE), fair]
    seeds = tuple(sorted(set.intersection(*(set(side) for side in sides))))
    if not seeds:
        return None
    first, second, third, fourth = ([side[seed] for seed in seeds] for side in sides)
    values = (
        [metric.on_interaction_scale(run.value) for run in side] for side in (first, second, third, fourth)
    )
    per_seed = tuple((four - three) - (two - one) for one, two, three, four in zip(*values, strict=True))
    try:
        rows = predictions.interact((first, second), (third, fourth), metric)
    except UserError as error:
        return Paired(seeds, per_seed, None, str(error))
    return Paired(seeds, per_seed, rows, None, min(one.level(variant), other.level(variant)))


def sentence(interaction: Interaction) -> str:
    """Says in one plain sentence what an interaction shows."""
    metric, difference = registry.get(interaction.metric), interaction.difference
    variant = interaction.variant
    place = ", ".join(filter(None, (interaction.title, interaction.model, interaction.apart)))
    facts = "no interval"
    if difference.interval:
        facts = f"95% interval {metric.interval(difference.interval)} over seeds and {metric.row}s"
    elif difference.interval_rows:
        facts = f"95% interval {metric.interval(difference.interval_rows)} over {metric.row}s"
    if difference.p_adjusted is not None:
        many = f" after Holm for {difference.comparisons}" if difference.comparisons > 1 else ""
        facts += f", {p_text(difference.p_adjusted)}{many}"
    size = f"{metric.signed(difference.mean)} {metric.unit} ({facts})"
    under = f"under {interaction.position} than under {interaction.reference}"
    if interaction.sample:
        return f"{place}: SAMPLE data, which says nothing about any method: {variant}, {under}: {size}."
    if difference.significant:
        gains = "more" if difference.verdict == "better" else "less"
        return f"{place}: {variant} gains significantly {gains} over {BASELINE} {under}: {size}."
    untold = "it cannot be told whether there is an interaction"
    what = untold if difference.verdict == "unknown" else "no significant interaction"
    return f"{place}: {what}: {variant} against {BASELINE} {under}: {size}, {difference.why}."
