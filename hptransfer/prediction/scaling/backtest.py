"""How far a form's extrapolations miss, told by the runs themselves: fit the cheaper part, predict the dearer one.

Bootstrap intervals hold the spread of a form's parameters, not the error of the form, which is what fails far away. So
the runs are split by compute at several shares; each fit's errors on the dearer runs are divided by how far these lie
(ln of the compute ratio plus NEAR), and the root mean square of that, over splits, is the form's error per unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hptransfer.core.statistics import t_quantile
from hptransfer.prediction.scaling.problem import APART, off_line

Array = np.ndarray
SHARES = (0.4, 0.55, 0.7, 0.85)
NEAR = 0.5
"""Added to ln(compute ratio): an error next to the fitted runs is not zero."""


@dataclass(frozen=True)
class Backtest:
    """error: root mean square of ln(observed/predicted) / (ln(compute ratio) + NEAR); splits: that could be fitted."""

    error: float
    splits: int

    def reach(self, ratio: float, *, level: float = 0.9) -> float:
        """Half the interval of ln(observed/predicted) at `ratio` > 1 times the compute of the dearest fitted run."""
        return t_quantile(level, self.splits) * self.error * (math.log(ratio) + NEAR)

    def __str__(self) -> str:
        return f"{self.splits} splits by compute"


Curve = Callable[[Array, Array], Array]
"""ln L of ln N and ln D."""


def backtested(
    n: Array, d: Array, y: Array, refit: Callable[[Array], Curve], *, parameters: int, apart: float = APART
) -> Backtest | None:
    """n, d, y (runs,): ln N, ln D, ln L. refit: rows -> the curve fitted to them alone, with so many parameters.

    apart: how far from one line N and D must lie in the cheaper part. None where no split can be fitted.
    """
    order = np.argsort(n + d, kind="stable")
    squares: list[float] = []
    for share in SHARES:
        count = round(share * len(order))
        cheap, dear = order[:count], order[count:]
        if count < parameters + 2 or not len(dear) or off_line(n[cheap], d[cheap]) < apart:
            continue
        law = refit(cheap)
        away = (n + d)[dear] - float((n + d)[cheap].max()) + NEAR
        squares.append(float(np.mean(((y[dear] - law(n[dear], d[dear])) / away) ** 2)))
    return Backtest(math.sqrt(float(np.mean(squares))), len(squares)) if squares else None
