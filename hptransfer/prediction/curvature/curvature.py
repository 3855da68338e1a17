"""Sharpness: the largest eigenvalue of H, of the Gauss-Newton matrix, or of P^-1 times either, with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.lanczos import EigenPair, extreme_eigenpair
from hptransfer.prediction.curvature.operators import (
    LossFn,
    Operator,
    check_deterministic,
    ggn_operator,
    hessian_operator,
)
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import Preconditioner

MATRICES = ("hessian", "ggn")


@dataclass(frozen=True)
class Sharpness:
    """lambda_max of a curvature matrix over a few minibatches, and how far to trust it.

    value: of the mean matrix over the given batches; vector: its unit eigenvector (size,), in u = P^(1/2) theta.
    residual: |A v - value v|, bounds the Lanczos error. per_batch: v'A_i v of each batch, whose mean is `value`.
    batch_error: standard error of `value` over the draw of batches (first order in 1/batches; inf for one batch).
    batch_bias: by how much the largest eigenvalue of a mean of few batches overstates that of the full mean: second
    order, upper estimate, |noise of A v off v|^2 / value; inf for one batch. products: matrix-vector products spent,
    each over all batches.
    """

    value: float
    residual: float
    per_batch: tuple[float, ...]
    batch_error: float
    batch_bias: float
    products: int
    converged: bool
    matrix: str
    preconditioner: str
    vector: Tensor

    @property
    def interval(self) -> tuple[float, float]:
        """About 95%: two standard errors and the residual each way, and the bias below."""
        spread = 2 * self.batch_error + self.residual
        return self.value - spread - self.batch_bias, self.value + spread

    def max_lr(self, threshold: float) -> float:
        """threshold / value: the LR at which the frozen quadratic stops converging. Threshold:
        stability.limit(...)."""
        return threshold / self.value if self.value > 0 else math.inf


def sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    matrix: str = "hessian",
    preconditioner: Preconditioner | None = None,
    params: Sequence[str] | None = None,
    outputs: str = "",
    seed: int | None = None,
    tolerance: float = 1e-2,
    max_products: int = 200,
    basis_size: int = 40,
    check: bool = True,
) -> Sharpness:
    """lambda_max over `batches` of H ("hessian") or the Gauss-Newton matrix ("ggn"), or of P^-1 times it.

    preconditioner: its space is the one measured; else `params` names the block (default: all trainable parameters).
    seed: holds dropout masks fixed (see hessian_operator). tolerance: Lanczos residual / value. check: probe
    determinism and symmetry first, and raise UsageError where they fail. Cost: products x batches x the time of 2
    to 9 gradients (benchmarks/curvature.json).
    """
    space = preconditioner.space if preconditioner is not None else ParameterSpace.of(model, params)
    operator = curvature_operator(model, loss_fn, batches, matrix=matrix, space=space, outputs=outputs, seed=seed)
    if check:
        check_deterministic(Operator(operator.size, operator.parts[:1], operator.dtype, operator.device))
    if preconditioner is not None:
        operator = preconditioner.apply_to(operator)
    pair = extreme_eigenpair(
        operator, tolerance=tolerance, max_products=max_products, basis_size=basis_size, seed=seed or 0
    )
    return _with_batch_error(operator, pair, matrix, preconditioner.kind if preconditioner else "none")


def sharpness_by_block(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    blocks: Mapping[str, Sequence[str]] | None = None,
    preconditioner_for: Callable[[ParameterSpace], Preconditioner] | None = None,
    **options: Any,
) -> dict[str, Sharpness]:
    """`sharpness` of each diagonal block. blocks: label -> parameter names; default: one block per parameter.

    preconditioner_for: makes P on a block's space. options: as for `sharpness`. The largest eigenvalue of the
    whole matrix is at least that of every block, and of a semi-definite one at most their sum.
    """
    if {"params", "preconditioner"} & set(options):
        raise UsageError("sharpness_by_block: give `blocks` and `preconditioner_for`, not params or preconditioner.")
    chosen = blocks if blocks is not None else {n: (n,) for n in ParameterSpace.of(model).names}
    blockwise: dict[str, Sharpness] = {}
    for label, names in chosen.items():
        felt = preconditioner_for(ParameterSpace.of(model, names)) if preconditioner_for else None
        blockwise[label] = sharpness(model, loss_fn, batches, params=names, preconditioner=felt, **options)
    return blockwise


def curvature_operator(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    matrix: str = "hessian",
    space: ParameterSpace | None = None,
    outputs: str = "",
    seed: int | None = None,
) -> Operator:
    """The operator that `matrix` names: "hessian" or "ggn". Raises UsageError for another name."""
    if matrix == "hessian":
        return hessian_operator(model, loss_fn, batches, space=space, seed=seed)
    if matrix == "ggn":
        return ggn_operator(model, loss_fn, batches, space=space, outputs=outputs, seed=seed)
    raise UsageError(f"matrix={matrix!r}: choose one of {MATRICES}.")


def _with_batch_error(operator: Operator, pair: EigenPair, matrix: str, kind: str) -> Sharpness:
    """Perturbation theory: v'(dA)v to first order, sum_j (v_j'dA v)^2/(lambda - lambda_j) to second."""
    images = torch.stack([part(pair.vector) for part in operator.parts])
    values = images @ pair.vector
    count = len(values)
    error = bias = math.inf
    if count > 1:
        error = float(values.std() / math.sqrt(count))
        off = images - values[:, None] * pair.vector
        noise = float((off - off.mean(dim=0)).square().sum() / (count * (count - 1)))
        bias = noise / pair.value if pair.value > 0 else math.inf
    return Sharpness(
        value=pair.value,
        residual=pair.residual,
        per_batch=tuple(float(value) for value in values),
        batch_error=error,
        batch_bias=bias,
        products=pair.products + 1,
        converged=pair.converged,
        matrix=matrix,
        preconditioner=kind,
        vector=pair.vector,
    )
