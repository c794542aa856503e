"""What the page of results says of churn, from ``results/churn`` and ``results/downstream``."""

import textwrap
from collections.abc import Iterator

from docs.generate import downstream, kept
from docs.generate.markdown import table
from finetune.comparison.churn import Churn, Share
from finetune.comparison.tables import ResultTable
from finetune.metrics.registry import Moved
from finetune.report import summary

STUDIES = (kept.ROOT / "churn", downstream.HERE)
VARIANT = "sa-softmax"
BEGAN = {False: "from its own pretraining on {}", True: "from softmax's on {}, swapped"}


def _found() -> Iterator[tuple[ResultTable, Churn]]:
    """Tables of models whose answers are classes or texts, with the churn of the variant."""
    for study in STUDIES:
        for each in summary.read(study / "report.json").tables:
            (churn,) = (result.churn for result in each.variants if result.name == VARIANT)
            if churn and each.primary.moved and each.primary.moved.percent:
                yield each, churn


def rows() -> str:
    """A table of every setting: what the swap changes of its predictions, and what another seed does."""
    lines = []
    for each, churn in _found():
        moved, ends = each.primary.moved, churn.difference_interval
        assert moved and churn.reseed and churn.difference is not None and ends
        lines.append(
            [
                each.title,
                _model(each),
                str(len(churn.seeds)),
                f"{churn.rows:,}",
                _share(churn.swap, moved),
                _share(churn.reseed, moved),
                f"{moved.signed(churn.difference)} ({' to '.join(map(moved.signed, ends))})",
            ]
        )
    head = ("task", "model", "seeds", "test rows", "the swap changes", "another seed", "difference")
    return table(head, lines, 5)


def says() -> str:
    """What the table shows, by whether the models of both variants began from the same weights."""
    ends: dict[bool, list[list[float]]] = {True: [], False: []}
    for each, churn in _found():
        ends[_alike(each)].append(churn.difference_interval or [])
    less = sum(high < 0 for _, high in ends[True])
    within = sum(low <= 0 <= high for low, high in ends[False])
    text = (
        "Where both variants begin from the same weights, the swap changes fewer predictions than another "
        f"seed does in {less} of {len(ends[True])} settings (the interval is below 0). Where each began from "
        f"its own pretraining, it is not told from another seed in {within} of {len(ends[False])}, and in "
        "the others it changes a little less."
    )
    return textwrap.fill(text, 128)


def _alike(each: ResultTable) -> bool:
    return not each.model.startswith("pretrained:") or "@" in each.model


def _model(each: ResultTable) -> str:
    name = each.model
    if not name.startswith("pretrained:"):
        return name.rpartition("/")[2]
    return BEGAN[_alike(each)].format(name.rpartition("/")[2])


def _share(share: Share, moved: Moved) -> str:
    return f"{moved.text(share.value)} ({moved.interval(share.interval)})"
