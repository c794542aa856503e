"""The verb ``bench``: speed and memory on this machine."""

import argparse
import sys
from pathlib import Path
from typing import Any

from finetune.cli import evidence
from finetune.cli.options import Overrides, add_verb, folder_of, names, number, place
from finetune.errors import UserError
from finetune.system.sheet import terminal_width
from finetune.system.text import clean, say

MEASURING = (
    "quick",
    "full",
    "device",
    "lengths",
    "only",
    "model",
    "data",
)  # options that --from has no use for


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "bench",
        "measure speed and memory against torch's and the stock Trainer's",
        "finetune bench --quick",
        "finetune bench --full --output bench-full",
        "finetune bench --device cuda --lengths 128,512,2048 --output bench-gpu",
        "finetune bench --only pretraining --output bench-pretraining",
        "finetune bench --from bench/bench.json",
        "finetune bench --device cuda --evidence --output evidence",
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: does everything work?")
    parser.add_argument(
        "--full",
        action="store_true",
        help="all shapes and more repeats (21 minutes on two cores, in place of 5)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument(
        "--lengths",
        default="",
        help="tokens of attention and pretraining, e.g. 128,512 (default: 128,512,2048, in pretraining 512; "
        "more on cuda and with --full)",
    )
    parser.add_argument(
        "--only",
        help="attention, steps (of fine-tuning) or pretraining, or two of them (default: all, which take "
        "5 minutes on two cores)",
    )
    parser.add_argument(
        "--model", help="of steps or, with --only pretraining, of that: a Hub id, a folder or scratch:SIZE"
    )
    parser.add_argument(
        "--data", help="sample, hub or a folder with AG News' columns or, with --only pretraining, with texts"
    )
    parser.add_argument("--output", type=place, help="folder of the result (default: bench)")
    parser.add_argument("--from", dest="source", type=place, help="remake tables and figures of a bench.json")
    evidence.add_options(parser)
    parser.set_defaults(function=bench)


def bench(options: argparse.Namespace, overrides: Overrides) -> int:
    """Measures, or reads a kept result, and writes tables and figures. Returns 1 where a part has failed.

    130 on Ctrl-C: what was measured until then is in the folder.
    """
    from finetune.bench import run, tables
    from finetune.bench.settings import settings

    given = [name for name in MEASURING if getattr(options, name)]
    if options.evidence:
        return evidence.measure(options)
    if others := [name for name in ("toy", "budget") if getattr(options, name)]:
        raise UserError(f"--{others[0]} goes with --evidence: add it, or leave --{others[0]} out")
    if options.source is not None and given:
        raise UserError(
            f"--from measures nothing, and --{given[0]} is about measuring: leave one of them out"
        )
    if options.source is not None:
        result = run.read(options.source)
        folder = run.check(options.output or folder_of(options.source))
        files = run.write(result, folder, json_too=False)
    else:
        lengths = [
            number(word, "--lengths takes numbers of tokens, e.g. 128,512") for word in names(options.lengths)
        ]
        parts = names(options.only or "")
        if options.only is not None and not parts:
            raise UserError("--only takes attention, steps or pretraining: leave it out for all of them")
        chosen = settings(
            options.device,
            quick=options.quick,
            full=options.full,
            lengths=lengths,
            parts=parts,
            model=options.model,
            data=options.data,
        )
        folder = run.check(options.output or Path("bench"))
        kept: list[Path] = []

        def keep(so_far: dict[str, Any]) -> None:
            kept[:] = run.keep(so_far, folder)

        try:
            result = run.measure(chosen, options.command, keep)
        except KeyboardInterrupt:
            where = f"what was measured is in {kept[0]}" if kept else "nothing was measured yet"
            print(f"finetune: interrupted; {where}", file=sys.stderr)
            return evidence.INTERRUPTED
        files = run.write(result, folder)
    print(tables.text(result, terminal_width()))
    for path in files:
        say(f"wrote {path}")
    failures = tables.failures(result)
    for line in failures:
        print(clean(line), file=sys.stderr)
    return 1 if failures else 0
