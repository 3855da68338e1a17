"""Kernels that say they can be differentiated once only: a second derivative through one is silently left out."""

# pyright: strict
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hptransfer.core.errors import UsageError

ONCE = "torch::autograd::Error"
"""The node that torch.autograd.function.once_differentiable leaves in the graph of a gradient."""


def refuse_once_differentiable(slopes: Sequence[Tensor | None]) -> None:
    """Raise UsageError where a gradient (made with create_graph) came through a once-differentiable kernel.

    Differentiated again, the parameters look unused behind that node, and the product would lack its part, or be zero.
    """
    waiting: list[Any] = [slope.grad_fn for slope in slopes if slope is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == ONCE:
            raise UsageError(
                "A kernel of this loss is once_differentiable, so its Hessian cannot be had by differentiating twice. "
                'Use a loss without it, or hessian_operator(method="central-difference").'
            )
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
