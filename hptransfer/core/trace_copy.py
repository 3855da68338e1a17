"""A copy of a model that can be run without touching the model: buffers, attributes, modes and generators stay."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError

COPY_LIMIT = 2 * 2**30
"""Bytes of parameters and buffers up to which a model is copied to be run."""


def runnable(model: nn.Module, draw: int = 0) -> nn.Module:
    """A deep copy in training mode; what is on meta is drawn at random on the CPU.

    draw: 0 keeps the values of parameters that have any; any other number draws new ones of the same size.
    Raises UsageError where the copy would exceed COPY_LIMIT.
    """
    tensors = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > COPY_LIMIT:
        raise UsageError(
            f"its parameters and buffers take {size / 2**30:.1f} GiB, and a model is copied and run up to "
            f"{COPY_LIMIT / 2**30:.0f} GiB only; make the plan for a narrower or shallower target"
        )
    generator = torch.Generator().manual_seed(draw)
    memo: dict[int, Any] = {key: _own(t, generator, fresh=draw > 0) for key, t in tensors.items()}
    return copy.deepcopy(model, memo | _computed_attributes(model)).train()


def inputs_for(model: nn.Module, tree: Any, draw: int = 0) -> Any:
    """Copies of the tensors in `tree` on the model's device; those on meta become zeros, or noise where floating.

    draw: above 0, floating inputs are changed by a tenth at random.
    """
    device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
    generator = torch.Generator().manual_seed(draw)

    def own(tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            noise = torch.randn(tensor.shape, generator=generator)
            tensor = noise.to(tensor.dtype) if tensor.is_floating_point() else torch.zeros_like(tensor, device="cpu")
        value = tensor.detach().to(device, copy=True)
        return value * _near_one(value, generator) if draw and value.is_floating_point() else value

    return pytree.tree_map_only(Tensor, own, tree)


@contextlib.contextmanager
def own_generators(model: nn.Module) -> Iterator[None]:
    """Fixed seeds for torch, random and numpy while open; the caller's generators go on as if nothing was drawn."""
    devices = {t.device for t in itertools.chain(model.parameters(), model.buffers()) if t.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _own(tensor: Tensor, generator: torch.Generator, *, fresh: bool) -> Tensor:
    """The copy's own tensor. Only which way the code takes depends on the values that are drawn."""
    is_parameter, on_meta = isinstance(tensor, nn.Parameter), tensor.device.type == "meta"
    if on_meta and not tensor.is_floating_point():
        value = torch.zeros_like(tensor, device="cpu")
    elif on_meta:
        value = _drawn(tensor, generator)
    elif fresh and is_parameter and tensor.is_floating_point():
        value = _redrawn(tensor.detach(), generator)
    else:
        value = tensor.detach().clone()
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value


def _drawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values on the CPU for a tensor without any: a matrix is normal of size fan_in^-1/2, a gain or bias close to 1."""
    noise = torch.randn(tensor.shape, generator=generator)
    matrix = tensor.dim() > 1 and tensor.numel() > 0
    return (noise * (tensor.shape[0] / tensor.numel()) ** 0.5 if matrix else 1 + noise / 10).to(tensor.dtype)


def _redrawn(values: Tensor, generator: torch.Generator) -> Tensor:
    """Other values of the same size: matrices anew, gains and biases changed by a tenth."""
    if values.dim() < 2:
        return values * _near_one(values, generator)
    return values.double().pow(2).mean().sqrt().to(values.dtype) * _noise(values, generator)


def _near_one(values: Tensor, generator: torch.Generator) -> Tensor:
    return 1 + _noise(values, generator) / 10


def _noise(values: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(values.shape, generator=generator).to(values.device, values.dtype)


def _computed_attributes(model: nn.Module) -> dict[int, Any]:
    """Copies of tensors kept in attributes that deepcopy refuses: those computed from parameters by an earlier call."""
    kept = (value for module in model.modules() for value in vars(module).values())
    return {id(value): value.detach().clone() for value in kept if isinstance(value, Tensor) and not value.is_leaf}
