"""study: tune small proxies with Optuna, by ask and tell, over any storage, resumable and shared between workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document
from hptransfer.core.secrets import masked
from hptransfer.core.training.recipe import Recipe
from hptransfer.validation.choices import DEFAULT_STORAGE, Pruning
from hptransfer.validation.grid import Grid, checked_lrs, grid_of
from hptransfer.validation.queue.queue import RUNS, Item, TrialQueue, runs_of
from hptransfer.validation.queue.storage import quiet
from hptransfer.validation.queue.team import Team
from hptransfer.validation.records.identity import fingerprint
from hptransfer.validation.records.runs import Run
from hptransfer.validation.search.tune import Proxy, Space, TuneWork, transferred_guess
from hptransfer.validation.sweep import Sweep


@dataclass(frozen=True)
class Tuned:
    """The best trial of one (scheme, width): its learning rate, all its parameters, and its mean validation loss."""

    scheme: str
    width: int | None
    lr: float
    params: Mapping[str, Any]
    loss: float
    trial: int


@dataclass(frozen=True)
class StudyResult(Document):
    """What a study found. complete, diverged, pruned, failed: trials by outcome. runs: all; best: one per proxy.

    storage: its URL without the password. missing: (scheme, width) of the proxies in which no trial was completed.
    """

    TITLE = "a study's result"

    name: str
    storage: str
    best: tuple[Tuned, ...]
    complete: int
    pruned: int
    failed: int
    runs: tuple[Run, ...]
    diverged: int = 0
    missing: tuple[tuple[str, int | None], ...] = ()


def study(
    recipe: Recipe | str,
    *,
    storage: str = DEFAULT_STORAGE,
    name: str | None = None,
    schemes: Sequence[str] = ("mup",),
    widths: Sequence[int] | None = None,
    lrs: tuple[float, float] | None = None,
    trials: int = 20,
    seeds: int | Sequence[int] = 1,
    steps: int | None = None,
    space: Space | None = None,
    guess: float | None = None,
    pruning: Pruning = "diverged",
    sampler: BaseSampler | None = None,
    workers: int | None = None,
    device: str = "auto",
    plan_options: Mapping[str, Any] | None = None,
) -> StudyResult:
    """Search the learning rate, and whatever else `space` suggests, of every (scheme, width), one study for each.

    storage: any Optuna storage URL. name: prefix of the studies' names; default: recipe and fingerprint. widths: by
    default the base's. lrs: (lowest, highest), by default the recipe's own range and two octaves more on either side.
    trials: how many each study is to have in all; a study that was interrupted, by SIGKILL too, goes on from there.
    seeds: a trial's value is the mean over them. space(trial, recipe) -> recipe: further suggestions, put into the
    recipe. guess: the learning rate tried first, by default the middle of the recipe's range; at every further width
    the best one so far, moved as the scheme says (see transferred_guess). pruning: see Proxy. sampler: default TPE.
    workers: processes here; `hptransfer worker` processes elsewhere may join.
    Raises UsageError on bad input, an unreachable database, and where every trial failed.
    """
    sweep = Sweep.of(recipe, device=device, workers=workers, plan_options=plan_options)
    given = sweep.trainer.given
    low, high = _range(given, lrs)
    widths = widths if widths is not None else ([given.base.width] if given.base.width else None)
    grid = grid_of(given, widths=widths, lrs=[low], seeds=seeds, schemes=schemes, steps=steps)
    _refuse(trials, pruning, guess, low, high)
    identity = tuning_fingerprint(sweep, space)
    sweep.prepare(grid.jobs(identity))
    prefix = name or f"{given.name}-tune-{identity}"
    found: list[tuple[TrialQueue, Tuned | None]] = []
    for scheme in grid.schemes:
        first, narrow = guess or _middle(given, low, high), None
        for proxy in _proxies(grid, scheme, (low, high), pruning, identity):
            work = TuneWork(sweep.trainer, proxy, f"{prefix}-{scheme}-{proxy.width}", trials, space, sampler)
            start = transferred_guess(scheme, first, narrow=narrow, wide=proxy.width)
            found.append(_tuned(storage, work, min(max(start, low), high), sweep.workers))
            if (best := found[-1][1]) is not None:
                first, narrow = best.lr, proxy.width
    return _collected(prefix, masked(storage), found, [(s, scale.width) for s in grid.schemes for scale in grid.scales])


def tuning_fingerprint(sweep: Sweep, space: Space | None) -> str:
    """What identifies the trials of a search: the recipe's fingerprint, and the search space's own code."""
    return sweep.fingerprint if space is None else fingerprint(sweep.trainer.given, (sweep.fingerprint, space))


def _range(recipe: Recipe, lrs: tuple[float, float] | None) -> tuple[float, float]:
    """The bounds of the search, checked."""
    if lrs is None:
        known = checked_lrs(recipe.lrs)
        return known[0] / 4, known[-1] * 4
    bounds = checked_lrs(lrs)
    if len(bounds) != 2:
        raise UsageError(f"lrs={list(lrs)}: give the lowest and the highest learning rate to search.")
    return bounds[0], bounds[1]


def _middle(recipe: Recipe, low: float, high: float) -> float:
    """The geometric middle of the recipe's own learning rates, or of the range where it has none inside."""
    inside = [lr for lr in recipe.lrs if low <= lr <= high] or [low, high]
    return math.exp(math.fsum(map(math.log, inside)) / len(inside))


