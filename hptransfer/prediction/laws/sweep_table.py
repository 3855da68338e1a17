"""A table of finished runs at several learning rates and scales: cells, their best rate, and the regret of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.interpolate import PchipInterpolator

from hptransfer.core.errors import UsageError
from hptransfer.prediction.table import read_columns

Array = np.ndarray

COLUMNS = {"params": "params", "tokens": "tokens", "batch": "batch", "lr": "lr", "loss": "loss"}
"""Our names of a table's columns, and the column names expected in the file unless mapped."""


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

    A neighbour that has gone over the cliff (5% above the best loss) says nothing about the bowl: where it also rises
    more than 4 times as steeply, per squared distance, as the other, it counts as 4 times, and the parabola holds on
    the gentle side only.
    """
    i = int(np.argmin(y))
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
    return Bowl(float(vertex), float(y[i] - slope**2 / (4 * curvature)), float(curvature), *(float(e) for e in ends))


@dataclass(frozen=True)
class Cell:
    """All runs at one scale: rates (m,) increasing, m >= 2, and the mean loss (m,) at each.

    params, tokens, batch: the scale; nan where the table has no such column.
    """

    params: float
    tokens: float
    batch: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]

    @cached_property
    def _curve(self) -> PchipInterpolator:
        return PchipInterpolator(np.log(self.lrs), self.losses)

    @cached_property
    def _bowl(self) -> Bowl | None:
        return None if self.at_edge else _bowl(np.log(self.lrs), np.array(self.losses))

    def loss_at(self, lrs: Array) -> Array:
        """Losses at rates (k,), interpolated in ln lr; outside the rates tried, the nearest end's loss.

        Between the best rate and its neighbours the parabola through the three, so that the minimum need not sit on a
        tried rate; elsewhere, and towards a cliff, PCHIP, which never overshoots.
        """
        x = np.clip(np.log(lrs), math.log(self.lrs[0]), math.log(self.lrs[-1]))
        found = self._curve(x)
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
        """Whether the rate lies outside those that were tried."""
        return not self.lrs[0] * (1 - 1e-9) <= lr <= self.lrs[-1] * (1 + 1e-9)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate tried is the smallest or largest, so that the optimum may lie outside."""
        return int(np.argmin(self.losses)) in (0, len(self.losses) - 1)

    @property
    def best_lr(self) -> float:
        """Where the interpolated loss is smallest; the best rate tried where that is at an edge."""
        return math.exp(self._bowl.vertex) if self._bowl else self.lrs[int(np.argmin(self.losses))]

    def variables(self) -> dict[str, float]:
        """The scale as keyword arguments of a law."""
        named = {"params": self.params, "tokens": self.tokens, "batch": self.batch}
        return {name: value for name, value in named.items() if not math.isnan(value)}


@dataclass(frozen=True)
class SweepTable:
    """cells: one per scale. dropped: runs left out because they diverged. source: the file, for messages."""

    cells: tuple[Cell, ...]
    dropped: int = 0
    source: str = "table"

    def blocks(self) -> dict[tuple[float, float], list[Cell]]:
        """Cells by (params, tokens): cells that differ in batch only are one model and horizon, left out together."""
        found: dict[tuple[float, float], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault((_key(cell.params), _key(cell.tokens)), []).append(cell)
        return found


def make_table(
    *, lr: Array, loss: Array, source: str = "table", diverged: Literal["error", "drop"] = "error", **scale: Array
) -> SweepTable:
    """A table from arrays (runs,): lr, loss, and at least one of params, tokens, batch.

    Runs that agree in everything but the loss (seeds) are averaged. diverged: what to do with a loss that is nan or
    inf. Raises UsageError where lengths disagree, rates or scales are not positive, or no cell has two rates.
    """
    unknown = set(scale) - {"params", "tokens", "batch"}
    if unknown or not scale:
        raise UsageError(f"A sweep table needs params, tokens or batch to tell scales apart, but got {sorted(scale)}.")
    arrays = {name: np.asarray(x, dtype=np.float64) for name, x in {**scale, "lr": lr, "loss": loss}.items()}
    if len({x.shape for x in arrays.values()}) != 1:
        raise UsageError(f"{source}: columns of unequal length: { ({k: len(v) for k, v in arrays.items()}) }.")
    for name, x in arrays.items():
        if name != "loss" and not np.all(np.isfinite(x) & (x > 0)):
            raise UsageError(f"{source}: {name} must be positive and finite in every row.")
    fine = np.isfinite(arrays["loss"])
    if diverged == "error" and not fine.all():
        raise UsageError(
            f"{source}: row {int(np.flatnonzero(~fine)[0]) + 1} has the loss {arrays['loss'][~fine][0]}. Ask for "
            "diverged runs to be dropped (diverged='drop'), or give them a finite loss."
        )
    cells = _cells({name: x[fine] for name, x in arrays.items()})
    if not cells:
        raise UsageError(
            f"{source}: no scale has two or more learning rates, so regret cannot be computed. Fit optima instead."
        )
    return SweepTable(tuple(cells), int((~fine).sum()), source)


def read_table(
    path: str | Path, *, columns: Mapping[str, str] | None = None, diverged: Literal["error", "drop"] = "error"
) -> SweepTable:
    """A table from a CSV file. columns: our name -> the file's, where they differ, e.g. {"loss": "val_loss"}.

    Columns lr and loss are needed, and at least one of params, tokens, batch. Raises UsageError for an unreadable or
    truncated file, a missing column, a cell that is no number, or what `make_table` refuses.
    """
    unknown = set(columns or {}) - set(COLUMNS)
    if unknown:
        raise UsageError(f"Unknown column names {sorted(unknown)}: map any of {', '.join(COLUMNS)}.")
    names = COLUMNS | dict(columns or {})
    optional = [name for name in ("params", "tokens", "batch") if name not in (columns or {})]
    found = read_columns(path, names, optional=optional, nonfinite=["loss"])
    return make_table(source=str(path), diverged=diverged, **found)


def _cells(arrays: dict[str, Array]) -> list[Cell]:
    count = len(arrays["lr"])
    nothing = np.full(count, math.nan)
    scales = list(zip(*(arrays.get(name, nothing) for name in ("params", "tokens", "batch")), strict=True))
    groups: dict[tuple[float, ...], dict[float, list[float]]] = {}
    for scale, lr, loss in zip(scales, arrays["lr"], arrays["loss"], strict=True):
        key = tuple(_key(x) for x in scale)
        groups.setdefault(key, {}).setdefault(_key(lr), []).append(float(loss))
    cells: list[Cell] = []
    for key, runs in groups.items():
        if len(runs) >= 2:
            lrs = tuple(sorted(runs))
            params, tokens, batch = (math.nan if x < 0 else x for x in key)
            cells.append(Cell(params, tokens, batch, lrs, tuple(float(np.mean(runs[lr])) for lr in lrs)))
    return cells


def _key(x: float) -> float:
    """A scale or rate to 9 digits, so that equal values read from text are equal; -1 for a missing one."""
    return -1.0 if math.isnan(x) else float(f"{x:.9g}")
