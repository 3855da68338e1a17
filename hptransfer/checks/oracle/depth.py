"""Hold a plan's depth rule against what real steps do at several depths, the width standing still.

A stream adds up L branches. Its sum must not grow at init; each gained layer must learn as its scheme promises, and all
of them together must move the stream as much at any depth. With branches x L^-alpha and rates x L^r, r and alpha are
told apart: r by the steps of single weights, and alpha - r = 1 by what the layers together add to the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hptransfer.checks.oracle.measure import VANISHING, Array
from hptransfer.checks.oracle.promises import Promise
from hptransfer.checks.oracle.report import Check, OracleRow, Quantity
from hptransfer.checks.oracle.steps import Walks, log_exponent, row_of, settled
from hptransfer.core.statistics import log_slope
from hptransfer.graph.graph import template
from hptransfer.parametrization.plan import Plan


def gained(plans: Mapping[int, Plan]) -> frozenset[str]:
    """Templates of the parameters that the deeper models have more of."""
    few, many = set(plans[min(plans)].rows), set(plans[max(plans)].rows)
    return frozenset(template(name) for name in many - few)


@dataclass(frozen=True)
class OverDepth:
    """The walks of several depths (only the gained layers' steps counted in `change`), judged.

    walks: per seed, depth -> walk; plans: by depth; gained: templates of the layers that deeper models have more of.
    """

    walks: Walks
    plans: Mapping[int, Plan]
    gained: frozenset[str]
    promise: Promise
    tolerance: float

    def rows(self) -> list[OracleRow]:
        """A row per parameter template, then a row per module template."""
        names: dict[str, list[str]] = {}
        for name in self.walks[0][min(self.plans)].steps:
            names.setdefault(template(name), []).append(name)
        weights = [self.weight(shown, tuple(members)) for shown, members in names.items()]
        return [row for row in (*weights, *self.stream()) if row is not None]

    def weight(self, shown: str, names: tuple[str, ...]) -> OracleRow | None:
        """How far a step moves this weight, and what its eps is compared with."""
        plan, steps, gradients = self.plans[max(self.plans)], self.rms(shown, "steps"), self.rms(shown, "gradients")
        row, within = plan[names[0]], shown in self.gained
        if steps is None or gradients is None or row.role == "unused" or self.vanishes(gradients):
            return None
        info = plan.optimizers[row.optimizer]
        # a factor on this weight's output shrinks its steps, unless the forward multiplies by it (a unit forward's)
        factor = self.exponent(names[0], "held") - self.exponent(names[0], "fwd_mult")
        claim = (self.promise.branch or 0.0 if within else 0.0) + factor
        checks: list[Check] = []
        if within or info.geometry != "gradient":
            checks.append(self.check("lr", claim, steps, self.drift if info.geometry == "gradient" else 0.0))
        if within and info.default_eps is not None and plan.options.get("eps") != "fixed":
            eps = self.exponent(names[0], "eps_mult") / info.eps_power
            checks.append(self.check("gradient", eps, gradients, self.drift))
        return row_of(shown, names, row.role, checks) if checks else None

    def stream(self) -> list[OracleRow]:
        """Sizes of the gained modules' outputs; and what the gained layers together add to the last block's."""
        rows: list[OracleRow] = []
        for shown in self.modules:
            size, change = self.rms(shown, "size"), self.last(shown)
            checks = [None if size is None else self.check("size", 0.0, size, floor=-math.inf)]
            if shown in self.blocks and change is not None:
                geometries = {info.geometry for info in self.plans[max(self.plans)].optimizers.values()}
                checks.append(self.check("change", 0.0, change, self.drift if "gradient" in geometries else 0.0))
            rows.append(row_of(shown, (shown,), "block" if shown in self.blocks else "output", checks))
        return rows

    @cached_property
    def modules(self) -> list[str]:
        """Templates of the modules that hold gained layers, or are held by them."""
        owners = {name.rpartition(".")[0] for name in self.gained}
        seen = {template(name) for name in self.walks[0][max(self.plans)].size}
        return sorted(n for n in seen if "*" in n and any(o == n or o.startswith(f"{n}.") for o in owners))

    @cached_property
    def blocks(self) -> frozenset[str]:
        """Templates of the modules that repeat and hold gained layers: their outputs are the stream."""
        return frozenset(n for n in self.modules if n.endswith("*") and any(o.startswith(f"{n}.") for o in self.gained))

    @cached_property
    def drift(self) -> float:
        """How far the stream's own size is from standing still.

        A norm behind it divides the gradients by that; it fades where, at the base, few branches outweigh the
        embedding. Measured; both signs are allowed.
        """
        sizes = [self.rms(shown, "size") for shown in self.blocks]
        return max((abs(log_slope(self.depths, s).value) for s in sizes if s is not None), default=0.0)

    def check(self, quantity: Quantity, claim: float, values: Array, drift: float = 0.0, floor: float = 0.0) -> Check:
        return settled(quantity, claim, log_slope(self.depths, values), self.tolerance + drift, floor)

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(self.plans)

    def exponent(self, name: str, field: str) -> float:
        values = [getattr(plan[name], field) for plan in self.plans.values()]
        return log_exponent(self.depths, values) if min(values) > 0 else 0.0

    def vanishes(self, gradients: Array) -> bool:
        """A gradient that is zero but for rounding (a key's bias before a softmax)."""
        return float(np.median(gradients)) < VANISHING * self.typical

    @cached_property
    def typical(self) -> float:
        """The median parameter's gradient."""
        return float(np.median([v for run in self.walks for walk in run.values() for v in walk.gradients.values()]))

    def rms(self, shown: str, field: str) -> Array | None:
        """[seeds, depths] root mean square over the layers of one template; None where something is missing or zero."""
        return self.table(shown, field, lambda values: math.sqrt(sum(v * v for v in values) / len(values)))

    def last(self, shown: str) -> Array | None:
        """[seeds, depths] change of the last layer's output: everything that the layers together added."""
        return self.table(shown, "change", lambda values: values[-1])

    def table(self, shown: str, field: str, of: Callable[[Sequence[float]], float]) -> Array | None:
        layers = [
            [[v for n, v in getattr(walk, field).items() if template(n) == shown] for walk in run.values()]
            for run in self.walks
        ]
        if not all(values for run in layers for values in run):
            return None
        table = np.array([[of(values) for values in run] for run in layers], dtype=np.float64)
        return table if bool((table > 0).all()) else None
