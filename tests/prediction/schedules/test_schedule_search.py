"""Facts about the schedule search: it differentiates the same law, and its answer is feasible and beats the usual."""

import numpy as np
import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.multi_power import MultiPowerLaw
from hptransfer.prediction.schedules.schedule import wsd
from hptransfer.prediction.schedules.schedule_search import final_loss_torch, optimise_schedule

LAW = MultiPowerLaw(3.0405, 0.5247, 0.5079, 363.8, 2.066, 0.5828, 0.6414)  # arXiv:2503.12811, 25M


def test_the_differentiable_law_is_the_law():
    lrs = 3e-4 * wsd(500, cooldown=0.4, final=0.1, warmup=30).factors
    assert float(final_loss_torch(LAW, torch.tensor(lrs))) == pytest.approx(LAW.final_loss(lrs), rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 200])
def test_the_found_schedule_never_rises_stays_above_the_floor_and_beats_every_usual_one(warmup):
    found = optimise_schedule(LAW, 6000, 3e-4, floor=0.1, warmup=warmup)
    after = found.schedule.factors[warmup:]
    assert found.schedule.steps == 6000
    assert np.all(np.diff(after) <= 1e-12)
    assert after[0] == pytest.approx(1.0) and after[-1] >= 0.1 - 1e-9
    assert found.loss <= min(found.rivals.values())
    assert found.loss == pytest.approx(LAW.final_loss(3e-4 * found.schedule.factors))


def test_no_single_change_of_the_found_schedule_improves_it_much():
    found = optimise_schedule(LAW, 3000, 3e-4, floor=0.1)
    rng = np.random.default_rng(0)
    for _ in range(40):
        start, stop = np.sort(rng.integers(0, 3000, size=2))
        moved = found.schedule.factors.copy()
        moved[start:stop] *= np.exp(rng.normal() * 0.1)
        moved = np.clip(np.minimum.accumulate(moved), 0.1, 1.0)  # back to feasible
        assert LAW.final_loss(3e-4 * moved) >= found.loss - 2e-5


def test_bad_requests_are_refused():
    for call in (
        lambda: optimise_schedule(LAW, 100, 1e-3, floor=0.0),
        lambda: optimise_schedule(LAW, 100, 0.0),
        lambda: optimise_schedule(LAW, 100, 1e-3, warmup=98),
    ):
        with pytest.raises(UsageError, match="optimise_schedule"):
            call()
