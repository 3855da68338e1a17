"""Sharpness in the geometry of a normalised optimizer: max d'Hd over the unit ball of its norm.

A step -lr * argmax_{|d| <= 1} g.d (Muon: spectral norm; signSGD and Lion: max norm) changes the loss by at most
-lr |g|_* + lr^2 S/2, S = max_{|d| <= 1} d'Hd, where |g|_* is the dual norm: so lr < 2|g|_*/S lowers it
to second order, and lr = |g|_*/S lowers the bound most. That LR falls with the gradient: normalised steps
never settle without decay, and this is their local analogue of 2/lambda_max (Bernstein & Newhouse 2024, 2409.20325,
prop. 1, with S in place of their Frobenius bound; derived as above).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.operators import Operator
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.typed import norm, svd

NORMS = ("spectral", "max", "euclid")


@dataclass(frozen=True)
class NormGeometry:
    """A product of balls, one per parameter: |d| <= 1 where each block's norm <= its radius.

    norms: by parameter name, "spectral" (2-d only), "max" or "euclid"; radii: by name, default 1: the parameter's
    LR multiplier times the library's shape factor. Raises UsageError for an unknown norm or name, or a spectral
    vector.
    """

    space: ParameterSpace
    norms: Mapping[str, str]
    radii: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, tensor in zip(self.space.names, self.space.tensors, strict=True):
            chosen = self.norms.get(name)
            if chosen not in NORMS or (chosen == "spectral" and tensor.ndim != 2):
                raise UsageError(f"{name} of shape {tuple(tensor.shape)} has norm {chosen!r}; choose one of {NORMS}.")
        if unknown := sorted(set(self.radii) - set(self.space.names)):
            raise UsageError(f"Radii were given for unknown parameters {unknown}.")

    @classmethod
    def muon(cls, space: ParameterSpace, radii: Mapping[str, float] | None = None) -> NormGeometry:
        """Spectral balls for matrices and max-norm balls for the rest (which Adam or Lion would serve)."""
        norms = {n: "spectral" if t.ndim == 2 else "max" for n, t in zip(space.names, space.tensors, strict=True)}
        return cls(space, norms, radii or {})

    @classmethod
    def sign(cls, space: ParameterSpace, radii: Mapping[str, float] | None = None) -> NormGeometry:
        """One max-norm ball: signSGD, Lion, and Adam's first step."""
        return cls(space, dict.fromkeys(space.names, "max"), radii or {})

    def steepest(self, vector: Tensor) -> Tensor:
        """argmax of v.d over the ball (the linear minimisation oracle, up to sign). vector: (size,)."""
        blocks = self.space.named(vector)
        return self.space.flatten([self.radii.get(n, 1.0) * _extreme(self.norms[n], b) for n, b in blocks.items()])

    def dual_norm(self, vector: Tensor) -> float:
        """max of v.d over the ball. vector: (size,)."""
        return float(vector @ self.steepest(vector))


@dataclass(frozen=True)
class NormSharpness:
    """value: the largest d'Hd found (a lower bound on S); direction: where, (size,), in the ball; starts: all found
    values.

    dual_gradient: |g|_*; stable_lr: 2|g|_*/value, inf where the value is not positive.
    """

    value: float
    direction: Tensor
    starts: tuple[float, ...]
    dual_gradient: float

    @property
    def stable_lr(self) -> float:
        """The LR below which a normalised step lowers the loss to second order."""
        return 2 * self.dual_gradient / self.value if self.value > 0 else float("inf")


def norm_sharpness(
    operator: Operator,
    geometry: NormGeometry,
    gradient: Tensor,
    *,
    starts: int = 4,
    iterations: int = 50,
    tolerance: float = 1e-4,
    shift: float = 0.0,
    seed: int = 0,
) -> NormSharpness:
    """S = max d'Hd over the ball, by the generalised power method d <- argmax (H d + shift d).e from several starts.

    For H + shift I positive semi-definite every iteration raises d'(H + shift I)d (Journee et al. 2010, 0811.4724,
    sec. 3), so use a GGN, or a shift of at least -lambda_min for a Hessian. The maximum of a convex function over a
    ball is not a convex problem: the value is a lower bound, tight in tests against exhaustive search; the spread
    over starts shows how rough it is. The first start is the gradient's own steepest direction. gradient: (size,).
    """
    if starts < 1:
        raise UsageError(f"starts={starts}: at least one is needed.")
    first = geometry.steepest(gradient)
    others = [geometry.steepest(operator.random_vector(seed + k)) for k in range(starts - 1)]
    runs = [_climb(operator, geometry, d, iterations, tolerance, shift) for d in (first, *others)]
    value, direction = max(runs, key=lambda run: run[0])
    return NormSharpness(value, direction, tuple(v for v, _ in runs), geometry.dual_norm(gradient))


def _climb(
    operator: Operator, geometry: NormGeometry, start: Tensor, iterations: int, tolerance: float, shift: float
) -> tuple[float, Tensor]:
    best_value, best, direction = -float("inf"), start, start
    for _ in range(iterations):
        image = operator(direction)
        value = float(direction @ image)
        if value <= best_value + tolerance * abs(best_value):
            return (value, direction) if value > best_value else (best_value, best)
        best_value, best = value, direction
        direction = geometry.steepest(image + shift * direction)
    return best_value, best


def _extreme(name: str, block: Tensor) -> Tensor:
    if name == "max":
        return block.sign()
    if name == "euclid":
        return block / norm(block).clamp(min=torch.finfo(block.dtype).tiny)
    u, s, vt = svd(block)
    alive = s > s.max() * max(block.shape) * torch.finfo(block.dtype).eps
    return (u * alive) @ vt
