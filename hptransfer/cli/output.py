"""Stdout holds results alone: what a recipe, a library or a child process prints goes to stderr.

Python's sys.stdout and file descriptor 1 both lead to stderr while a command runs; `show` writes to what stdout was.
"""

# pyright: strict
from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import TextIO

from hptransfer.core.errors import UsageError


class _Results:
    """Where results go. lost: whether nobody can read them: stdout was closed at the start."""

    stream: TextIO | None = None
    lost: bool = False


def show(result: object) -> None:
    """Print a result. A reader that has left, as `head` does, is no reason to stop; a full disk is a UsageError."""
    stream = _Results.stream or sys.stdout
    try:
        print(result, file=stream, flush=True)
    except BrokenPipeError:
        _Results.stream = io.StringIO()
    except OSError as error:
        _Results.stream = io.StringIO()
        raise UsageError(f"The result cannot be printed: {error.strerror or error}.") from error


@contextlib.contextmanager
def results_alone() -> Generator[None, None, None]:
    """Inside, only `show` reaches stdout."""
    _open_closed_ones()
    outer = sys.stdout
    with _moved(outer) as stream, contextlib.redirect_stdout(sys.stderr):
        _Results.stream = stream
        try:
            yield
        finally:
            _Results.stream = None


def settled(code: int) -> int:
    """The exit code: the command's own, but never 0 where stdout was closed and so nobody could read the result."""
    if _Results.lost and code == 0:
        print("hptransfer: stdout is closed: the result could not be printed.", file=sys.stderr)
        return 2
    return code


def _open_closed_ones() -> None:
    """Put /dev/null where a standard descriptor is closed, so that no file of ours gets its number."""
    _Results.lost = sys.stdout is None  # pyright: ignore[reportUnnecessaryComparison]
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = os.fdopen(1, "w", closefd=False)


@contextlib.contextmanager
def _moved(outer: TextIO) -> Generator[TextIO, None, None]:
    """`outer`, or where it is the process's own stdout, a stream to the same place while descriptor 1 is stderr's."""
    if not _is_stdout(outer):
        yield outer
        return
    outer.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(kept, "w", encoding=outer.encoding, errors=outer.errors, closefd=False)
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError, ValueError):
            outer.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _is_stdout(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError, AttributeError):
        return False
