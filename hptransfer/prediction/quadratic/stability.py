"""Stability of momentum methods on one mode of a quadratic: the largest lr x lambda, from the characteristic
polynomial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.optimizers import torch_row, torch_rows


@dataclass(frozen=True)
class MomentumRule:
    """m' = b m + a g;  x' = (1 - lr wd) x - lr (p g + q m), with g the gradient at x and m the old buffer.

    Every rule below is of this form: heavy ball (a, p, q) = (1, 1, b); an average of gradients (1-b, 1-b, b);
    torch's Nesterov, g + b m' in place of m', (1, 1+b, b^2). corrected: the step is divided by 1 - b^t at step t
    (Adam).
    """

    name: str
    b: float
    a: float
    p: float
    q: float
    corrected: bool = False

    def lr_factor(self, steps: int) -> np.ndarray:
        """What multiplies the LR at steps 1..steps: 1/(1 - b^t) where corrected, else 1. Returns (steps,)."""
        return 1 / (1 - self.b ** np.arange(1, steps + 1)) if self.corrected else np.ones(steps)

    def matrix(self, eta_lambda: float, *, decay: float = 0.0) -> np.ndarray:
        """The step on (x, lr m), (2, 2), at lr x lambda = eta_lambda and lr x wd = decay."""
        return np.array([[1 - decay - self.p * eta_lambda, -self.q], [self.a * eta_lambda, self.b]])


def gd() -> MomentumRule:
    """Plain gradient descent."""
    return MomentumRule("gd", 0.0, 1.0, 1.0, 0.0)


def heavy_ball(b: float, *, dampening: float = 0.0) -> MomentumRule:
    """Polyak momentum as in torch.optim.SGD: m' = b m + (1 - dampening) g, x' = x - lr m'."""
    return _rule("heavy ball", b, 1 - dampening)


def ema(b: float, *, corrected: bool = False) -> MomentumRule:
    """An exponential moving average of gradients, as in Adam: m' = b m + (1-b) g, x' = x - lr m'."""
    return _rule("ema", b, 1 - b, corrected=corrected)


def nesterov(b: float) -> MomentumRule:
    """torch.optim.SGD(nesterov=True): m' = b m + g, x' = x - lr (g + b m')."""
    return _rule("nesterov", b, 1.0, ahead=True)


def ema_nesterov(b: float, *, corrected: bool = False) -> MomentumRule:
    """torch.optim.Muon(nesterov=True), and NAdam without its momentum schedule: x' = x - lr ((1-b) g + b m')."""
    return _rule("ema nesterov", b, 1 - b, ahead=True, corrected=corrected)


def limit(rule: MomentumRule, *, decay: float = 0.0) -> float:
    """The largest stable lr x lambda: (1+d)(1+b)/(p(1+b) - a q), d = 1 - decay, where a root leaves through z = -1.

    det(zI - A) = (z - d + pX)(z - b) + a q X, X = lr lambda. By Jury's criterion both roots lie in the unit disc iff
    it is positive at z = 1 and z = -1 and |det A| < 1; at z = -1 it vanishes at the value above, and the other two
    hold up to there for these rules. With decay = 0: gd 2, heavy ball 2+2b, ema (2+2b)/(1-b), Nesterov
    (2+2b)/(1+2b). Derived here; the test simulates the recursion on both sides. decay: lr x wd, in [0, 1). Raises
    UsageError outside.
    """
    if not 0 <= decay < 1:
        raise UsageError(f"decay={decay}: lr x weight decay must lie in [0, 1).")
    return (2 - decay) * (1 + rule.b) / (rule.p * (1 + rule.b) - rule.a * rule.q)


def spectral_radius(rule: MomentumRule, eta_lambda: float, *, decay: float = 0.0) -> float:
    """The factor by which the mode shrinks (or grows) per step in the long run."""
    return float(np.abs(np.linalg.eigvals(rule.matrix(eta_lambda, decay=decay))).max())


def rule_for(optimizer: type, options: Mapping[str, Any]) -> MomentumRule:
    """The momentum rule of a torch optimizer with these keyword options; weight decay is not part of it.

    Raises UsageError for an optimizer whose step has no such rule.
    """
    row, momentum = torch_row(optimizer.__name__), float(options.get("momentum", 0.0))
    kind = "" if row is None else row.momentum
    if kind == "nesterov option":
        if options.get("nesterov"):
            return nesterov(momentum)
        return heavy_ball(momentum, dampening=float(options.get("dampening", 0.0))) if momentum else gd()
    if kind in {"corrected ema", "nadam"}:
        b = float(options.get("betas", (0.9, 0.999))[0])
        return ema_nesterov(b, corrected=True) if kind == "nadam" else ema(b, corrected=True)
    if kind in {"heavy ball", "none"}:
        return heavy_ball(momentum) if momentum and kind == "heavy ball" else gd()
    if kind == "ema nesterov":
        b = float(options.get("momentum", 0.95))
        return ema_nesterov(b) if options.get("nesterov", True) else ema(b)
    known = [row.name for row in torch_rows() if row.momentum]
    raise UsageError(f"No momentum rule is known for {optimizer.__name__}. Known: {', '.join(known)}.")


def _rule(name: str, b: float, a: float, *, ahead: bool = False, corrected: bool = False) -> MomentumRule:
    if not 0 <= b < 1:
        raise UsageError(f"momentum {b}: must lie in [0, 1).")
    # not ahead: x' = x - lr m' = x - lr (a g + b m); ahead: x' = x - lr (a g + b m') = x - lr (a (1+b) g + b^2 m)
    return MomentumRule(name, b, a, a * (1 + b) if ahead else a, b * b if ahead else b, corrected)
