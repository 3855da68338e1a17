"""The initial scale of a model's parameters, as it stands."""

from __future__ import annotations

import math

import torch
from torch import nn


def measure_rms(model: nn.Module) -> dict[str, float]:
    """Parameter name -> root mean square of its present values; parameters on meta are left out."""
    return {n: rms(p) for n, p in model.named_parameters() if p.device.type != "meta"}


def rms(parameter: torch.Tensor) -> float:
    """Root mean square of a tensor, over all shards of a distributed one. 0 for an empty tensor."""
    if parameter.numel() == 0:
        return 0.0
    wide = parameter.detach() if parameter.dtype == torch.float64 else parameter.detach().float()
    norm = torch.linalg.vector_norm(wide)
    full = getattr(norm, "full_tensor", None)
    return float(full() if full is not None else norm) / math.sqrt(parameter.numel())
