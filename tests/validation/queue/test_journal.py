"""The journal in a file: whole lines only, whatever kills its writers or fills its disk; servers are waited for."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError, ProgrammingError

from hptransfer.core.errors import UsageError
from hptransfer.validation.queue import lease
from hptransfer.validation.queue.drain import Drain
from hptransfer.validation.queue.jobs import open_queue
from hptransfer.validation.queue.journal import open_journal
from hptransfer.validation.queue.lease import HOLDER, RETRY, Watch
from hptransfer.validation.queue.patience import Patient, is_away
from hptransfer.validation.queue.queue import KEY, Item, TrialQueue
from hptransfer.validation.queue.storage import journal_url, open_storage
from tests.validation.records.test_results import RUN

SAMPLER = optuna.samplers.RandomSampler(seed=0)


def queue_in(directory: Path) -> TrialQueue:
    return open_queue(journal_url(directory), "q", {"kind": "test"}, SAMPLER)


def items(count: int) -> list[Item]:
    return [Item(f"key {i}", {"lr": 0.1}) for i in range(count)]


@pytest.mark.parametrize("rest", [b'{"op_code": 4, "worker', b"{", b"\0\0\0"])
def test_a_line_that_was_cut_off_is_removed_and_everything_else_kept(tmp_path, rest):
    queue = queue_in(tmp_path)
    queue.add(items(3))
    path = tmp_path / "trials.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    queue_in(tmp_path).add(items(4))
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line)["worker_id"] for line in path.read_bytes().splitlines())
    assert [t.user_attrs[KEY] for t in queue_in(tmp_path).trials()] == [f"key {i}" for i in range(4)]


def test_a_full_disk_is_named_and_leaves_no_half_line(tmp_path, monkeypatch):
    queue = queue_in(tmp_path)
    queue.add(items(1))
    whole = (tmp_path / "trials.journal").read_bytes()

    class Full:
        def __init__(self, path: Path, *_: object, **__: object) -> None:
            self.path = path

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, text: bytes) -> int:
            with self.path.open("ab") as file:
                file.write(text[:5])
            return 5

    original = open
    monkeypatch.setattr(
        "hptransfer.validation.queue.journal.open",
        lambda path, mode, **more: Full(Path(path)) if mode == "ab" else original(path, mode, **more),
        raising=False,
    )
    with pytest.raises(UsageError, match=r"Cannot write to .*trials.journal: No space left.*make room"):
        queue.add(items(2))
    assert (tmp_path / "trials.journal").read_bytes() == whole


def test_a_link_is_not_written_through_and_a_foreign_file_is_left_alone(tmp_path):
    for text in ("not a journal\n", "not a journal", '{"a": 1}\n', "[1]\n[2]\n", "\0"):
        (tmp_path / "mine").write_text(text)
        with pytest.raises(UsageError, match="is not a journal of trials"):
            open_journal(tmp_path / "mine")
        assert (tmp_path / "mine").read_text() == text
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        open_journal(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def _add_forever(directory: Path) -> None:
    queue, number = queue_in(directory), 0
    while True:
        queue.add([Item(f"{os.getpid()} {number}", {"lr": 0.1})])
        number += 1


def test_writers_killed_at_any_moment_hold_no_lock_and_break_no_line(tmp_path):
    queue_in(tmp_path)
    context = multiprocessing.get_context("fork")
    for delay in (0.05, 0.11, 0.17, 0.23):
        process = context.Process(target=_add_forever, args=(tmp_path,))
        process.start()
        time.sleep(0.3 + delay)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        began = time.monotonic()
        queue_in(tmp_path).add([Item(f"after {delay}", {"lr": 0.1})])
        assert time.monotonic() - began < 10  # Optuna's own lock file would stand for 30 s
    keys = [t.user_attrs[KEY] for t in queue_in(tmp_path).trials()]
    assert len(keys) == len(set(keys)) and sum(key.startswith("after") for key in keys) == 4


def test_a_retry_is_enqueued_before_the_failure_is_told(tmp_path, monkeypatch):
    """A process that dies between the two leaves the trial to be settled again, and it is asked for once."""
    queue = queue_in(tmp_path)
    queue.add(items(1))
    trial = queue.claim()
    assert trial is not None
    trial.set_user_attr(HOLDER, {**lease.holder(), "started": "1"})

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(queue.study, "tell", killed)
        queue.recover()
    assert [(t.state.name, t.user_attrs.get(RETRY)) for t in queue.trials()] == [("RUNNING", None), ("WAITING", 1)]
    for other in (queue_in(tmp_path), queue):
        other.recover()
    assert [(t.state.name, t.user_attrs.get(RETRY)) for t in queue.trials()] == [("FAIL", None), ("WAITING", 1)]
    assert Drain(queue, lambda trials: [[RUN] for _ in trials]).all() == 1


def _claim_and_wait(directory: Path) -> None:
    queue = queue_in(directory)
    trial = queue.claim()
    assert trial is not None
    queue.work([trial], lambda _: time.sleep(1000) or [])


def test_a_stopped_process_loses_its_trial_on_the_same_machine_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    queue = queue_in(tmp_path)
    queue.add(items(1))
    process = multiprocessing.get_context("fork").Process(target=_claim_and_wait, args=(tmp_path,))
    process.start()
    queue.watch = Watch(grace=2.0)
    try:
        until = time.monotonic() + 60
        while not queue.trials((TrialState.RUNNING,)):
            assert time.monotonic() < until
            time.sleep(0.05)
        for _ in range(6):
            time.sleep(0.5)
            queue.recover()
        assert [t.state for t in queue.trials()] == [TrialState.RUNNING]  # it is slow, and beats
        os.kill(process.pid or 0, signal.SIGSTOP)
        while [t.state for t in queue.trials()] == [TrialState.RUNNING]:
            assert time.monotonic() < until
            time.sleep(0.5)
            queue.recover()
        assert [t.state.name for t in queue.trials()] == ["FAIL", "WAITING"]
    finally:
        process.kill()
        process.join()


class Flaky(InMemoryStorage):
    """A storage whose server is away for the next `away` calls."""

    away = 0

    def get_all_studies(self):
        if self.away > 0:
            self.away -= 1
            raise StorageInternalError("lost") from OperationalError("select", {}, Exception("server closed"))
        return super().get_all_studies()


def test_a_server_that_is_away_is_waited_for_and_then_given_up():
    inner = Flaky()
    inner.away = 3
    assert Patient(inner, seconds=10).get_all_studies() == [] and inner.away == 0
    inner.away = 1000
    began = time.monotonic()
    with pytest.raises(StorageInternalError):
        Patient(inner, seconds=1).get_all_studies()
    assert time.monotonic() - began < 5


def test_a_call_that_is_wrong_is_not_repeated():
    assert not is_away(ProgrammingError("select", {}, Exception("no such table")))
    assert not is_away(StorageInternalError("full")) and not is_away(KeyError("x"))
    with pytest.raises(KeyError):
        Patient(InMemoryStorage()).get_study_id_from_name("nothing")


def test_a_directory_is_the_journal_of_its_check(tmp_path):
    queue_in(tmp_path).add(items(2))
    assert [study.study_name for study in open_storage(str(tmp_path)).get_all_studies()] == ["q"]


def test_a_claim_costs_the_same_however_many_wait(tmp_path):
    """Calls of the storage per trial do not grow with the trials that wait: the list is read once for many claims."""
    counts = []
    for number, waiting in enumerate((20, 400)):
        queue = queue_in(tmp_path / str(number))
        queue.add(items(waiting))
        listed = 0
        original = queue.study.get_trials

        def counted(*args: object, original=original, **more: object):
            nonlocal listed
            listed += 1
            return original(*args, **more)

        queue.study.get_trials = counted
        for _ in range(20):
            assert queue.claim() is not None
        counts.append(listed)
    assert counts == [1, 1]
