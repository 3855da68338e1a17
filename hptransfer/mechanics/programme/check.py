"""One theory held against one simulation, number by number."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STRANDS = (
    "linear_networks",
    "kernel_regression",
    "random_features",
    "noisy_quadratic",
    "catapult_limits",
    "lazy_and_rich",
    "limiting_rate",
)
"""Modules of this folder. Each has QUESTION, SOURCE, TOLERANCE (name -> relative error allowed), REASON (of it),
`theory(constant=1)` and `simulate(seed=0)`, both name -> number, and `curve(seed=0)`, one picture of it. `constant`
scales the theory's own constant: a check that a factor of 1.1 does not fail would show nothing."""


@dataclass(frozen=True)
class Curve:
    """One picture: measured (m,) against predicted (m,) over x (m,), with the names of both axes; log: of both axes."""

    x: Array
    predicted: Array
    measured: Array
    xlabel: str
    ylabel: str
    log: bool = False


@dataclass(frozen=True)
class Check:
    """One number. error: |measured / predicted - 1|; ok: within the tolerance."""

    strand: str
    quantity: str
    predicted: float
    measured: float
    tolerance: float

    @property
    def error(self) -> float:
        return abs(self.measured / self.predicted - 1)

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Strand:
    """A strand's outcome: what it asks, whose theory answers, its checks, why they may be off so far, and seconds."""

    name: str
    question: str
    source: str
    reason: str
    checks: tuple[Check, ...]
    curve: Curve
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def strand_named(name: str) -> ModuleType:
    """The module of a strand."""
    return importlib.import_module(f"hptransfer.mechanics.programme.{name}")


def compared(name: str, predicted: Mapping[str, float], measured: Mapping[str, float]) -> tuple[Check, ...]:
    """The checks of a strand from its theory's numbers and its simulation's."""
    allowed = strand_named(name).TOLERANCE
    return tuple(Check(name, q, predicted[q], measured[q], allowed[q]) for q in predicted)


def run_strand(name: str, *, seed: int = 0) -> Strand:
    """Simulate one strand and hold its theory against it."""
    module, began = strand_named(name), time.perf_counter()
    checks = compared(name, module.theory(), module.simulate(seed=seed))
    curve = module.curve(seed=seed)
    return Strand(name, module.QUESTION, module.SOURCE, module.REASON, checks, curve, time.perf_counter() - began)
