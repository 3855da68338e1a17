"""The grid of a sweep from what the user gave: checked, completed from the recipe, and laid out as jobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import SCHEMES
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.settings.vector import Vector, value_of

NOTHING = Vector()


@dataclass(frozen=True)
class Grid:
    """What is to be run: every scheme x scale x learning rate x seed.

    steps: optimizer steps of a run, where its scale does not say both batch and tokens. setting: what is swept; lrs:
    its values, learning rates or factors on the base's. held: the values of all other settings.
    """

    schemes: tuple[str, ...]
    scales: tuple[Scale, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    setting: Setting = RATE
    held: Vector = NOTHING

    def steps_at(self, scale: Scale) -> int:
        """Optimizer steps of a run at a scale: its tokens by its batch where it says both, else those of all runs."""
        if scale.batch is None or scale.tokens is None:
            return self.steps
        return max(1, round(scale.tokens / scale.batch))

    def jobs(self, fingerprint: str) -> list[Job]:
        """All jobs, seeds fastest."""
        return [
            self.job(scheme, scale, lr, seed, fingerprint=fingerprint)
            for scheme in self.schemes
            for scale in self.scales
            for lr in self.lrs
            for seed in self.seeds
        ]

    def job(self, scheme: str, scale: Scale, value: float, seed: int, *, fingerprint: str, most: int = 0) -> Job:
        """The job of one value of what is swept. most: cut its steps to so many; 0: to none."""
        vector = self.held.with_(self.setting, value)
        if vector.lr is None:
            raise UsageError(f"A sweep of '{self.setting}' holds the learning rate: give the base's.")
        steps = min(self.steps_at(scale), most or self.steps_at(scale))
        given = {"lr": vector.lr, "seed": seed, "steps": steps, "settings": vector.text}
        return job_at(scheme, scale, fingerprint=fingerprint, **given)

    def value(self, run: Run) -> float:
        """A run's value of what is swept."""
        return value_of(run, self.setting)


def job_at(scheme: str, scale: Scale, *, lr: float, seed: int, steps: int, fingerprint: str, settings: str = "") -> Job:
    """The job of one scheme at one scale."""
    how = {"scheme": scheme, "lr": lr, "seed": seed, "steps": steps, "fingerprint": fingerprint, "settings": settings}
    return Job(**how, **asdict(scale))


def grid_of(
    recipe: Recipe,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    scales: Sequence[Scale] | None = None,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    schemes: Sequence[str] = ("mup", "sp"),
    steps: int | None = None,
) -> Grid:
    """The grid, with the recipe's own widths, lrs, seeds and steps where none are given. lrs are sorted.

    widths, depths: the base scale with that axis replaced; or scales; one of the three. seeds: a count, or a list.
    Raises UsageError where something is empty, given twice, not positive or unknown.
    """
    if sum(given is not None for given in (widths, depths, scales)) > 1:
        raise UsageError("Give one of widths, depths and scales.")
    if depths is not None:
        scales = [recipe.base.with_(depth=d) for d in checked_sizes("depths", depths)]
    elif scales is None:
        given = recipe.widths if widths is None else widths
        scales = [recipe.base.with_(width=w) for w in checked_sizes("widths", given)]
    total = recipe.steps if steps is None else steps
    if isinstance(total, bool) or not isinstance(total, int) or total < 1:
        raise UsageError(f"steps={total!r}: must be a whole number of optimizer steps, at least 1.")
    return Grid(
        schemes=_distinct("schemes", [known_scheme(s) for s in _listed(schemes)]),
        scales=_distinct("scales", scales),
        lrs=checked_lrs(recipe.lrs if lrs is None else lrs),
        seeds=checked_seeds(recipe.seeds if seeds is None else seeds),
        steps=total,
    )


def checked_sizes(name: str, sizes: Iterable[int]) -> tuple[int, ...]:
    """Widths or depths as given. Raises UsageError where one is not a positive whole number or repeated, or none is."""
    for size in (given := list(sizes)):
        if isinstance(size, bool) or size != int(size) or size < 1:
            raise UsageError(f"{name}={given}: {size!r} is not a positive whole number.")
    return _distinct(name, [int(size) for size in given])


def checked_lrs(lrs: Iterable[float]) -> tuple[float, ...]:
    """Sorted learning rates. Raises UsageError where one is not positive, or repeated, or none is given."""
    for lr in (given := list(lrs)):
        if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not (math.isfinite(lr) and lr > 0):
            raise UsageError(f"lrs={given}: {lr!r} is not a learning rate; give positive finite numbers.")
    _distinct("lrs", [f"{lr:.12g}" for lr in given])
    return tuple(sorted(float(lr) for lr in given))


def checked_seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """n -> 0 .. n-1, or the seeds as given. Raises UsageError where there are none, or one is negative or repeated."""
    if isinstance(seeds, bool) or (isinstance(seeds, int) and seeds < 1):
        raise UsageError(f"seeds={seeds!r}: give at least 1 (3 for an interval).")
    given = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise UsageError(f"seeds={given}: {seed!r} is not a seed; give whole numbers from 0 to 2^31 - 1.")
    return _distinct("seeds", given)


def known_scheme(scheme: str) -> str:
    """The scheme's name. Raises UsageError where there is no such scheme."""
    if scheme not in SCHEMES:
        raise UsageError(f"scheme {scheme!r} is unknown; use one of {', '.join(sorted(SCHEMES))}.")
    return scheme


def checked_device(device: str) -> str:
    """A usable device; "auto" takes an accelerator where there is one. Raises UsageError for one torch cannot use."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except Exception as error:
        first = str(error).split("\n")[0]
        raise UsageError(f"device={device!r} cannot be used here: {first}. Use 'auto', 'cpu' or 'cuda'.") from error
    return device


def _listed(values: str | Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _distinct(name: str, values: Sequence) -> tuple:
    if not values:
        raise UsageError(f"{name} is empty: give at least one, or set the recipe's own.")
    twice = sorted({str(v) for v in values if list(values).count(v) > 1})
    if twice:
        raise UsageError(f"{name} holds {', '.join(twice)} more than once; give each once.")
    return tuple(values)
