"""runs.jsonl, open for appending: a finished run is on disk whole before the next one is reported."""

from __future__ import annotations

import contextlib
import os
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
            self.descriptor = os.open(
                self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666
            )
        except OSError as error:
            raise UsageError(
                f"Cannot write to {self.path.parent}: {error.strerror or error}. Give a writable directory as out."
            ) from error
        try:
            self._lock()
            runs, self.notes = read_runs(self.path)
            self._drop_cut_off_line()
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

    def _drop_cut_off_line(self) -> None:
        """Cut what follows the last newline, so that the next run starts on a line of its own."""
        size = os.fstat(self.descriptor).st_size
        if not self.notes:
            return
        tail = self.path.read_bytes()
        os.ftruncate(self.descriptor, size - (len(tail) - tail.rfind(b"\n") - 1))


def _probe(directory: Path) -> None:
    """Raise OSError unless a file with some bytes in it can be made here."""
    path = directory / f".probe-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
