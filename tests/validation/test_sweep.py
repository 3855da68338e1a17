"""Sweeps: paired runs, the same whatever makes them, kept when killed, clear when they cannot be made."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from hptransfer.checks.proxy import Proxies
from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Scale, load_recipe
from hptransfer.parametrization.options import Options
from hptransfer.validation.engines.process import process_context, usable_cores
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.queue import team
from hptransfer.validation.records.runs import read_runs
from hptransfer.validation.sweep import run_sweep
from tests.cases import validation as cases
from tests.cases.validation import recipe

ROOT = Path(__file__).parents[2]


def outcome(runs):
    """Everything about runs but how long they took."""
    return [dataclasses.replace(run, seconds=0.0) for run in runs]


def test_a_run_is_what_one_would_write_by_hand():
    (run,) = run_sweep(recipe, widths=[16], lrs=[0.01], seeds=[3], schemes=["sp"], workers=1)
    torch.manual_seed(3)
    model = recipe.build(Scale(width=16))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    result = train(recipe, model, optimizer, scale=Scale(width=16), seed=3)
    assert (run.val_loss, run.curve, run.train_loss) == (result.val_loss, result.curve, result.train_loss)
    assert (run.scheme, run.width, run.lr, run.seed, run.steps, run.state) == ("sp", 16, 0.01, 3, 20, "complete")


def test_at_the_base_width_mup_is_plain_torch_and_elsewhere_it_is_not():
    runs = run_sweep(recipe, widths=[8, 16], lrs=[0.01], seeds=1, workers=1)
    by = {(run.scheme, run.width): run.val_loss for run in runs}
    assert by["mup", 8] == by["sp", 8] and by["mup", 16] != by["sp", 16]


def test_processes_make_the_same_runs_in_the_same_order_bit_for_bit():
    alone = run_sweep(recipe, workers=1)
    assert outcome(run_sweep(recipe, workers=2)) == outcome(alone)
    assert [(r.scheme, r.width, r.lr, r.seed) for r in alone][:3] == [
        ("mup", 8, 2**-8, 0),
        ("mup", 8, 2**-8, 1),
        ("mup", 8, 2**-6, 0),
    ]


def test_a_spawned_worker_rebuilds_a_changed_recipe_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from tests.cases.validation import recipe as known\n"
        "recipe = known.replace(name='mine', example_inputs=lambda: known.example_inputs())\n"
    )
    mine = load_recipe(str(tmp_path / "mine.py")).replace(steps=5)
    alone = run_sweep(mine, schemes=["sp"], seeds=1, workers=1)
    monkeypatch.setattr(team, "process_context", lambda device: process_context(device, "spawn"))
    assert outcome(run_sweep(mine, schemes=["sp"], seeds=1, workers=2)) == outcome(alone)


@pytest.mark.parametrize(
    ("device", "sees_cuda", "method"), [("cpu", False, "fork"), ("cpu", True, "spawn"), ("cuda", True, "spawn")]
)
def test_nothing_is_forked_where_an_accelerator_is_in_sight(device, sees_cuda, method, monkeypatch):
    if method == "fork" and "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform cannot fork")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_cuda)
    assert process_context(device).get_start_method() == method


def test_a_recipe_that_cannot_be_sent_to_spawned_workers_says_what_to_do(monkeypatch):
    local = recipe.replace(loss=lambda model, batch: cases.loss(model, batch))
    monkeypatch.setattr(team, "process_context", lambda device: process_context(device, "spawn"))
    with pytest.raises(UsageError, match=r"cannot be sent to worker processes.*Put it in a file"):
        run_sweep(local, workers=2)


def test_a_rerun_trains_nothing_again(tmp_path, monkeypatch):
    first = run_sweep(recipe, seeds=1, workers=1, out=tmp_path)
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("a finished run was made again"))
    assert run_sweep(recipe, seeds=1, workers=1, out=tmp_path) == first
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(first)


def test_other_settings_are_other_runs(tmp_path):
    run_sweep(recipe, seeds=1, workers=1, out=tmp_path)
    before = len(read_runs(tmp_path / "runs.jsonl")[0])
    for changes in ({"steps": 5}, {"optimizer_options": {"betas": (0.5, 0.9)}}):
        run_sweep(recipe.replace(**changes), seeds=1, workers=1, out=tmp_path)
    assert len(read_runs(tmp_path / "runs.jsonl")[0]) == 3 * before


def fails_at(lr: float, error: Exception):
    """The recipe, with an error in every run at one learning rate."""

    def build_optimizer(groups, **options):
        if any(math.isclose(group["lr"], lr) for group in groups):
            raise error
        return torch.optim.Adam(groups, **options)

    class Adam(torch.optim.Adam):
        def __new__(cls, groups, **options):
            return build_optimizer(groups, **options)

    return recipe.replace(optimizer=Adam)


def test_a_run_that_raises_is_kept_as_failed_and_the_others_go_on(tmp_path):
    runs = run_sweep(fails_at(2**-6, RuntimeError("on\nfire")), schemes=["sp"], workers=2, out=tmp_path)
    states = {lr: {run.state for run in runs if run.lr == lr} for lr in recipe.lrs}
    assert states == {2**-8: {"complete"}, 2**-6: {"failed"}, 2**-4: {"complete"}}
    error = next(run.error for run in runs if run.state == "failed")
    assert error is not None and error.startswith("RuntimeError: on fire (test_sweep.py:")
    assert len(read_runs(tmp_path / "runs.jsonl")[0]) == len(runs)


def test_a_failed_run_is_tried_again(tmp_path):
    broken = recipe.replace(steps=3)
    run_sweep(broken, schemes=["sp"], seeds=1, workers=1, out=tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    data = json.loads(lines[0]) | {"state": "failed", "error": "cosmic ray", "val_loss": "inf"}
    (tmp_path / "runs.jsonl").write_text("\n".join([json.dumps(data), *lines[1:]]) + "\n")
    runs = run_sweep(broken, schemes=["sp"], seeds=1, workers=1, out=tmp_path)
    assert {run.state for run in runs} == {"complete"} and len(read_runs(tmp_path / "runs.jsonl")[0]) == len(lines) + 1


def test_when_every_run_fails_the_sweep_ends_in_one_clear_line_and_keeps_the_errors(tmp_path):
    with pytest.raises(UsageError) as caught:
        run_sweep(recipe.replace(loss=cases.raising_loss), workers=1, seeds=1, out=tmp_path)
    assert str(caught.value).startswith(
        "All 12 runs failed; the first (mup width 8 lr 0.003906 seed 0): RuntimeError: "
    )
    assert "the data are on fire (validation.py:" in str(caught.value) and "\n" not in str(caught.value)
    assert {run.state for run in read_runs(tmp_path / "runs.jsonl")[0]} == {"failed"}


def test_nan_everywhere_is_diverged_not_failed():
    runs = run_sweep(recipe.replace(loss=cases.nan_loss), workers=1, seeds=1)
    assert {(run.state, run.val_loss, run.diverged) for run in runs} == {("diverged", math.inf, True)}


def test_a_data_loader_has_its_own_workers_inside_a_worker(tmp_path):
    grid = {"widths": [8], "lrs": [2**-6, 2**-4], "seeds": 1, "schemes": ["mup"]}
    runs = run_sweep(recipe.replace(batches=cases.loaded, steps=3), workers=2, **grid)
    assert [run.state for run in runs] == ["complete"] * 2, [run.error for run in runs]


def test_a_worker_that_is_killed_costs_its_run_only():
    def suicidal(model, batch):
        if next(model.parameters()).shape[0] == 16 and batch[0].shape[0] == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        return cases.loss(model, batch)

    runs = run_sweep(recipe.replace(loss=suicidal), schemes=["sp"], seeds=1, workers=2)
    assert [run.state for run in runs] == ["complete"] * 3 + ["failed"] * 3
    assert "signal 9" in (runs[-1].error or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"engine": "magic"}, "engine='magic': use 'auto', 'loop' or 'lanes'"),
        ({"device": "warp"}, "device='warp'"),
        ({"widths": [8, -1]}, "-1 is not a positive whole number"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained"))
    with pytest.raises(UsageError, match=message):
        run_sweep(recipe, **options)


def test_a_width_the_recipe_cannot_be_built_at_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained"))

    def build(scale):
        if (scale.width or 8) % 8:
            raise ValueError(f"embed_dim {scale.width} must be divisible by num_heads 8")
        return cases.build(scale)

    for scheme in ("mup", "sp"):
        with pytest.raises(
            UsageError, match=r"cannot be built at width=12: ValueError: embed_dim 12 must be divisible"
        ):
            run_sweep(recipe.replace(build=build), widths=[8, 12], schemes=[scheme], workers=1)


def test_an_out_directory_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Give a writable directory as out"):
        run_sweep(recipe, workers=1, out=tmp_path / "file")


def test_a_disk_that_fills_up_keeps_what_was_finished(tmp_path, monkeypatch):
    real, count = os.write, []

    def write(descriptor, data):
        count.append(data)
        return real(descriptor, data if len(count) <= 4 else data[:7])

    monkeypatch.setattr("hptransfer.validation.records.log.os.write", write)
    with pytest.raises(UsageError, match=r"No space left on device. The 4 runs finished so far are kept"):
        run_sweep(recipe, workers=1, out=tmp_path)
    monkeypatch.undo()
    assert len(read_runs(tmp_path / "runs.jsonl")[0]) == 4
    assert len(run_sweep(recipe, workers=1, out=tmp_path)) == 24


def test_progress_stays_silent_where_stderr_is_no_terminal(capfd):
    run_sweep(recipe, workers=2, seeds=1)
    assert capfd.readouterr() == ("", "")


def test_cores_are_at_least_one():
    assert usable_cores() >= 1


SLOW_SWEEP = """
    import sys, time
    from hptransfer.validation.sweep import run_sweep
    from tests.cases import validation as cases

    def slow(model, batch):
        time.sleep(0.01)
        return cases.loss(model, batch)

    runs = run_sweep(cases.recipe.replace(loss=slow), workers=2, out=sys.argv[1])
    print(len(runs))
