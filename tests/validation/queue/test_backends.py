"""One engine over every storage: journal, SQLite, PostgreSQL that restarts, Optuna's gRPC proxy; with processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.validation.queue.storage import open_storage, release
from hptransfer.validation.records.runs import read_runs
from hptransfer.validation.sweep import run_sweep
from tests.cases import validation as cases
from tests.cases.validation import recipe
from tests.oracles.postgres import find_initdb, restartable

SMALL = recipe.replace(widths=(8, 16), seeds=2, steps=8)
needs_postgres = pytest.mark.skipif(find_initdb() is None, reason="needs PostgreSQL's initdb")


def outcome(runs):
    return [(run.key, run.val_loss) for run in runs]


def slow_recipe():
    def loss(model, batch):
        time.sleep(0.02)
        return cases.loss(model, batch)

    return SMALL.replace(loss=loss)


def _serve(path: Path, port: int) -> None:
    from optuna.storages import run_grpc_proxy_server

    run_grpc_proxy_server(open_storage(f"journal:///{path}"), host="127.0.0.1", port=port)


@contextlib.contextmanager
def grpc_server(path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(path, port))
    process.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_files_give_the_runs_that_the_embedded_journal_gives(tmp_path, kind):
    url = f"{kind}:///{tmp_path / 'study'}"
    assert outcome(run_sweep(SMALL, workers=2, storage=url)) == outcome(run_sweep(SMALL, workers=1))


@pytest.mark.slow
def test_the_grpc_proxy_gives_the_same_runs(tmp_path):
    pytest.importorskip("grpc")
    with grpc_server(tmp_path / "trials") as url:
        assert outcome(run_sweep(SMALL, workers=1, storage=url)) == outcome(run_sweep(SMALL, workers=1))


@pytest.mark.slow
@needs_postgres
@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_a_database_that_restarts_ends_nothing(tmp_path, seconds):
    pytest.importorskip("psycopg")
    with restartable(tmp_path) as (url, restart):
        thread = threading.Thread(target=lambda: (until_told(url), restart(seconds)))
        thread.start()
        runs = run_sweep(slow_recipe(), workers=2, storage=url)
        thread.join()
    assert all(run.state == "complete" for run in runs)
    assert outcome(runs) == outcome(run_sweep(slow_recipe(), workers=2))


@pytest.mark.slow
@needs_postgres
def test_a_storage_that_answered_before_is_waited_for_as_it_is_opened_again(tmp_path):
    pytest.importorskip("psycopg")
    with restartable(tmp_path) as (url, restart):
        release(open_storage(url))
        thread = threading.Thread(target=restart, args=[2.0])
        thread.start()
        time.sleep(1.0)
        began = time.monotonic()
        with pytest.raises(UsageError, match="Cannot use storage"):
            open_storage(url)
        assert time.monotonic() - began < 1.0
        release(open_storage(url, wait=True))
        thread.join()


def until_told(url: str) -> None:
    """Wait until a trial of the storage was told, at most a minute."""
    storage, until = open_storage(url), time.monotonic() + 60
    while time.monotonic() < until:
        trials = [t for study in storage.get_all_studies() for t in storage.get_all_trials(study._study_id)]
        if any(trial.state.is_finished() for trial in trials):
            break
        time.sleep(0.1)
    release(storage)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_workers_killed_each_second_lose_and_double_nothing(tmp_path):
    stop = threading.Event()
    killed = []

    def reaper() -> None:
        while not stop.wait(1.0):
            for pid in _children(os.getpid())[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=reaper)
    thread.start()
    try:
        runs = run_sweep(slow_recipe(), workers=2, out=tmp_path)
    finally:
        stop.set()
        thread.join()
    recorded, _ = read_runs(tmp_path / "runs.jsonl")
    assert len(killed) >= 3 and {run.state for run in runs} == {"complete"}
    assert sorted(run.key for run in recorded) == sorted({run.key for run in runs})
    assert outcome(runs) == outcome(run_sweep(slow_recipe(), workers=2))
