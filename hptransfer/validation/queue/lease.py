"""Who holds a running trial, and whether that process is still alive."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, Trial

HOLDER, BEAT, DIED, RETRY = "holder", "beat", "died", "retry"
MAX_DEATHS = 3
"""A trial whose process died this often is given up as failed."""
BEAT_SECONDS, GRACE_SECONDS = 5.0, 60.0
OVERRUN = 124
"""The exit code of a worker whose run took longer than it may, that of timeout(1)."""


def holder() -> dict[str, str | int]:
    """This process: where process ids mean the same (machine, boot, container), its id, and when it started."""
    return {"where": _where(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_alive(pid: int, started: str) -> bool:
    """Whether the process with this id, started then, still runs on this machine."""
    if _started(pid):
        return _started(pid) == started
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return not started  # no /proc here: the id is all there is
    return False


@contextlib.contextmanager
def heartbeat(trials: Sequence[Trial], *, timeout: float | None = None) -> Iterator[None]:
    """Renew the claims on trials every BEAT_SECONDS from a thread, as long as the block runs.

    timeout: after so many seconds the process ends with exit code OVERRUN, whatever it hangs in: nothing in Python can
    stop a call that does not return. Its trials are then settled as those of a process that died, but not asked for
    again: they would take too long again.
    """
    done = threading.Event()
    until = math.inf if timeout is None else time.monotonic() + timeout

    def beat() -> None:
        while not done.wait(max(0.0, min(BEAT_SECONDS, until - time.monotonic()))):
            if time.monotonic() >= until:
                with contextlib.suppress(Exception):
                    for trial in trials:
                        trial.set_user_attr(DIED, f"did not end within {timeout:g} s")
                        trial.set_user_attr(RETRY, MAX_DEATHS)
                os._exit(OVERRUN)
            for trial in trials:
                with contextlib.suppress(Exception):  # a lost beat is no reason to lose the run
                    trial.set_user_attr(BEAT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Watch:
    """Tells which running trials have lost their process.

    On the same machine a process that is gone is known by its id, at once. Elsewhere, and for one that is stopped, the
    beat tells: it has not changed for GRACE_SECONDS of this process's own clock, so that clocks need not agree.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.grace = grace
        self.seen: dict[int, tuple[object, float]] = {}

    def is_stale(self, trial: FrozenTrial) -> bool:
        """Whether a RUNNING trial's process is gone, or stands still."""
        held = trial.user_attrs.get(HOLDER)
        if isinstance(held, dict) and held.get("where") == _where():
            if not is_alive(int(held["pid"]), str(held["started"])):
                return True
            if int(held["pid"]) == os.getpid():
                return False
        mark = (held is None, trial.user_attrs.get(BEAT), trial.datetime_start)
        before, since = self.seen.get(trial.number, (None, 0.0))
        if before != mark:
            self.seen[trial.number] = (mark, time.monotonic())
            return False
        return time.monotonic() - since > self.grace


def hold(trial: Trial) -> None:
    """Write this process's name on a trial it has just claimed."""
    trial.set_user_attr(HOLDER, holder())


@functools.cache
def _where() -> str:
    """Two processes with the same answer see the same process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a live process started, in clock ticks since boot; "" where there is no such process or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
