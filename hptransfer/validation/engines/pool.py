"""Worker processes that train jobs for one recipe, reused from job to job; they die with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from hptransfer.validation.engines.trainer import Trainer, failed
from hptransfer.validation.records.runs import Job, Run

Task = tuple[Job, ...]


class Engine(Protocol):
    """What makes the runs of one task, in whatever process."""

    def __call__(self, trainer: Trainer, task: Task) -> list[Run]: ...


def loop_engine(trainer: Trainer, task: Task) -> list[Run]:
    """Train a task's jobs one after the other."""
    return [trainer.run(job) for job in task]


def usable_cores() -> int:
    """Cores this process may use: its affinity, limited by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


@dataclass
class _Worker:
    process: Any
    connection: Connection
    task: Task = ()


class Pool:
    """`workers` processes with one thread each. A task whose process dies is recorded as failed; a new one takes over.

    start_method: "fork" or "spawn"; by default what the platform and the device allow.
    """

    def __init__(
        self, trainer: Trainer, *, workers: int, engine: Engine = loop_engine, start_method: str | None = None
    ) -> None:
        self.context = process_context(trainer.device, start_method)
        self.trainer, self.engine, self.count = trainer, engine, workers
        self.workers: list[_Worker] = []

    def run(self, tasks: Sequence[Task]) -> Iterator[Run]:
        """Every task's runs, as they finish. Leaving the iterator early ends the workers."""
        waiting = list(reversed(tasks))
        try:
            self.workers = [self._start() for _ in range(min(self.count, len(tasks)))]
            for worker in self.workers:
                self._send(worker, waiting.pop())
            while any(worker.task for worker in self.workers):
                for worker in self._ready():
                    yield from self._receive(worker)
                    if waiting:
                        self._send(worker, waiting.pop())
        finally:
            self._stop()

    def _start(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = started(self.context, _serve, (theirs, self.trainer, self.engine))
        theirs.close()
        return _Worker(process, ours)

    def _send(self, worker: _Worker, task: Task) -> None:
        worker.task = task
        with contextlib.suppress(OSError):  # it died meanwhile: the next receive finds that out
            worker.connection.send(task)

    def _ready(self) -> list[_Worker]:
        busy = {worker.connection: worker for worker in self.workers if worker.task}
        return [busy[connection] for connection in wait(list(busy)) if isinstance(connection, Connection)]

    def _receive(self, worker: _Worker) -> list[Run]:
        task, worker.task = worker.task, ()
        try:
            return worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            how = f"signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"exit code {code}"
            fresh = self._start()
            worker.process, worker.connection = fresh.process, fresh.connection
            return [failed(job, f"its worker process died with {how}; out of memory?") for job in task]

    def _stop(self) -> None:
        for worker in self.workers:
            if worker.task:  # left early: do not wait for the runs in flight
                worker.process.terminate()
            else:
                self._send(worker, ())
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers = []


def _serve(connection: Connection, trainer: Trainer, engine: Engine) -> None:
    """A worker's life: one task after the other until its parent sends an empty one or dies."""
    try:
        while task := connection.recv():
            connection.send(engine(trainer, task))
    except (EOFError, OSError):
        return


def process_context(device: str, start_method: str | None = None) -> Any:
    """fork where platform and device allow it: quick, and any recipe will do. Else spawn (see Portable)."""
    forks = "fork" in multiprocessing.get_all_start_methods() and not device.startswith("cuda")
    method = start_method or ("fork" if forks and not torch.cuda.is_initialized() else "spawn")
    return multiprocessing.get_context(method)


def started(context: Any, target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    """A worker process on `target`: it has one thread, ignores interrupts and dies with this process."""
    process = context.Process(target=_live, args=(os.getpid(), target, arguments), daemon=True)
    with warnings.catch_warnings():  # Python >= 3.12 warns of forking beside threads; the child uses none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _live(parent: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    target(*arguments)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
