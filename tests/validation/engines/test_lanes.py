"""Lanes make the loop's runs: same losses, same divergence, to rounding; and say so where they cannot."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from hptransfer.validation.engines import engine as engine_module
from hptransfer.validation.engines.engine import chosen_lanes, measure
from hptransfer.validation.engines.lanes import ELEMENTWISE, LanesUnsupported, train_lanes
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.grid import grid_of
from hptransfer.validation.sweep import run_sweep
from tests.cases import validation as cases
from tests.cases.validation import double, recipe

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD plain": (torch.optim.SGD, {}),
    "Adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    **{
        c.__name__: (c, {}) for c in sorted(ELEMENTWISE, key=lambda c: c.__name__) if c.__name__[:2] not in ("SG", "Ad")
    },
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}),
    "Adamax": (torch.optim.Adamax, {}),
    "Adadelta": (torch.optim.Adadelta, {}),
}


def both(given, scheme="mup", width=16):
    """(the loop's runs, the lanes' runs) of a grid of learning rates and seeds."""
    trainer = Trainer(given)
    jobs = grid_of(given, widths=[width], schemes=[scheme]).jobs("")
    return [trainer.run(job) for job in jobs], train_lanes(trainer, jobs)


def assert_same(loops, lanes, rel):
    for loop, lane in zip(loops, lanes, strict=True):
        assert (lane.job, lane.state, lane.engine) == (loop.job, loop.state, "lanes")
        assert lane.val_loss == pytest.approx(loop.val_loss, rel=rel)
        assert lane.train_loss == pytest.approx(loop.train_loss, rel=rel)
        assert [v for _, v in lane.curve] == pytest.approx([v for _, v in loop.curve], rel=rel)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_elementwise_optimizer_is_the_loops_run_in_float64(name):
    optimizer, options = OPTIMIZERS[name]
    given = double.replace(optimizer=optimizer, optimizer_options=options)
    assert_same(*both(given), rel=1e-10)


def test_clipping_accumulation_and_decay_filters_are_the_loops():
    given = double.replace(
        optimizer=torch.optim.AdamW,
        optimizer_options={"weight_decay": 0.1},
        accumulate=2,
        clip_norm=0.02,
        decays=lambda name, parameter: parameter.dim() > 1,
    )
    assert_same(*both(given), rel=1e-9)
    loops, _ = both(given)
    unclipped, _ = both(given.replace(clip_norm=None))
    assert any(a.val_loss != b.val_loss for a, b in zip(loops, unclipped, strict=True)), "the case must clip"


def test_single_precision_and_the_control():
    assert_same(*both(recipe, scheme="sp"), rel=1e-4)


def test_a_lane_that_diverges_leaves_the_others_alone():
    given = double.replace(optimizer=torch.optim.SGD, optimizer_options={"momentum": 0.9}, lrs=(0.01, 0.1, 50.0))
    loops, lanes = both(given.replace(steps=60))
    assert {run.state for run in lanes if run.lr == 50.0} == {"diverged"}
    assert_same([r for r in loops if r.lr < 1], [r for r in lanes if r.lr < 1], rel=1e-10)
    assert_same([r for r in loops if r.lr > 1], [r for r in lanes if r.lr > 1], rel=1e-6)


def test_autocast_is_left_to_the_loop():
    with pytest.raises(LanesUnsupported, match="bfloat16"):
        both(recipe.replace(autocast=torch.bfloat16))


class Normed(nn.Module):
    """BatchNorm (its buffers change as it trains), tied layers, and a frozen bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.norm, self.middle = nn.Linear(cases.INPUTS, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.again.weight = self.middle.weight
        self.again.bias.requires_grad_(False)
        self.down = nn.Linear(width, 1)

    def forward(self, x):
        h = self.norm(self.up(x)).relu()
        return self.down(self.again(self.middle(h).relu()))


def test_buffers_tied_and_frozen_parameters():
    given = double.replace(build=lambda scale: Normed(scale.width or 8).double())
    assert_same(*both(given, scheme="sp"), rel=1e-9)


def test_nested_batches_with_parts_that_are_no_tensors():
    given = double.replace(
        batches=lambda scale, seed: ({"in": [x], "out": y, "tag": "t"} for x, y in double.batches(scale, seed)),
        validation=lambda: [{"in": [x], "out": y, "tag": "t"} for x, y in double.validation()],
        loss=lambda model, batch: cases.loss(model, (batch["in"][0], batch["out"])),
    )
    assert_same(*both(given), rel=1e-10)


def dropout(scale):
    return nn.Sequential(cases.build(scale), nn.Dropout(0.5))


def branching(model, batch):
    loss = cases.loss(model, batch)
    return loss if loss > 0 else -loss


class Mine(torch.optim.Adam):
    """Not known to step elementwise."""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"build": dropout}, "random"),
        ({"loss": branching}, "data-dependent|vmap"),
        ({"optimizer": Mine}, "Mine is not known to step elementwise"),
    ],
)
def test_what_cannot_be_batched_falls_back_to_the_loop_and_says_so(changes, reason, capfd):
    given = recipe.replace(**changes)
    trainer, jobs = Trainer(given), grid_of(given, schemes=["sp"]).jobs("")
    with pytest.raises(LanesUnsupported, match=reason):
        train_lanes(trainer, jobs[:6])
    lanes = chosen_lanes(trainer, jobs, engine="lanes", workers=1)
    assert not lanes.at and len(lanes.notes) == 2
    runs = run_sweep(given, schemes=["sp"], engine="lanes", workers=1)
    assert {run.engine for run in runs} == {"loop"} and all(run.finished for run in runs)
    assert "one by one, not in lanes" in capfd.readouterr().err


def test_an_operation_without_a_batching_rule_is_still_the_same_run():
    """Attention on CPU has none; torch then runs it lane by lane."""

    def attend(model, batch):
        x, y = batch
        h = model[0](x)[None, None]
        return (model[2](nn.functional.scaled_dot_product_attention(h, h, h)[0, 0]) - y).square().mean()

    assert_same(*both(recipe.replace(loss=attend), scheme="sp"), rel=1e-4)


def test_lanes_on_processes_are_the_loops_runs():
    loops, lanes = (run_sweep(double, engine=e, workers=2) for e in ("loop", "lanes"))
    assert_same(loops, lanes, rel=1e-10)


def test_on_cpu_the_loop_is_chosen_and_on_an_accelerator_what_is_faster(monkeypatch):
    trainer, jobs = Trainer(recipe), grid_of(recipe).jobs("")
    assert not chosen_lanes(trainer, jobs, engine="auto", workers=1).at
    monkeypatch.setattr(trainer, "device", "elsewhere")
    for lanes_seconds, size in ((0.1, {6}), (2.0, set())):
        probe = partial(engine_module.Probe, 1.0, lanes_seconds, 64, None)
        monkeypatch.setattr(engine_module, "measure", lambda *_, probe=probe: probe())
        assert set(chosen_lanes(trainer, jobs, engine="auto", workers=2).at.values()) == size


def test_the_probe_measures_both_engines_and_finds_them_equal():
    probe = measure(Trainer(recipe), grid_of(recipe).jobs(""))
    assert probe.reason is None and probe.lanes == 6
    assert 0 < probe.lanes_seconds < math.inf and 0 < probe.loop_seconds < math.inf


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_lanes_loop_and_cpu_agree():
    here = run_sweep(double, workers=1, device="cpu")
    for engine in ("loop", "lanes"):
        there = run_sweep(double, workers=1, device="cuda", engine=engine)
        assert [run.val_loss for run in there] == pytest.approx([run.val_loss for run in here], rel=1e-6)
