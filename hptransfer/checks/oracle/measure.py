"""The oracle's measurements: every parameter's sizes at every width and seed, and the plan's own exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hptransfer.checks.oracle.fans import Responses, fan_in_responses
from hptransfer.checks.oracle.gradients import Reading, owner_of, readings
from hptransfer.checks.oracle.logits import Site, logit_sites
from hptransfer.checks.oracle.subject import Subject
from hptransfer.checks.oracle.walk import Trained, Walk, chosen_lr, walk
from hptransfer.core.statistics import power
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.plan import Plan

Array = NDArray[np.float64]
EXPONENTS = ("init_mult", "lr_mult", "fwd_mult", "eps_mult", "grad_mult", "held", "m_in", "m_out")
VANISHING = 1e-6
"""A step's effect below this fraction of the median parameter's is rounding of a gradient that is zero (a key's bias
before a softmax)."""
FEW = 8
"""Seeds that the responses to random signs are taken of: they average over all entries and hardly vary."""


_BETWEEN = 1.3
"""The entries of a matrix between two growing axes grow faster than this power of the width."""

SHORTER, JUMPS, JUMP_SEEDS = 1 / 8, 2.0, 4
"""A step so much shorter changes a smooth output by that share of the change, give or take this factor."""


@dataclass
class Measurements:
    """What was measured so far.

    trained: the optimizer classes that take real steps; none are taken without.
    readings, responses: one entry per seed, of width -> parameter -> value; walks, sites: of width -> what real steps
    did, and what steps that have lined up do to attention.
    """

    subject: Subject
    plans: Mapping[int, Plan]
    trained: Trained | None = None
    readings: list[dict[int, dict[str, Reading]]] = field(default_factory=list)
    responses: list[dict[int, Responses]] = field(default_factory=list)
    walks: list[dict[int, Walk]] = field(default_factory=list)
    sites: list[dict[int, list[Site]]] = field(default_factory=list)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.plans)

    def add(self, seed: int) -> None:
        """One more model at every width."""
        for kept in (self.readings, self.sites):
            kept.append({})
        for width, plan in self.plans.items():
            model, batch = self.subject.model(width, seed), self.subject.batch(seed)
            run = partial(self.subject.score, model, batch, seed)
            if seed < FEW:
                named = dict(model.named_parameters())
                self.responses += [{}] if len(self.responses) <= seed else []
                self.responses[seed][width] = fan_in_responses(named, run, batch, seed=seed)
            parametrize_(model, plan)
            found = self.readings[-1][width] = _read(model, plan, run, seed)
            _drop_vanishing(found)
            self.sites[-1][width] = self._logits(model, plan, run, seed)
        if self.trained is not None:
            trained, lr = self.trained, self.lr
            self.walks.append({w: walk(self.subject, plan, trained, w, seed, lr=lr) for w, plan in self.plans.items()})

    @cached_property
    def lr(self) -> float:
        """The base's learning rate of the real steps."""
        assert self.trained is not None
        smallest = min(self.plans)
        return chosen_lr(self.subject, self.plans[smallest], self.trained, smallest)

    @cached_property
    def jumping(self) -> frozenset[str]:
        """Modules whose output is no smooth function of the weights, as behind routing or sorting.

        At the smallest or the largest width a step SHORTER times as long changes it by much more than that share.
        """
        assert self.trained is not None
        jumps = set[str]()
        for size in (min(self.plans), max(self.plans)):
            for seed in range(JUMP_SEEDS):
                whole, short = (
                    walk(self.subject, self.plans[size], self.trained, size, seed, lr=lr).change
                    for lr in (self.lr, self.lr * SHORTER)
                )
                jumps |= {name for name, change in whole.items() if _jumps(change, short.get(name, 0.0))}
        return frozenset(jumps)

    def _logits(self, model: nn.Module, plan: Plan, run: Callable[[], Tensor], seed: int) -> list[Site]:
        """Of the matrices between two growing axes, in a model that is parametrized already."""
        matrices = {n: p for n, p in plain_names(model, plan).items() if self.growth(n) > _BETWEEN}
        info, rate = (lambda name: plan.optimizers[plan[name].optimizer]), (lambda name: plan[name].lr_mult)
        return logit_sites(matrices, run, info, rate, seed=seed)

    def exponent(self, name: str, quantity: str) -> float:
        """The plan's own exponent of one of a row's multipliers; 0 where it is zero (a readout started at zero)."""
        values = [getattr(plan[name], quantity) for plan in self.plans.values()]
        return power(self.widths, values) if min(values) > 0 else 0.0

    def hook_exponent(self, module: str) -> float:
        """Exponent of the plan's multiplier on a module's output; 0 without one."""
        factors = [
            math.prod(h.factor for h in plan.hooks if (h.module, h.where) == (module, "output"))
            for plan in self.plans.values()
        ]
        return power(self.widths, factors)

    def growth(self, name: str) -> float:
        """Exponent of the parameter's number of entries."""
        return power(self.widths, [float(np.prod(plan[name].shape)) for plan in self.plans.values()])

    def composite(self, name: str) -> bool:
        """More stands between the parameter and the output its step is seen in than its own op."""
        plan, owner = self.plans[max(self.plans)], owner_of(name)
        matrices = [n for n in plan.rows if owner_of(n) == owner and len(plan[n].shape) > 1]
        inner = any(owner_of(n).startswith(f"{owner}.") for n in plan.rows)
        return inner or len(matrices) > 1 or self.readings[0][self.widths[0]][name].outputs == 0

    def output_growth(self, name: str) -> float:
        """Exponent of the number of entries of the output of the module that holds it."""
        return power(self.widths, [float(max(1, self.readings[0][w][name].outputs)) for w in self.widths])

    def values(self, names: Sequence[str], quantity: str) -> Array | None:
        """[names x seeds, widths] of a reading; runs in which it is missing or zero at any width are left out."""
        runs = [[getattr(seed[w][n], quantity) for w in self.widths] for n in names for seed in self.readings]
        kept = [[float(v) for v in run] for run in runs if all(v is not None and v > 0 for v in run)]
        return np.array(kept) if kept else None

    def fan_values(self, names: Sequence[str]) -> dict[str, Array]:
        """Consumer -> [names x seeds, widths] of the response to random signs."""
        found: dict[str, list[list[float]]] = {}
        for name in names:
            for seed in self.responses:
                uses = [seed[w].get(name, {}) for w in self.widths]
                for consumer in uses[0]:
                    run = [use.get(consumer, 0.0) for use in uses]
                    if min(run) > 0:
                        found.setdefault(consumer, []).append(run)
        return {consumer: np.array(runs) for consumer, runs in found.items()}


def _read(model: nn.Module, plan: Plan, run: Callable[[], Tensor], seed: int) -> dict[str, Reading]:
    named = plain_names(model, plan)
    return readings(model, named, run, lambda name: plan.optimizers[plan[name].optimizer], seed=seed)


def _drop_vanishing(found: dict[str, Reading]) -> None:
    """Forget gradients that are zero but for rounding."""
    for quantity in ("own", "loss"):
        sizes = {n: getattr(r, quantity) for n, r in found.items() if getattr(r, quantity) is not None}
        floor = VANISHING * float(np.median(list(sizes.values()))) if sizes else 0.0
        for name, size in sizes.items():
            if size < floor:
                found[name] = found[name].without(quantity)


def _jumps(whole: float, short: float) -> bool:
    """Whether a change is not in proportion to the step; a jump may happen on the longer step alone, or on both."""
    return whole > 0 and not SHORTER / JUMPS <= short / whole <= SHORTER * JUMPS
