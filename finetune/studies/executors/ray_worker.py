"""What the engine has done on the workers of a Ray cluster: a keeper a run, ``run`` for other commands.

Both are sent there whole, so that the Python that Ray runs on need not have this program: the command names
one that has it. So this module imports nothing of the program.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

LINGER_S = 10  # seconds in which a study that listens hears of the end; nobody else need be there

Told = tuple[str, int | None, str]
"""Of a command: the host, the exit status (None where it could not start), and what it printed or why."""


class Keeper:
    """An actor that holds the leash of one run (``leash``), and ends with it.

    Nobody need be there meanwhile: it is detached from the study's process, and known again by its name.
    """

    def __init__(self, words: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        """Begins at once: while an actor waits for room, a call is lost with the process that made it."""
        self.ended = threading.Event()
        self.told: Told = ("", None, "")
        threading.Thread(target=self._keep, args=(words, folder, environment), daemon=True).start()

    def outcome(self) -> Told:
        """Waits for the end of the run."""
        self.ended.wait()
        return self.told

    def _keep(self, words: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        import ray

        itself = ray.get_runtime_context().current_actor
        self.told = run(words, folder, environment)
        self.ended.set()
        time.sleep(LINGER_S)
        ray.kill(itself)


def run(words: Sequence[str], folder: str, environment: Mapping[str, str]) -> Told:
    """Runs a command in ``folder``, and waits for its end."""
    host = socket.gethostname()
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,  # the leash: never written to, it closes when this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return host, None, f"{error.filename or words[0]}: {error.strerror}"
    assert process.stdout is not None
    output = process.stdout.read().decode("utf-8", "replace")
    return host, process.wait(), output
