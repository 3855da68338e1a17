"""Power laws that any linear learner obeys: loss against steps and against samples, from two exponents of the task.

Eigenvalues lambda_i = i^-a and target energies i^-b (of the loss, for steps) or powers i^-b (of the target, for
samples).
"""

from __future__ import annotations

import math

from hptransfer.core.errors import UsageError


def step_exponent(a: float, b: float) -> float:
    """Loss ~ steps^-(b - 1)/a under gradient descent at a fixed stable LR (Velikanov & Yarotsky 2105.00507, thm 1,
    in this notation)."""
    _valid(a, b)
    return (b - 1) / a


def loss_after(a: float, b: float, *, lr: float, steps: float) -> float:
    """1/2 sum i^-b (1 - lr i^-a)^2T for large T: Gamma((b-1)/a) (2 lr T)^(-(b-1)/a) / 2a.

    The sum becomes an integral over x = 2 lr T i^-a, and (1 - y)^2T becomes e^-2Ty: derived here, tested against the
    exact sum. Needs lr < 2 (lambda_max = 1), and lr not so near 2 that the first modes still ring at T.
    """
    _valid(a, b)
    if not 0 < lr < 2 or steps <= 0:
        raise UsageError(f"lr={lr}, steps={steps}: need 0 < lr < 2/lambda_max = 2 and steps > 0.")
    rate = (b - 1) / a
    return math.gamma(rate) * (2 * lr * steps) ** -rate / (2 * a)


def sample_exponent(a: float, b: float) -> float:
    """Test error ~ samples^-min(b - 1, 2a) of kernel regression without noise or ridge (Spigler et al. 1905.10843;
    Bordelon et al. 2002.02561, eq. 17): kappa ~ n^-a, so the tail beyond mode n gives n^(1-b), the learnt modes
    kappa^2 = n^-2a."""
    _valid(a, b)
    if a <= 1:
        raise UsageError(f"a={a}: a trace-class kernel needs a > 1.")
    return min(b - 1, 2 * a)


def _valid(a: float, b: float) -> None:
    if not (a > 0 and b > 1):
        raise UsageError(f"a={a}, b={b}: need a > 0 and b > 1, for a finite loss.")
