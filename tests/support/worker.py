"""Commands run one after the other by one process of a run, so that many cases share its start.

python -m tests.support.worker FILE       FILE: a JSON list of the words of each command
"""

import json
import sys
from pathlib import Path

from finetune.cli.main import main


def run_all(file: Path) -> None:
    """Runs the commands of ``file``; the exit status of each is printed as ``status N``."""
    for words in json.loads(file.read_text()):
        print("status", main(words), flush=True)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
