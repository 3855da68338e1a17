"""A copy of a model that can be run without touching the model: buffers, attributes, modes and generators stay."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.graph.export.attributes import tensors
from hptransfer.graph.recorded.rebind import rebind

COPY_LIMIT = 2 * 2**30
"""Bytes of parameters and buffers up to which a model is copied to be run."""


def runnable(model: nn.Module, draw: int = 0) -> nn.Module:
    """A deep copy in training mode; what is on meta is drawn at random on the CPU.

    draw: 0 keeps the values of parameters that have any; any other number draws new ones of the same size.
    Raises UsageError where the copy would exceed COPY_LIMIT or cannot be made.
    """
    tensors_by_id = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    size = sum(t.numel() * t.element_size() for t in tensors_by_id.values() if not is_lazy(t))
    if size > COPY_LIMIT:
        raise UsageError(
            f"its parameters and buffers take {size / 2**30:.1f} GiB, and a model is copied and run up to "
            f"{COPY_LIMIT / 2**30:.0f} GiB only; make the plan for a narrower or shallower target"
        )
    _refuse_lazy(tensors_by_id.values())
    generator = torch.Generator().manual_seed(draw)
    memo: dict[int, Any] = {key: _own(t, generator, fresh=draw > 0) for key, t in tensors_by_id.items()}
    memo |= _kept(model, memo)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise UsageError(
            f"a copy of it could not be made to be run ({type(error).__name__}: {str(error).splitlines()[0]}); keep "
            f"what copy.deepcopy cannot copy (generators, locks, open files) out of the model's attributes"
        ) from error
    rebind(copied, memo)
    return copied.train()


def copied_inputs(model: nn.Module, tree: Any, draw: int = 0) -> Any:
    """Copies of the inputs with their tensors on the model's device; those on meta become zeros, noise where floating.

    Tensors in attributes of plain objects (a batch) are inputs as well. What cannot be copied is passed on as it is.
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

    memo: dict[int, Any] = {id(tensor): own(tensor) for tensor in tensors(tree)}

    def copied(leaf: Any) -> Any:
        if isinstance(leaf, nn.Module):
            return leaf
        try:
            return copy.deepcopy(leaf, memo)
        except Exception:
            return leaf

    return pytree.tree_map(copied, tree)


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


@contextlib.contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers of the original that a run changes all the same, reaching it by a way of its own, get their values back.

    Those on meta have none; sparse ones are left alone.
    """
    real = [b for b in model.buffers() if b.device.type != "meta" and b.layout == torch.strided]
    before = [buffer.detach().clone() for buffer in real]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in zip(real, before, strict=True):
                if not torch.equal(buffer, was):
                    buffer.copy_(was)


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
    own = nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value
    vars(own).update(vars(tensor))  # attributes that the code gave it
    return own


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


def _kept(model: nn.Module, copies: Mapping[int, Any]) -> dict[int, Any]:
    """Copies of tensors kept in attributes: those computed from parameters by an earlier call, which deepcopy refuses.

    A view of a parameter is one of its copy, by which a reader of it is known (see trace_record).
    """
    parameters = {storage_of(p): p for p in model.parameters()}
    found: dict[int, Any] = {}
    for value in tensors(model):
        viewed = None if id(value) in copies else parameters.get(storage_of(value))
        if viewed is not None:
            layout = value.shape, value.stride(), value.storage_offset()
            found[id(value)] = copies[id(viewed)].detach().as_strided(*layout)
        elif id(value) not in copies and not value.is_leaf:
            found[id(value)] = value.detach().clone()
    return found


def storage_of(tensor: Tensor) -> object:
    """What two tensors have in common if they share memory; the tensor itself where it has no storage (sparse)."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return tensor


def _refuse_lazy(found: Iterable[Tensor]) -> None:
    if any(is_lazy(tensor) for tensor in found):
        raise UsageError("it holds lazy parameters, whose shapes are not known; call the model once first")
