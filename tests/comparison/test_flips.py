"""Two runs, or two variants, below the mean: from records made by hand."""

from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from finetune.comparison import flips
from finetune.comparison.single_rows import sentence_bleu
from finetune.errors import UserError
from finetune.metrics.scorers import bleu_scorer
from finetune.records import store
from finetune.records.run import Run, read_runs
from finetune.report import below
from finetune.statistics import bleu
from tests.support.records import LABELS, save, started, translations
from tests.support.report_records import save_language_model

TRUTH = [row % 4 for row in range(40)]


def saved(root: Path, variant: str, seed: int, wrong: dict[int, int], **over: str) -> Run:
    """A run that is right but for these rows, whose classes are given; it is sure of each by .7."""
    classes = [wrong.get(row, label) for row, label in enumerate(TRUTH)]
    rows = [{"row": row, "label": TRUTH[row], "prediction": each} for row, each in enumerate(classes)]
    folder = save(root, started(variant, seed, **over), rows)
    logs = np.log(np.where(np.eye(4)[classes] == 1, 0.7, 0.1))
    store.write_probabilities(folder, range(40), logs)
    store.write(folder, store.read(folder) | {"probabilities": store.PROBABILITIES})  # type: ignore[arg-type]
    return Run(folder, store.read(folder))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Run, Run]]:
    """Row 1 is fixed in all three seeds, row 2 broken in two, row 3 fixed in one and broken in another."""
    root = tmp_path_factory.mktemp("runs")
    first = [{1: 0, 3: 0}, {1: 2}, {1: 2}]
    second = [{2: 0}, {2: 0, 3: 1}, {}]
    return [
        (saved(root, "softmax", seed, first[seed]), saved(root, "sa-softmax", seed, second[seed]))
        for seed in range(3)
    ]


def test_what_was_fixed_and_broken_and_in_how_many_pairs(pairs: list[tuple[Run, Run]]) -> None:
    inputs = {row: "a text of " + "words " * (row % 7) for row in range(40)}
    found = flips.flips(pairs, ("softmax", "sa-softmax"), inputs=inputs)
    classes = found.classes
    assert classes is not None and found.texts is None and (found.rows, classes.pairs) == (40, 3)
    assert (classes.fixed, classes.broken) == ([1, 0, 1], [1, 1, 0])
    fixed, broken = classes.examples_fixed[0], classes.examples_broken[0]
    assert (fixed.row, fixed.truth, fixed.first, fixed.second) == (
        1,
        "Sports",
        ["World", *["Business"] * 2],
        ["Sports"] * 3,
    )
    assert (fixed.fixed, fixed.broken, fixed.text) == (3, 0, inputs[1])
    assert fixed.probability == pytest.approx((0.1, 0.7), abs=1e-3)
    assert (broken.row, broken.broken, broken.fixed) == (2, 2, 0)
    both = next(each for each in classes.examples_fixed if each.row == 3)
    assert (both.fixed, both.broken) == (1, 1)
    # Ways to exchange the runs of some pairs: row 1 is then fixed in 1 or 2 of 3, never in all.
    assert classes.by_chance[2] == 0 and classes.by_chance[0] > 0
    assert found.churn is not None and found.churn.swap.value == pytest.approx(100 * 7 / 120)
    assert sum(bucket.rows for bucket in found.buckets) == 40 and found.length == "words of the input"


def test_confusion_matrices_and_classes_by_hand(pairs: list[tuple[Run, Run]]) -> None:
    found = flips.flips(pairs, ("softmax", "sa-softmax"))
    classes = found.classes
    assert classes is not None and classes.labels == LABELS and found.buckets == []
    assert classes.first[1] == pytest.approx([1 / 3, 9, 2 / 3, 0]) and np.sum(
        classes.second
    ) == pytest.approx(40)
    sports = classes.lines[1]
    assert sports.rows == 10 and sports.recall == pytest.approx((90, 100))
    assert sports.f1[1] == pytest.approx(np.mean([100, 2 * 10 / 21 * 100, 100]))
    assert sports.interval[0] < sports.difference < sports.interval[1]
    (accuracy,) = (score for score in found.scores if score.metric == "accuracy")
    assert accuracy.first == pytest.approx(100 * (1 - 4 / 120)) and accuracy.interval is not None


