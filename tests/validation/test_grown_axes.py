"""Checks over batch and tokens: what a run sees, what the plan's rule does to its rate, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hptransfer.cli.command import main
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.reporting.report.html import render_report
from hptransfer.validation.axes import growth
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases

LRS = tuple(2.0**k for k in range(-8, 0))


def batches(scale: Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    (x, y), draw = cases.rows(0), torch.Generator().manual_seed(seed)
    while True:
        pick = torch.randint(cases.ROWS, (int(scale.batch or 16),), generator=draw)
        yield x[pick], y[pick]


SIZED = cases.recipe.replace(batches=batches, optimizer=torch.optim.SGD)


def test_batches_grow_at_the_base_s_tokens_and_tokens_at_its_batch():
    grown = growth(SIZED, batches=(64, 16))
    assert (grown.axis, grown.recipe.base) == ("batch", Scale(width=8, batch=16, tokens=320))
    assert [(s.batch, s.tokens) for s in grown.scales] == [(16, 320), (64, 320)]
    longer = growth(SIZED, tokens=(320, 1280), steps=40)
    assert [(s.batch, s.tokens) for s in longer.scales] == [(16, 320), (16, 1280)] and longer.recipe.base.tokens == 640
    assert growth(SIZED).recipe is SIZED and growth(SIZED).axis == "width"


def test_several_axes_grow_together():
    grown = growth(SIZED, widths=(8, 16), batches=(16, 32), tokens=(320, 640))
    assert grown.axis == "width"
    assert list(grown.scales) == [Scale(width=8, batch=16, tokens=320), Scale(width=16, batch=32, tokens=640)]


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (SIZED, {"widths": (8, 16), "depths": (2, 4)}, "not both"),
        (SIZED, {"widths": (8, 16), "batches": (16, 32, 64)}, "2 widths, 3 batches"),
        (cases.recipe, {"batches": (16, 64)}, "must use scale.batch"),
        (SIZED, {"tokens": (320, -1)}, "not a positive whole number"),
        (SIZED.replace(unit="tokens"), {"batches": (16, 64)}, "base.batch"),
        (SIZED.replace(batches=lambda scale, seed: iter(["text"])), {"tokens": (9, 99)}, "no tensor of examples"),
    ],
)
def test_what_cannot_grow_is_refused(recipe: Recipe, given, said):
    with pytest.raises(UsageError, match=said):
        growth(recipe, **given)


@pytest.fixture(scope="module")
def over_batches() -> TransferResult:
    chosen = {"batches": (16, 32, 64), "lrs": LRS, "seeds": 3, "sampler": "grid", "extend": 0.0, "workers": 1}
    return transfer_check(SIZED, **chosen)


def test_a_run_has_its_tokens_by_its_batch_as_steps(over_batches):
    assert {(run.batch, run.steps) for run in over_batches.runs} == {(16, 20), (32, 10), (64, 5)}
    assert (over_batches.axis, over_batches.sizes, over_batches.base_size) == ("batch", (16, 32, 64), 16)


def test_the_checked_scheme_carries_the_rule_and_the_control_does_not(over_batches):
    """Under SGD the rule is linear: a run of muP is that of SP at its rate times the ratio of the batches."""
    losses = {(run.scheme, run.batch, run.lr, run.seed): run.val_loss for run in over_batches.runs}
    shared = [
        (loss, losses["sp", batch, lr * batch / 16, seed])
        for (scheme, batch, lr, seed), loss in losses.items()
        if scheme == "mup" and ("sp", batch, lr * batch / 16, seed) in losses
    ]
    assert len(shared) > 40 and all(ours == theirs for ours, theirs in shared)
    assert any("from batch 16 to 64" in note and "+2.00 octaves" in note for note in over_batches.notes)
    drifts = {drift.scheme: drift.octaves for drift in over_batches.drifts}
    assert drifts["sp"] - drifts["mup"] == pytest.approx(2.0, abs=0.5)


def test_the_page_speaks_of_batches(over_batches):
    assert "What moves with batch" in render_report(over_batches)


def test_the_command_takes_the_axes_and_refuses_them_beside_a_forecast(tmp_path, capsys):
    path = tmp_path / "small.py"
    path.write_text("from tests.validation.test_grown_axes import SIZED as recipe\n")
    options = ["--lrs", "2^-8..2^-1", "--seeds", "3", "--workers", "1", "--out", str(tmp_path / "out"), "--no-coord"]
    assert main(["check", str(path), "--tokens", "160,640", *options]) in (0, 1, 3)
    assert "tokens" in capsys.readouterr().out
    result = TransferResult.load(tmp_path / "out")
    assert (result.axis, {run.steps for run in result.runs}) == ("tokens", {10, 40})
    assert main(["check", str(path), "--tokens", "160,640", "--against", "none.json", *options]) == 2
