"""Results are plain data: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.files import decode, encode
from hptransfer.validation.records.results import Drift, LossGap, Optimum, Regret, SizePair, TransferResult
from hptransfer.validation.records.runs import Job, Run, read_runs

RUN = Run("mup", 64, None, 2**-7, 0, 10, 0.5, 0.4, ((1, 2.0), (10, 0.5)), False, 0.1, "complete", fingerprint="abc")
GONE = dataclasses.replace(RUN, lr=1.0, val_loss=math.inf, train_loss=math.inf, state="diverged", diverged=True)
FAILED = dataclasses.replace(GONE, lr=2.0, state="failed", diverged=False, error="RuntimeError: no\nreally")


def result(**changes) -> TransferResult:
    whole = TransferResult(
        recipe="x",
        scheme="mup",
        verdict="PASS",
        rule="a rule",
        reasons=("one", "two"),
        axis="width",
        sizes=(64, 128),
        lrs=(0.1, 0.2),
        seeds=(0, 1, 2),
        steps=10,
        base_size=None,
        optima=(Optimum("mup", 64, -7.0, -7.2, -6.8, 0.5, 0.4, 0.6, False, 3),),
        drifts=(Drift("mup", 0.1, -0.1, 0.3),),
        regrets=(Regret("sp", math.inf, math.inf, math.inf, 0.01),),
        loss_gaps=(LossGap(64, 0.0, -1.0, 1.0, 0.1, True),),
        larger_is_better=(SizePair("mup", 0.1, 64, 128, -0.1, -0.2, 0.0, True),),
        runs=(RUN, GONE, FAILED),
        plan={"rows": [1, 2]},
        coord=None,
        environment={"torch": "2", "cores": 2},
        command="hptransfer check x.py",
    )
    return dataclasses.replace(whole, **changes)


def test_json_round_trip_is_exact_and_strict_json():
    for value in (result(), result(coord={"a": [1.5]}, base_size=64)):
        text = json.dumps(value.to_json(), allow_nan=False)
        assert TransferResult.from_json(json.loads(text)) == value
    assert Run.from_line(FAILED.to_line()) == FAILED and "\n" not in FAILED.to_line()


def test_an_optimum_that_does_not_exist_survives_the_round_trip():
    none = Optimum("sp", 64, math.nan, math.nan, math.nan, math.inf, math.inf, math.inf, True, 3)
    back = decode(Optimum, json.loads(json.dumps(encode(none), allow_nan=False)))
    assert math.isnan(back.log2_lr) and back.loss == math.inf and back.at_edge is True


def test_save_and_load_keep_everything_and_saving_twice_adds_nothing(tmp_path):
    result().save(tmp_path / "new" / "dir")
    result().save(tmp_path / "new" / "dir")
    assert TransferResult.load(tmp_path / "new" / "dir") == result()
    assert len((tmp_path / "new" / "dir" / "runs.jsonl").read_text().splitlines()) == 3


def test_runs_of_other_sweeps_in_the_directory_are_not_taken_for_this_results(tmp_path):
    other = dataclasses.replace(RUN, fingerprint="other")
    (tmp_path / "runs.jsonl").write_text(other.to_line() + "\n")
    result().save(tmp_path)
    assert TransferResult.load(tmp_path).runs == result().runs


def test_a_cut_off_last_line_is_left_out_and_said(tmp_path):
    result().save(tmp_path)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write(RUN.to_line()[:40])
    loaded = TransferResult.load(tmp_path)
    assert loaded.runs == result().runs and "cut off" in loaded.notes[0]


def test_a_lost_run_is_said(tmp_path):
    result().save(tmp_path)
    (tmp_path / "runs.jsonl").write_text(RUN.to_line() + "\n")
    loaded = TransferResult.load(tmp_path)
    assert loaded.runs == (RUN,) and "2 of the 3 runs" in loaded.notes[0]


@pytest.mark.parametrize(
    "line", ["not json", "[1, 2]", '{"scheme": "mup"}', RUN.to_line().replace('"steps": 10', '"steps": "x"')]
)
def test_any_other_corrupt_line_is_an_error_with_file_and_line(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    path.write_text(RUN.to_line() + "\n" + line + "\n" + GONE.to_line() + "\n")
    with pytest.raises(UsageError, match=r"runs.jsonl, line 2: Not a run: .* Remove that line"):
        read_runs(path)


def test_another_schema_is_refused(tmp_path):
    with pytest.raises(UsageError, match="schema 99"):
        TransferResult.from_json({**result().to_json(), "schema": 99})
    (tmp_path / "runs.jsonl").write_text(RUN.to_line().replace('"schema": 1', '"schema": 7') + "\n")
    with pytest.raises(UsageError, match="Not a run of schema 1, which is what this version reads, but of schema 7"):
        read_runs(tmp_path / "runs.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No verdict.json"),
        ("{", "is not whole JSON"),
        ("[]", "Not a transfer result: a JSON object is needed"),
        ('{"schema": 1}', "a transfer result of schema 2"),
        ('{"schema": 2}', "lacks the field"),
    ],
)
def test_a_directory_without_a_result_is_a_usage_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        TransferResult.load(tmp_path)


def test_saving_where_nothing_can_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="writable directory"):
        result().save(tmp_path / "file")


def test_unknown_fields_are_ignored_and_missing_ones_with_a_default_filled():
    data = json.loads(RUN.to_line())
    del data["engine"]
    assert Run.from_line(json.dumps({**data, "from the future": 1})) == RUN


def test_the_key_tells_runs_apart_by_everything_that_decides_them():
    job = Job("mup", 64, None, 0.1, 0, 10, fingerprint="f")
    others = [{"scheme": "sp"}, {"width": 65}, {"depth": 1}, {"lr": 0.11}, {"seed": 1}, {"steps": 11}, {"batch": 2.0}]
    others += [{"tokens": 3.0}, {"fingerprint": "g"}]
    keys = {dataclasses.replace(job, **change).key for change in others}
    assert len(keys) == len(others) and job.key not in keys
    near = [{"lr": math.nextafter(0.1, 1)}, {"tokens": 1_000_001.0}, {"tokens": 1_000_002}, {"batch": 2**24 + 1}]
    assert len({dataclasses.replace(job, **change).key for change in [*near, {"batch": 2**24}, {}]}) == 6
    assert dataclasses.replace(job, tokens=3).key == dataclasses.replace(job, tokens=3.0).key
    assert RUN.job.key == RUN.key