def test_runs_that_cannot_be_paired_are_refused_in_a_line(tmp_path: Path) -> None:
    one = saved(tmp_path, "softmax", 0, {})
    other = Run(
        save(tmp_path / "b", started("softmax", 0, fingerprint="e" * 16), translations_of_classes()),
        store.read(next((tmp_path / "b").rglob(store.FILE)).parent),
    )
    with pytest.raises(UserError, match=r"cannot be paired: they differ in test rows \(fingerprint\) \(ffff"):
        flips.flips([(one, other)], ("a", "b"))
    fewer = save(tmp_path / "c", started("softmax", 1), translations_of_classes()[:9])
    with pytest.raises(UserError, match="are of other rows than"):
        flips.flips([(one, Run(fewer, store.read(fewer)))], ("a", "b"))
    running = saved(tmp_path / "d", "softmax", 0, {})
    store.write(running.folder, store.read(running.folder) | {"status": "running"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is running: only finished runs"):
        flips.flips([(one, Run(running.folder, store.read(running.folder)))], ("a", "b"))


def translations_of_classes() -> list[dict[str, int]]:
    return [{"row": row, "label": TRUTH[row], "prediction": TRUTH[row]} for row in range(40)]


def test_sentences_side_by_side(tmp_path: Path) -> None:
    over = {"kind": "translation", "task": "toy", "pair": "de-en"}
    for variant, noise in (("softmax", 0.1), ("sa-softmax", 0.3)):
        for seed in range(2):
            save(tmp_path, started(variant, seed, **over), translations(45, noise, seed))
    runs = {(run.variant, run.seed): run for run in read_runs(tmp_path)}
    sides = [(runs["softmax", seed], runs["sa-softmax", seed]) for seed in range(2)]
    inputs = {row: f"quelle {row}" + " wort" * (row % 5) for row in range(45)}
    found = flips.flips(sides, ("softmax", "sa-softmax"), inputs=inputs)
    texts = found.texts
    assert texts is not None and texts.bleu[0] > texts.bleu[1] and len(texts.fell) == 10 >= len(texts.rose)
    worst = texts.fell[0]
    assert worst.worse == 2 and worst.difference < 0 and worst.source == inputs[worst.row]
    assert worst.first != worst.second
    assert len(found.buckets) == 2 and found.buckets[0].first > found.buckets[0].second
    shown = below.html(below.sections(found))
    assert "<mark>" in shown and f"quelle {worst.row}" in shown
    kept = below.html(below.sections(below.without_texts(found)))
    assert "quelle" not in kept and worst.reference not in kept and worst.second not in kept
    assert "quelle" not in below.as_json(below.without_texts(found))


def test_a_sentence_has_the_bleu_of_sacrebleu() -> None:
    texts = ["the cat", "the cat sat on the mat .", "", "a dog ran", "no match here at all", "tree"]
    right = [
        "the cat",
        "the cat sat on a mat .",
        "yes .",
        "a dog ran on",
        "the red cat sat on it",
        "trees grow",
    ]
    counts = bleu.counts(bleu_scorer("13a"), texts, right)
    wanted = [sacrebleu.sentence_bleu(one, [two]).score for one, two in zip(texts, right, strict=True)]
    assert sentence_bleu(counts).tolist() == pytest.approx(wanted)


def test_documents_that_changed_most(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        save_language_model(tmp_path, variant, 0)
    one, two = sorted(read_runs(tmp_path), key=lambda run: run.variant != "softmax")
    found = flips.flips([(one, two)], ("softmax", "sa-softmax"), most=2)
    assert len(found.documents) == 4 and found.length == "tokens"
    assert [each.difference for each in found.documents] == sorted(
        each.difference for each in found.documents
    )
    assert found.churn is not None and found.churn.reseed is None
