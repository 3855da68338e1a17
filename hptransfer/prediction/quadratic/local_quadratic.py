"""The noisy quadratic that matches a model where it stands: its curvature, gradient and gradient noise by Lanczos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import torch_generator
from hptransfer.prediction.curvature.curvature import curvature_operator
from hptransfer.prediction.curvature.lanczos import EigenPair, Quadrature, extreme_eigenpair, lanczos_quadrature
from hptransfer.prediction.curvature.operators import LossFn, check_deterministic, gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import Preconditioner
from hptransfer.prediction.quadratic.quadratic import NoisyQuadratic


@dataclass(frozen=True)
class LocalQuadratic:
    """problem: the matched modes, in u = P^(1/2) theta; top: lambda_max with its residual.

    signal: the share of the mean gradient's squared norm that is not noise (0..1), by which the energies were
    reduced; gradient_norm2 and noise_trace: |P^(-1/2) G|^2 and tr of one batch's gradient covariance, in the same
    coordinates.
    """

    problem: NoisyQuadratic
    top: EigenPair
    signal: float
    gradient_norm2: float
    noise_trace: float


def local_quadratic(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    preconditioner: Preconditioner | None = None,
    matrix: str = "ggn",
    outputs: str = "",
    nodes: int = 24,
    noise_probes: int = 2,
    seed: int | None = None,
    floor: float = 1e-8,
) -> LocalQuadratic:
    """The quadratic model of the loss at the current parameters, seen through the optimizer's preconditioner.

    Lanczos from the mean gradient g gives nodes and weights w with sum w f(node) = g' f(A) g, exact for polynomials
    up to degree 2 nodes - 1: so the loss under fewer than `nodes` noiseless steps of any LR sequence is exact, and
    energies are w/node. Lanczos from random signed sums of the batches' deviations does the same for the noise.
    batches: at the training batch size, at least 2. matrix: "ggn" (semi-definite) or "hessian", which is refused
    where it bends down along the gradient. floor: nodes below floor x lambda_max are raised to it. Cost: about
    (nodes (1 + noise_probes) + 20) x batches products.
    """
    if len(batches) < 2:
        raise UsageError(f"local_quadratic needs at least 2 batches to see the gradient noise, but got {len(batches)}.")
    space = preconditioner.space if preconditioner else ParameterSpace.of(model)
    operator = curvature_operator(model, loss_fn, batches, matrix=matrix, space=space, outputs=outputs, seed=seed)
    check_deterministic(operator)
    rows = gradients(model, loss_fn, batches, space=space, seed=seed)
    if preconditioner:
        operator = preconditioner.apply_to(operator)
        rows = torch.stack([preconditioner.inverse_sqrt(row) for row in rows])
    mean, deviations = rows.mean(dim=0), rows - rows.mean(dim=0)
    noise_trace = float(deviations.square().sum()) / (len(rows) - 1)
    top = extreme_eigenpair(operator, seed=seed or 0)
    along = lanczos_quadrature(operator, mean, steps=nodes)
    noisy = [lanczos_quadrature(operator, start, steps=nodes) for start in _signed_sums(deviations, noise_probes)]
    norm2 = float(mean.square().sum())
    signal = max(0.0, 1 - noise_trace / (len(rows) * norm2))  # E|mean|^2 = |G|^2 + tr S / batches
    problem = _modes(along, noisy, top.value, signal, floor)
    return LocalQuadratic(problem, top, signal, signal * norm2, noise_trace)


def _signed_sums(deviations: Tensor, probes: int) -> list[Tensor]:
    """Vectors s with E s s' = S, the covariance of one batch's gradient: sum_b +-(g_b - mean)/sqrt(batches - 1)."""
    generator = torch_generator(0)
    count = len(deviations)
    signs = torch.randint(2, (probes, count), generator=generator) * 2 - 1
    sums = signs.to(deviations) @ deviations / (count - 1) ** 0.5
    return [s for s in sums if float(s.norm()) > 0]


def _modes(along: Quadrature, noisy: list[Quadrature], top: float, signal: float, floor: float) -> NoisyQuadratic:
    """Energies on the gradient's nodes, noise on the probes' nodes (the recursion is additive), and the top
    eigenvalue."""
    if along.nodes.min() < -1e-3 * top or top <= 0:
        raise UsageError(
            f"The curvature along the gradient is negative ({along.nodes.min():.3g}; lambda_max {top:.3g}), so no "
            "quadratic has a minimum there. Use matrix='ggn'."
        )
    eigenvalues = [np.maximum(along.nodes, floor * top)]
    energies = [signal * along.weights / eigenvalues[0]]
    noise = [np.zeros_like(along.nodes)]
    for probe in noisy:
        eigenvalues.append(np.maximum(probe.nodes, floor * top))
        energies.append(np.zeros_like(probe.nodes))
        noise.append(probe.weights / len(noisy))
    ends = ((eigenvalues, top), (energies, 0.0), (noise, 0.0))
    return NoisyQuadratic(*(np.concatenate([*kind, [end]]) for kind, end in ends))
