"""What lies below the mean (``comparison.flips``) -> sections of lines and tables, in every form."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from html import escape
from textwrap import shorten
from typing import Any

from finetune.comparison import churn
from finetune.comparison.flips import Changed, Classes, Flips, Sentence
from finetune.metrics import registry
from finetune.system import tables
from finetune.system.sheet import Sheet
from finetune.system.text import clean, minus

MATRIX = 6  # classes, of whose confusion matrix a terminal shows every cell
CHANGES = 12  # cells that are shown of a larger one
OPEN, CLOSE = "⟦", "⟧"  # around words that differ, which no text of a data set has
WIDTH = 110  # of sentences
BEGINNING = 200  # characters of a text that a terminal shows
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #8884;"
    "font-variant-numeric:tabular-nums}td:first-child,th:first-child,td.l{text-align:left}"
    "mark{background:#fc06;color:inherit}"
)

Cells = list[list[str]]


@dataclass(frozen=True)
class Section:
    """A heading, sentences and a table; the first row is the head."""

    heading: str
    lines: list[str] = field(default_factory=list)
    table: Cells = field(default_factory=list)
    align: str = "lr"


def sections(found: Flips, notes: Sequence[str] = (), whole: bool = True) -> list[Section]:
    """Everything that was found; not ``whole``: of many classes the largest changes alone."""
    metric = registry.get(found.metric)
    parts = [Section(f"{found.task}, {found.model}: {found.first} → {found.second}", [*_head(found), *notes])]
    scores = [
        [each.label, each.text(score.first), each.text(score.second), each.signed(score.difference),
         each.interval(score.interval) if score.interval else ""]
        for score in found.scores
        for each in [registry.get(score.metric)]
    ]  # fmt: skip
    head = ["metric", found.first, found.second, "difference", "95%"]
    parts.append(Section("Scores", [], [head, *scores]))
    if found.classes is not None:
        parts += _of_classes(found, found.classes, whole)
    if found.texts is not None:
        about = (
            f"Mean over sentences: BLEU {found.texts.bleu[0]:.2f} → {found.texts.bleu[1]:.2f}, chrF "
            f"{found.texts.chrf[0]:.2f} → {found.texts.chrf[1]:.2f}; the two outputs are alike by "
            f"{found.texts.alike:.1f} chrF. Words that differ stand in {OPEN}brackets{CLOSE}."
        )
        parts.append(Section("Sentences", [about]))
        for heading, sentences in (("Rose most", found.texts.rose), ("Fell most", found.texts.fell)):
            lines = [line for each in sentences for line in _side_by_side(found, each)]
            parts += [Section(heading, lines)] if lines else []
    if found.documents:
        rows = [
            [each.name, f"{each.tokens:,}", f"{each.first:.4f}", f"{each.second:.4f}",
             minus(f"{each.difference:+.4f}"), f"{each.better} of {each.pairs}"]
            for each in found.documents
        ]  # fmt: skip
        head = ["document", "tokens", found.first, found.second, "nats a token", "better in"]
        parts.append(Section("Documents that changed most", [], [head, *rows]))
    if found.buckets:
        rows = [
            [" to ".join(dict.fromkeys((f"{each.low:,}", f"{each.high:,}"))), f"{each.rows:,}",
             metric.text(each.first), metric.text(each.second), metric.signed(each.difference),
             metric.interval(each.interval)]
            for each in found.buckets
        ]  # fmt: skip
        head = [found.length, "rows", found.first, found.second, "difference", "95%"]
        parts.append(Section(f"{metric.title[0].upper()}{metric.title[1:]} by length", [], [head, *rows]))
    return parts


def _head(found: Flips) -> list[str]:
    """How many runs and rows, and what changes between the sides."""
    metric, count = registry.get(found.metric), len(found.folders)
    runs = f"{count} pairs of runs" if count > 1 else "Two runs"
    lines = [f"{runs}; {found.rows:,} {metric.row}s in each."]
    if count == 1:
        lines += [
            f"{name}: {folder}"
            for name, folder in zip((found.first, found.second), found.folders[0], strict=True)
        ]
    if found.churn is not None:
        subject = f"going from {found.first} to {found.second}"
        text = churn.sentence(found.churn, metric, subject)
        lines.append(f"{text[0].upper()}{text[1:]}.")
    return lines + [f"{note[0].upper()}{note[1:]}." for note in found.notes]


def _of_classes(found: Flips, classes: Classes, whole: bool) -> Iterator[Section]:
    """Fixed and broken rows, the classes one by one, and the confusion matrices."""
    yield _consistency(classes)
    for heading, examples in (("Fixed", classes.examples_fixed), ("Broken", classes.examples_broken)):
        if examples:
            lines = [_example(each, classes.pairs, heading.lower(), whole) for each in examples]
            yield Section(f"{heading}: examples, those of most pairs first", lines)
    rows = [
        [each.label, f"{each.rows:,}", *(f"{part:.2f}" for part in (*each.recall, *each.precision, *each.f1)),
         minus(f"{each.difference:+.2f}"), " to ".join(minus(f"{end:+.2f}") for end in each.interval)]
        for each in classes.lines
    ]  # fmt: skip
    names = [f"{name} {side}" for name in ("recall", "precision", "F1") for side in (1, 2)]
    about = f"1 is {found.first}, 2 is {found.second}; percent. Intervals are of F1, each class by itself."
    yield Section("By class", [about], [["class", "rows", *names, "F1, 2−1", "95%"], *rows])
    labels = classes.labels
    matrices = [classes.first, classes.second]
    count = (
        ",.0f" if classes.pairs == 1 else ",.1f"
    )  # rows of one run are whole numbers, means over seeds are not
    if whole or len(labels) <= MATRIX:
        apart = [
            [two - one for one, two in zip(*lines, strict=True)] for lines in zip(*matrices, strict=True)
        ]
        shown = [(found.first, matrices[0], ""), (found.second, matrices[1], "")]
        for name, matrix, sign in [*shown, (f"{found.second} minus {found.first}", apart, "+")]:
            body = [[label, *(minus(f"{value:{sign}{count}}") for value in line)]
                    for label, line in zip(labels, matrix, strict=True)]  # fmt: skip
            heading = f"Confusion, {name}"
            yield Section(heading, [], [["is \\ called", *labels], *body])
    else:
        cells = [
            (matrices[1][i][j] - matrices[0][i][j], i, j)
            for i in range(len(labels))
            for j in range(len(labels))
        ]
        largest = sorted(cells, key=lambda cell: -abs(cell[0]))[:CHANGES]
        body = [
            [
                labels[i],
                labels[j],
                f"{matrices[0][i][j]:{count}}",
                f"{matrices[1][i][j]:{count}}",
                minus(f"{by:+{count}}"),
            ]
            for by, i, j in largest
        ]
        heading = f"Confusion: the {len(body)} cells that change most, of {len(cells)}"
        yield Section(heading, [], [["is", "called", found.first, found.second, "change"], *body], "llr")


def _consistency(classes: Classes) -> Section:
    """How many rows were fixed and broken in how many pairs, and in how many by chance."""
    if classes.pairs == 1:
        return Section(
            "Fixed and broken", [f"{classes.fixed[0]:,} rows fixed, {classes.broken[0]:,} broken."]
        )
    rows = [
        [f"{count + 1} of {classes.pairs}", f"{classes.fixed[count]:,}", f"{classes.broken[count]:,}",
         f"{classes.by_chance[count]:,.1f}"]
        for count in range(classes.pairs)
    ]  # fmt: skip
    about = (
        "By chance: the rows so fixed, or so broken, if the runs of some pairs changed places. What is far "
        "above it is the doing of the second side; what is not, another seed does as well."
    )
    return Section("Fixed and broken", [about], [["in pairs", "fixed", "broken", "by chance"], *rows])


def _example(each: Changed, pairs: int, what: str, whole: bool) -> str:
    count = each.fixed if what == "fixed" else each.broken
    other = each.broken if what == "fixed" else each.fixed
    but = f", {'broken' if what == 'fixed' else 'fixed'} in {other}" if other else ""
    said = [", ".join(dict.fromkeys(side)) for side in (each.first, each.second)]
    sure = ""
    if each.probability is not None:
        sure = f"; probability of {each.truth} {each.probability[0]:.2f} → {each.probability[1]:.2f}"
    text = ""
    if each.text is not None:
        text = f": {each.text if whole else shorten(each.text, BEGINNING, placeholder=' …')}"
    return (
        f"row {each.row}, {each.truth}: {said[0]} → {said[1]}; {what} in {count} of {pairs}{but}{sure}{text}"
    )


def _side_by_side(found: Flips, each: Sentence) -> list[str]:
    """The lines of one sentence, with the words that differ in brackets."""
    pairs = len(found.folders)
    count = f"better in {each.better}, worse in {each.worse} of {pairs}"
    lines = [
        f"row {each.row}: BLEU {minus(f'{each.difference:+.1f}')}, chrF {minus(f'{each.chrf:+.1f}')}; {count}"
    ]
    if each.reference:
        first, second = marked(each.first, each.second)
        lines += [f"source: {each.source}"] if each.source is not None else []
        lines += [f"reference: {each.reference}", f"{found.first}: {first}", f"{found.second}: {second}"]
    return lines


def marked(first: str, second: str) -> tuple[str, str]:
    """Two texts with the words that they do not share in brackets.

    >>> marked("a man in a blue shirt", "a man in a red shirt .")
    ('a man in a ⟦blue⟧ shirt', 'a man in a ⟦red⟧ shirt ⟦.⟧')
    """
    words = first.split(), second.split()
    parts: tuple[list[str], list[str]] = ([], [])
    for kind, *ends in SequenceMatcher(a=words[0], b=words[1], autojunk=False).get_opcodes():
        for side, (begin, end) in enumerate((ends[:2], ends[2:])):
            piece = " ".join(words[side][begin:end])
            if piece:
                parts[side].append(piece if kind == "equal" else f"{OPEN}{piece}{CLOSE}")
    return " ".join(parts[0]), " ".join(parts[1])


def without_texts(found: Flips) -> Flips:
    """The same without a text of the data or of an output, for a file that may be passed on."""
    classes, texts = found.classes, found.texts
    if classes is not None:
        bare = [
            [replace(each, text=None) for each in examples]
            for examples in (classes.examples_fixed, classes.examples_broken)
        ]
        classes = replace(classes, examples_fixed=bare[0], examples_broken=bare[1])
    if texts is not None:
        sides = [
            [replace(each, source=None, reference="", first="", second="") for each in sentences]
            for sentences in (texts.rose, texts.fell)
        ]
        texts = replace(texts, rose=sides[0], fell=sides[1])
    return replace(found, classes=classes, texts=texts)


def text(parts: Sequence[Section], width: float) -> str:
    """For a terminal."""
    sheet, blocks = Sheet(width), []
    for part in parts:
        lines = [sheet.prose(clean(part.heading))]
        lines += [sheet.prose(clean(line), "  ", WIDTH) for line in part.lines]
        lines += [sheet.table(part.table, part.align)] if part.table else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown(parts: Sequence[Section]) -> str:
    """As Markdown."""
    blocks = []
    for level, part in enumerate(parts):
        blocks.append(f"{'##' if level else '#'} {tables.escape(part.heading)}\n")
        blocks += ["".join(f"- {tables.escape(line)}\n" for line in part.lines)] if part.lines else []
        blocks += [tables.markdown(part.table, part.align)] if part.table else []
    return "\n".join(blocks)


def html(parts: Sequence[Section]) -> str:
    """As a page of its own, which asks nothing of the network."""

    def shown(line: str) -> str:
        return escape(clean(line)).replace(OPEN, "<mark>").replace(CLOSE, "</mark>")

    blocks = []
    for level, part in enumerate(parts):
        tag = "h2" if level else "h1"
        blocks.append(f"<{tag}>{escape(clean(part.heading))}</{tag}>")
        blocks += [f"<p>{shown(line)}</p>" for line in part.lines]
        if part.table:
            head = "".join(f'<th scope="col">{escape(clean(cell))}</th>' for cell in part.table[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{escape(clean(cell))}</td>" for cell in row) + "</tr>"
                for row in part.table[1:]
            )
            blocks.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    title = escape(clean(parts[0].heading))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{STYLE}</style></head><body>'
        + "\n".join(blocks)
        + "</body></html>\n"
    )


def as_json(found: Flips) -> str:
    """Every number, as ``flips`` has it."""
    content: Mapping[str, Any] = {"schema": "finetune-diff", "version": 1, **asdict(found)}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
