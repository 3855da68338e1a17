"""Role oracle of one layer by brute force: perturb its weight, and see which input and output axes it couples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def coupled_sizes(layer: nn.Module, name: str, *inputs: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of one entry-wise view: inputs that one output entry sums over per weight use, outputs reached.

    fan_in: entries of the parameter that one output entry depends on; fan_out: the parameter's entries over fan_in.
    For a matrix, a convolution (in the interior) or a batched product this is the textbook fan.
    """
    parameter = layer.get_parameter(name)

    def outputs(values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {name: values}, inputs)

    functional: Any = torch.autograd.functional
    jacobian: Tensor = functional.jacobian(outputs, parameter.detach())
    depends = (jacobian.reshape(*jacobian.shape[: -parameter.dim()], -1) != 0).flatten(0, -2)
    fan_in = int(depends.sum(-1).max())
    return fan_in, parameter.numel() // fan_in
