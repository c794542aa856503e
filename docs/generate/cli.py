"""The reference of the command line, from the parser of the command."""

import argparse
from collections.abc import Iterator

from docs.generate.markdown import code, table, text
from finetune.cli.main import parser as parser_of_command

HEAD = """# Command line

`make` calls `.venv/bin/finetune`; after `source .venv/bin/activate` it is `finetune`. Exit status: 0 when all
went well, 1 after a failed run, 2 for a mistake in what was typed or in the data, 75 where another process is
at the same run, 130 after Ctrl-C.

"""


def page() -> str:
    (verbs,) = (
        action for action in parser_of_command()[0]._actions if isinstance(action, argparse._SubParsersAction)
    )
    about = {action.dest: action.help or "" for action in verbs._choices_actions}
    list_of_verbs = table(
        ["verb", "what it does"],
        ([f"[`{name}`](#finetune-{name})", text(about[name])] for name in verbs.choices),
    )
    return (
        HEAD
        + list_of_verbs
        + "".join(_verb(name, about[name], verbs.choices[name]) for name in verbs.choices)
    )


def _verb(name: str, about: str, parser: argparse.ArgumentParser) -> str:
    rows = list(_options(parser))
    options = table(["argument", "meaning"], rows) if rows else "It takes no argument.\n"
    after = f"\n```text\n{parser.epilog}\n```\n" if parser.epilog else ""
    return f"\n## finetune {name}\n\n{text(about[:1].upper() + about[1:])}.\n\n{options}{after}"


def _options(parser: argparse.ArgumentParser) -> Iterator[list[str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        name = str(action.metavar or action.dest).upper()
        if action.option_strings:
            value = "" if action.nargs == 0 else f" {name}"
            shown = ", ".join(f"{option}{value}" for option in action.option_strings)
        else:
            shown = f"{name}{' ...' if action.nargs == '*' else ''}"
        needed = " (required)" if action.required and action.option_strings else ""
        yield [code(shown), text((action.help or "").replace("%%", "%")) + needed]
