"""What torch's own annotations leave out, with types: norms, the thin SVD, gradients that may not exist, submodules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_linalg: Any = torch.linalg


def norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm over all entries, a scalar."""
    return _linalg.vector_norm(tensor)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V' of the thin singular value decomposition."""
    return _linalg.svd(matrix, full_matrices=False)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad, None for an input that the outputs do not depend on."""
    return torch.autograd.grad(
        outputs, inputs, weights, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )


def submodules(model: nn.Module) -> dict[str, nn.Module]:
    """Every submodule by its name, the model itself under ""."""
    untyped: Any = model
    return dict(untyped.named_modules())
