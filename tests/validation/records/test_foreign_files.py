"""What lies in the output directory and is not ours is never cut, overwritten or deleted; names stay inside it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from hptransfer.cli.arguments import output_directory
from hptransfer.core.errors import UsageError
from hptransfer.core.files import write_whole
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.runs import read_runs
from tests.cases.validation import recipe
from tests.validation.records.test_results import GONE, RUN, result


@pytest.mark.parametrize("text", ["precious", "precious\nlines", RUN.to_line() + "\nprecious", '{"schema": 1, "name'])
def test_a_foreign_file_is_left_alone(tmp_path, text):
    path = tmp_path / "runs.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError):
        RunLog(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("cut", [1, 5, 12, 20, 24, 60])
def test_a_line_of_ours_is_known_wherever_it_was_cut(tmp_path, cut):
    path = tmp_path / "runs.jsonl"
    path.write_text(RUN.to_line() + "\n" + GONE.to_line()[:cut])
    with RunLog(tmp_path) as opened:
        opened.append(GONE)
    assert read_runs(path) == ([RUN, GONE], [])


@pytest.mark.parametrize("text", ["", "precious", RUN.to_line()[:40], RUN.to_line() + "\n"])
def test_a_link_is_not_followed(tmp_path, text):
    target = tmp_path / "elsewhere"
    target.write_text(text)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs.jsonl").symlink_to(target)
    for write in (lambda: RunLog(tmp_path / "out"), lambda: result().save(tmp_path / "out")):
        with pytest.raises(UsageError, match="link or no regular file"):
            write()
        assert target.read_text() == text
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "runs.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="link or no regular file"):
        RunLog(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "runs.jsonl")
    with pytest.raises(UsageError, match="no regular file"):
        RunLog(tmp_path)


def test_whole_files_replace_links_and_leave_what_they_lead_to(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    target = tmp_path / "verdict.json"
    for link in (target, tmp_path / f"verdict.json.{os.getpid()}.partial"):
        link.symlink_to(precious)
    write_whole(target, "new")
    assert target.read_text() == "new" and not target.is_symlink() and precious.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious", "verdict.json"]


def arguments(out=None) -> argparse.Namespace:
    return argparse.Namespace(out=out, quick=False)


@pytest.mark.parametrize(
    "name", ["../up", "/abs", "a/b", "..", ".", "", "a\\b", "C:\\x", "..\\up", "a\0b", "a\nb", " ", "x/../../y", "a/"]
)
def test_a_recipes_name_cannot_leave_the_output_directory(name, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    with pytest.raises(UsageError, match="cannot name a folder"):
        output_directory(arguments(), recipe.replace(name=name))
    assert [p.name for p in tmp_path.rglob("*")] == ["deep"]
    assert output_directory(arguments("chosen"), recipe.replace(name=name)) == Path("chosen")


def test_trying_a_directory_deletes_nothing_in_it(tmp_path):
    (tmp_path / ".write-test").write_text("mine")
    (tmp_path / f".probe-{os.getpid()}").write_text("mine")
    output_directory(arguments(str(tmp_path)), recipe)
    RunLog(tmp_path).close()
    assert {p.name for p in tmp_path.iterdir()} == {".write-test", f".probe-{os.getpid()}", "runs.jsonl"}
    assert (tmp_path / ".write-test").read_text() == "mine"
