"""Batch sharpness: the curvature that a minibatch step feels along its own gradient, which SGD holds at 2/lr.

E g_b' H_b g_b / E |g_b|^2 over minibatches b (Andreyev & Beneventano 2412.20553). A plain step along g_b changes its
own batch's loss by -lr |g_b|^2 + lr^2 g_b' H_b g_b / 2 to second order, so above 2/lr steps overshoot on average. It
exceeds lambda_max of the mean Hessian, the more so the smaller the batch: where lambda_max says "far from the edge",
this may not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.curvature import curvature_operator
from hptransfer.prediction.curvature.operators import LossFn, gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import Preconditioner


@dataclass(frozen=True)
class BatchSharpness:
    """value: sum of g'Hg over sum of |g|^2; error: its standard error by jackknife over batches; per_batch:
    g'Hg/|g|^2 each."""

    value: float
    error: float
    per_batch: tuple[float, ...]

    @property
    def max_lr(self) -> float:
        """2/value, the LR at which steps without momentum begin to overshoot their own batch; inf where value <=
        0."""
        return 2 / self.value if self.value > 0 else math.inf


def batch_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    preconditioner: Preconditioner | None = None,
    params: Sequence[str] | None = None,
    matrix: str = "hessian",
    seed: int | None = None,
) -> BatchSharpness:
    """Measure at the current parameters. batches: of the training batch size, at least 2; one gradient and one
    product each.

    preconditioner: then in u = P^(1/2) theta, so that the step is -lr P^-1 g. params, matrix, seed: as for
    `sharpness`. The edge 2/lr is that of plain steps; what momentum does to it is not known in closed form. Raises
    UsageError for 1 batch.
    """
    if len(batches) < 2:
        raise UsageError(f"batch_sharpness needs at least 2 batches for an error estimate, but got {len(batches)}.")
    space = preconditioner.space if preconditioner else ParameterSpace.of(model, params)
    operator = curvature_operator(model, loss_fn, batches, matrix=matrix, space=space, seed=seed)
    rows = gradients(model, loss_fn, batches, space=space, seed=seed)
    if preconditioner:
        operator = preconditioner.apply_to(operator)
        rows = torch.stack([preconditioner.inverse_sqrt(row) for row in rows])
    bends = np.array([float(g @ part(g)) for g, part in zip(rows, operator.parts, strict=True)])
    squares = np.array([float(g @ g) for g in rows])
    count = len(squares)
    folds = (bends.sum() - bends) / (squares.sum() - squares)
    error = math.sqrt((count - 1) / count * float(np.square(folds - folds.mean()).sum()))
    return BatchSharpness(float(bends.sum() / squares.sum()), error, tuple((bends / squares).tolist()))
