"""The catapult: why a learning rate above 2/lambda need not diverge, in the one network where it is solvable.

f = v.u/sqrt(n) on one example x = 1 with target 0 and loss f^2/2, curvature lambda = (|u|^2 + |v|^2)/n. One step of
gradient descent closes on (f, lambda) alone (Lewkowycz et al. 2003.02218, eqs. 8-9; derived here by expanding
u' = u - lr f v/sqrt(n), v' = v - lr f u/sqrt(n), and tested against autograd):
    f' = f (1 - lr lambda + lr^2 f^2/n),    lambda' = lambda + (lr f^2/n)(lr lambda - 4).
So above 2/lambda f grows until f^2/n pushes lambda down, as long as lr lambda < 4: training settles at a flatter
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hptransfer.core.errors import UsageError

Array = NDArray[np.float64]
Regime = Literal["lazy", "catapult", "divergent"]


@dataclass(frozen=True)
class CatapultRun:
    """f, curvature: (steps + 1,), from the start on, inf once f^2 exceeds 1e12 n."""

    f: Array
    curvature: Array

    @property
    def converged(self) -> bool:
        """Whether f has shrunk below a thousandth of its largest value and is finite."""
        return bool(np.isfinite(self.f[-1])) and abs(self.f[-1]) < 1e-3 * float(np.abs(self.f).max())


def catapult_regime(lr: float, curvature: float) -> Regime:
    """lr lambda < 2: curvature stays, to 1/n; 2 to 4: catapult to a flatter minimum; above 4: divergence (wide
    networks)."""
    if lr * curvature < 2:
        return "lazy"
    return "catapult" if lr * curvature < 4 else "divergent"


def simulate_catapult(lr: float, curvature: float, *, width: float, f0: float = 1.0, steps: int = 1000) -> CatapultRun:
    """Iterate the map from f0 and lambda = `curvature` at width n. Raises UsageError for values that are not
    positive."""
    if min(lr, curvature, width) <= 0 or steps < 1:
        raise UsageError(f"lr={lr}, curvature={curvature}, width={width}, steps={steps}: all must be positive.")
    f, bend = np.full(steps + 1, np.inf), np.full(steps + 1, np.inf)
    f[0], bend[0] = f0, curvature
    for t in range(steps):
        kick = lr * f[t] ** 2 / width
        f[t + 1] = f[t] * (1 - lr * bend[t] + lr * kick)
        bend[t + 1] = bend[t] + kick * (lr * bend[t] - 4)
        if f[t + 1] ** 2 > 1e12 * width:
            f[t + 1 :], bend[t + 1 :] = np.inf, np.inf
            break
    return CatapultRun(f, bend)
