"""Sharpness now, and where it stands against the edge of stability.

lambda_max(H) against 2/lr, where plain gradient descent stops converging, and lambda_max(P^-1 H), with the P that the
optimizer applies at this moment, against its own limit: 38/lr for Adam with b1 = .9 (Cohen et al. 2207.14484). Both
ratios are 1 at the edge. Lanczos starts from the last eigenvector, which moves slowly, so few products are enough.
"""

# pyright: strict
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hptransfer.core.errors import UsageError
from hptransfer.monitoring.ranks import Ranks
from hptransfer.prediction.curvature.curvature import curvature_operator
from hptransfer.prediction.curvature.lanczos import extreme_eigenpair
from hptransfer.prediction.curvature.operators import LossFn, Operator
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import curvature_of, preconditioner_from_state
from hptransfer.prediction.quadratic.stability import limit, rule_for

GRADIENT_DESCENT = 2.0
"""lr x lambda at which plain gradient descent stops converging."""
TOLERANCE, PRODUCTS = 0.02, 12
"""Lanczos stops at this residual over value, or after so many products."""


def base_lr(optimizers: Sequence[Optimizer]) -> float:
    """The largest group's learning rate now."""
    return max(float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups)


def stable_limit(optimizers: Sequence[Optimizer]) -> float | None:
    """The smallest lr x lambda at which one of the groups stops converging; None for an optimizer without a rule."""
    try:
        return min(limit(rule_for(type(o), group)) for o in optimizers for group in o.param_groups)
    except UsageError:
        return None


def is_preconditioned(optimizers: Sequence[Optimizer]) -> bool:
    """Whether the step is other than one rate times the gradient, so that P^-1 H is not H."""
    rates = {float(group["lr"]) for o in optimizers for group in o.param_groups}
    return len(rates) > 1 or any(curvature_of(type(o).__name__) != "identity" for o in optimizers)


class EdgeProbe:
    """Measures lambda_max over the batch of all ranks; keeps the eigenvector to start from. preconditioned: of P^-1
    H."""

    def __init__(self, *, preconditioned: bool) -> None:
        self.preconditioned = preconditioned
        self.vector: Tensor | None = None

    def __call__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        loss_fn: LossFn,
        batch: Any,
        ranks: Ranks,
        *,
        seed: int,
    ) -> dict[str, float]:
        """The sharpness, its Lanczos residual (it may be larger by about that), and its ratio to the edge.

        seed: of dropout's masks. Raises UsageError where the optimizer's P is not known, or all rates are zero.
        """
        lr = base_lr(optimizers)
        if lr == 0:
            raise NotNow("the learning rate is zero")
        space = ParameterSpace.of(model)
        operator = over_ranks(curvature_operator(model, loss_fn, [batch], space=space, seed=seed), ranks)
        if self.preconditioned:
            operator = preconditioner_from_state(optimizers, space, lr=lr).apply_to(operator)
        edge = stable_limit(optimizers) if self.preconditioned else GRADIENT_DESCENT
        pair = extreme_eigenpair(
            operator, tolerance=TOLERANCE, max_products=PRODUCTS, basis_size=PRODUCTS, start=self.vector
        )
        self.vector = pair.vector
        name = "preconditioned sharpness" if self.preconditioned else "sharpness"
        numbers = {name: pair.value, f"{name}, residual": pair.residual}
        return numbers | ({f"{name} / edge": lr * pair.value / edge} if edge else {})


class NotNow(UsageError):
    """A measurement that cannot be made at this step but may be later."""


def over_ranks(operator: Operator, ranks: Ranks) -> Operator:
    """The mean of every rank's operator; every rank multiplies the same vectors."""
    if ranks.count == 1:
        return operator
    return Operator(operator.size, (lambda vector: ranks.mean(operator(vector)),), operator.dtype, operator.device)
