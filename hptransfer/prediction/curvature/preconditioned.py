"""The preconditioner P that an optimizer applies: its step is -lr P^-1 m, so P^-1 H is the curvature that it feels.

Near a point where P moves slowly, training with P frozen is gradient descent in u = P^(1/2) theta, whose Hessian is
P^(-1/2) H P^(-1/2); it has the eigenvalues of P^-1 H (Cohen et al. 2022, arXiv 2207.14484, sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.optimizers import torch_row, torch_rows
from hptransfer.prediction.curvature.operators import Operator
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.typed import norm, svd


def curvature_of(name: str) -> str:
    """How torch.optim's optimizer of this name preconditions: "identity", "elementwise", "matrix", or "": not known."""
    row = torch_row(name)
    return "" if row is None else row.curvature


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""The coefficients of torch.optim.Muon's quintic x -> a x + b x^3 + c x^5."""


@dataclass(frozen=True)
class Preconditioner:
    """A symmetric positive definite P on a parameter space, held as P^(-1/2).

    diagonal: (size,), multiplies elementwise; sides: by parameter name, a symmetric matrix that multiplies that
    (2-d) parameter's block on its smaller side, for Muon. kind: which rule made it.
    """

    space: ParameterSpace
    diagonal: Tensor
    sides: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    kind: str = "identity"

    def inverse_sqrt(self, vector: Tensor) -> Tensor:
        """P^(-1/2) v. vector: (size,)."""
        scaled = vector * self.diagonal
        if not self.sides:
            return scaled
        blocks = self.space.named(scaled)
        turned = [_on_small_side(self.sides[n], b) if n in self.sides else b for n, b in blocks.items()]
        return self.space.flatten(turned)

    def inverse(self, vector: Tensor) -> Tensor:
        """P^-1 v: the step direction that the optimizer takes from v. vector: (size,)."""
        return self.inverse_sqrt(self.inverse_sqrt(vector))

    def apply_to(self, operator: Operator) -> Operator:
        """P^(-1/2) A P^(-1/2), part by part: symmetric, with the eigenvalues of P^-1 A."""
        if operator.size != self.space.size:
            raise UsageError(f"The preconditioner has {self.space.size} rows, but the operator {operator.size}.")

        def seen(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda vector: self.inverse_sqrt(part(self.inverse_sqrt(vector)))

        parts = tuple(seen(part) for part in operator.parts)
        return Operator(operator.size, parts, operator.dtype, operator.device)


def identity(space: ParameterSpace, *, lr_mult: Mapping[str, float] | None = None) -> Preconditioner:
    """SGD: P = 1/lr_mult (per parameter; 1 where not given)."""
    return Preconditioner(space, space.fill(lr_mult or {}).sqrt(), kind="identity")


def elementwise(
    space: ParameterSpace,
    second_moment: Tensor,
    *,
    eps: float = 1e-8,
    lr_mult: Mapping[str, float] | None = None,
    eps_mult: Mapping[str, float] | None = None,
) -> Preconditioner:
    """Adam's P = diag(sqrt(v) + eps)/lr_mult (Kingma & Ba, 1412.6980, alg. 1). second_moment: v_hat, (size,)."""
    denominator = second_moment.clamp(min=0).sqrt() + eps * space.fill(eps_mult or {})
    if not bool((denominator > 0).all()):
        raise UsageError("Some second moments are zero and eps = 0, so P is singular. Use eps > 0.")
    return Preconditioner(space, (space.fill(lr_mult or {}) / denominator).sqrt(), kind="elementwise")


def newton_schulz(
    space: ParameterSpace,
    momentum: Tensor,
    *,
    names: Sequence[str] | None = None,
    lr_mult: Mapping[str, float] | None = None,
    coefficients: tuple[float, float, float] = NEWTON_SCHULZ,
    steps: int = 5,
    eps: float = 1e-7,
    adjust_lr_fn: str | None = None,
    others: Preconditioner | None = None,
) -> Preconditioner:
    """Muon's P, defined so that P^-1 M is exactly the update that Muon makes from the momentum M.

    With M = U diag(s) V' on its smaller side, P^-1 = U diag(f(s)/s) U' times the library's shape factor, where f is
    `steps` rounds of the quintic from s/|M|_F (f ~ 1, so P ~ (M M')^(1/2): one-sided Shampoo without accumulation);
    a direction that M lacks gets the finite limit f'(0). momentum: (size,), the momentum buffer. names: the matrices
    under Muon (default: all 2-d parameters). others: the rule of the remaining parameters, which another optimizer
    serves (default: identity). Unlike Adam's v, M turns over within 1/(1-b) steps, so freezing P is a coarser
    picture here: docs/limits. Derived here; tested against torch.optim.Muon's own step. Raises UsageError for a name
    that is not a matrix.
    """
    blocks = space.named(momentum)
    chosen = [n for n, b in blocks.items() if b.ndim == 2] if names is None else list(names)
    if flat := [n for n in chosen if n not in blocks or blocks[n].ndim != 2]:
        raise UsageError(f"Muon takes 2-d parameters of this space only, but was given {flat}.")
    sides = {n: _inverse_root(blocks[n], coefficients, steps, eps, adjust_lr_fn) for n in chosen}
    plain = identity(space, lr_mult=lr_mult)
    is_other = space.fill(dict.fromkeys(chosen, 0.0)).bool()
    diagonal = torch.where(is_other, (others or plain).diagonal, plain.diagonal)
    return Preconditioner(space, diagonal, sides, "newton-schulz")


def preconditioner_at_init(
    optimizer: type[Optimizer],
    options: Mapping[str, Any],
    space: ParameterSpace,
    gradients: Tensor,
    *,
    lr_mult: Mapping[str, float] | None = None,
    eps_mult: Mapping[str, float] | None = None,
) -> Preconditioner:
    """P estimated before training: v = mean of squared batch gradients, or M = mean gradient.

    options: the optimizer's keyword options; gradients: (batches, size), at the training batch size, because v holds
    the gradient noise of one batch. Muon serves the 2-d parameters only; the rest gets AdamW's P with its default
    eps, as is usual beside Muon. Raises UsageError for an optimizer without a known P.
    """
    name, squares = optimizer.__name__, gradients.square().mean(dim=0)
    curvature = curvature_of(name)
    if curvature == "identity":
        return identity(space, lr_mult=lr_mult)
    if curvature == "elementwise":
        eps = float(options.get("eps", 1e-10 if name == "Adagrad" else 1e-8))
        return elementwise(space, squares, eps=eps, lr_mult=lr_mult, eps_mult=eps_mult)
    if curvature == "matrix":
        others = elementwise(space, squares, lr_mult=lr_mult, eps_mult=eps_mult)
        momentum = gradients.mean(dim=0)
        return newton_schulz(space, momentum, lr_mult=lr_mult, others=others, **_muon_options(options))
    raise UsageError(
        f"No preconditioner is known for {name}. Known: {[row.name for row in torch_rows() if row.curvature]}."
    )


def preconditioner_from_state(
    optimizers: Optimizer | Sequence[Optimizer], space: ParameterSpace, *, lr: float | None = None
) -> Preconditioner:
    """P as live optimizers hold it (several, where matrices run under Muon and the rest under AdamW).

    lr: the base learning rate that lambda_max(P^-1 H) is to be compared with; each group enters with its own lr /
    lr. Default: the largest group's. Raises UsageError where a parameter is in no optimizer, or has no state yet.
    """
    several: list[Optimizer] = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    where = {id(p): (o, g) for o in several for g in o.param_groups for p in g["params"]}
    base = max(float(g["lr"]) for o in several for g in o.param_groups) if lr is None else lr
    diagonals: list[Tensor] = []
    sides: dict[str, Tensor] = {}
    for name, tensor in zip(space.names, space.tensors, strict=True):
        if id(tensor) not in where:
            raise UsageError(f"{name} is in none of the optimizers' groups, so its step is unknown.")
        optimizer, group = where[id(tensor)]
        ratio, kind = float(group["lr"]) / base, type(optimizer).__name__
        if curvature_of(kind) == "matrix":
            momentum = _needed(optimizer.state[tensor], "momentum_buffer", name)
            sides[name] = _inverse_root(momentum, **_muon_options(group))
            diagonals.append(torch.full_like(tensor, ratio).sqrt())
        else:
            diagonals.append((ratio / _denominator(kind, optimizer.state[tensor], group, tensor, name)).sqrt())
    return Preconditioner(space, space.flatten(diagonals), sides, "from state")


def _denominator(kind: str, state: Any, group: Mapping[str, Any], tensor: Tensor, name: str) -> Tensor:
    """What torch's step divides by, read from its state."""
    if curvature_of(kind) == "identity":
        return torch.ones_like(tensor)
    if kind == "RMSprop":
        moment = _needed(state, "square_avg", name)
        centre = state["grad_avg"].square() if group["centered"] else 0.0
        return (moment - centre).clamp(min=0).sqrt() + group["eps"]
    if kind == "Adagrad":
        return _needed(state, "sum", name).sqrt() + group["eps"]
    if curvature_of(kind) == "elementwise":
        moment = _needed(state, "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq", name)
        correction = 1 - float(group["betas"][1]) ** float(state["step"])
        return (moment / correction).sqrt() + group["eps"]
    raise UsageError(
        f"No preconditioner is known for {kind} ({name}). Known: {[row.name for row in torch_rows() if row.curvature]}."
    )


def _needed(state: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    if key not in state:
        raise UsageError(f"{name} has no {key!r} yet. Take at least one optimizer step, or use preconditioner_at_init.")
    return state[key].detach()


def _muon_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "coefficients": tuple(options.get("ns_coefficients", NEWTON_SCHULZ)),
        "steps": int(options.get("ns_steps", 5)),
        "eps": float(options.get("eps", 1e-7)),
        "adjust_lr_fn": options.get("adjust_lr_fn"),
    }


def _inverse_root(
    momentum: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float, adjust_lr_fn: str | None
) -> Tensor:
    """P^(-1/2) on the smaller side of one matrix: U diag(sqrt(factor f(s)/s)) U'."""
    wide = momentum if momentum.shape[0] <= momentum.shape[1] else momentum.T
    u, s, _ = svd(wide.double())
    size = norm(s).clamp(min=eps)
    slope = _slope(s / size, coefficients, steps) / size
    gain = OptimizerInfo.of("Muon", {"adjust_lr_fn": adjust_lr_fn}).own_factor(momentum.shape)
    return ((u * (gain * slope).clamp(min=0).sqrt()) @ u.T).to(momentum.dtype)


def _slope(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """f(x)/x for `steps` rounds of x -> x (a + b x^2 + c x^4), also at x = 0."""
    a, b, c = coefficients
    slope = torch.ones_like(x)
    for _ in range(steps):
        square = (x * slope) ** 2
        slope = slope * (a + b * square + c * square**2)
    return slope


def _on_small_side(side: Tensor, block: Tensor) -> Tensor:
    return side @ block if block.shape[0] <= block.shape[1] else block @ side
