"""Training in the kernel regime: outputs on train and test inputs after any number of steps, in closed form.

With the squared loss 1/(2 n k) sum |f - y|^2 over n inputs of k outputs, full-batch training of a network that is
linear in its parameters moves the outputs by f <- f - (lr/nk) Theta (f - y) (Lee et al. 1902.06720, eqs. 8-15, 16
for the ensemble).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hptransfer.core.errors import UsageError
from hptransfer.prediction.quadratic.stability import MomentumRule, gd, limit

Array = NDArray[np.float64]
LOSSES = {"half-mse": 1.0, "mse": 2.0}
"""half-mse: 1/(2nk) sum |f-y|^2; mse: torch's mse_loss, 1/(nk) sum |f-y|^2. The value multiplies the gradient of the
first."""


def max_lr(
    lambda_max: float, *, examples: int, outputs: int = 1, rule: MomentumRule | None = None, loss: str = "half-mse"
) -> float:
    """The largest stable LR of full-batch training: limit(rule) n k / lambda_max(Theta), halved for torch's mse_loss.

    With heavy ball limit = 2(1 + mu), so 2 (1 + mu) n k / lambda_max. lambda_max: of the (n k x n k) kernel, which
    for the infinite kernel is that of the (n x n) one. Raises UsageError for lambda_max <= 0 or an unknown loss.
    """
    if lambda_max <= 0 or loss not in LOSSES:
        raise UsageError(f"lambda_max={lambda_max}, loss={loss!r}: need > 0 and one of {sorted(LOSSES)}.")
    return limit(rule or gd()) * examples * outputs / (lambda_max * LOSSES[loss])


@dataclass(frozen=True)
class KernelRegime:
    """Training on targets (n, k) with the tangent kernel (n, n), from outputs `initial` (n, k).

    Raises UsageError where shapes disagree, the kernel is not symmetric, or has a clearly negative eigenvalue.
    """

    ntk: Array
    targets: Array
    initial: Array
    eigenvalues: Array
    eigenvectors: Array
    loss: str = "half-mse"

    @classmethod
    def of(
        cls, ntk: ArrayLike, targets: ArrayLike, *, initial: ArrayLike | None = None, loss: str = "half-mse"
    ) -> KernelRegime:
        """targets, initial: (n,) or (n, k); initial defaults to zeros (the ensemble's mean)."""
        theta, y = np.asarray(ntk, dtype=np.float64), _columns(targets)
        begin = np.zeros_like(y) if initial is None else _columns(initial)
        if theta.shape != (len(y), len(y)) or begin.shape != y.shape:
            raise UsageError(
                f"ntk {theta.shape}, targets {y.shape}, initial {begin.shape}: need (n, n), (n, k), (n, k)."
            )
        if loss not in LOSSES:
            raise UsageError(f"loss={loss!r}: choose one of {sorted(LOSSES)}.")
        if not np.allclose(theta, theta.T, rtol=1e-6, atol=1e-9 * float(abs(theta).max())):
            raise UsageError("The train kernel is not symmetric.")
        values, vectors = np.linalg.eigh(theta)
        if values[0] < -1e-6 * values[-1]:
            raise UsageError(f"The train kernel has eigenvalue {values[0]:.3g} < 0, so it is no kernel.")
        return cls(theta, y, begin, np.maximum(values, 0.0), vectors, loss)

    @property
    def rate(self) -> float:
        """d f/d(lr t) = -rate Theta (f - y): 1/nk, or 2/nk for torch's mse_loss."""
        return LOSSES[self.loss] / self.targets.size

    def max_lr(self, rule: MomentumRule | None = None) -> float:
        """The largest stable LR."""
        n, k = self.targets.shape
        return max_lr(float(self.eigenvalues[-1]), examples=n, outputs=k, rule=rule, loss=self.loss)

    def flow_train(self, time: float) -> Array:
        """Train outputs (n, k) after gradient flow for `time` (= lr x steps; math.inf: to convergence)."""
        return self.initial + self.ntk @ self._dual(self._moved_by_flow(time))

    def flow_test(self, test_ntk: ArrayLike, time: float, *, initial: ArrayLike | None = None) -> Array:
        """Test outputs (t, k) after gradient flow. test_ntk: Theta(test, train), (t, n); initial: (t, k), default
        zeros."""
        return self._test(test_ntk, self._moved_by_flow(time), initial)

    def steps_train(self, lr: float, steps: int, *, rule: MomentumRule | None = None) -> Array:
        """Train outputs (n, k) after `steps` full-batch steps at `lr` under a momentum rule (default plain GD)."""
        return self.initial + self.ntk @ self._dual(self._moved_by_steps(lr, steps, rule))

    def steps_test(
        self,
        test_ntk: ArrayLike,
        lr: float,
        steps: int,
        *,
        rule: MomentumRule | None = None,
        initial: ArrayLike | None = None,
    ) -> Array:
        """Test outputs (t, k) after `steps` full-batch steps."""
        return self._test(test_ntk, self._moved_by_steps(lr, steps, rule), initial)

    def train_loss(self, outputs: Array) -> float:
        """The loss of train outputs (n, k)."""
        with np.errstate(over="ignore"):
            return 0.5 * self.rate * float(np.square(outputs - self.targets).sum())

    def flow_variance(
        self, test_ntk: ArrayLike, time: float, *, nngp: ArrayLike, test_nngp: ArrayLike, test_self: ArrayLike
    ) -> Array:
        """Variance (t,) over random initialisations of one test output: f_0 is the Gaussian process of the NNGP
        kernel.

        nngp: K(train, train); test_nngp: K(test, train), (t, n); test_self: K(x, x), (t,). With A = Theta(x, X)
        g_t(Theta): K(x,x) + A K A' - 2 A K(X, x) (Lee et al., eq. 16, at any t).
        """
        moved = self._moved_by_flow(time)
        smoother = np.asarray(test_ntk) @ (self.eigenvectors * moved) @ self.eigenvectors.T
        k_train, k_test = np.asarray(nngp), np.asarray(test_nngp)
        return (
            np.asarray(test_self)
            + np.einsum("ti,ij,tj->t", smoother, k_train, smoother)
            - 2 * (smoother * k_test).sum(axis=1)
        )

    def _moved_by_flow(self, time: float) -> Array:
        """g(lambda) = (1 - exp(-rate lambda t))/lambda, with its limit rate t at lambda = 0."""
        if not time >= 0:
            raise UsageError(f"time={time}: cannot be negative.")
        floor = self._floor()
        alive = np.maximum(self.eigenvalues, floor)
        if math.isinf(time):
            return np.where(self.eigenvalues > floor, 1 / alive, 0.0)
        return -np.expm1(-self.rate * time * alive) / alive

    def _moved_by_steps(self, lr: float, steps: int, rule: MomentumRule | None) -> Array:
        """(1 - d)/lambda, d the first entry of the mode's step matrix to the power `steps`."""
        chosen = rule or gd()
        if chosen.corrected:
            raise UsageError("Bias-corrected rules have no constant step matrix; use an uncorrected rule here.")
        alive = np.maximum(self.eigenvalues, self._floor())
        matrices = np.stack([chosen.matrix(lr * self.rate * value) for value in alive])
        with np.errstate(over="ignore", invalid="ignore"):
            left = np.linalg.matrix_power(matrices, steps)[:, 0, 0]
        return (1 - left) / alive

    def _floor(self) -> float:
        return max(float(self.eigenvalues[-1]) * 1e-13, 1e-300)

    def _dual(self, moved: Array) -> Array:
        """The coefficients a with f = f_0 + Theta(., X) a."""
        return self.eigenvectors @ (moved[:, None] * (self.eigenvectors.T @ (self.targets - self.initial)))

    def _test(self, test_ntk: ArrayLike, moved: Array, initial: ArrayLike | None) -> Array:
        cross = np.asarray(test_ntk, dtype=np.float64)
        if cross.ndim != 2 or cross.shape[1] != len(self.targets):
            raise UsageError(f"test_ntk has shape {cross.shape}: need (test inputs, {len(self.targets)} train inputs).")
        change = cross @ self._dual(moved)
        return change if initial is None else _columns(initial) + change


def _columns(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
