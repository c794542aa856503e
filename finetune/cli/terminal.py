"""Standard output and error as they must be for a program that runs for hours, whatever they lead to."""

import io
import sys
from typing import Any


def prepare() -> None:
    """Let no letter and no reader that has left stop the program.

    A letter that the terminal's encoding lacks is written as its number. What a closed pipe does not take, as
    in ``finetune ... | head``, is dropped: a training goes on, and a listing ends as if it had been read.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


class _Lasting(io.FileIO):
    """A file that drops what its reader does not take, and says once that a disk is full."""

    full = False

    def write(self, data: Any) -> int:
        try:
            return len(data) if self.full else super().write(data) or 0
        except BrokenPipeError:
            return len(data)
        except OSError:
            self.full = True
            raise


def _lasting(stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper):  # closed; or what a notebook or a test has put there
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
