"""Score a forecast that was written before the run: hit or miss, error in octaves, regret, calibration over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, write_whole
from hptransfer.prediction.forecast.forecast import Forecast
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.verdict.optimum import Curve, Fit, curve_of, optima

PREDICTIONS_FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Score(Document):
    """One forecast against what was then measured at its target width.

    predicted, observed: learning rates; octaves: log2(predicted / observed), signed; advised_octaves: the same for the
    advised rate; hit: the interval holds the observed optimum; regret: loss at the advised rate, interpolated in
    log2(lr), less the best, inf next to a rate that diverged;
    relative_regret: as a fraction of the best loss; inside_grid: no clamping was needed.
    """

    TITLE = "a score"
    REMEDY = "Remove that line."

    recipe: str
    width: int
    predicted: float
    advised: float
    observed: float
    octaves: float
    advised_octaves: float
    hit: bool | None
    regret: float
    relative_regret: float
    inside_grid: bool

    def __str__(self) -> str:
        verdict = {True: "hit", False: "miss", None: "no interval"}[self.hit]
        return (
            f"{self.recipe} at width {self.width}: predicted {self.predicted:.4g}, observed {self.observed:.4g} "
            f"({self.octaves:+.2f} octaves, {verdict}); regret at the advised {self.advised:.4g}: {self.regret:.4g} "
            f"({100 * self.relative_regret:.2f}%)"
        )


def score_forecast(made: Forecast, result: TransferResult) -> Score:
    """Compare a forecast with a transfer check that swept its target width.

    Raises UsageError where the check has no optimum there, or is of another recipe or number of steps.
    """
    if result.axis != "width":
        raise UsageError(f"The check is over {result.axis}; a forecast is scored against a check over width.")
    refuse_other_run(made, recipe=result.recipe, steps=result.steps, widths=result.sizes)
    width = made.target.width
    seeds = sorted({run.seed for run in result.runs if run.width == width and run.scheme == result.scheme})
    if width is None or not seeds:
        widths = sorted({run.width for run in result.runs if run.width})
        raise UsageError(f"The forecast is for width {width}, but the check swept {widths}. Include that width.")
    return score_curve(made, curve_of(result.runs, scheme=result.scheme, size=width, seeds=seeds))


def refuse_other_run(made: Forecast, *, recipe: str, steps: int, widths: Sequence[int]) -> None:
    """Raise UsageError where a check of this recipe, steps and widths does not train what the forecast is for."""
    target = made.target
    if made.recipe != recipe:
        raise UsageError(f"The forecast is for recipe {made.recipe!r}, but the check is of {recipe!r}.")
    if target.width not in widths:
        raise UsageError(f"The forecast is for width {target.width}, but the check swept {[*widths]}. Include it.")
    if target.tokens and target.batch and round(target.tokens / target.batch) != steps:
        expected = round(target.tokens / target.batch)
        raise UsageError(f"The forecast is for {expected} steps, but the check trained {steps}. Set its steps.")


def score_curve(made: Forecast, curve: Curve) -> Score:
    """Compare a forecast with the loss curve of its target width."""
    optimum = optima([Fit.of(curve)])[0]
    if not math.isfinite(optimum.log2_lr):
        raise UsageError(f"No run at width {curve.size} finished, so there is no optimum to compare with.")
    rate, observed = made.learning_rate, 2.0**optimum.log2_lr
    regret, inside = _regret(curve, math.log2(made.advised_lr), optimum.loss)
    return Score(
        made.recipe,
        curve.size,
        rate.value,
        made.advised_lr,
        observed,
        rate.octaves_off(observed),
        math.log2(made.advised_lr / observed),
        rate.contains(observed),
        regret,
        regret / abs(optimum.loss),
        inside,
    )


def _regret(curve: Curve, at: float, best: float) -> tuple[float, bool]:
    """Loss at log2(lr) = at, linear between the means, less the best; and whether `at` lies inside the grid."""
    x, y = curve.log2_lrs, curve.means
    near = [int(np.searchsorted(x, at, side="right")) - 1, int(np.searchsorted(x, at))]
    ends = y[np.clip(near, 0, len(x) - 1)]
    loss = float(np.interp(at, x, y)) if np.isfinite(ends).all() else math.inf
    return max(0.0, loss - min(best, float(y.min()))), bool(x[0] <= at <= x[-1])


def calibration(scores: Sequence[Score], *, nominal: float = 0.9) -> str:
    """How often the intervals held the truth, against how often they should, in words."""
    judged = [score.hit for score in scores if score.hit is not None]
    if not judged:
        return "no forecast had an interval"
    return f"{sum(judged)} of {len(judged)} intervals held the optimum (nominal {100 * nominal:.0f}%)"


def record_score(score: Score, out: Path) -> str:
    """Add a score to out/predictions.jsonl; returns it in words, with the calibration over all scores there.

    A score that is there already is not added again.
    Raises UsageError where the file cannot be written, or a line of it is not a score.
    """
    path = out / PREDICTIONS_FILE
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        scores = [Score.from_line(line) for line in lines if line.strip()]
        if score not in scores:
            write_whole(path, "".join(s.to_line() + "\n" for s in (*scores, score)))
            scores.append(score)
    except (OSError, ValueError) as error:
        raise UsageError(f"The score cannot be kept in {path}: {error}") from error
    return f"{score}\nOver all {len(scores)} forecasts scored here: {calibration(scores)}"
