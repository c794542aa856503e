"""The ``finetune`` command: its options, and what a mistake looks like. The verbs are in ``verbs.py``."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from finetune.cli import terminal, verbs
from finetune.cli.verbs import VERBS
from finetune.config.loading import merge, nest, parse_value, preset_names
from finetune.errors import UserError, shown, unknown
from finetune.system.redaction import redact
from finetune.system.text import clean
from finetune.tasks import TASK_TYPES, get_task


class _Parser(argparse.ArgumentParser):
    """argparse that reports a mistake as every other one is reported, and guesses at no shortened option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status.

    1 after a failed run, 2 for a user's mistake, 75 where another process is at it, 130 on Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # threads that spin starve each other on a busy machine
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what it reports, it also raises
    if argv is None:
        terminal.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parse(words)
        status = int(options.function(options, overrides) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here
        return status
    except UserError as error:
        _complain(error)
        return error.exit_status
    except OSError as error:
        if error.errno is None:  # of a library that says by it more than the system does
            raise
        place = "the output" if error.filename is None else shown(str(error.filename)).strip("'")
        _complain(f"{error.strerror}: {place}")
        return 2
    except KeyboardInterrupt:
        print("finetune: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _complain(error: object) -> None:
    """On one line, without secrets, and without the control characters that a terminal would obey."""
    with suppress(OSError, AttributeError):
        sys.stdout.flush()  # of a full disk, which is no second thing to say at the end
    print(f"finetune: error: {redact(clean(error))}", file=sys.stderr)


def _parse(words: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line -> options of the verb, and the overrides of the configuration."""
    parser, names = _parser()
    if words and not words[0].startswith("-") and words[0] not in names:
        raise unknown("verb", words[0], names)
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make a list of it
            raise UserError(f"{word[:-3]} needs a value, and -- is none")
    options, rest = parser.parse_known_args(words)
    if rest and options.verb not in VERBS:
        raise UserError(f"finetune {options.verb} takes no '{rest[0]}'; see finetune {options.verb} --help")
    options.command = shlex.join(["finetune", *words])
    return options, _overrides(rest)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of its verbs."""
    parser = _Parser(prog="finetune", description="Compare attention softmaxes on downstream tasks.")
    sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, kind in VERBS.items():
        _add_train_verb(sub, verb, kind)
    _add_run_verb(sub)
    _add_compare_verb(sub)
    summary = sub.add_parser("summary", help="one short Markdown table from a report.json")
    summary.add_argument("file", type=_place, help="a report.json")
    summary.add_argument("--into", type=_place, help="a document with a marked place for it, e.g. README.md")
    summary.set_defaults(function=verbs.summary)
    sub.add_parser("tasks", help="list the tasks").set_defaults(function=verbs.tasks)
    sub.add_parser("variants", help="list the attention variants").set_defaults(function=verbs.variants)
    validate = sub.add_parser("validate", help="check the presets and tasks, and with --task its rows")
    validate.add_argument("--task", help="a task or a declaration file")
    validate.add_argument("--pair", help="language pair")
    validate.add_argument("--data", help="auto, hub, sample or a folder (default: auto)")
    validate.set_defaults(function=verbs.validate)
    sub.add_parser("env", help="print versions and hardware").set_defaults(function=verbs.env)
    _add_bench_verb(sub)
    _add_push_verb(sub)
    _add_study_verb(sub)
    _add_diagnose_verb(sub)
    return parser, list(sub.choices)


def _place(text: str) -> Path:
    """A file or folder. An empty one, as of a variable that is not set, would be the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is missing (. is the working folder)")
    return Path(text)


def _add_train_verb(sub: Any, verb: str, kind: str) -> None:
    parser = sub.add_parser(
        verb,
        help=f"fine-tune on a {kind} task, one run for each variant and seed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every key of the configuration is an option too: --data.train_rows 4000 --model.lora.rank 8\n"
        "--attention.scope cross --attention.parameters.eps 1e-5, and every field of transformers'\n"
        "TrainingArguments under --train., e.g. --train.learning_rate 3e-5. The presets list them all.",
    )
    default = TASK_TYPES[kind].example
    parser.add_argument("--task", default=default, help=f"a task or a declaration file (default: {default})")
    has_pairs = bool(get_task(default).pairs)
    pair_help = "language pair, source first, e.g. de-en" if has_pairs else argparse.SUPPRESS
    parser.add_argument("--pair", help=pair_help)
    parser.add_argument(
        "--attention", help="variants or declaration files, e.g. softmax,sa-softmax (default: the preset's)"
    )
    parser.add_argument("--seeds", help="integers, e.g. 0,1,2 (default: the preset's)")
    parser.add_argument("--preset", default="quick", help=f"{', '.join(preset_names(kind))} (default: quick)")
    parser.add_argument(
        "--config", type=_place, action="append", default=[], help="YAML laid over the preset"
    )
    parser.add_argument("--data", dest="data_source", help="auto, hub, sample or a folder")
    parser.add_argument("--model", dest="model_name", help="a Hub id, a folder or scratch:SIZE")
    parser.add_argument(
        "--output", type=_place, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.add_argument(
        "--diagnose", action="store_true", help="look at the attention of ten steps (diagnostics.json)"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="take a first step of every kind of run, and begin none",
    )
    parser.set_defaults(function=verbs.train)


def _add_run_verb(sub: Any) -> None:
    parser = sub.add_parser("run", help="make the one run that a configuration file describes")
    parser.add_argument(
        "file", type=_place, metavar="FILE", help="a whole configuration: finetune.yaml of a run"
    )
    parser.add_argument(
        "--output", type=_place, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.add_argument(
        "--task", help="the declaration file, for a task of your own (default: the file's task)"
    )
    parser.add_argument(
        "--data", dest="data_source", help="auto, hub, sample or a folder (default: the file's)"
    )
    parser.add_argument("--diagnose", action="store_true", help="look at the attention of ten steps")
    parser.add_argument("--rehearse", action="store_true", help="take a first step, and begin nothing")
    parser.set_defaults(function=verbs.run)


def _add_compare_verb(sub: Any) -> None:
    parser = sub.add_parser("compare", help="compare recorded runs; writes report.html and other forms")
    parser.add_argument("folders", nargs="*", type=_place, help="folders with runs (default: runs)")
    parser.add_argument("--output", type=_place, help="where the report goes (default: the first folder)")
    parser.add_argument(
        "--from", dest="source", type=_place, help="remake the report of a report.json; needs no predictions"
    )
    parser.set_defaults(function=verbs.compare)


def _add_push_verb(sub: Any) -> None:
    parser = sub.add_parser("push", help="put a finished run on the Hub: model, record and model card")
    parser.add_argument("folder", type=_place, metavar="RUN", help="folder of a run, e.g. runs/.../seed-0")
    parser.add_argument("--to", required=True, metavar="org/name", help="the repository, made if need be")
    parser.add_argument("--private", action="store_true", help="make it private (default: the owner's)")
    parser.set_defaults(function=verbs.push)


def _add_bench_verb(sub: Any) -> None:
    parser = sub.add_parser("bench", help="measure speed and memory against torch's and the stock Trainer's")
    parser.add_argument("--quick", action="store_true", help="a minute and a half: does everything work?")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument(
        "--lengths", default="", help="tokens, e.g. 128,512 (default: 128 to 4096, to 32768 on cuda)"
    )
    parser.add_argument("--only", help="attention or steps (default: both)")
    parser.add_argument("--model", help="of the fine-tuning steps: a Hub id, a folder or scratch:SIZE")
    parser.add_argument("--data", help="their rows: sample, hub or a folder with AG News' columns")
    parser.add_argument("--output", type=_place, help="folder of the result (default: bench)")
    parser.add_argument(
        "--from", dest="source", type=_place, help="remake tables and figures of a bench.json"
    )
    parser.set_defaults(function=verbs.bench)


def _add_diagnose_verb(sub: Any) -> None:
    parser = sub.add_parser("diagnose", help="look at the attention of a finished run (diagnostics.json)")
    parser.add_argument("run", type=_place, help="the folder of the run, e.g. runs/.../seed-0")
    parser.add_argument("--rows", default="64", help="rows of its validation split (default: 64)")
    parser.add_argument("--data", help="auto, hub, sample or a folder (default: where the run found them)")
    parser.add_argument("--task", help="the declaration file, for a task of your own")
    parser.add_argument("--attention", help="the declaration file, for a variant of your own")
    parser.set_defaults(function=verbs.diagnose)


def _add_study_verb(sub: Any) -> None:
    parser = sub.add_parser("study", help="run every cell of a study file, several at a time")
    parser.add_argument("file", help="a YAML file, or a shipped study: quick, cpu, ablation or paper")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--plan", action="store_true", help="what is done, what is left, how long it takes")
    asked.add_argument(
        "--print",
        action="store_true",
        help="one command line a run that is not done; writes their files to OUTPUT/configs",
    )
    asked.add_argument("--rehearse", action="store_true", help="take a first step of every kind of run")
    parser.add_argument("--workers", help="runs at a time (default: the study's; one a GPU, or by cores)")
    parser.add_argument("--output", type=_place, help="folder of the runs (default: runs/NAME-OF-THE-STUDY)")
    parser.set_defaults(function=verbs.study)


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """``["--train.max_steps", "5", "--data.source=hub"]`` -> nested mapping."""
    nested: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if not name.startswith("--") or len(name) == 2:
            raise UserError(f"cannot make sense of '{name}': options look like --train.learning_rate 3e-5")
        if not equals and remaining and not remaining[0].startswith("--"):
            value = remaining.pop(0)
        if not value.strip():
            raise UserError(f"{name} needs a value (null where it takes none)")
        nested = merge(nested, nest(name[2:], parse_value(value, name[2:])))
    return nested
