"""Curvature matrices known by their products: Hessian and Gauss-Newton of an unmodified module, over minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.core.training.buffers import buffers_kept
from hptransfer.core.training.seeding import seeded, torch_generator
from hptransfer.prediction.curvature.differentiable import refuse_once_differentiable
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.typed import grad, norm, submodules

LossFn = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> the scalar mean loss of the batch: a recipe's `loss`."""

CPU = torch.device("cpu")
_sdpa_kernel: Any = sdpa_kernel  # torch leaves a part of its type out


@dataclass(frozen=True)
class Operator:
    """A symmetric matrix as the mean of parts (one part per minibatch), each known by its product with a vector.

    size: rows; parts: functions (size,) -> (size,); dtype and device: of the vectors they take.
    """

    size: int
    parts: tuple[Callable[[Tensor], Tensor], ...]
    dtype: torch.dtype = torch.float64
    device: torch.device = CPU

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with the mean of the parts. vector: (size,). Returns (size,)."""
        total = torch.zeros_like(vector)
        for part in self.parts:
            total += part(vector)
        return total / len(self.parts)

    def random_vector(self, seed: int) -> Tensor:
        """A standard normal vector (size,), the same for the same seed on every device."""
        generator = torch_generator(seed)
        drawn = torch.randn(self.size, generator=generator, dtype=torch.float64)
        return drawn.to(device=self.device, dtype=self.dtype)

    @classmethod
    def from_dense(cls, *matrices: Tensor) -> Operator:
        """The mean of dense symmetric matrices (size, size), in their own dtype and device."""
        first = matrices[0]
        parts = tuple(partial(torch.matmul, matrix) for matrix in matrices)
        return cls(first.shape[0], parts, first.dtype, first.device)


def hessian_operator(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    space: ParameterSpace | None = None,
    seed: int | None = None,
    method: str = "double-backward",
) -> Operator:
    """The Hessian of the mean loss over `batches`, in the parameters of `space` (default: all trainable ones).

    seed: None uses the model's randomness as it comes (then check_deterministic refuses dropout); a number draws the
    same dropout masks at every product. method: "double-backward" (exact; Pearlmutter 1994), or "central-difference"
    of gradients, for kernels that have no double backward (relative error ~ dtype eps^(2/3), so ~1e-5 in float32 at
    best). Buffers (batch-norm statistics), gradients and parameters are left as they were. Attention runs on
    the math backend and compiled models run eagerly, because neither flash attention nor compiled graphs have a
    double backward. Raises UsageError where there are no batches, or `method` is unknown; the products raise it where
    a kernel of the loss has no second derivative.
    """
    products = {"double-backward": _hessian_product, "central-difference": _difference_product}
    if method not in products:
        raise UsageError(f"method={method!r}: choose one of {sorted(products)}.")
    return _operator(products[method], model, loss_fn, batches, space, seed)


def ggn_operator(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    space: ParameterSpace | None = None,
    seed: int | None = None,
    outputs: str = "",
) -> Operator:
    """The generalised Gauss-Newton matrix J' H_z J of the mean loss (Schraudolph 2002), z the network's outputs.

    outputs: the submodule whose output is z ("" = the model itself; "lm_head" where the model computes its own loss).
    z is caught as it leaves that module and the loss is differentiated from there, so model and loss stay unmodified.
    Raises UsageError where the module does not exist or is called other than once per loss, or where
    the loss also reaches the parameters past z (so that no Gauss-Newton split exists at that place).
    """
    if outputs not in submodules(model):
        raise UsageError(f"outputs={outputs!r}: the model has no such submodule. Name one of named_modules().")
    return _operator(partial(_ggn_product, outputs=outputs), model, loss_fn, batches, space, seed)


def check_deterministic(operator: Operator, *, tolerance: float | None = None, seed: int = 0) -> None:
    """Raise UsageError unless every part repeats its own product and is symmetric (u'Av = v'Au).

    tolerance: relative; default eps^(1/2) of the dtype (1.5e-8 in float64, 3.5e-4 in float32), room for reductions
    that sum in another order. Costs three products per part.
    """
    limit = math.sqrt(torch.finfo(operator.dtype).eps) if tolerance is None else tolerance
    u, v = operator.random_vector(seed), operator.random_vector(seed + 1)
    for number, part in enumerate(operator.parts):
        first, again, other = part(v), part(v), part(u)
        scale = norm(first) * norm(u)
        if not torch.isfinite(scale):
            raise UsageError(f"The curvature of batch {number} is not finite. Check the loss at these parameters.")
        if norm(first - again) > limit * norm(first):
            raise UsageError(
                f"Batch {number}: two products with the same vector differ, so the loss is random (dropout?). "
                "Pass seed=0 to hold the random masks fixed, or call model.eval() first."
            )
        if (u @ first - v @ other).abs() > limit * scale:
            raise UsageError(f"Batch {number}: the product is not symmetric, so some backward is not its derivative.")


def gradients(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    *,
    space: ParameterSpace | None = None,
    seed: int | None = None,
) -> Tensor:
    """The gradient of each batch's loss, flattened. Returns (number of batches, size)."""
    space = space or ParameterSpace.of(model)
    rows: list[Tensor] = []
    for batch in _on_device(model, batches):
        with _as_trained(model, seed):
            rows.append(space.flatten(_gradient(loss_fn(model, batch), space, create_graph=False)))
    return torch.stack(rows)


