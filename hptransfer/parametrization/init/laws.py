"""Which power of the width a model's own init follows, told from present values by their likelihood under each law.

The log of an rms of N values has variance c / N and bias -c / N with c = (kurtosis - 1) / 4: the delta method on the
mean of squares (1/2 for a normal, 1/5 for a uniform, 0 for a constant). Layers that differ only in their index follow
one law and are judged together. Prior odds: common laws (constant or fan_in^-1/2; for a bias that of its weight) e^2
against rarer ones; where the values leave it open, e^3 for a law that sibling parameters of the same name follow.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from hptransfer.graph.graph import template
from hptransfer.parametrization.row import Row

RARE, SIBLING, DECIDED = -2.0, 3.0, 4.5
"""Log prior of a rare law, of a sibling's law; margin of a decision (three standard errors)."""

EXACT, ROUGH = 1e-5, 0.2
"""Least standard error of a log ratio; the one above which a measured ratio is worth less than the likeliest law."""

Key = tuple[object, ...]


@dataclass(frozen=True)
class Sample:
    """A parameter's present values against the base's. rms, base_rms; kurtosis: of the present values (3: normal).

    host: target/base ratio of the own init of the weight that a bias stands beside, None without one.
    """

    row: Row
    rms: float
    base_rms: float
    kurtosis: float = 3.0
    host: float | None = None

    @property
    def laws(self) -> dict[str, tuple[float, float]]:
        """Law -> (its target/base ratio, log prior)."""
        fan_in, fan_out = self.row.m_in, self.row.m_out
        common = {"host": self.host} if self.host is not None else {"fan_in^-1/2": fan_in**-0.5, "constant": 1.0}
        rare = {
            "constant": 1.0,
            "plan": self.row.init_mult,
            "fan_in^-1": fan_in**-1.0,
            "fan_out^-1/2": fan_out**-0.5,
            "fans^-1/2": (fan_in * fan_out) ** -0.5,
            "fans^-1": (fan_in * fan_out) ** -1.0,
        }
        return {law: (ratio, 0.0 if law in common else RARE) for law, ratio in (common | rare).items()}


def own_ratios(samples: Iterable[Sample]) -> dict[str, float]:
    """Parameter name -> target/base ratio of the model's own init: an exact power where one explains the values.

    A law explains them within three standard errors; where none does, the ratio is the measured one, if that is known.
    """
    groups: dict[Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[(template(sample.row.name), *sample.laws.values())].append(sample)
    judged = {key: _Evidence(group) for key, group in groups.items()}
    agreed: dict[str, Counter[str]] = defaultdict(Counter)
    for key, evidence in judged.items():
        agreed[_attribute(key)].update([evidence.best()] if evidence.is_decided else [])
    found: dict[str, float] = {}
    for key, group in groups.items():
        common = agreed[_attribute(key)].most_common(1)
        law = judged[key].best(common[0][0] if common else None)
        for sample in group:
            ratio = sample.laws[law][0]
            found[sample.row.name] = ratio if judged[key].explains(ratio) else sample.rms / sample.base_rms
    return found


class _Evidence:
    """What the layers of one kind say together: the log of target/base, with its standard error."""

    def __init__(self, group: list[Sample]) -> None:
        self.laws = group[0].laws
        by_base: dict[str, list[Sample]] = defaultdict(list)
        for sample in group:
            by_base[sample.row.base].append(sample)
        found = [_log_ratio(own) for own in by_base.values()]
        weights = [1 / variance for _, variance in found]
        self.log = sum(w * log for w, (log, _) in zip(weights, found, strict=True)) / sum(weights)
        self.error = sum(weights) ** -0.5

    def z(self, ratio: float) -> float:
        return abs(self.log - math.log(ratio)) / self.error

    def explains(self, ratio: float) -> bool:
        return self.z(ratio) <= 3 or self.error > ROUGH

    def scores(self, sibling: str | None = None) -> dict[str, float]:
        return {
            law: prior + (SIBLING if law == sibling else 0.0) - self.z(ratio) ** 2 / 2
            for law, (ratio, prior) in self.laws.items()
        }

    def best(self, sibling: str | None = None) -> str:
        """The likeliest law; a sibling's counts only where the values alone leave it open."""
        scores = self.scores(None if self.is_decided else sibling)
        return max(scores, key=scores.__getitem__)

    @property
    def is_decided(self) -> bool:
        scores = self.scores()
        best = max(scores, key=scores.__getitem__)
        others = [scores[law] for law, (ratio, _) in self.laws.items() if ratio != self.laws[best][0]]
        return scores[best] - max(others, default=-math.inf) >= DECIDED


def _log_ratio(own: list[Sample]) -> tuple[float, float]:
    """Unbiased log of the ratio of layers that share one base parameter, and its variance."""
    row = own[0].row
    numel, base_numel = len(own) * max(1, math.prod(row.shape)), max(1, math.prod(row.base_shape))
    rms = (sum(sample.rms**2 for sample in own) / len(own)) ** 0.5
    spread = sum(sample.kurtosis - 1 for sample in own) / len(own) / 4
    log = math.log(rms / own[0].base_rms) + spread * (1 / numel - 1 / base_numel)
    return log, max(EXACT**2, spread * (1 / numel + 1 / base_numel))


def _attribute(key: Key) -> str:
    return str(key[0]).rpartition(".")[2]
