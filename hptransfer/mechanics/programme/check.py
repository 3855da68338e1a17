"""One theory held against one simulation, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Made_co = TypeVar("Made_co", covariant=True)


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


class Theory(Protocol):
    """name -> predicted number; constant scales the theory's own constant."""

    def __call__(self, *, constant: float = 1.0) -> dict[str, float]: ...


class Seeded(Protocol[Made_co]):
    """A simulation, or a picture of one, from a seed."""

    def __call__(self, *, seed: int = 0) -> Made_co: ...


@dataclass(frozen=True)
class World:
    """A strand: its question, whose theory answers, the relative error allowed by number, and the reason for it.

    theory, simulate: the same numbers, predicted and measured; curve: one picture of both. A check that a constant off
    by a tenth does not fail would show nothing (tested).
    """

    name: str
    question: str
    source: str
    tolerance: Mapping[str, float]
    reason: str
    theory: Theory
    simulate: Seeded[dict[str, float]]
    curve: Seeded[Curve]