"""


def test_killed_in_the_middle_and_rerun_loses_no_finished_run_and_repeats_none(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SLOW_SWEEP))
    path = tmp_path / "out" / "runs.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("\n") >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = read_runs(path)[0]
    assert 4 <= len(finished) < 24
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "24\n", done.stderr
    runs, notes = read_runs(path)
    assert notes == [] and runs[: len(finished)] == finished
    assert len(runs) == len({run.key for run in runs}) == 24


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SLOW_SWEEP).replace("0.01", "30"))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while len(children := _children(process.pid)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_unit_forward_is_measured_on_a_training_batch_as_example_inputs_are_zeros():
    options = {"plan_options": {"options": Options(forward="unit")}}
    runs = run_sweep(recipe, widths=(8, 16), lrs=(2**-6,), seeds=1, steps=2, schemes=("umup",), workers=1, **options)
    assert [run.state for run in runs] == ["complete"] * 2
    plan = Proxies(recipe, scheme="umup", lr=0.1, options=Options(forward="unit")).plan(16)
    assert any("unit forward" in note for note in plan.notes)


def test_a_unit_forward_needs_a_loss_that_calls_the_model_one_way():
    mixed = recipe.replace(loss=lambda model, batch: torch.ones(()))
    with pytest.raises(UsageError, match="0 positional and 0 keyword arguments"):
        Proxies(mixed, scheme="umup", lr=0.1, options=Options(forward="unit")).plan(16)
