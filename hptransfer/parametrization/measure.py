"""The initial scale of a model's parameters, as it stands."""

from __future__ import annotations

import torch
from torch import nn


def measure_rms(model: nn.Module) -> dict[str, float]:
    """Parameter name -> root mean square of its present values; parameters on meta are left out."""
    return {n: rms(p) for n, p in model.named_parameters() if p.device.type != "meta"}


def rms(parameter: torch.Tensor) -> float:
    """Root mean square of a tensor, over all shards of a distributed one. 0 for an empty tensor."""
    return _power_mean(parameter, 2)


def kurtosis(parameter: torch.Tensor, rms: float) -> float:
    """Mean fourth power over rms^4: 3 for a normal, 1.8 for a uniform around 0, 1 for a constant up to sign.

    Of fewer than some hundred values a rough estimate, drawn towards the normal's by ten of them; of more than _LARGE,
    where nothing depends on it any more, the normal's.
    """
    numel = parameter.numel()
    if not 0 < numel <= _LARGE or rms == 0:
        return 3.0
    found = (_power_mean(parameter, 4) / rms) ** 4
    return 1.0 if found < 1 + 1e-5 else (numel * found + 10 * 3.0) / (numel + 10)


_LARGE = 2**14
_DRAWN = 8
"""Entries from which on an ordered vector is taken as no draw: one in 20,000 random vectors of 8 is ordered."""


def is_ordered(parameter: torch.Tensor) -> bool:
    """Whether a vector of 8 values or more only rises, or only falls: a function of the index, not a draw."""
    if parameter.dim() != 1 or parameter.numel() < _DRAWN:
        return False
    full = getattr(parameter.detach(), "full_tensor", None)
    steps = (full() if full is not None else parameter.detach()).diff()
    return bool((steps > 0).all() or (steps < 0).all())


def _power_mean(parameter: torch.Tensor, order: int) -> float:
    if parameter.numel() == 0:
        return 0.0
    values = parameter.detach().abs() if parameter.is_complex() else parameter.detach()
    wide = values if values.dtype == torch.float64 else values.float()
    norm = torch.linalg.vector_norm(wide, order)
    full = getattr(norm, "full_tensor", None)
    return float(full() if full is not None else norm) / parameter.numel() ** (1 / order)
