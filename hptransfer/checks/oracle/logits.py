"""What one step can change attention logits by, once it has lined up with them: exact derivatives at initialization.

A loss reaches queries and keys through sums that only training aligns, so its own first steps say little about the
scale of q.k. Here the gradient at the input of every softmax is replaced by random signs, one site at a time: to first
order a step then changes that random-sign average of the logits by lr times a norm of what arrives at each weight
(gradients.norm), which is d x the logits' scale for aligned q and k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hptransfer.checks.oracle.gradients import norm
from hptransfer.core.geometry import OptimizerInfo

_SOFTMAX = {"SoftmaxBackward0", "SafeSoftmaxBackward0"}
_PASSES = ("Mul", "Div", "Add", "Sub", "MaskedFill", "Where", "View", "UnsafeView", "Expand", "Clone", "ToCopy", "Tanh")
_FAR = 12
"""Ops between a product and its softmax: scale, mask, bias, softcap, changes of shape."""


@dataclass(frozen=True)
class Site:
    """One softmax.

    effect: what a unit base learning rate changes its logits by, all chosen weights together; contracted: the size of
    the axis that the product of two activations before it sums over, 0 where there is none.
    """

    effect: float
    contracted: int


def logit_sites(
    weights: Mapping[str, nn.Parameter],
    run: Callable[[], Tensor],
    info: Callable[[str], OptimizerInfo],
    lr_mult: Callable[[str], float],
    *,
    seed: int,
) -> list[Site]:
    """Every softmax of one forward pass in order of execution.

    weights: whose steps count. run: runs the model once and returns its objective.
    """
    trained = {name: p for name, p in weights.items() if p.requires_grad}
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        objective = run()
    sites: list[Site] = []
    for node in _softmaxes(objective.grad_fn):
        with _replaced(node, seed):
            zero = torch.zeros_like(objective)
            grads = torch.autograd.grad(
                objective, list(trained.values()), zero, retain_graph=True, allow_unused=True, materialize_grads=False
            )
        arrived = zip(trained, grads, strict=True)
        effects = [lr_mult(n) * norm(g, trained[n], info(n)) for n, g in arrived if g is not None and bool(g.any())]
        sites.append(Site(sum(effects), _contracted(node)))
    return sites


def _softmaxes(root: Any) -> list[Any]:
    """The softmax nodes behind an objective, in order of execution."""
    seen: dict[Any, None] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen[node] = None
            stack += [parent for parent, _ in node.next_functions]
    return sorted((n for n in seen if n.name() in _SOFTMAX), key=lambda n: n._sequence_nr())


@contextmanager
def _replaced(node: Any, seed: int) -> Iterator[None]:
    """Random signs in place of what a softmax passes back, averaged over its logits; none where it is masked."""
    result, dim = node._saved_result, node._saved_dim
    draw = torch.Generator().manual_seed(seed)
    signs = (torch.randint(0, 2, result.shape, generator=draw) * 2 - 1).to(result) * (result > 0)
    dim = dim - 2**64 if dim >= 2**63 else dim  # autograd shows a negative axis unsigned
    count = (result > 0).sum(dim, keepdim=True).clamp_min(1)
    signs = (signs - signs.sum(dim, keepdim=True) / count) * (result > 0) / result.numel()

    def hook(passed: tuple[Tensor | None, ...], arrived: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return (None if passed[0] is None else signs, *passed[1:])  # none passes where nothing before is trained

    handle = node.register_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _contracted(node: Any) -> int:
    """The contracted axis of the product of activations that a softmax reads, looking through pointwise ops."""
    front = [parent for parent, _ in node.next_functions if parent is not None]
    for _ in range(_FAR):
        for parent in front:
            if parent.name() in {"BmmBackward0", "BaddbmmBackward0"}:
                return _inner(parent)
        front = [
            parent
            for before in front
            if before.name().startswith(_PASSES)
            for parent, _ in before.next_functions
            if parent is not None
        ]
    return 0


def _inner(product: Any) -> int:
    left = getattr(product, "_saved_self", None) if product.name() == "BmmBackward0" else product._saved_batch1
    right = product._saved_mat2 if product.name() == "BmmBackward0" else product._saved_batch2
    return int(left.shape[-1]) if left is not None else int(right.shape[-2]) if right is not None else 0
