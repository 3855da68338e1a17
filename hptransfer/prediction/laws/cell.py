"""The runs at one scale over learning rates: their best rate, the loss between them, and the regret of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from hptransfer.core.errors import UsageError

Array = np.ndarray


@dataclass(frozen=True)
class Bowl:
    """loss + curvature (x - vertex)^2 for x = ln lr in left..right."""

    vertex: float
    loss: float
    curvature: float
    left: float
    right: float


def _bowl(x: Array, y: Array) -> Bowl | None:
    """The parabola through the lowest point and its neighbours (none where these tie, or lie on a line).

    The minimum lies below the lowest point by at most the larger rise to a neighbour: two rates close to each other and
    a little noise would otherwise dig a hole of any depth. A neighbour that has gone over the cliff (5% above the best
    loss) says nothing about the bowl: where it also rises more than 4 times as steeply, per squared distance, as the
    other, it counts as 4 times, and the parabola holds on the gentle side only.
    """
    i = int(np.argmin(y))
    if i in (0, len(y) - 1):
        return None
    step, rise = np.abs(x[[i - 1, i + 1]] - x[i]), y[[i - 1, i + 1]] - y[i]
    bend = rise / step**2
    gentle = int(np.argmin(bend))
    if bend[gentle] <= 0:
        return None
    cliff = bool(rise[1 - gentle] > 0.05 * abs(y[i]) and bend[1 - gentle] > 4 * bend[gentle])
    if cliff:
        rise = np.minimum(bend, 4 * bend[gentle]) * step**2
    slope = (rise[1] * step[0] / step[1] - rise[0] * step[1] / step[0]) / (step[0] + step[1])
    curvature = (rise[0] / step[0] + rise[1] / step[1]) / (step[0] + step[1])
    ends = [x[i - 1], x[i + 1]]
    if cliff:
        ends[1 - gentle] = x[i]
    vertex = x[i] - slope / (2 * curvature)
    drop = min(float(slope**2 / (4 * curvature)), float(rise.max()))
    return Bowl(float(vertex), float(y[i]) - drop, float(curvature), *(float(e) for e in ends))


@dataclass(frozen=True)
class Cell:
    """All runs at one scale: rates (m,) increasing, m >= 2, and the mean loss (m,) at each.

    params, tokens, batch: the scale; nan where the table has no such column. walls: rates above the best one at which
    runs diverged; wall_loss: what a run there counts as. Rates within 2% of each other are one: text exports round, and
    a slope between them would be noise over nothing.
    """

    params: float
    tokens: float
    batch: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    walls: tuple[float, ...] = ()
    wall_loss: float = math.inf

    def __post_init__(self) -> None:
        runs = list(zip(self.lrs, self.losses, strict=True))
        trained = [(lr, loss) for lr, loss in runs if math.isfinite(loss)]
        if not trained:
            raise UsageError(
                f"No run at params={self.params:g}, tokens={self.tokens:g}, batch={self.batch:g} finished."
            )
        lrs, losses = merged(trained)
        walls = tuple(sorted({*self.walls, *(lr for lr, loss in runs if not math.isfinite(loss))}))
        wall_loss = self.wall_loss if math.isfinite(self.wall_loss) else 2 * max(losses) - min(losses)
        for name, value in {"lrs": lrs, "losses": losses, "walls": walls, "wall_loss": wall_loss}.items():
            object.__setattr__(self, name, value)

    @property
    def wall(self) -> float:
        """The lowest rate above the best one that diverged; inf where none did."""
        return min((lr for lr in self.walls if lr > self._lowest), default=math.inf)

    @property
    def _lowest(self) -> float:
        return self.lrs[int(np.argmin(self.losses))]

    @cached_property
    def _kept(self) -> tuple[Array, Array]:
        """ln lr and loss of the runs below the wall, and the wall's own loss at its end."""
        x, y = np.log(self.lrs), np.array(self.losses)
        below = x < math.log(self.wall) if math.isfinite(self.wall) else np.ones(len(x), dtype=bool)
        if below.all() and not math.isfinite(self.wall):
            return x, y
        return np.append(x[below], math.log(self.wall)), np.append(y[below], self.wall_loss)

    @cached_property
    def _curve(self) -> PchipInterpolator:
        x, y = self._kept
        finite = np.isfinite(y)
        return (
            PchipInterpolator(x[finite], y[finite])
            if finite.sum() > 1
            else PchipInterpolator([x[0], x[0] + 1], [y[0]] * 2)
        )

    @cached_property
    def _bowl(self) -> Bowl | None:
        return None if self.at_edge else _bowl(np.log(self.lrs), np.array(self.losses))

    def loss_at(self, lrs: Array) -> Array:
        """Losses at rates (k,), interpolated in ln lr; outside the rates tried, the nearest end's loss.

        Between the best rate and its neighbours the parabola through the three, so that the minimum need not sit on a
        tried rate; elsewhere, and towards a cliff, PCHIP, which never overshoots.
        """
        kept = self._kept[0]
        x = np.clip(np.log(lrs), kept[0], kept[-1])
        found = self._curve(x)
        if math.isfinite(self.wall):  # the cliff is equally likely anywhere between the last run and the wall
            last = kept[-2] if len(kept) > 1 else kept[0]
            share = np.clip((x - last) / (kept[-1] - last), 0.0, 1.0)
            ends = float(self._curve(last)), self.wall_loss
            found = np.where(x > last, ends[0] + share * (ends[1] - ends[0]), found)
        if self._bowl:
            inside = (x >= self._bowl.left) & (x <= self._bowl.right)
            found = np.where(inside, self._bowl.loss + self._bowl.curvature * (x - self._bowl.vertex) ** 2, found)
        return found

    @property
    def best_loss(self) -> float:
        """The smallest interpolated loss: at or below that of the best run."""
        return self._bowl.loss if self._bowl else min(self.losses)

    def regrets(self, lrs: Array) -> Array:
        """Loss at rates (k,) minus the best, >= 0, in the table's unit. At clamped rates: a lower bound."""
        return np.maximum(0.0, self.loss_at(lrs) - self.best_loss)

    def regret(self, lr: float) -> float:
        """`regrets` at one rate."""
        return float(self.regrets(np.array([lr]))[0])

    def clamped(self, lr: float) -> bool:
        """Whether the rate lies outside those that were tried (beyond a wall it is known: it diverges)."""
        above = lr > self.lrs[-1] * (1 + 1e-9) and not math.isfinite(self.wall)
        return above or lr < self.lrs[0] * (1 - 1e-9)

    def diverges(self, lr: float) -> bool:
        """Whether a run that diverged lies at or below this rate (and above the best)."""
        return lr >= self.wall * (1 - 1e-9)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate tried is the smallest or largest, so that the optimum may lie outside.

        A rate above it that diverged brackets it.
        """
        at = int(np.argmin(self.losses))
        return at == 0 or (at == len(self.losses) - 1 and not math.isfinite(self.wall))

    @property
    def best_lr(self) -> float:
        """Where the interpolated loss is smallest; else the best rate tried, the middle of them where several tie."""
        if self._bowl:
            return math.exp(self._bowl.vertex)
        return _middle([lr for lr, loss in zip(self.lrs, self.losses, strict=True) if loss == min(self.losses)])

    def variables(self) -> dict[str, float]:
        """The scale as keyword arguments of a law."""
        named = {"params": self.params, "tokens": self.tokens, "batch": self.batch}
        return {name: value for name, value in named.items() if not math.isnan(value)}


def merged(runs: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(lr, loss) -> rates ascending and losses, those within SAME_RATE of the one before as one: both means."""
    groups: list[list[tuple[float, float]]] = []
    for lr, loss in sorted(runs):
        if groups and lr <= groups[-1][-1][0] * (1 + SAME_RATE):
            groups[-1].append((lr, loss))
        else:
            groups.append([(lr, loss)])
    rates = tuple(_middle([lr for lr, _ in group]) for group in groups)
    return rates, tuple(float(np.mean([loss for _, loss in group])) for group in groups)


def _middle(lrs: Sequence[float]) -> float:
    return lrs[0] if len(lrs) == 1 else math.exp(float(np.mean(np.log(lrs))))


SAME_RATE = 0.02
"""Relative distance within which two learning rates are one."""
