"""The base's best rate for the cost of a few runs: all rates for a quarter of their schedule, the best few to the end.

Training loss a quarter through the *true* schedule ranks the rates of full runs, but as measured prefers ones that are
too high. So the estimate is shifted down, by SHIFT octaves until this recipe's own pairs (quarter, end) say otherwise;
three rates around it are taken up again and trained to the end, and the parabola of their validation losses has the
answer. Both grids widen until the best rate has neighbours on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import evaluate
from hptransfer.core.training.paused import PausedRun
from hptransfer.core.training.recipe import Recipe
from hptransfer.prediction.forecast.transfer import NORMAL_90
from hptransfer.prediction.laws.cell import Cell
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.grid import checked_device, job_at

SHIFT = -0.7
"""Octaves from the quarter's best rate to the end's, on nine earlier cases; with a standard deviation of .45."""
TRUST = 3.0
"""How many pairs of one's own weigh as much as those nine cases."""
SPREAD = 0.35
"""Octaves, one standard deviation: the error of the answer, one seed, against an optimum over seeds."""
FLAT = 0.02
"""Relative difference of validation losses that seeds make."""
QUARTER = 0.25
FEWEST_STEPS = 50
"""Steps that a quarter must have; below, noise and warm-up rank the rates."""
WIDEN = 8
"""Octaves by which a grid is widened at most."""


@dataclass(frozen=True)
class QuarterStart:
    """quarter, end: (log2 lr, loss) of the training loss at a quarter and of the validation loss at the end.

    guess: log2 of the quarter's best rate, unshifted; optimum: log2 of the end's best. runs: cost in full runs.
    """

    quarter: tuple[tuple[float, float], ...]
    end: tuple[tuple[float, float], ...]
    guess: float
    optimum: float
    runs: float
    initial_loss: float

    @property
    def shift(self) -> float:
        """What this recipe's own pair says of the shift, octaves."""
        return self.optimum - self.guess

    def prediction(self) -> Prediction:
        """The base's best rate, with the interval of SPREAD and of how flat the loss is around it."""
        half = NORMAL_90 * SPREAD
        down, up = (math.hypot(half, reach) for reach in _flat(dict(self.end), self.optimum))
        values = 2.0**self.optimum, 2.0 ** (self.optimum - down), 2.0 ** (self.optimum + up)
        source = (
            f"{len(self.quarter)} rates to a quarter of the schedule, {len(self.end)} of them to the end, one seed: "
            f"{self.runs:.2g} runs' cost"
        )
        assumptions = ("the recipe's data, schedule and optimizer stand for the target's",)
        return Prediction("learning rate", *values, "1", "quarter start", source, assumptions, Kind("none", "measured"))


def long_enough(recipe: Recipe) -> bool:
    """Whether a quarter of the recipe's run has the steps that ranking by it needs."""
    return int(recipe.steps * QUARTER) >= FEWEST_STEPS


def learned_shift(pairs: Sequence[float]) -> float:
    """SHIFT, moved towards the mean of one's own earlier shifts (octaves) by as much as these are many."""
    return (TRUST * SHIFT + math.fsum(pairs)) / (TRUST + len(pairs))


