"""Small runs that many tests read: each is trained once, for all workers of pytest together."""

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from tests.support.small_runs import run

GRID = ("--attention", "softmax,sa-softmax")
"""Options of the runs that most tests can read."""
Trained = Callable[..., Path]
"""``trained(verb, *options)``: the fixture of that name."""


class SharedRuns:
    """Roots of finished runs below one folder, which several processes may ask for at once.

    Nobody may change them: ``changed`` names the files that somebody did. A test that changes one copies
    the root (``shutil.copytree``). A run is trained when it is first asked for: ask before patching anything.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.given: dict[Path, dict[Path, tuple[int, int]]] = {}

    def __call__(self, verb: str, *options: str) -> Path:
        """The root of ``run(verb, root, *options)``; runs lie in it where ``small_runs.folder`` says."""
        words = shlex.join([verb, *options])
        root = self.home / hashlib.sha256(words.encode()).hexdigest()[:16]
        if root not in self.given:
            self.home.mkdir(exist_ok=True)
            done = root.with_suffix(".done")
            with FileLock(f"{root}.lock"):
                if not done.exists():
                    assert run(verb, root, *options) == 0, words
                    done.touch()
            self.given[root] = _files(root)
        return root

    def changed(self) -> list[str]:
        """Files of the roots given out that are not as they were, or are gone or new."""
        return [
            str(file)
            for root, before in self.given.items()
            for file in sorted(before.items() ^ _files(root).items())
        ]


def _files(root: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of each file but the locks, which a run that is skipped takes too."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
