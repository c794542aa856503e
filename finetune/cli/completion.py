"""The verb ``completion``: a script with which a shell completes verbs, options, keys and names.

By shtab, which makes a plain script for each shell from the parser: pressing Tab starts no Python, which to
import this program would take a third of a second each time.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune import objectives
from finetune.attention import VARIANTS
from finetune.cli.options import Overrides, add_verb, place
from finetune.cli.train import TYPES
from finetune.config import names
from finetune.config.loading import preset_names
from finetune.positions import POSITIONS
from finetune.studies.engines import ENGINES
from finetune.studies.file import shipped
from finetune.studies.keys import ELSEWHERE, every
from finetune.tasks import TABLE, TASKS

SHELLS = ("bash", "zsh", "fish")
PLACES = {"file", "data"}
"""Arguments that take a path, or a name instead of one, beside those whose type says so."""


def add(verbs: Any, command: argparse.ArgumentParser) -> None:
    """Adds the verb to ``command``, which it describes."""
    parser = add_verb(
        verbs,
        "completion",
        "print a script for a shell, which then completes verbs, options and names",
        "finetune completion bash > ~/.local/share/bash-completion/completions/finetune",
        "finetune completion zsh > ~/.zfunc/_finetune     with fpath+=~/.zfunc before compinit in ~/.zshrc",
        "finetune completion fish > ~/.config/fish/completions/finetune.fish",
        notes="The script knows the tasks, variants, presets, studies and keys of this version: write it\n"
        "again after an upgrade, or after adding a task.",
    )
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")
    parser.set_defaults(function=completion, parser=command)


def completion(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints the script."""
    print(script(options.shell, options.parser))


def script(shell: str, command: argparse.ArgumentParser) -> str:
    """The completion script of a shell for a parser with verbs, which gets what completes beside its own."""
    import shtab

    (verbs,) = (action for action in command._actions if isinstance(action, argparse._SubParsersAction))
    for name, verb in verbs.choices.items():
        if name in TYPES:
            _add_keys(verb, TYPES[name].kinds)
        if name == "study":
            for engine in ENGINES.values():
                for field in dataclasses.fields(engine.options):
                    verb.add_argument(f"--{engine.name}.{field.name}")
        paths: Mapping[str, Any] = _names_or_files(shipped()) if name == "study" else shtab.FILE
        for action in verb._actions:
            _complete(action, _words(name), paths if action.dest == "file" else shtab.FILE)
    return str(shtab.complete(command, shell))


def _add_keys(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    """Adds every key of a kind of task as an option, all of which the command itself reads undeclared."""
    known, words = parser._option_string_actions, {**names.words(), "model.position": list(POSITIONS)}
    for key in every(kinds):
        if f"--{key}" not in known and key not in ELSEWHERE:
            parser.add_argument(f"--{key}", choices=words.get(key))


def _words(verb: str) -> Mapping[str, Sequence[str]]:
    """The names that arguments of a verb take."""
    kinds = TYPES[verb].kinds if verb in TYPES else objectives.kinds()
    tasks = [name for name, task in TASKS.items() if set(task.kinds) & set(kinds)]
    return {
        "task": [*tasks, TABLE],
        "pair": sorted({pair for name in tasks for pair in TASKS[name].pairs}),
        "objective": list(kinds),
        "attention": list(VARIANTS),
        "preset": sorted({preset for kind in kinds for preset in preset_names(kind)}),
        "on": list(ENGINES),
    }


def _names_or_files(names: Sequence[str]) -> dict[str, Any]:
    """Completes one of ``names``, or a path, in the words of each shell."""
    one = " ".join(names)
    paths = "__fish_complete_path (commandline -ct)"
    return {
        "bash": "_finetune_name_or_file",
        "zsh": f"{{compadd {one}; _files}}",
        "fish": f"(string split ' ' '{one}'; {paths})",
        "preamble": {"bash": f"_finetune_name_or_file() {{ compgen -W '{one}' -- $1; compgen -f -- $1; }}"},
    }


def _complete(action: argparse.Action, words: Mapping[str, Sequence[str]], path: Mapping[str, Any]) -> None:
    """Has a shell complete an argument: from the words that it takes, or as a ``path``."""
    if action.option_strings and action.nargs == 0:
        return
    if found := words.get(action.dest):
        action.choices = found
    elif action.choices is None and (action.type is place or action.dest in PLACES):
        action.complete = path  # type: ignore[attr-defined]
