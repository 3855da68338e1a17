"""What was tuned at the base: a value for every setting, each with the evidence for it. Plain data, as tuned.json."""

# pyright: strict
from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document
from hptransfer.parametrization.options import Tuned
from hptransfer.validation.settings.effect import factors_on, refuse_unmatched
from hptransfer.validation.settings.vector import Vector

if TYPE_CHECKING:
    from torch import nn

TUNED_FILE = "tuned.json"


@dataclass(frozen=True)
class Searched:
    """One search of one setting, at the others' values of then (`held`).

    before, value: before and after it, learning rates or factors on the base's value; before is None where there was
    none. log2, low, high: log2 of the best value with its 90% interval; loss: the loss there. cost, cost_low,
    cost_high: what `before` costs beside the best, None without one; the setting moves where that is surely more than
    0. at_edge: the best was the first or last of what was run. runs: how many the search is made of.
    """

    setting: str
    round: int
    held: str
    before: float | None
    value: float
    log2: float
    low: float
    high: float
    loss: float
    cost: float | None
    cost_low: float | None
    cost_high: float | None
    at_edge: bool
    runs: int

    @property
    def moved(self) -> bool:
        """Whether the setting got another value."""
        return self.value != self.before

    @property
    def octaves(self) -> float:
        """How far it moved; 0 where it had no value before."""
        return math.log2(self.value / self.before) if self.before else 0.0


@dataclass(frozen=True)
class Gain:
    """Loss of the tuned vector less that of the learning rate tuned alone, on seeds that neither was tuned on.

    low, high: 90% interval over paired seeds. alone: the mean loss of the latter; its rate is `lr`.
    """

    seeds: tuple[int, ...]
    lr: float
    alone: float
    loss: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class TunedSettings(Document):
    """The settings that were tuned at one size, and how.

    lr: the base learning rate. factors: setting -> factor on the base's value, 1 where the base's was as good.
    searched: every search, in order. gain: None where only the rate was searched or nothing else moved. keys: of all
    runs that it rests on. command, environment, fingerprint: as in TransferResult.
    """

    TITLE = "tuned settings"
    REMEDY = "Make them with `hptransfer tune`."
    STRICT = True

    recipe: str
    scheme: str
    width: int | None
    depth: int | None
    lr: float
    factors: Mapping[str, float]
    searched: tuple[Searched, ...]
    gain: Gain | None
    seeds: tuple[int, ...]
    steps: int
    keys: tuple[str, ...] = field(repr=False)
    fingerprint: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    command: str = ""
    notes: tuple[str, ...] = ()

    @property
    def vector(self) -> Vector:
        """The values as runs take them. Raises UsageError where one is no setting or not positive."""
        return Vector.of({"lr": self.lr, **self.factors})

    @property
    def latest(self) -> dict[str, Searched]:
        """Setting -> its last search."""
        return {search.setting: search for search in self.searched}

    def of(self, model: nn.Module) -> dict[str, Tuned]:
        """The factors for hptransfer.make_plan(model, tuned=...), by the names of the model's parameters."""
        return tuned_factors(model, self.factors)


def tuned_factors(model: nn.Module, values: Mapping[str, float]) -> dict[str, Tuned]:
    """The factors for hptransfer.make_plan(model, tuned=...), by the names of the model's parameters.

    values: setting -> factor on the base's value, as {"weight_decay": 4.0, "init:head": 0.5}.
    Raises UsageError where one is no setting, not positive, or reaches no parameter of the model.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    vector = Vector.of(values)
    for setting, _ in vector.factors:
        refuse_unmatched(setting, shapes)
    return {glob.escape(name): factors for name, factors in factors_on(vector, shapes).items()}


def tuned_of(given: TunedSettings | Mapping[str, float] | str | Path) -> tuple[Vector, TunedSettings | None]:
    """(the vector, its document where there is one) of a tuned.json, the directory that holds one, or plain values.

    Raises UsageError where there is no such file, or a value is no good.
    """
    if isinstance(given, Mapping):
        return Vector.of(given), None
    if not isinstance(given, TunedSettings):
        path = Path(given) / TUNED_FILE if Path(given).is_dir() else Path(given)
        if not path.exists():
            raise UsageError(f"No tuned settings at {path}. Make them with `hptransfer tune`.")
        given = TunedSettings.load(path)
    return given.vector, given
