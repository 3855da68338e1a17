"""Lanczos: extreme eigenpairs with error estimates, spectral densities and quadratures, from matrix-vector
products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.operators import Operator
from hptransfer.prediction.typed import norm

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tridiagonal:
    """What m steps of Lanczos leave: A Q = Q T + r e_m', with T tridiagonal and r orthogonal to Q.

    diagonal (m,), off (m-1,); last: |r|; basis: Q as (m, size), rows orthonormal.
    """

    diagonal: Array
    off: Array
    last: float
    basis: Tensor

    def ritz(self) -> tuple[Array, Array]:
        """Eigenvalues (m,), ascending, and eigenvectors (m, m) of T, one per column."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.off)
        return np.asarray(values, dtype=np.float64), np.asarray(vectors, dtype=np.float64)


@dataclass(frozen=True)
class EigenPair:
    """An eigenvalue with its vector (size,), the residual |A v - value v|, and the products spent.

    Some eigenvalue of A lies within `residual` of `value` (Parlett 1998, thm 4.5.1). converged: residual <=
    tolerance.
    """

    value: float
    vector: Tensor
    residual: float
    products: int
    converged: bool


@dataclass(frozen=True)
class Quadrature:
    """A spectral measure: sum_k weight_k delta(x - node_k) stands for sum_i (v_i . start)^2 delta(x - lambda_i).

    nodes (m,), weights (m,), summing to |start|^2. With m nodes, integrals of polynomials up to degree
    2m - 1 are exact (Gauss quadrature; Golub & Meurant 1994).
    """

    nodes: Array
    weights: Array

    def integral(self, function: Callable[[Array], Array]) -> float:
        """start' f(A) start."""
        return float(self.weights @ function(self.nodes))


