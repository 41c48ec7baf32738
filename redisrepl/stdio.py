"""Standard output and standard error, which may be closed, full, or read by nobody.

In: a process as it was started. Out: a standard error that never fails, a standard output that says why it cannot be
written. Left to others: what is written.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO, cast

from redisrepl.errors import OutputError
from redisrepl.showing import plain

__all__ = ["PlainOutput", "Stderr", "binary_output", "prepare", "standard_output", "text_output", "writing"]

_INPUT, _OUTPUT, _ERROR = range(3)


class Stderr(io.TextIOWrapper):
    """Standard error without a buffer; what cannot be written is dropped, since the work has to go on.

    Its disk may be full, its terminal or its reader gone. A daemon that ended for that would lose more than a line.
    """

    def __init__(self) -> None:
        file = io.FileIO(_ERROR, "w", closefd=False)
        super().__init__(cast("BinaryIO", file), "utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        """Write text; returns 0 if it was dropped."""
        try:
            return super().write(text)
        except OSError:
            return 0


class PlainOutput:
    """A stream to which only plain text goes; when its reader is gone, the rest is dropped.

    What a command finds out is in its exit code too, so it goes on: `verify | head` does not say that all is equal.

    Args:
        out: where it goes.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write text, or what can be read in place of it.

        Raises:
            OutputError: it does not arrive.
        """
        with writing(self._out):
            self._out.write(plain(text))
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""


def prepare() -> None:
    """Standard error never fails from now on, and nothing that is opened takes the number of a closed standard file."""
    for descriptor in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is sys.__stderr__:  # else somebody who runs us has put another one there
        sys.stderr = Stderr()


def text_output() -> TextIO:
    """Standard output for people. Raises as `standard_output`."""
    return cast("TextIO", PlainOutput(standard_output()))


def binary_output() -> BinaryIO:
    """Standard output for bytes. Raises as `standard_output`."""
    return standard_output().buffer


def standard_output() -> TextIO:
    """Standard output as it is, for who writes escapes to a terminal.

    Raises:
        OutputError: it was closed before the start; Python has none then.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed: redirect it to a file")
    return sys.stdout


@contextmanager
def writing(out: TextIO | BinaryIO) -> Iterator[None]:
    """Do what writes; it ends early when nobody reads any more.

    Raises:
        OutputError: what was written does not arrive.
    """
    try:
        yield
        out.flush()
    except BrokenPipeError:
        _detach(out)
    except OSError as error:
        _detach(out)
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def _detach(out: TextIO | BinaryIO) -> None:
    """Drop what is buffered and can never be written, which Python would report as an error when it exits."""
    try:
        target = out.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, target)
        os.close(null)
    except OSError:
        return  # it is no file of the system's
