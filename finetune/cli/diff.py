"""The verb ``diff``: two runs, or two variants over all seeds, below the mean."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.options import Overrides, add_verb, number, place
from finetune.config.schema import BASELINE
from finetune.errors import UserError
from finetune.system.text import say

if TYPE_CHECKING:
    from finetune.records.run import Run

    Pairs = list[tuple[Run, Run]]

FORMS = (".html", ".md", ".json")
MOST = 3  # folders that an error names


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "diff",
        "compare two runs, or two variants over all seeds, row by row: which predictions changed, and how",
        "finetune diff runs/agnews/scratch-tiny",
        "finetune diff runs/agnews/scratch-tiny --variants softmax sa-softmax",
        "finetune diff runs/.../softmax/seed-0 runs/.../sa-softmax/seed-0 --data data/agnews",
        "finetune diff runs/agnews/scratch-tiny --output diff.html --with-texts",
    )
    parser.add_argument(
        "folders", nargs="+", type=place, metavar="FOLDER", help="a folder of runs, or two runs (or folders)"
    )
    parser.add_argument(
        "--variants", nargs=2, metavar=("FIRST", "SECOND"), help="of one folder (default: softmax, the other)"
    )
    parser.add_argument("--data", help="where the data is, for the texts (default: where the record says)")
    parser.add_argument(
        "--examples", default="10", metavar="N", help="examples of each kind (default: %(default)s)"
    )
    parser.add_argument("--output", type=place, metavar="FILE", help="write a .html, .md or .json")
    parser.add_argument("--with-texts", action="store_true", help="keep texts of the data in that file too")
    parser.set_defaults(function=diff)


def diff(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints what changed, and writes it where a file is named."""
    from finetune.comparison.flips import flips
    from finetune.report import below
    from finetune.system.files import write_text
    from finetune.system.sheet import terminal_width

    output: Path | None = options.output
    if output is not None and output.suffix not in FORMS:
        raise UserError(f"--output writes {', '.join(FORMS)}: '{output}' ends with none of them")
    most = number(options.examples, "--examples", least=1)
    pairs, names, unpaired = _sides(options.folders, options.variants)
    texts, without = _texts(pairs[0][0], options.folders[0], options.data)
    notes = [*unpaired, *without]
    found = flips(pairs, names, inputs=texts, most=most)
    print(below.text(below.sections(found, notes, whole=False), terminal_width()))
    if output is not None:
        kept = found if options.with_texts else below.without_texts(found)
        written = {
            ".json": lambda: below.as_json(kept),
            ".md": lambda: below.markdown(below.sections(kept, notes)),
            ".html": lambda: below.html(below.sections(kept, notes)),
        }[output.suffix]()
        say(f"wrote {write_text(output, [written])}")


def _texts(run: "Run", root: Path, wanted: str | None) -> tuple[Mapping[int, str] | None, list[str]]:
    """The texts of the test rows, and else a line that says why there are none."""
    from finetune.explorer.texts import OtherRowsError, inputs

    if run.metric.answers == "sums":  # of whole documents, of which the names are shown
        return None, []
    try:
        return inputs(run, root, wanted), []
    except OtherRowsError as error:
        raise UserError(f"{error}: give its data with --data") from error
    except UserError as error:
        if wanted is not None:  # which was typed
            raise
        return None, [f"Without texts, and lengths of the input: {error} (--data says where it is)."]


def _sides(folders: list[Path], variants: list[str] | None) -> tuple["Pairs", tuple[str, str], list[str]]:
    """The pairs of runs that are meant, the names of the two sides, and which runs have no partner."""
    from finetune.records.run import find_runs

    if len(folders) > 2 or (len(folders) == 2 and variants):
        raise UserError("finetune diff takes two runs, or one folder of runs and perhaps --variants A B")
    sides = []
    for folder in folders:
        runs, problems = find_runs(folder)
        sides.append([run for run in runs if run.finished])
        if not sides[-1]:
            raise UserError("; ".join(problems) or f"there is no finished run in {folder}")
    if len(folders) == 1:
        return _two_variants(folders[0], sides[0], variants)
    for folder, side in zip(folders, sides, strict=True):
        if len({run.variant for run in side}) > 1:
            raise UserError(f"{folder} holds runs of several variants: name one folder, and --variants A B")
        if len({run.seed for run in side}) < len(side):
            raise UserError(
                f"{folder} holds several runs of one seed: name the folder of one setting, such as "
                f"{side[0].folder.parent}"
            )
    one, two = sides[0][0], sides[1][0]
    seeds, notes = ("", ""), list[str]()
    if len(sides[0]) == len(sides[1]) == 1:
        pairs = [(one, two)]
        seeds = (f", seed {one.seed}", f", seed {two.seed}") if one.seed != two.seed else seeds
    else:
        pairs, notes = _by_seed(sides[0], sides[1], folders)
    names = f"{one.variant}{seeds[0]}", f"{two.variant}{seeds[1]}"
    return pairs, names if names[0] != names[1] else (str(folders[0]), str(folders[1])), notes


def _two_variants(
    folder: Path, runs: "list[Run]", variants: list[str] | None
) -> tuple["Pairs", tuple[str, str], list[str]]:
    """All seeds of two variants among the finished runs below one folder, which holds one setting of them."""
    from finetune.comparison.pairing import groups
    from finetune.errors import unknown

    there = list(dict.fromkeys(run.variant for run in runs))
    others = [name for name in there if name != BASELINE]
    if variants is None and (BASELINE not in there or len(others) != 1):
        raise UserError(f"{folder} has runs of {', '.join(there)}: say which two with --variants A B")
    first, second = variants or (BASELINE, others[0])
    for name in (first, second):
        if name not in there:
            raise unknown(f"variant with finished runs in {folder}", name, there)
    found = [group for siblings in groups(runs) for group in siblings]
    held = [group for group in found if group.finished(first) and group.finished(second)]
    if not held:
        raise UserError(f"{first} and {second} have no runs of one setting in {folder} that could be paired")
    if len(held) > 1:
        places = sorted({str(group.first.folder.parent.parent) for group in held})
        more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
        raise UserError(
            f"{folder} holds {len(held)} settings of {first} and {second}: name the folder of one, such as "
            f"{', '.join(places[:MOST])}{more}"
        )
    [group] = held
    one, two = group.finished(first), group.finished(second)
    pairs, notes = _by_seed(list(one.values()), list(two.values()), [folder])
    return pairs, (first, second), notes


def _by_seed(first: "list[Run]", second: "list[Run]", folders: list[Path]) -> tuple["Pairs", list[str]]:
    """Pairs the runs of two sides by seed, and says of each other run why it is in no pair."""
    from finetune.comparison.pairing import unlike_start

    one, two = ({run.seed: run for run in side} for side in (first, second))
    common = sorted(one.keys() & two.keys())
    unlike = {seed: why for seed in common if (why := unlike_start(two[seed], one[seed])) is not None}
    if len(unlike) == len(common):
        why = next(iter(unlike.values()), "they have no seed in common")
        raise UserError(f"no two runs in {' and '.join(map(str, folders))} are a pair: {why}")
    notes = [f"No pair, seed {seed}: {why}." for seed, why in unlike.items()]
    alone = ", ".join(map(str, sorted(one.keys() ^ two.keys())))
    notes += [f"Left out, as one side alone has finished them: seeds {alone}."] if alone else []
    return [(one[seed], two[seed]) for seed in common if seed not in unlike], notes
