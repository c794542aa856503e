"""An engine of one worker that is this process, or pretends to be a machine that lacks something."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from finetune.cli.main import main
from finetune.studies.executors.base import Called, Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.state import Status


class Worker(Executor):
    """Runs what it is called with at once, in the folder ``at``; executes no cell.

    ``words`` changes the command, ``answer`` the JSON that it prints.
    """

    capacity = 1

    def __init__(
        self,
        at: Path | None = None,
        words: Callable[[list[str]], list[str]] = lambda words: words,
        answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer,
    ) -> None:
        self.at, self.words, self.answer = at, words, answer
        self.called: list[list[str]] = []

    def call(self, words: Sequence[str]) -> Called:
        words = self.words(list(words[words.index("study") :]))
        self.called.append(words)
        printed, before = io.StringIO(), Path.cwd()
        os.chdir(self.at or before)
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                exit_status = main(words)
        finally:
            os.chdir(before)
        lines = ["a greeting of the machine", *printed.getvalue().splitlines()]
        changed = [json.dumps(self.answer(json.loads(each))) if each[:1] == "{" else each for each in lines]
        return Called(exit_status, "\n".join([*changed, "a farewell"]))

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        raise NotImplementedError

    def watch(self) -> list[tuple[Job, Status]]:
        return []

    def cancel(self) -> None:
        """Nothing goes on."""
