"""runs.jsonl, open for appending: a finished run is on disk whole before the next one is reported."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import tempfile
from pathlib import Path

from hptransfer.core.errors import UsageError
from hptransfer.validation.records.runs import RUNS_FILE, Key, Run, latest, read_runs

try:
    import fcntl
except ImportError:  # Windows: no advisory lock, two sweeps into one directory are the user's own affair
    fcntl = None


class RunLog:
    """The runs.jsonl of a directory, written by one process at a time.

    known: the runs it held when opened, by key. notes: what the reader should know (a cut-off line was dropped).
    Raises UsageError, before anything is trained, where the directory cannot be made or written, has no space left,
    holds a line that is not a run, or belongs to another sweep that is still going on.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / RUNS_FILE
        self.written = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _probe(self.path.parent)
            self.descriptor = opened(self.path)
        except OSError as error:
            raise UsageError(
                f"Cannot write to {self.path.parent}: {error.strerror or error}. Give a writable directory as out."
            ) from error
        try:
            self._lock()
            runs, self.notes = read_runs(self.path)
            drop_cut_off_line(self.descriptor, self.path)
        except BaseException:
            self.close()
            raise
        self.known: dict[Key, Run] = latest(runs)

    def append(self, run: Run) -> None:
        """Add one run: a single write, then fsync. Raises UsageError where the disk is full or gone."""
        line = (run.to_line() + "\n").encode()
        size = os.fstat(self.descriptor).st_size
        try:
            if os.write(self.descriptor, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self.descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, size)
            raise UsageError(
                f"Cannot write to {self.path}: {error.strerror or error}. The {len(self.known)} runs finished so far "
                "are kept; make room and run the same command again to go on."
            ) from error
        self.known[run.key] = run
        self.written += 1

    def close(self) -> None:
        """Close the file and release its lock."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"Another sweep is writing to {self.path}. Wait for it to end, or give another directory as out."
            ) from error


def opened(path: Path) -> int:
    """A descriptor of the file for reading and appending; it is made where missing.

    Raises UsageError where it is a link, which may lead to somebody else's file, or no regular file.
    """
    unix_only = (getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW"))
    flags = functools.reduce(operator.or_, unix_only, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is a link or no regular file, and is left alone. Give another directory as out.")
    return os.open(path, flags, 0o666)


def drop_cut_off_line(descriptor: int, path: Path) -> None:
    """Cut what follows the last newline, so that the next run starts on a line of its own.

    Raises UsageError, and cuts nothing, where that is not the start of a run's line.
    """
    whole = path.read_bytes()
    rest = whole[whole.rfind(b"\n") + 1 :]
    if not rest:
        return
    if not is_start_of_run(rest):
        raise UsageError(f"{path} ends in text that is no run, and is left alone. Give another directory as out.")
    os.ftruncate(descriptor, len(whole) - len(rest))


def is_start_of_run(text: bytes) -> bool:
    """Whether a cut-off line is one that Run.to_line began."""
    head = b'{"schema": %d, "scheme": "' % Run.SCHEMA
    return text.startswith(head) or head.startswith(text)


def _probe(directory: Path) -> None:
    """Raise OSError unless a file with some bytes in it can be made here."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"\0" * 65536)
        file.flush()
        os.fsync(file.fileno())
