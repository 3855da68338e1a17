"""A crash is no divergence: runs that fail are counted, named with their error, and never decide a verdict."""

from __future__ import annotations

import math
import os
import re
import sys

import pytest

from hptransfer.core.errors import MAX_TEXT, UsageError
from hptransfer.reporting.report.html import render_report
from hptransfer.reporting.words import table
from hptransfer.validation.records.tally import Tally
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.cases.validation import recipe

SMALL = recipe.replace(widths=(8, 16, 32), lrs=tuple(2.0**k for k in range(-8, -2)), steps=12, seeds=2)
OPTIONS = {"extend": 0.0, "workers": 1, "sampler": "grid"}


def width_of(model) -> int:
    return model[0].out_features


def crashing(how, *, where=lambda width, seed: width == 16):
    """The recipe with `how()` called in the loss of some widths and seeds of data."""

    def batches(scale, seed):
        for batch in cases.batches(scale, seed):
            yield (*batch, seed)

    def loss(model, batch):
        if len(batch) == 3 and where(width_of(model), batch[2]):
            how()
        return cases.loss(model, batch[:2])

    return SMALL.replace(loss=loss, batches=batches)


def raises(error):
    def how():
        raise error

    return how


class Strange(BaseException):
    """Neither an Exception nor an exit."""


class Unspeakable(Exception):
    """An error whose text cannot be had."""

    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize("scheme", ["mup", "sp"])
@pytest.mark.parametrize("width", [8, 16, 32])
def test_a_crash_at_one_width_is_inconclusive_and_says_what_was_raised(width, scheme):
    """At the base, in between and at the target, whichever scheme is checked."""
    broken = crashing(raises(RuntimeError("out of memory")), where=lambda w, seed: w == width)
    found = transfer_check(broken, scheme=scheme, **OPTIONS)
    assert found.verdict == "INCONCLUSIVE" and found.tally.failed > 0 and found.tally.diverged == 0
    assert any("out of memory" in reason for reason in found.reasons)
    assert found.optimum(scheme, width).missing == "failed"
    text, page = table(found), re.sub(r'href="data:[^"]*"', "", render_report(found))
    for shown in (text, page):
        assert f"{found.tally.failed} of {found.tally.total} runs failed" in shown and "out of memory" in shown
        assert "nan" not in shown.replace("finance", "") and "every run diverged" not in shown


def test_a_width_that_cannot_be_trained_is_found_by_its_probes_and_costs_no_grid(capsys):
    found = transfer_check(crashing(raises(RuntimeError("on fire"))), **OPTIONS)
    failed = [run for run in found.runs if run.state == "failed"]
    assert {run.width for run in failed} == {16} and len(failed) == 2 * 3  # three probes per scheme
    assert "No run could be made of mup at width=16, sp at width=16" in capsys.readouterr().err
    assert any("on fire" in note for note in found.notes)


@pytest.mark.parametrize(
    "how",
    [
        raises(SystemExit(0)),
        raises(SystemExit("bye")),
        lambda: sys.exit(),
        raises(Strange("odd")),
        raises(Unspeakable()),
        raises(MemoryError()),
        raises(GeneratorExit()),
    ],
)
def test_whatever_a_recipe_raises_is_a_failed_run(how):
    runs = run_sweep(crashing(how), widths=(8, 16), schemes=["sp"], seeds=1, workers=1)
    assert [run.state for run in runs] == ["complete"] * 6 + ["failed"] * 6
    assert all(run.error and math.isinf(run.val_loss) and not run.diverged for run in runs[6:])


@pytest.mark.parametrize("how", [raises(KeyboardInterrupt()), raises(SystemExit(0)), lambda: os._exit(0)])
def test_a_worker_that_a_recipe_ends_costs_its_run_only(how):
    """In a worker process an interrupt is the recipe's own, for the user's goes to the parent."""
    runs = run_sweep(crashing(how), widths=(8, 16), schemes=["sp"], seeds=1, workers=2)
    assert [run.state for run in runs] == ["complete"] * 6 + ["failed"] * 6


