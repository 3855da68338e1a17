"""The shared storage: claims are atomic, waits are not errors, and a database that is not there is one clear line."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hptransfer.core.errors import UsageError
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.queue import lease
from hptransfer.validation.queue.drain import Drain
from hptransfer.validation.queue.jobs import open_queue
from hptransfer.validation.queue.lease import BEAT, HOLDER, RETRY, Watch, is_alive
from hptransfer.validation.queue.queue import KEY, RUNS, Item, TrialQueue
from hptransfer.validation.queue.storage import open_storage
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.oracles.postgres import find_initdb, server
from tests.validation.records.test_results import FAILED, GONE, RUN

SAMPLER = optuna.samplers.RandomSampler(seed=0)


def queue_at(path: Path, name: str = "q") -> TrialQueue:
    return open_queue(f"sqlite:///{path / 'study.db'}", name, {"kind": "test"}, SAMPLER)


def wanted(count: int):
    return [Item(f"key {i}", {"lr": 0.1 * (i + 1)}) for i in range(count)]


def drain(queue: TrialQueue, do) -> int:
    """Work through the queue, trial by trial; how many there were."""
    return Drain(queue, lambda trials: [do(trial) for trial in trials]).all()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "is not a database URL. Use sqlite:///FILE.db"),
        ("", "is not a database URL"),
        ("sqlite://", "keeps nothing"),
        ("oracle9://somewhere/x", "Can't load plugin"),
        ("sqlite:////proc/nowhere/study.db", "Cannot make the directory"),
        ("mysql+nodriver://user:secret@host/db", "Cannot use storage mysql"),
    ],
)
def test_a_url_that_cannot_work_is_one_clear_line(url, message):
    with pytest.raises(UsageError) as caught:
        open_storage(url)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_clear_line():
    pytest.importorskip("psycopg")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UsageError, match="Cannot use storage postgresql") as caught:
        open_storage(f"postgresql://user:secret@127.0.0.1:{port}/db")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path):
    (tmp_path / "study.db").write_text("hello, this is not a database at all" * 50)
    with pytest.raises(UsageError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path / 'study.db'}")


def test_sqlite_is_in_write_ahead_mode(tmp_path):
    open_storage(f"sqlite:///{tmp_path / 'deep' / 'study.db'}")
    with sqlite3.connect(tmp_path / "deep" / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_each_key_is_enqueued_once_and_a_failed_one_again(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(3))
    queue.add(wanted(3))
    assert len(queue.trials()) == 3
    drain(queue, lambda trial: [FAILED] if trial.user_attrs[KEY] == "key 1" else [RUN])
    assert [t.state for t in queue.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    queue.add(wanted(4))
    assert [t.user_attrs[KEY] for t in queue.trials((TrialState.WAITING,))] == ["key 1", "key 3"]


def test_outcomes_are_told_as_optuna_knows_them(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(3))
    outcomes = iter([[RUN, RUN], [RUN, GONE], [FAILED]])
    assert drain(queue, lambda trial: next(outcomes)) == 3
    assert [(t.state.name, t.value) for t in queue.trials()] == [("COMPLETE", 0.5), ("PRUNED", None), ("FAIL", None)]
    assert queue.runs() == {"key 0": [RUN, RUN], "key 1": [RUN, GONE], "key 2": [FAILED]}


def _claim_all(directory: Path, out: Path) -> None:
    queue = queue_at(directory)
    with open(out, "w") as file:
        while (trial := queue.claim()) is not None:
            file.write(f"{trial.number}\n")
            queue.work([trial], lambda _: [[RUN]])


def test_four_processes_share_a_sqlite_file_without_a_lock_error_or_a_trial_run_twice(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(40))
    queue.disconnect()
    context = multiprocessing.get_context("fork")
    outs = [tmp_path / f"claimed-{i}" for i in range(4)]
    team = [context.Process(target=_claim_all, args=(tmp_path, out)) for out in outs]
    for process in team:
        process.start()
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0] * 4
    numbers = [int(line) for out in outs for line in out.read_text().split()]
    assert sorted(numbers) == list(range(40))
    assert [t.state for t in queue.trials()] == [TrialState.COMPLETE] * 40


def test_the_same_key_enqueued_twice_is_run_once(tmp_path):
    queue = queue_at(tmp_path)
    for _ in range(2):  # two processes that started at the same moment
        queue.study.enqueue_trial({"lr": 0.1}, user_attrs={KEY: "same"})
    assert drain(queue, lambda trial: [RUN]) == 1
    assert [t.state for t in queue.trials()] == [TrialState.COMPLETE, TrialState.FAIL]


def dead() -> dict[str, str | int]:
    """The name of a process on this machine that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return {**lease.holder(), "pid": process.pid}


