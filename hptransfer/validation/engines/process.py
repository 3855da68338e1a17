"""Worker processes: how one is started, that it has one thread, and that it dies with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch


def usable_cores() -> int:
    """Cores this process may use: its affinity, limited by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def process_context(device: str, start_method: str | None = None) -> Any:
    """fork where the platform allows it and no accelerator is in sight: quick, and any recipe will do. Else spawn.

    Beside a GPU not even runs on the CPU may be forked: once this process asked whether CUDA is there, a child's first
    backward pass fails ("CUDA error: initialization error"). What spawned processes need of a recipe: see Portable.
    """
    forks = "fork" in multiprocessing.get_all_start_methods() and device == "cpu" and not torch.cuda.is_available()
    return multiprocessing.get_context(start_method or ("fork" if forks else "spawn"))


def started(context: Any, target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    """A worker process on `target`: it has one thread, ignores interrupts and dies with this process."""
    process = context.Process(target=_live, args=(os.getpid(), target, arguments), daemon=True)
    with warnings.catch_warnings():  # Python >= 3.12 warns of forking beside threads; the child uses none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def ended(processes: list[Any], *, seconds: float = 5.0) -> None:
    """End processes: they are asked, and killed where they are still there after some seconds, as a stopped one is."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def death(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode} ({signal.strsignal(-exitcode)})"
    return f"exit code {exitcode}"


def _live(parent: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    multiprocessing.current_process().daemon = False  # so that a recipe's DataLoader may have workers of its own
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    target(*arguments)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
