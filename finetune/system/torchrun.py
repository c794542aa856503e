"""torchrun, but for its end: with the status of the process that failed first; torchrun's own is always 1.

``python -m finetune.system.torchrun --standalone --nproc-per-node=2 -m finetune run FILE``. What started it
must know a run that is to be resumed (75) from one that has failed.
"""

import os
import signal
import sys
from contextlib import suppress


def main(arguments: list[str]) -> int:
    """Runs torchrun with its ``arguments``. Returns the status of that process, or ends by its signal."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as launch

    try:
        launch(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            with suppress(OSError):  # SIGKILL
                signal.signal(-failure.exitcode, signal.SIG_DFL)
            os.kill(os.getpid(), -failure.exitcode)
        return int(failure.exitcode)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
