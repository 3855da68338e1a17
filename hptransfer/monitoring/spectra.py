"""The singular values of a weight and of its last update."""

# pyright: strict
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.checks.coord.update_size import LARGE, sketched_singular_values
from hptransfer.monitoring.readings import Spectrum
from hptransfer.prediction.typed import norm, submodules

KEPT = 17
"""Singular values that a reading keeps of a matrix."""


def spectrum(tensor: Tensor, *, embedding: bool = False) -> Spectrum:
    """The spectrum of a weight as the matrix (first axis, the rest). embedding: its rows are inputs, not outputs."""
    matrix = tensor.detach().flatten(1)
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    exact = min(matrix.shape) <= LARGE
    values = (_singular_values(matrix) if exact else sketched_singular_values(matrix)).cpu().double()
    size, top = float(norm(matrix)), float(values[0])
    rows, columns = matrix.shape[::-1] if embedding else matrix.shape
    return Spectrum(
        rms=size / math.sqrt(matrix.numel()),
        norm=top,
        stable_rank=(size / top) ** 2 if top > 0 else 0.0,
        natural=top / math.sqrt(rows / columns),
        values=tuple(float(v) for v in values[_evenly(len(values))]) if exact else (),
    )


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every trainable parameter with two axes or more, and more than one entry on each side, by its name."""
    return {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and p.dim() >= 2 and min(p.shape[0], p[0].numel()) > 1
    }


def embeddings(model: nn.Module) -> set[str]:
    """The names of the weights of embeddings, whose rows are inputs."""
    modules = submodules(model).items()
    return {f"{name}.weight".lstrip(".") for name, module in modules if isinstance(module, nn.Embedding)}


def _singular_values(matrix: Tensor) -> Tensor:
    linalg: Any = torch.linalg
    return linalg.svdvals(matrix)


def _evenly(count: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, KEPT)).round().long()
