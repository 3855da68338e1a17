"""Optuna's journal in one file, kept whole: its lock dies with its process, and a line that was cut off is removed.

Optuna's own locks for this file are files, which stay behind a killed process for half a minute; its reader stops at a
line that a full disk cut off.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock

from hptransfer.core.errors import UsageError
from hptransfer.core.files import drop_cut_off_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def open_journal(path: Path) -> JournalStorage:
    """The journal at a path, made where missing. Raises UsageError where it cannot be written or is no journal."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link, which is not written through. Give another directory.")
        _refuse_foreign(path)
        return JournalStorage(Journal(path))
    except OSError as error:
        raise UsageError(f"Cannot write to {path}: {error.strerror or error}. Give a writable directory.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a journal of trials: {error}. Give another directory.") from error


def _refuse_foreign(path: Path) -> None:
    """Raise ValueError where there is a file that is no journal: it would be cut and written to."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb") as file:
        line = file.readline()
    if line.endswith(b"\n") and not (isinstance(log := json.loads(line), dict) and "op_code" in log):
        raise ValueError("its first line is no entry of one")
    if not line.endswith(b"\n") and not line.startswith(b'{"op_code"'[: len(line)]):
        raise ValueError("its only line is no entry of one")


class Journal(JournalFileBackend):
    """Appends whole lines, each behind a whole one."""

    def __init__(self, path: Path) -> None:
        lock = FileLock(path) if fcntl is not None else JournalFileSymlinkLock(str(path))
        super().__init__(str(path), lock)
        self.path, self.lock = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the logs with a single write. Raises UsageError where the disk is full; nothing of them is kept then.

        It survives the death of any process, not that of the machine: runs.jsonl is what is forced to the disk.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self.lock.acquire()
        try:
            with open(self.path, "ab", buffering=0) as file:
                if file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            drop_cut_off_line(self.path)
            raise UsageError(
                f"Cannot write to {self.path}: {error.strerror or error}. Finished runs are kept; make room and run "
                "the same command again to go on."
            ) from error
        finally:
            self.lock.release()


class FileLock(BaseJournalFileLock):
    """An advisory lock on the journal itself, released by the kernel when its process dies.

    Whoever gets it removes a last line that was cut off, before it adds its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        self.descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)  # pyright: ignore[reportOptionalMemberAccess]
        drop_cut_off_line(self.path)
        return True

    def release(self) -> None:
        """Give the lock back."""
        os.close(self.descriptor)
        self.descriptor = -1