def quarter_start(
    recipe: Recipe,
    *,
    lrs: Sequence[float] | None = None,
    shift: float = SHIFT,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> QuarterStart:
    """Find the best rate at the recipe's base. lrs: the first grid, default the recipe's; octaves are filled in.

    shift: octaves from the quarter's best to the end's, see `learned_shift`. Raises UsageError where a quarter has
    fewer than FEWEST_STEPS steps, there is no grid to begin with, or the best rate is not bracketed after WIDEN more.
    """
    if not long_enough(recipe):
        raise UsageError(
            f"A quarter of {recipe.steps} steps is under {FEWEST_STEPS}, which does not rank rates. Use start='sweep', "
            f"or at least {math.ceil(FEWEST_STEPS / QUARTER)} steps."
        )
    given = lrs or recipe.lrs
    if not given:
        raise UsageError(f"Recipe {recipe.name!r} names no learning rates to begin with. Give lrs.")
    bench = _Bench(Trainer(recipe, device=checked_device(device)), seed, progress or (lambda text: None))
    low, high = round(math.log2(min(given))), round(math.log2(max(given)))
    quarter = _bracketed({k: bench.quarter(k) for k in range(low, high + 1)}, bench.quarter, "a quarter of the run")
    guess = _vertex(quarter)
    middle = round(min(max(guess + shift, min(quarter)), max(quarter)))
    near = [k for k in (middle - 1, middle, middle + 1) if math.isfinite(bench.quarter(k))]
    end = _bracketed({k: bench.end(k) for k in near}, bench.end, "the end")
    return QuarterStart(*(_points(quarter), _points(end), guess, _vertex(end), bench.cost(), bench.initial_loss()))


class _Bench:
    """The runs by octave, each begun once and taken up again where it stopped."""

    def __init__(self, trainer: Trainer, seed: int, progress: Callable[[str], None]) -> None:
        self.trainer, self.seed, self.tell = trainer, seed, progress
        self.runs: dict[int, PausedRun] = {}
        self.at_quarter: dict[int, float] = {}
        self.at_end: dict[int, float] = {}

    def quarter(self, octave: int) -> float:
        """Training loss at a quarter of the schedule."""
        steps = int(self.trainer.recipe.steps * QUARTER)
        if octave not in self.at_quarter:
            self.tell(f"2^{octave}: a quarter, {steps} steps")
            self.at_quarter[octave] = self._run(octave).advance(steps).recent_loss()
        return self.at_quarter[octave]

    def end(self, octave: int) -> float:
        """Validation loss of the whole run."""
        if octave not in self.at_end:
            if not math.isfinite(self.quarter(octave)):
                return math.inf
            self.tell(f"2^{octave}: to the end, {self.trainer.recipe.steps} steps")
            self.at_end[octave] = self._run(octave).advance(self.trainer.recipe.steps).validation_loss()
        return self.at_end[octave]

    def cost(self) -> float:
        """Steps made, in full runs."""
        return sum(len(run.losses) for run in self.runs.values()) / self.trainer.recipe.steps

    def initial_loss(self) -> float:
        """The validation loss before training."""
        recipe = self.trainer.recipe
        return evaluate(recipe, self.trainer.model(None, recipe.base, seed=self.seed), self.trainer.device)

    def _run(self, octave: int) -> PausedRun:
        if octave not in self.runs:
            recipe, trainer = self.trainer.recipe, self.trainer
            base = recipe.base
            job = job_at("mup", base, lr=2.0**octave, seed=self.seed, steps=recipe.steps, fingerprint="")
            model, groups = trainer.ready(job)
            optimizer = trainer.optimizer(groups)
            where = {"scale": base, "seed": self.seed, "device": trainer.device}
            self.runs[octave] = PausedRun(recipe, model, optimizer, **where)
        return self.runs[octave]


def _bracketed(losses: dict[int, float], loss_at: Callable[[int], float], where: str) -> dict[int, float]:
    """The losses with octaves added beside the best one until it has a neighbour on either side (or a wall above)."""
    begun = len(losses)
    while True:
        finite = {k: v for k, v in losses.items() if math.isfinite(v)}
        if finite:
            best = min(finite, key=lambda k: (finite[k], k))
            missing = [k for k in (best - 1, best + 1) if k not in losses]
        else:
            missing = [min(losses) - 1]  # everything diverged: lower
        if not missing:
            return losses
        if len(losses) - begun >= WIDEN:
            raise UsageError(
                f"No best rate between 2^{min(losses)} and 2^{max(losses)} at {where}: the loss still falls at an "
                f"end of the grid after widening it by {WIDEN} octaves. Give lrs nearer to the best."
            )
        losses = losses | {k: loss_at(k) for k in missing}


def _vertex(losses: dict[int, float]) -> float:
    """log2 of the best rate: the parabola through the lowest loss and its neighbours."""
    octaves = sorted(losses)
    cell = Cell(math.nan, math.nan, math.nan, tuple(2.0**k for k in octaves), tuple(losses[k] for k in octaves))
    return math.log2(cell.best_lr)


def _flat(losses: dict[float, float], optimum: float) -> tuple[float, float]:
    """Octaves below and above the optimum over which the loss stays within FLAT of the best: one seed cannot tell."""
    octaves = sorted(losses)
    cell = Cell(math.nan, math.nan, math.nan, tuple(2.0**k for k in octaves), tuple(losses[k] for k in octaves))
    fine = np.arange(octaves[0], octaves[-1] + 0.01, 0.01)
    alike = fine[cell.loss_at(2.0**fine) <= cell.best_loss + FLAT * abs(cell.best_loss)]
    return max(0.0, optimum - float(alike.min())), max(0.0, float(alike.max()) - optimum)


def _points(losses: dict[int, float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(k), losses[k]) for k in sorted(losses))
