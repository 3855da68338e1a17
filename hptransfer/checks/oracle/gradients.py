"""Sizes at initialization: outputs of modules, and what one step of each parameter alone does, to first order.

For an objective q, the step of W that its optimizer takes moves q by lr times a norm of q's gradient g: the sum of |g|
(sign), that times rms(W) (relative), the sum of squares (gradient) or of singular values (spectral). Two objectives are
used: `own`, a random-sign average of the output of the module that holds W, and `loss`, the objective of the whole
model. Both are exact derivatives of the running model: no graph is traced and no rule of the planner is used.

Of a spectral step `own` is an average over separable signs, one set per axis, so that its gradient has rank one. With
signs that differ in every entry the sum of its n singular values would say how many independent samples the batch has
for every direction: n^1/2 more in a wider model, until that is as wide as the batch is large.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.training.seeding import torch_generator

Outputs = dict[str, list[Tensor]]
"""Module -> the differentiable tensors that its calls returned; "" is the whole model."""


@dataclass(frozen=True)
class Reading:
    """One parameter of one model. None: not measurable (no gradient, or no output).

    own, loss: norms of the two objectives' gradients, so that lr x norm is what one step changes; gradient: RMS entry
    of the loss's; output: RMS of the output of the module that holds it; outputs: the number of that output's entries
    (0 where that module is never called, and `own` is taken of the nearest output around it).
    """

    own: float | None
    loss: float | None
    gradient: float | None
    output: float | None
    outputs: int = 0

    def without(self, quantity: str) -> Reading:
        """The reading with one objective's gradient forgotten."""
        return replace(self, own=None) if quantity == "own" else replace(self, loss=None, gradient=None)


def readings(
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    loss: Callable[[], Tensor],
    geometry: Callable[[str], OptimizerInfo],
    *,
    seed: int,
) -> dict[str, Reading]:
    """Readings of every trainable parameter. loss: runs the model once and returns its objective."""
    trained = {name: p for name, p in named.items() if p.requires_grad}
    with torch.enable_grad(), recorded(model) as outputs:
        value = loss()
    from_loss = _grad(value, trained)
    found: dict[str, Reading] = {}
    for owner, members in _by_owner(trained).items():
        own = _own_gradients(outputs, owner, members, geometry, seed)
        output = outputs.get(owner, [])
        for name, parameter in members.items():
            info = geometry(name)
            norms = [None if g is None else norm(g, parameter, info) for g in (own.get(name), from_loss.get(name))]
            entry = None if from_loss.get(name) is None else rms_of([from_loss[name]])
            size = sum(t.numel() for t in output)
            found[name] = Reading(norms[0], norms[1], entry, rms_of(output) if output else None, size)
    return found


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[Outputs]:
    """Record the differentiable outputs of every module as the model runs, before hooks or in-place ops change them."""
    outputs: Outputs = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            outputs.setdefault(name, []).extend(t.clone() for t in tensors_of(output))

        return note

    handles = [module.register_forward_hook(hook(name), prepend=True) for name, module in model.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def tensors_of(output: Any) -> list[Tensor]:
    """The differentiable tensors of a module's output: a tensor, tuple, mapping or ModelOutput."""
    leaves = list(output.values()) if isinstance(output, Mapping) else [output]
    flat = pytree.tree_leaves([list(leaf.values()) if isinstance(leaf, Mapping) else leaf for leaf in leaves])
    return [t for t in flat if isinstance(t, Tensor) and t.is_floating_point() and t.requires_grad]


def sign_average(tensors: Sequence[Tensor], seed: int, *, separable: bool = False) -> Tensor:
    """Sum over the tensors of mean(c x), with c random signs: its gradient has entries of order 1/size everywhere.

    separable: c is a product of one set of signs per axis.
    """
    draw = torch_generator(seed)
    total = torch.zeros(())
    for tensor in tensors:
        shapes = [_along(axis, tensor.shape) for axis in range(tensor.dim())] if separable else [tensor.shape]
        signs = math.prod(torch.randint(0, 2, shape, generator=draw) * 2 - 1 for shape in shapes)
        total = total + (torch.as_tensor(signs).to(tensor) * tensor).mean()
    return total


def _along(axis: int, shape: torch.Size) -> list[int]:
    return [size if i == axis else 1 for i, size in enumerate(shape)]


def rms_of(tensors: Sequence[Tensor]) -> float:
    """Root mean square over all entries; 0 for none."""
    count = sum(t.numel() for t in tensors)
    return (sum(float(t.detach().double().pow(2).sum()) for t in tensors) / count) ** 0.5 if count else 0.0


def _by_owner(named: Mapping[str, nn.Parameter]) -> dict[str, dict[str, nn.Parameter]]:
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault(owner_of(name), {})[name] = parameter
    return groups


def owner_of(name: str) -> str:
    """The module that uses a parameter: where it is registered, or whose weight torch's parametrizations compute."""
    return f".{name}".split(".parametrizations.")[0][1:] if "parametrizations." in name else name.rpartition(".")[0]


def _own_gradients(
    outputs: Outputs,
    owner: str,
    members: Mapping[str, nn.Parameter],
    geometry: Callable[[str], OptimizerInfo],
    seed: int,
) -> dict[str, Tensor]:
    """Gradients of a random-sign average of the owner's output, or of the nearest output around it that has any."""
    missing, found = dict(members), {}
    while missing:
        if outputs.get(owner):
            for separable in (False, True):
                asking = {n: p for n, p in missing.items() if (geometry(n).geometry == "spectral") == separable}
                found |= _grad(sign_average(outputs[owner], seed, separable=separable), asking) if asking else {}
            missing = {n: p for n, p in missing.items() if n not in found}
        if not owner:
            break
        owner = owner.rpartition(".")[0]
    return found


def _grad(value: Tensor, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    if not value.requires_grad:
        return {}
    grads = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
    return {n: g.detach() for n, g in zip(named, grads, strict=True) if g is not None and bool(g.any())}


def norm(gradient: Tensor, parameter: nn.Parameter, info: OptimizerInfo) -> float:
    """What a unit learning rate's step along the gradient changes the objective by."""
    g = gradient.double()
    if info.geometry == "gradient":
        return float(g.pow(2).sum())
    if info.geometry == "spectral":
        own = info.own_factor(parameter.shape)
        return own * float(torch.linalg.svdvals(g.flatten(1)).sum()) if g.dim() > 1 else own * float(g.norm())
    scale = rms_of([parameter]) if info.geometry == "relative" else 1.0
    return scale * float(g.abs().sum())
