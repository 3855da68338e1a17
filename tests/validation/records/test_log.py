"""runs.jsonl: whole lines only, one writer at a time, and a full disk loses nothing that was finished."""

from __future__ import annotations

import os
import stat

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.validation.records import log
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.runs import read_runs
from tests.validation.records.test_results import FAILED, GONE, RUN


def test_runs_are_known_when_opened_again(tmp_path):
    with RunLog(tmp_path / "deep" / "out") as opened:
        opened.append(RUN)
        opened.append(FAILED)
    with RunLog(tmp_path / "deep" / "out") as again:
        assert again.known == {RUN.key: RUN, FAILED.key: FAILED} and again.notes == []


def test_a_cut_off_line_is_removed_before_the_next_one_is_added(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(RUN.to_line() + "\n" + GONE.to_line()[:50])
    with RunLog(tmp_path) as opened:
        assert list(opened.known) == [RUN.key] and "cut off" in opened.notes[0]
        opened.append(GONE)
    assert read_runs(path) == ([RUN, GONE], [])


def test_two_sweeps_cannot_write_to_one_directory(tmp_path):
    with RunLog(tmp_path), pytest.raises(UsageError, match="Another sweep is writing"):
        RunLog(tmp_path)
    RunLog(tmp_path).close()


def test_a_full_disk_keeps_the_finished_runs(tmp_path, monkeypatch):
    with RunLog(tmp_path) as opened:
        opened.append(RUN)
        real = os.write
        monkeypatch.setattr(log.os, "write", lambda descriptor, data: real(descriptor, data[:10]))
        with pytest.raises(UsageError, match=r"No space left.*1 runs finished so far are kept"):
            opened.append(GONE)
    assert read_runs(tmp_path / "runs.jsonl") == ([RUN], [])


@pytest.mark.parametrize("made", ["file", "file/below", "read-only"])
def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path, made):
    (tmp_path / "file").write_text("")
    (tmp_path / "read-only").mkdir()
    (tmp_path / "read-only").chmod(stat.S_IRUSR | stat.S_IXUSR)
    if made == "read-only" and os.access(tmp_path / made, os.W_OK):
        pytest.skip("this user may write to read-only directories")
    with pytest.raises(UsageError, match="writable directory"):
        RunLog(tmp_path / made)


def test_a_full_device_is_refused_at_once(tmp_path, monkeypatch):
    def full(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_probe", full)
    with pytest.raises(UsageError, match="No space left on device"):
        RunLog(tmp_path)
