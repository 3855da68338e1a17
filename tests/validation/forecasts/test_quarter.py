"""The quarter start: a paused run is the same run, the best rate is found, and what cannot rank is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hptransfer import Recipe, Scale, UsageError
from hptransfer.core.training.loop import train
from hptransfer.core.training.paused import PausedRun
from hptransfer.validation.forecasts.predict import predict
from hptransfer.validation.forecasts.quarter import SHIFT, learned_shift, quarter_start


def build(scale: Scale) -> nn.Module:
    return nn.Sequential(nn.Linear(8, scale.width or 8), nn.Dropout(0.1), nn.Linear(scale.width or 8, 1))


def batches(scale: Scale, seed: int):
    draw = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(8, 8, generator=draw)
        yield x, x[:, :1] - x[:, 1:2] + 0.3 * torch.randn(8, 1, generator=draw)


def loss(model: nn.Module, batch) -> torch.Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def validation():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(9))
    return [(x, x[:, :1] - x[:, 1:2])]


RECIPE = Recipe(
    build=build, batches=batches, loss=loss, validation=validation, example_inputs=lambda: (torch.zeros(2, 8),),
    base=Scale(width=8), name="line", optimizer=torch.optim.Adam, steps=200, lrs=tuple(2.0**k for k in range(-9, -2)),
)  # fmt: skip


def run_of(seed: int):
    torch.manual_seed(seed)
    model = build(RECIPE.base)
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


@pytest.mark.parametrize("stops", [(200,), (50, 200), (1, 2, 77, 500)])
def test_a_run_in_parts_is_the_run_in_one(stops: tuple[int, ...]) -> None:
    """Weights, losses and dropout's draws are those of train(), with another run's draws between the parts."""
    model, optimizer = run_of(3)
    whole = train(RECIPE, model, optimizer, scale=RECIPE.base, seed=5)
    again, optimizer = run_of(3)
    paused = PausedRun(RECIPE, again, optimizer, scale=RECIPE.base, seed=5)
    for stop in stops:
        torch.rand(7)
        paused.advance(stop)
    assert len(paused.losses) == 200 and paused.validation_loss() == whole.val_loss
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert paused.recent_loss() == pytest.approx(whole.train_loss)


def test_a_part_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model, optimizer = build(RECIPE.base), None
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    PausedRun(RECIPE, model, optimizer, scale=RECIPE.base, seed=1).advance(5)
    assert torch.equal(torch.rand(3), expected)


def test_the_best_rate_is_that_of_full_runs_within_an_octave() -> None:
    found = quarter_start(RECIPE, shift=0.0)
    full = {}
    for octave in range(-9, -1):
        model, _ = run_of(0)
        optimizer = torch.optim.Adam(model.parameters(), lr=2.0**octave)
        full[octave] = train(RECIPE, model, optimizer, scale=RECIPE.base, seed=0).val_loss
    best = min(full, key=lambda k: full[k])
    assert abs(found.optimum - best) <= 1.0 and found.runs < len(full)
    ends = dict(found.end)
    low = min(ends, key=lambda k: ends[k])
    assert {low - 1, low + 1} <= set(ends), "the best rate has neighbours on both sides"
    rate = found.prediction()
    assert rate.low is not None and rate.high is not None and rate.low < rate.value < rate.high


@pytest.mark.parametrize("lrs", [(2**-11, 2**-10), (2.0, 4.0)])
def test_a_grid_beside_the_best_rate_is_widened_to_it(lrs: tuple[float, ...]) -> None:
    found = quarter_start(RECIPE, lrs=lrs)
    assert min(x for x, _ in found.quarter) < found.guess < max(x for x, _ in found.quarter)
    assert -8 < found.optimum < 0


def test_what_cannot_rank_rates_is_refused() -> None:
    with pytest.raises(UsageError, match="A quarter of 199 steps is under 50"):
        quarter_start(RECIPE.replace(steps=199))
    with pytest.raises(UsageError, match="names no learning rates"):
        quarter_start(RECIPE.replace(lrs=()))
    with pytest.raises(UsageError, match="still falls at an end"):
        quarter_start(RECIPE, lrs=(2**-40, 2**-39))


def test_the_shift_is_learnt_from_ones_own_pairs() -> None:
    assert learned_shift([]) == pytest.approx(SHIFT)
    assert learned_shift([0.1, 0.2, 0.3]) == pytest.approx((3 * SHIFT + 0.6) / 6)
    assert abs(learned_shift([0.4] * 300) - 0.4) < 0.02


def test_predict_starts_by_a_quarter_where_that_is_long_enough_and_says_so() -> None:
    told: list[str] = []
    made = predict(RECIPE, target=Scale(width=16), diagnostics=False, progress=told.append)
    assert "quarter start" in str(made) and any("a quarter, 50 steps" in line for line in told)
    assert made.base_curve and all(math.isfinite(y) for _, y in made.base_curve)
    short = predict(
        RECIPE.replace(steps=20, lrs=tuple(2.0**k for k in range(-6, 3))),
        target=Scale(width=16),
        diagnostics=False,
        seeds=1,
        workers=1,
    )
    assert "sweep optimum" in str(short)
    for options, words in (
        ({"start": "given"}, "lr=None"),
        ({"start": "quarter", "lr": 0.1}, "only that needs lr"),
        ({"start": "x"}, "use one of"),
    ):
        with pytest.raises(UsageError, match=words):
            predict(RECIPE, target=Scale(width=16), **options)