def _operator(
    product: Callable[..., Tensor],
    model: nn.Module,
    loss_fn: LossFn,
    batches: Sequence[Any],
    space: ParameterSpace | None,
    seed: int | None,
) -> Operator:
    space = space or ParameterSpace.of(model)
    moved = _on_device(model, batches)
    parts = tuple(partial(_contextual, product, model, loss_fn, batch, space, seed) for batch in moved)
    return Operator(space.size, parts, space.dtype, space.device)


def _contextual(
    product: Callable[..., Tensor],
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    space: ParameterSpace,
    seed: int | None,
    vector: Tensor,
) -> Tensor:
    with _as_trained(model, seed):
        return product(model, loss_fn, batch, space, vector)


def _on_device(model: nn.Module, batches: Sequence[Any]) -> list[Any]:
    if not batches:
        raise UsageError("Curvature needs at least one batch, but got none.")
    device = next(model.parameters()).device

    def moved(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return [pytree.tree_map(moved, batch) for batch in batches]


@contextmanager
def _as_trained(model: nn.Module, seed: int | None) -> Generator[None, None, None]:
    """Math attention, eager graphs, fixed randomness where a seed is given, and buffers restored afterwards."""
    with ExitStack() as stack:
        stack.enter_context(buffers_kept(model))
        compiler: Any = torch.compiler
        stack.enter_context(_sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(compiler.set_stance("force_eager"))
        stack.enter_context(torch.enable_grad())
        if seed is not None:
            stack.enter_context(seeded(seed))
        yield


def _gradient(loss: Tensor, space: ParameterSpace, *, create_graph: bool) -> tuple[Tensor | None, ...]:
    if loss.numel() != 1:
        raise UsageError(f"The loss must be one number, but has shape {tuple(loss.shape)}. Return the batch's mean.")
    return grad(loss, space.tensors, create_graph=create_graph)


def _hessian_product(model: nn.Module, loss_fn: LossFn, batch: Any, space: ParameterSpace, vector: Tensor) -> Tensor:
    """d/dtheta (g(theta) . v) with v held fixed."""
    slopes = _gradient(loss_fn(model, batch), space, create_graph=True)
    refuse_once_differentiable(slopes)
    pairs = [(g, v) for g, v in zip(slopes, space.split(vector), strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return torch.zeros_like(vector)
    outputs, weights = zip(*pairs, strict=True)
    return space.flatten(grad(outputs, space.tensors, weights))


def _difference_product(model: nn.Module, loss_fn: LossFn, batch: Any, space: ParameterSpace, vector: Tensor) -> Tensor:
    """[g(theta + h v) - g(theta - h v)] / 2h, |h v| = eps^(1/3) max(1, |theta|): balances h^2 against eps/h."""
    origin = space.flatten(space.tensors).clone()
    reach = torch.finfo(space.dtype).eps ** (1 / 3) * max(1.0, float(norm(origin)))
    step = reach / max(float(norm(vector)), torch.finfo(space.dtype).tiny)
    try:
        ends: list[Tensor] = []
        for sign in (1.0, -1.0):
            space.assign(origin + sign * step * vector)
            ends.append(space.flatten(_gradient(loss_fn(model, batch), space, create_graph=False)))
    finally:
        space.assign(origin)
    return (ends[0] - ends[1]) / (2 * step)


def _ggn_product(
    model: nn.Module, loss_fn: LossFn, batch: Any, space: ParameterSpace, vector: Tensor, *, outputs: str
) -> Tensor:
    """J' (H_z (J v)), the three factors by reverse mode only."""
    made, leaves, loss = _split_at(model, loss_fn, batch, outputs)
    past = grad(loss, space.tensors, retain_graph=True)
    if any(g is not None and bool(g.any()) for g in past):
        raise UsageError(
            "The loss reaches the parameters past the network's outputs (a penalty on weights, or outputs computed "
            f"elsewhere), so there is no Gauss-Newton split at outputs={outputs!r}. Name the right submodule."
        )
    slopes = grad(loss, leaves, create_graph=True)
    used = [(z, leaf, g) for z, leaf, g in zip(made, leaves, slopes, strict=True) if g is not None]
    if not any(g.requires_grad for _, _, g in used):
        return torch.zeros_like(vector)
    z, z_leaves, g = (list(column) for column in zip(*used, strict=True))
    pushed = jacobian_product(z, space, vector)
    bent = [(s, d) for s, d in zip(g, pushed, strict=True) if s.requires_grad]
    curved = grad([s for s, _ in bent], z_leaves, [d for _, d in bent])
    kept = [(out, c) for out, c in zip(z, curved, strict=True) if c is not None]
    pulled = grad([o for o, _ in kept], space.tensors, [c for _, c in kept])
    return space.flatten(pulled)


def jacobian_product(made: list[Tensor], space: ParameterSpace, vector: Tensor) -> list[Tensor]:
    """J v as the derivative, in w, of J'w . v (the product is linear in w, so w = 0 serves)."""
    dummies = [torch.zeros_like(z, requires_grad=True) for z in made]
    pulled = grad(made, space.tensors, dummies, create_graph=True)
    pairs = [(p, v) for p, v in zip(pulled, space.split(vector), strict=True) if p is not None]
    reached, along = zip(*pairs, strict=True)
    pushed = grad(reached, dummies, along, retain_graph=True)
    return [torch.zeros_like(z) if t is None else t for z, t in zip(made, pushed, strict=True)]


def _split_at(model: nn.Module, loss_fn: LossFn, batch: Any, outputs: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The outputs in the parameters' graph, the same as leaves, and the loss as a function of the leaves."""
    made: list[Tensor] = []
    leaves: list[Tensor] = []
    calls: list[str] = []

    def catch(_module: nn.Module, _args: Any, output: Any) -> Any:
        calls.append(outputs)
        flat, spec = pytree.tree_flatten(output)
        for index, item in enumerate(flat):
            if isinstance(item, Tensor) and item.requires_grad:
                made.append(item)
                leaves.append(item.detach().requires_grad_())
                flat[index] = leaves[-1]
        return pytree.tree_unflatten(flat, spec)

    handle = model.get_submodule(outputs).register_forward_hook(catch)
    try:
        loss = loss_fn(model, batch)
    finally:
        handle.remove()
    if len(calls) != 1 or not made:
        raise UsageError(
            f"outputs={outputs!r}: called {len(calls)} times in one loss, with {len(made)} differentiable tensors. The "
            "Gauss-Newton matrix needs the one module, called once, whose output the loss is computed from."
        )
    return made, leaves, loss
