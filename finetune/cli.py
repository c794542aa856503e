"""The ``finetune`` command: verbs and options. Heavy imports wait inside the verbs, so --help is quick."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from finetune.config import KINDS, Kind, RunConfig, merge, parse_value, preset_names, read_preset, read_yaml
from finetune.errors import UserError, unknown

VERBS: dict[str, Kind] = {verb: kind for kind, verb in KINDS.items()}
OPTIONS = {"task", "pair", "attention", "seeds", "preset", "config", "data", "model", "output"}
DEFAULT_TASK = {"classify": "agnews", "translate": "iwslt2017"}


class _Parser(argparse.ArgumentParser):
    """argparse that reports a mistake as every other one is reported, and guesses at no shortened option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 1 after a failed run, 2 for a user's mistake, 130 on Ctrl-C."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # threads that spin starve each other on a busy machine
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what it reports, it also raises
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parse(words)
        return int(options.function(options, overrides) or 0)
    except UserError as error:
        print(f"finetune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # finetune tasks | head
        sys.stdout = None  # nothing is left to flush at exit
        return 0
    except KeyboardInterrupt:
        print("finetune: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _parse(words: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line -> options of the verb, and the overrides of the configuration."""
    parser, verbs = _parser()
    if words and not words[0].startswith("-") and words[0] not in verbs:
        raise unknown("verb", words[0], verbs)
    options, rest = parser.parse_known_args(words)
    if rest and options.verb not in VERBS:
        raise UserError(f"finetune {options.verb} takes no '{rest[0]}'; see finetune {options.verb} --help")
    options.command = shlex.join(["finetune", *words])
    return options, _overrides(rest)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of its verbs."""
    parser = _Parser(prog="finetune", description="Compare attention softmaxes on downstream tasks.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, kind in VERBS.items():
        _add_train_verb(verbs, verb, kind)
    compare = verbs.add_parser("compare", help="compare recorded runs; writes report.md and report.json")
    compare.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], help="folders with runs")
    compare.add_argument("--output", type=Path, help="where the report goes (default: the first folder)")
    compare.set_defaults(function=_compare)
    verbs.add_parser("tasks", help="list the tasks").set_defaults(function=_tasks)
    verbs.add_parser("variants", help="list the attention variants").set_defaults(function=_variants)
    validate = verbs.add_parser("validate", help="check the presets and tasks, and with --task its rows")
    validate.add_argument("--task", help="a task or a declaration file")
    validate.add_argument("--pair", help="language pair")
    validate.add_argument("--data", help="auto, hub, sample or a folder (default: auto)")
    validate.set_defaults(function=_validate)
    verbs.add_parser("env", help="print versions and hardware").set_defaults(function=_env)
    _add_bench_verb(verbs)
    return parser, list(verbs.choices)


def _add_train_verb(verbs: Any, verb: str, kind: Kind) -> None:
    parser = verbs.add_parser(
        verb,
        help=f"fine-tune on a {kind} task, one run for each variant and seed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every key of the configuration is an option too: --data.train_rows 4000 --model.lora.rank 8\n"
        "--attention.scope cross --attention.parameters.eps 1e-5, and every field of transformers'\n"
        "TrainingArguments under --train., e.g. --train.learning_rate 3e-5. The presets list them all.",
    )
    default = DEFAULT_TASK[verb]
    parser.add_argument("--task", default=default, help=f"a task or a declaration file (default: {default})")
    pair_help = "language pair, source first, e.g. de-en" if kind == "translation" else argparse.SUPPRESS
    parser.add_argument("--pair", help=pair_help)
    parser.add_argument("--attention", help="variants, e.g. softmax,sa-softmax (default: the preset's)")
    parser.add_argument("--seeds", help="integers, e.g. 0,1,2 (default: the preset's)")
    parser.add_argument("--preset", default="quick", help=f"{', '.join(preset_names(kind))} (default: quick)")
    parser.add_argument("--config", type=Path, action="append", default=[], help="YAML laid over the preset")
    parser.add_argument("--data", dest="data_source", help="auto, hub, sample or a folder")
    parser.add_argument("--model", dest="model_name", help="a Hub id, a folder or scratch:SIZE")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.set_defaults(function=_train)


def _add_bench_verb(verbs: Any) -> None:
    parser = verbs.add_parser(
        "bench", help="measure speed and memory against torch's and the stock Trainer's"
    )
    parser.add_argument("--quick", action="store_true", help="a minute and a half: does everything work?")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument(
        "--lengths", default="", help="tokens, e.g. 128,512 (default: 128 to 4096, to 32768 on cuda)"
    )
    parser.add_argument("--only", help="attention or steps (default: both)")
    parser.add_argument("--model", help="of the fine-tuning steps: a Hub id, a folder or scratch:SIZE")
    parser.add_argument("--data", help="their rows: sample, hub or a folder with AG News' columns")
    parser.add_argument("--output", type=Path, help="folder of the result (default: bench)")
    parser.add_argument("--from", dest="source", type=Path, help="remake tables and figures of a bench.json")
    parser.set_defaults(function=_bench)


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
        branch: Any = parse_value(value)
        for part in reversed(name[2:].split(".")):
            branch = {part: branch}
        nested = merge(nested, branch)
    return nested


def _names(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _train(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from finetune.plan import plan_grid
    from finetune.run import run_grid

    kind = VERBS[options.verb]
    values = read_preset(kind, options.preset)
    for path in options.config:
        values = merge(values, read_yaml(path))
    values = merge(values, overrides)
    if options.attention is not None:
        values["variants"] = _names(options.attention)
    if options.seeds is not None:
        values["seeds"] = [_seed(word) for word in _names(options.seeds)]
    for section, key, value in (
        ("data", "source", options.data_source),
        ("model", "name", options.model_name),
    ):
        if value is not None:
            values = merge(values, {section: {key: value}})
    _refuse_unknown_sections(values, overrides)
    grid = plan_grid(kind, options.task, options.pair, values, options.output)
    return run_grid(grid, options.command, _next_command(options))


def _refuse_unknown_sections(values: dict[str, Any], overrides: dict[str, Any]) -> None:
    """A misspelt option such as --trian.max_steps is told by the sections there are."""
    sections = {*RunConfig.__dataclass_fields__, "variants", "seeds"} - {"kind", "task", "pair", "seed"}
    for key in values:
        if key not in sections and key in overrides:
            raise unknown("option", f"--{key}", [f"--{name}" for name in sections | OPTIONS])
        if key not in sections:
            raise unknown("key", key, sections)


def _seed(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise UserError(f"--seeds takes whole numbers from 0, e.g. 0,1,2, not '{word}'")
    return int(word)


def _next_command(options: argparse.Namespace) -> str:
    """What to type for the real thing; empty where this is it."""
    if options.preset == "full":
        return ""
    pair = f" PAIR={options.pair}" if options.pair else ""
    from tasks import get_task

    own = options.data_source if options.data_source not in (None, "auto", "sample") else None
    if own is None and get_task(options.task).hub_id is None:
        own = "path/to/folder"
    data = f" DATA={shlex.quote(own)}" if own else ""
    return f"make {options.verb} TASK={shlex.quote(options.task)}{pair}{data} PRESET=full OUTPUT=runs-full"


def _compare(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune import compare, report

    comparison = compare.compare(options.folders)
    print(report.text(comparison))
    for path in report.write(comparison, options.output or options.folders[0]):
        print(f"wrote {path}")


def _bench(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from finetune.bench import run, tables
    from finetune.bench.settings import settings

    given = [
        name for name in ("quick", "device", "lengths", "only", "model", "data") if getattr(options, name)
    ]
    if options.source is not None and given:
        raise UserError(
            f"--from measures nothing, and --{given[0]} is about measuring: leave one of them out"
        )
    if options.source is not None:
        result = run.read(options.source)
        beside = options.source if options.source.is_dir() else options.source.parent
        folder = run.check(options.output or beside)
        files = run.write(result, folder, json_too=False)
    else:
        lengths = [_length(word) for word in _names(options.lengths)]
        parts = _names(options.only or "")
        chosen = settings(
            options.device,
            quick=options.quick,
            lengths=lengths,
            parts=parts,
            model=options.model,
            data=options.data,
        )
        folder = run.check(options.output or Path("bench"))
        result = run.measure(chosen, options.command)
        files = run.write(result, folder)
    print(tables.text(result))
    for path in files:
        print(f"wrote {path}")
    failures = tables.failures(result)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _length(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise UserError(f"--lengths takes numbers of tokens, e.g. 128,512, not '{word}'")
    return int(word)


def _tasks(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.listing import tasks_text

    print(tasks_text())


def _variants(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.listing import variants_text

    print(variants_text())


def _validate(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.plan import validate

    if options.task is None and (options.pair or options.data):
        raise UserError("--pair and --data say which rows of a task to check: give --task too")
    for line in validate(options.task, options.pair, options.data or "auto"):
        print(line)


def _env(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    import json

    from finetune.record import environment

    print(json.dumps(environment(), indent=2))