def _refuse(trials: int, pruning: str, guess: float | None, low: float, high: float) -> None:
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise UsageError(f"trials={trials!r}: must be a whole number, at least 1.")
    if pruning not in ("diverged", "median"):
        raise UsageError(f"pruning={pruning!r}: use 'diverged' or 'median'.")
    if guess is not None and not low <= guess <= high:
        raise UsageError(f"guess={guess!r}: must lie in the range that is searched, {low:g} to {high:g}.")


def _tuned(url: str, work: TuneWork, guess: float, workers: int) -> tuple[TrialQueue, Tuned | None]:
    """Run one proxy's study to its end; its trials and the best of them."""
    with quiet():
        queue = work.open(url)
        if not queue.trials():
            queue.add([Item("trial guess", {"lr": guess})])
        Team(url, queue, work, workers, label=work.name, total=work.new).run(lambda: (), lambda told: None)
        done = [t for t in queue.trials((TrialState.COMPLETE,)) if t.value is not None]
    best = min(done, key=lambda t: t.value or 0.0, default=None)
    if best is None:
        return queue, None
    lr, params = float(best.params["lr"]), dict(best.params)
    return queue, Tuned(work.proxy.scheme, work.proxy.width, lr, params, float(best.value or 0.0), best.number)


def _proxies(grid: Grid, scheme: str, lrs: tuple[float, float], pruning: Pruning, fingerprint: str) -> list[Proxy]:
    """One proxy per scale of the grid, narrow first."""
    return [
        Proxy(scheme, s.width, s.depth, *lrs, grid.seeds, grid.steps, pruning, fingerprint)
        for s in sorted(grid.scales, key=lambda s: s.width or 0)
    ]


def _collected(
    name: str,
    url: str,
    found: Sequence[tuple[TrialQueue, Tuned | None]],
    proxies: Sequence[tuple[str, int | None]],
) -> StudyResult:
    with quiet():
        trials = [t for queue, _ in found for t in queue.trials()]
        for queue, _ in found:
            queue.disconnect()
    told = [t for t in trials if RUNS in t.user_attrs]
    runs = tuple(run for t in told for run in runs_of(t))
    counts = {state: sum(t.state == state for t in told) for state in TrialState}
    if told and counts[TrialState.FAIL] == len(told):
        raise UsageError(f"All {len(told)} trials failed; the first: {runs[0].error if runs else 'no run was made'}")
    best = tuple(b for _, b in found if b is not None)
    diverged = sum(run.state == "diverged" for run in runs)  # a trial ends with its first run that does
    return StudyResult(
        *(name, url, best),
        *(counts[TrialState.COMPLETE], counts[TrialState.PRUNED] - diverged, counts[TrialState.FAIL], runs),
        diverged=diverged,
        missing=tuple(place for place in proxies if place not in {(b.scheme, b.width) for b in best}),
    )
