"""A table of finished runs at several learning rates and scales: cells, their best rate, and the regret of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.cell import Cell as Cell
from hptransfer.prediction.table import Where, read_columns, settings_that_vary

Array = np.ndarray

Diverged = Literal["error", "drop", "wall"]
COLUMNS = {"params": "params", "tokens": "tokens", "batch": "batch", "lr": "lr", "loss": "loss"}
"""Our names of a table's columns, and the column names expected in the file unless mapped."""


@dataclass(frozen=True)
class SweepTable:
    """cells: one per scale. dropped: runs left out because they diverged. source: the file, for messages.

    notes: what a reader must know, such as columns that vary inside a cell.
    """

    cells: tuple[Cell, ...]
    dropped: int = 0
    source: str = "table"
    notes: tuple[str, ...] = ()

    def blocks(self) -> dict[tuple[float, float], list[Cell]]:
        """Cells by (params, tokens): cells that differ in batch only are one model and horizon, left out together."""
        found: dict[tuple[float, float], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault((_key(cell.params), _key(cell.tokens)), []).append(cell)
        return found


def make_table(
    *, lr: Array, loss: Array, source: str = "table", diverged: Diverged = "error", **scale: Array
) -> SweepTable:
    """A table from arrays (runs,): lr, loss, and at least one of params, tokens, batch.

    Runs that agree in everything but the loss (seeds) are averaged. diverged: what to do with a loss that is nan or
    inf: refuse it, leave the run out ("drop", counted), or keep its rate as a wall: a choice at or above it counts as
    the table's worst loss and once more the range of its losses. Raises UsageError where lengths disagree, rates or
    scales are not positive, or no cell has two rates.
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
            "diverged runs to be kept as a wall (diverged='wall') or dropped ('drop'), or give them a finite loss."
        )
    walls = {} if diverged == "drop" else _walls({name: x[~fine] for name, x in arrays.items()})
    cells = _cells({name: x[fine] for name, x in arrays.items()}, walls)
    if not cells:
        raise UsageError(
            f"{source}: no scale has two or more learning rates, so regret cannot be computed. Fit optima instead."
        )
    return SweepTable(tuple(cells), int((~fine).sum()) if diverged == "drop" else 0, source)


def read_table(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    diverged: Diverged = "error",
    where: Where | None = None,
) -> SweepTable:
    """A table from a CSV file. columns: our name -> the file's, where they differ, e.g. {"loss": "val_loss"}.

    Columns lr and loss are needed, and at least one of params, tokens, batch. where: column of the file -> the value
    that a row must have to count. A further column with few values that differs between runs of one scale and rate is
    a setting (weight decay, warm-up ...) and refused, since those runs are no seeds of each other; one that only
    differs between rates of a scale is named in the notes. Raises UsageError for an unreadable or truncated file, a
    missing column, a cell that is no number, or what `make_table` refuses.
    """
    unknown = set(columns or {}) - set(COLUMNS)
    if unknown:
        raise UsageError(f"Unknown column names {sorted(unknown)}: map any of {', '.join(COLUMNS)}.")
    names = COLUMNS | dict(columns or {})
    optional = [name for name in ("params", "tokens", "batch") if name not in (columns or {})]
    found = read_columns(path, names, optional=optional, nonfinite=["loss"], where=where)
    scale = [found[name] for name in ("params", "tokens", "batch") if name in found]
    notes = settings_that_vary(path, names, scale, found["lr"], where=where)
    return replace(make_table(source=str(path), diverged=diverged, **found), notes=notes)


def _walls(arrays: dict[str, Array]) -> dict[tuple[float, ...], list[float]]:
    """Scale -> the rates that diverged there."""
    found: dict[tuple[float, ...], list[float]] = {}
    for scale, lr in zip(_scales(arrays), arrays["lr"], strict=True):
        found.setdefault(scale, []).append(float(lr))
    return found


def _scales(arrays: dict[str, Array]) -> list[tuple[float, ...]]:
    nothing = np.full(len(arrays["lr"]), math.nan)
    columns = (arrays.get(name, nothing) for name in ("params", "tokens", "batch"))
    return [tuple(_key(x) for x in scale) for scale in zip(*columns, strict=True)]


def _cells(arrays: dict[str, Array], walls: dict[tuple[float, ...], list[float]]) -> list[Cell]:
    groups: dict[tuple[float, ...], dict[float, list[float]]] = {}
    for key, lr, loss in zip(_scales(arrays), arrays["lr"], arrays["loss"], strict=True):
        groups.setdefault(key, {}).setdefault(_key(lr), []).append(float(loss))
    losses = arrays["loss"]
    wall_loss = float(2 * losses.max() - losses.min()) if len(losses) else math.inf
    cells: list[Cell] = []
    for key, runs in groups.items():
        lrs = tuple(sorted(runs))
        params, tokens, batch = (math.nan if x < 0 else x for x in key)
        means = tuple(float(np.mean(runs[lr])) for lr in lrs)
        cell = Cell(params, tokens, batch, lrs, means, tuple(sorted(walls.get(key, ()))), wall_loss)
        if len(cell.lrs) >= 2:
            cells.append(cell)
    return cells


def _key(x: float) -> float:
    """A scale or rate to 9 digits, so that equal values read from text are equal; -1 for a missing one."""
    return -1.0 if math.isnan(x) else float(f"{x:.9g}")