def test_a_trial_whose_process_died_is_asked_for_again_once(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(2))
    trial = queue.claim()
    assert trial is not None
    trial.set_user_attr(HOLDER, dead())
    for other in (queue, queue_at(tmp_path), queue):
        other.recover()
    states = [(t.state.name, t.user_attrs[KEY], t.user_attrs.get(RETRY)) for t in queue.trials()]
    assert states == [("FAIL", "key 0", None), ("WAITING", "key 1", None), ("WAITING", "key 0", 1)]
    assert drain(queue, lambda t: [RUN]) == 2 and set(queue.runs()) == {"key 0", "key 1"}


def test_a_trial_killed_between_its_result_and_the_telling_is_told_not_repeated(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(1))
    trial = queue.claim()
    assert trial is not None
    trial.set_user_attr(RUNS, [RUN.to_line()])
    trial.set_user_attr(HOLDER, dead())
    assert drain(queue, lambda t: pytest.fail("run again")) == 0
    assert queue.trials()[0].state == TrialState.COMPLETE and queue.runs() == {"key 0": [RUN]}


def test_a_trial_that_kills_its_process_every_time_is_given_up(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(1))
    for _ in range(3):
        trial = queue.claim()
        assert trial is not None
        trial.set_user_attr(HOLDER, dead())
        queue.recover()
    assert not queue.is_busy() and queue.runs() == {}


def test_a_trial_that_is_alive_is_left_alone(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(1))
    assert queue.claim() is not None
    queue_at(tmp_path).recover()
    assert queue.trials()[0].state == TrialState.RUNNING


def test_elsewhere_a_trial_is_stale_when_its_beat_stands_still(tmp_path):
    queue = queue_at(tmp_path)
    queue.add(wanted(1))
    trial = queue.claim()
    assert trial is not None
    trial.set_user_attr(HOLDER, {"where": "another machine", "pid": 1, "started": "1"})
    watch = Watch(grace=0.2)
    assert not watch.is_stale(queue.trials()[0])
    for beat in (1.0, 2.0):
        time.sleep(0.15)
        trial.set_user_attr(BEAT, beat)
        assert not watch.is_stale(queue.trials()[0])
    time.sleep(0.25)
    assert watch.is_stale(queue.trials()[0])


def test_the_claim_is_renewed_while_a_run_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    queue = queue_at(tmp_path)
    queue.add(wanted(1))
    trial = queue.claim()
    assert trial is not None
    queue.work([trial], lambda t: [[RUN]] if not time.sleep(0.3) else [])
    assert queue.trials()[0].user_attrs[BEAT] > 0


def test_a_process_is_told_from_another_that_got_its_id():
    me = lease.holder()
    assert is_alive(int(me["pid"]), str(me["started"]))
    assert not is_alive(os.getpid(), "12345")
    gone = dead()
    assert not is_alive(int(gone["pid"]), str(gone["started"]))


def test_a_study_of_something_else_is_refused(tmp_path):
    queue_at(tmp_path)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(UsageError, match="made with other settings: kind was 'test', now 'other'"):
        open_queue(url, "q", {"kind": "other"}, SAMPLER)
    optuna.create_study(study_name="foreign", storage=url).ask()
    with pytest.raises(UsageError, match="that hptransfer did not make"):
        open_queue(url, "foreign", {"kind": "test"}, SAMPLER)


def test_a_database_that_fails_in_the_middle_is_one_clear_line(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    original = Trainer.run

    def run(trainer, job, on_step=None):
        if job.seed == 1:
            with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as vandal, vandal:
                vandal.execute("DROP TABLE trials")
        return original(trainer, job, on_step)

    monkeypatch.setattr(Trainer, "run", run)
    with pytest.raises(
        UsageError, match=r"The storage failed: no such table: trials. Finished trials are kept"
    ) as caught:
        transfer_check(cases.recipe.replace(steps=2), storage=url, workers=1, extend=0.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(find_initdb() is None, reason="needs PostgreSQL's initdb")
def test_postgresql_is_as_good(tmp_path):
    pytest.importorskip("psycopg")
    with server(tmp_path) as url:
        queue = open_queue(url, "q", {"kind": "test"}, SAMPLER)
        queue.add(wanted(6))
        trial = queue.claim()
        assert trial is not None
        trial.set_user_attr(HOLDER, dead())
        queue.recover()
        assert drain(queue, lambda t: [RUN]) == 6
        assert set(queue.runs()) == {f"key {i}" for i in range(6)}
        queue.disconnect()
        result = transfer_check(cases.recipe.replace(steps=5), storage=url, workers=2, seeds=1, extend=0.0)
        assert {run.state for run in result.runs} == {"complete"}
