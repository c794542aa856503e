"""Prepares standard output and error for a program that runs for hours, whatever they are connected to."""

import io
import sys
from typing import Any


def prepare() -> None:
    """Keeps unencodable characters and closed pipes from stopping the program.

    A character that the terminal's encoding lacks is written as its number. Output to a closed pipe, as in
    ``finetune ... | head``, is dropped: a training goes on, and a listing ends as if it had been read.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


class _Lasting(io.FileIO):
    """A file that drops output to a closed pipe, and raises once where a disk is full."""

    full = False  # raised once: a second error, at exit, would hide the message of the first

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