def test_an_interrupt_in_this_process_is_the_users():
    with pytest.raises(KeyboardInterrupt):
        run_sweep(crashing(raises(KeyboardInterrupt())), widths=(8, 16), schemes=["sp"], seeds=1, workers=1)


def test_a_crash_at_one_seed_only_leaves_no_curve_and_is_not_taken_for_a_divergence():
    broken = crashing(raises(OSError("disk")), where=lambda width, seed: width == 16 and seed == 1)
    found = transfer_check(broken, **OPTIONS)
    assert found.verdict == "INCONCLUSIVE" and found.optimum("mup", 16).missing == "failed"
    assert found.tally.failed == 2 * 6 and found.tally.complete == found.tally.total - 12


def test_a_crash_of_the_control_alone_leaves_the_comparison_open(monkeypatch):
    from hptransfer.validation.engines.trainer import Trainer

    real = Trainer.ready

    def ready(self, job):
        if job.scheme == "sp" and job.width == 32:
            raise RuntimeError("no control")
        return real(self, job)

    monkeypatch.setattr(Trainer, "ready", ready)
    found = transfer_check(SMALL, **OPTIONS)
    assert found.verdict != "FAIL" and math.isnan(found.loss_gaps[-1].mup_minus_sp) and not found.loss_gaps[-1].worse
    assert "unknown" in table(found) and "nan" not in table(found)


def test_nan_losses_are_divergences_whatever_fails_beside_them():
    def loss(model, batch):
        if width_of(model) == 32:
            raise RuntimeError("on fire")
        return cases.loss(model, batch) * (math.nan if width_of(model) == 16 else 1.0)

    found = transfer_check(SMALL.replace(loss=loss), **OPTIONS)
    assert found.optimum("mup", 16).missing == "diverged" and found.optimum("mup", 32).missing == "failed"
    assert found.verdict == "FAIL" and found.reasons[0] == "mup at width 16: every run diverged."
    assert not any("32" in reason and "diverged" in reason for reason in found.reasons)


def test_an_error_s_text_is_bounded_and_its_ends_are_kept():
    long = "head " + "x" * 100_000 + " tail"
    runs = run_sweep(crashing(raises(RuntimeError(long))), widths=(8, 16), schemes=["sp"], seeds=1, workers=1)
    error = runs[-1].error or ""
    assert len(error) < MAX_TEXT + 80 and error.startswith("RuntimeError: head") and "tail (test_crashes.py:" in error


@pytest.mark.parametrize("field", ["build", "batches", "validation"])
def test_a_recipe_that_exits_before_anything_runs_is_refused(field):
    def leave(*_):
        sys.exit(0)

    with pytest.raises(UsageError, match="SystemExit"):
        transfer_check(SMALL.replace(**{field: leave}), **OPTIONS)


def test_a_forward_that_exits_is_refused_as_the_plan_is_made():
    class Leaving(cases.nn.Linear):
        def forward(self, x):
            sys.exit(0)

    with pytest.raises(UsageError, match=r"ended the process|SystemExit"):
        transfer_check(SMALL.replace(build=lambda scale: Leaving(8, scale.width)), **OPTIONS)


def test_when_no_run_learned_anything_the_verdict_says_so():
    """The loss does not depend on the weights' direction: it is at its start whatever the rate."""
    idle = SMALL.replace(loss=lambda model, batch: cases.loss(model, batch) * 0 + 1.5, seeds=3)
    found = transfer_check(idle, **OPTIONS)
    assert found.verdict == "INCONCLUSIVE" and len(found.reasons) == 1
    assert "No run learned anything" in found.reasons[0] and "1.5" in found.reasons[0]
    learning = transfer_check(SMALL, **OPTIONS)
    assert not any("learned" in reason for reason in learning.reasons)


def test_a_tally_is_told_in_words_with_the_first_error_only_where_something_failed():
    assert str(Tally(complete=3)) == ""
    assert str(Tally(3, 2, 1)) == "2 of 6 runs diverged; 1 of 6 runs were pruned"
    assert str(Tally(3, 0, 0, 1, "mup: boom")) == "1 of 4 runs failed, first error: mup: boom"
