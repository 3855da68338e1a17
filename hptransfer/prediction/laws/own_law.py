"""The table's own law on the scoreboard: fitted to the optima of the other blocks, tried on the block left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.cell import Cell
from hptransfer.prediction.laws.lr_fit import LrFit, fit_optima

OWN = "own law"


@dataclass(frozen=True)
class OwnLaw:
    """over: variables that are fitted, of params, tokens, batch (None: all that vary); fixed: exponents given.

    curved: variables with a second-order term.
    """

    over: Sequence[str] | None = None
    fixed: Mapping[str, float] = field(default_factory=dict[str, float])
    curved: Sequence[str] = ()


def own_choices(blocks: Sequence[Sequence[Cell]], law: OwnLaw) -> list[list[float]]:
    """The rate of every cell, block by block, under the law of the other blocks.

    Raises UsageError where some block's others cannot carry the fit.
    """
    chosen: list[list[float]] = []
    for i, block in enumerate(blocks):
        fit = _fitted([cell for j, other in enumerate(blocks) if j != i for cell in other], law)
        chosen.append([fit.predict(**cell.variables()).value for cell in block])
    return chosen


def _fitted(cells: Sequence[Cell], law: OwnLaw) -> LrFit:
    inside = [cell for cell in cells if not cell.at_edge]
    if len(inside) < 3:
        raise UsageError(f"only {len(inside)} optima lie inside their grids once a block is left out; 3 are needed")
    scales, rates = [cell.variables() for cell in inside], [cell.best_lr for cell in inside]
    options = {"over": law.over, "fixed": law.fixed, "curved": law.curved}
    return fit_optima(scales, rates, edges=len(cells) - len(inside), **options)  # pyright: ignore[reportArgumentType]