@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalue distribution by stochastic Lanczos quadrature (Ubaru et al. 2017; Ghorbani et al. 1901.10159).

    nodes, weights: (probes, steps), each row's weights summing to 1; size: rows of the matrix.
    """

    nodes: Array
    weights: Array
    size: int

    def trace(self, function: Callable[[Array], Array] = lambda x: x) -> tuple[float, float]:
        """tr f(A) and its standard error over the probes (inf with one probe)."""
        values = self.size * (self.weights * function(self.nodes)).sum(axis=1)
        return float(values.mean()), _standard_error(values)

    def density(self, grid: Array, *, width: float) -> Array:
        """The density at the points of `grid` (m,), each node smoothed by a Gaussian of std `width`."""
        if not width > 0:
            raise UsageError(f"width={width}: the smoothing must be positive.")
        gaps = (grid[:, None, None] - self.nodes) / width
        bumps = np.exp(-0.5 * gaps**2) / (width * math.sqrt(2 * math.pi))
        return (bumps * self.weights).sum(axis=2).mean(axis=1)

    def count_above(self, threshold: float) -> tuple[float, float]:
        """How many eigenvalues exceed `threshold`, with the standard error over the probes."""
        return self.trace(lambda x: (x > threshold).astype(np.float64))


def lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tridiagonal:
    """At most `steps` Lanczos steps from `start` (size,), fully re-orthogonalised (twice, so orthogonal to rounding).

    Ends early where the Krylov space is invariant. Memory: steps x size. Raises UsageError for a zero start.
    """
    steps = min(steps, start.numel())
    basis = start.new_empty(steps, start.numel())
    basis[0] = _unit(start)
    diagonal, off = np.zeros(steps), np.zeros(steps)
    last, scale, done = 0.0, 0.0, 0
    for j in range(steps):
        image = operator(basis[j])
        scale = max(scale, float(norm(image)))
        image, along = _orthogonalise(image, basis[: j + 1])
        diagonal[j], last, done = float(along[j]), float(norm(image)), j + 1
        if last <= 10 * torch.finfo(start.dtype).eps * scale:
            last = 0.0
        if last == 0.0 or done == steps:
            break
        off[j] = last
        basis[done] = image / last
    return Tridiagonal(diagonal[:done], off[: done - 1], last, basis[:done])


def extreme_eigenpair(
    operator: Operator,
    *,
    end: str = "largest",
    tolerance: float = 1e-3,
    max_products: int = 200,
    basis_size: int = 40,
    seed: int = 0,
    start: Tensor | None = None,
) -> EigenPair:
    """The algebraically largest (or `end="smallest"`) eigenpair, by thick-restart Lanczos (Wu & Simon 2000).

    tolerance: on residual/|value|; the eigenvalue's own error is ~ residual^2/gap, far smaller. basis_size: vectors
    kept in memory, at least 4. start: (size,), default random from `seed`. Where max_products run out, `converged`
    is False.
    """
    if end not in ("largest", "smallest") or basis_size < 4:
        raise UsageError(
            f"end={end!r}, basis_size={basis_size}: choose 'largest' or 'smallest', and 4 or more vectors."
        )
    room = min(basis_size, operator.size)
    basis = torch.empty(room, operator.size, dtype=operator.dtype, device=operator.device)
    basis[0] = _unit(operator.random_vector(seed) if start is None else start)
    inner, j = np.zeros((room, room)), 0  # inner = Q A Q'; after a restart an arrow rather than tridiagonal
    spent = 0
    while True:
        image, along = _orthogonalise(operator(basis[j]), basis[: j + 1])
        inner[j, : j + 1] = inner[: j + 1, j] = along.double().cpu().numpy()
        last, spent = float(norm(image)), spent + 1
        values, vectors = np.linalg.eigh(inner[: j + 1, : j + 1])
        order = slice(None, None, -1 if end == "largest" else 1)
        values, vectors = values[order], vectors[:, order]
        # |A v - value v| = |r| |e_j' s|
        residual = last * abs(float(vectors[-1, 0]))
        small = residual <= tolerance * abs(values[0]) or j + 1 == operator.size
        if small or spent >= max_products:
            break
        if j + 1 == room:
            j = room // 2
            basis[:j] = _combine(basis, vectors[:, :j])
            inner[:] = 0
            inner[range(j), range(j)] = values[:j]
        else:
            j += 1
        basis[j] = image / last
    vector = _combine(basis[: len(values)], vectors[:, :1])[0]
    return EigenPair(float(values[0]), _unit(vector), residual, spent, small)


def spectral_density(operator: Operator, *, probes: int = 8, steps: int = 64, seed: int = 0) -> SpectralDensity:
    """The eigenvalue distribution from `probes` random vectors of `steps` Lanczos steps each."""
    rows = [lanczos_quadrature(operator, _rademacher(operator, seed + k), steps=steps) for k in range(probes)]
    longest = max(len(r.nodes) for r in rows)
    nodes = np.stack([np.pad(r.nodes, (0, longest - len(r.nodes)), mode="edge") for r in rows])
    weights = np.stack([np.pad(r.weights / r.weights.sum(), (0, longest - len(r.weights))) for r in rows])
    return SpectralDensity(nodes, weights, operator.size)


def lanczos_quadrature(operator: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> Quadrature:
    """The measure of `start` (size,) over the operator's spectrum, on at most `steps` nodes."""
    values, vectors = lanczos(operator, start, steps).ritz()
    # weights = |start|^2 (e_1' s_k)^2  (Golub & Welsch 1969)
    return Quadrature(values, float(norm(start)) ** 2 * vectors[0] ** 2)


def _orthogonalise(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The part of `image` orthogonal to the rows of `basis`, and its coordinates along them. Twice is enough."""
    along = basis @ image
    image = image - along @ basis
    again = basis @ image
    return image - again @ basis, along + again


def _combine(basis: Tensor, weights: Array) -> Tensor:
    """The Ritz vectors as rows: weights' Q. basis: (m, size); weights: (m, k)."""
    return torch.as_tensor(weights.T.copy(), dtype=basis.dtype, device=basis.device) @ basis


def _unit(vector: Tensor) -> Tensor:
    length = float(norm(vector))
    if not (math.isfinite(length) and length > 0):
        raise UsageError(f"Lanczos cannot start from a vector of norm {length}.")
    return vector / length


def _rademacher(operator: Operator, seed: int) -> Tensor:
    return operator.random_vector(seed).sign()


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
