"""The way to and from microsoft/mup 1.0.0: base shapes in models and .bsh files, and what it does, as a plan.

mup keeps a base size for every dimension of every parameter (p.infshape, or a .bsh file: name -> base sizes, null for a
dimension that does not grow). `make_plan(model, base=read_base_shapes(...))` takes them in place of a base model.
Nothing here imports mup: its metadata is read by attribute.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.files import write_whole
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.roles import Kind
from hptransfer.parametrization.measure import measure_rms
from hptransfer.parametrization.multipliers.placement import Hook
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

BaseShapes = Mapping[str, tuple[int | None, ...]]
"""Parameter -> base size of each dimension, None where it does not grow."""

_HEADER = (
    "# Base shapes in the format of microsoft/mup: null is a dimension that does not grow, a number its base size\n"
)
SHAPES_NOTE = (
    "the base is known by its shapes alone: attention, depth and constants of the code are taken to be its own"
)
SOURCE = "mup 1.0.0, optim.py and layer.py (2203.03466, Table 8)"


def read_base_shapes(source: nn.Module | str | os.PathLike[str]) -> BaseShapes:
    """Base shapes of a model that went through mup.set_base_shapes, or of a .bsh file.

    Raises UsageError where the model carries none, or the file cannot be read as one.
    """
    if isinstance(source, nn.Module):
        return {name: tuple(dim.base_dim for dim in shape) for name, shape in _infshapes(source).items()}
    try:
        data = yaml.safe_load(Path(source).read_text())
        shapes = {str(name): tuple(None if size is None else int(size) for size in own) for name, own in data.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{source} cannot be read as base shapes ({type(error).__name__}: {error}).") from error
    if shapes and all(name.startswith("module.") for name in shapes):  # saved from a wrapped model
        return {name.removeprefix("module."): own for name, own in shapes.items()}
    return shapes


def write_base_shapes(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the plan's base as a .bsh file that mup.set_base_shapes reads.

    Raises UsageError where the plan is for the base's own size, since no dimension then shows whether it grows.
    """
    shapes = {row.name: [b if b != s else None for b, s in zip(row.base_shape, row.shape, strict=True)] for row in plan}
    if not any(size is not None for own in shapes.values() for size in own):
        raise UsageError("This plan is for the base's own size: make it for a larger model, so that width shows.")
    write_whole(path, _HEADER + yaml.safe_dump(shapes, indent=4))


def shapes_module(model: nn.Module, shapes: BaseShapes) -> nn.Module:
    """A base known by its shapes alone: a module on meta with the model's parameter names, that cannot be run.

    Raises UsageError where names or ranks are not the model's, or the model multiplies by mup's own width_mult.
    """
    target = dict(model.named_parameters())
    missing, extra = [n for n in target if n not in shapes], [n for n in shapes if n not in target]
    if missing or extra:
        raise UsageError(f"The base shapes lack {missing[:3] or 'none'} and have unknown {extra[:3] or 'none'}.")
    for name, module in model.named_modules():
        if callable(getattr(module, "width_mult", None)):
            raise UsageError(
                f"{name!r} divides by mup's width_mult, which base shapes alone do not show: give the base model "
                f"itself as base=, or take mup's own rules with hptransfer.mup_plan."
            )
    root = nn.Module()
    for name, parameter in target.items():
        if len(shapes[name]) != parameter.dim():
            raise UsageError(f"{name!r} has shape {tuple(parameter.shape)}, but base shape {shapes[name]}.")
        sizes = [size if base is None else base for base, size in zip(shapes[name], parameter.shape, strict=True)]
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        own = torch.empty(sizes, device="meta", dtype=parameter.dtype)
        owner.register_parameter(leaf, nn.Parameter(own, requires_grad=parameter.requires_grad))
    return root


@contextlib.contextmanager
def constant_width_mults(model: nn.Module) -> Iterator[None]:
    """While open, every MuReadout's width_mult is a number: tracing replaces the parameters that hold it."""
    found = [m for m in model.modules() if callable(getattr(m, "width_mult", None)) and "width_mult" not in vars(m)]
    for module in found:
        module.width_mult = partial(float, module.width_mult())  # type: ignore[operator,arg-type,assignment]
    try:
        yield
    finally:
        for module in found:
            del module.width_mult


def mup_plan(model: nn.Module, *, optimizer: type[torch.optim.Optimizer] | str = torch.optim.Adam) -> Plan:
    """What mup 1.0.0 does to this model under MuAdam, MuAdamW or MuSGD, as a plan.

    model: after mup.set_base_shapes, at initialisation. optimizer: the class that MuAdam or MuSGD wraps.
    A MuReadout's forward multiplier is the weight's fwd_mult: `.absorb()` gives the plan that makes the same model with
    plain nn.Linear layers, holding the same values, train alike. Compare it with make_plan's by `compare_plans`.
    Raises UsageError where the model carries no base shapes or mup has no rule for the optimizer.
    """
    info, stds = OptimizerInfo.of(optimizer), measure_rms(model)
    if info.geometry not in {"gradient", "sign"}:
        raise UsageError(f"mup has no rule for {info.name}: it scales SGD-like and Adam-like optimizers.")
    shapes = _infshapes(model)
    readouts = {n: m for n, m in model.named_modules() if callable(getattr(m, "width_mult", None))}
    rows = {name: _row(name, shape, info, stds.get(name)) for name, shape in shapes.items()}
    hooks: list[Hook] = []
    for module_name, module in readouts.items():
        factor = float(module.output_mult) / float(module.width_mult())  # type: ignore[operator,arg-type]
        weight = f"{module_name}.weight" if module_name else "weight"
        if weight in rows:
            rows[weight] = _with_multiplier(rows[weight], factor)
        else:  # MuSharedReadout: the weight is an embedding's, so its input is multiplied
            hooks.append(Hook(module_name, "input", factor, f"MuSharedReadout; {SOURCE}"))
    note = "as mup 1.0.0 does it; the model's own code multiplies already, so parametrize_ a plain twin of it"
    return Plan("mup", {info.name: info}, rows, {}, tuple(hooks), (note,), {"eps": "fixed"})


def _row(name: str, shape: Any, info: OptimizerInfo, std: float | None) -> Row:
    sizes, base = tuple(d.dim for d in shape), tuple(d.dim if d.base_dim is None else d.base_dim for d in shape)
    kind, lr = _kind(shape), _lr(shape, info)
    fan_out, fan_in = (sizes[0], sizes[1]) if len(sizes) > 1 else (sizes[0] if sizes else 1, 1)
    base_out, base_in = (base[0], base[1]) if len(base) > 1 else (base[0] if base else 1, 1)
    m_in = fan_in / base_in
    init = m_in**-0.5 if kind == "hidden" else 1.0
    why = (f"{kind}: lr x {lr:g}; {SOURCE}",)
    return Row(
        name, sizes, kind, fan_in, fan_out, name, std, init, lr, 1 / lr, 1.0,
        optimizer=info.name, base_shape=base, m_in=m_in, m_out=fan_out / base_out, scale_mult=init, why=why,
    )  # fmt: skip


def _kind(shape: Any) -> Kind:
    if shape.ninf() == 2:
        return "hidden"
    if shape.ninf() == 0:
        return "scalar"
    return "vector" if len(shape) == 1 else "readout" if shape.main_idx == 1 else "input"


def _lr(shape: Any, info: OptimizerInfo) -> float:
    """MuAdam: matrix-like / width. MuSGD: vector-like x width, matrix-like x fan_out / fan_in."""
    if info.geometry == "sign":
        return 1 / shape.width_mult() if shape.ninf() == 2 else 1.0
    if shape.ninf() == 2:
        return 1 / shape.fanin_fanout_mult_ratio()
    return float(shape.width_mult()) if shape.ninf() == 1 else 1.0


def _with_multiplier(row: Row, factor: float) -> Row:
    fields = {**vars(row), "fwd_mult": factor, "why": (*row.why, f"MuReadout multiplies by {factor:g}")}
    return Row(**fields)


def _infshapes(model: nn.Module) -> dict[str, Any]:
    found = {name: getattr(parameter, "infshape", None) for name, parameter in model.named_parameters()}
    without = [name for name, shape in found.items() if shape is None]
    if without:
        raise UsageError(
            f"{without[0]!r} carries no mup base shape (p.infshape). Call mup.set_base_shapes on the model first; the "
            f"attribute is lost on deepcopy, to_empty and load_state_dict(assign=True)."
        )
    return found


@dataclass(frozen=True)
class Difference:
    """One number on which two plans differ, in absorbed form."""

    name: str
    field: str
    first: float
    second: float

    def __str__(self) -> str:
        return f"{self.name}: {self.field} {self.first:.4g} against {self.second:.4g}"


def compare_plans(
    first: Plan, second: Plan, *, fields: Sequence[str] = ("init_mult", "lr_mult", "wd_mult", "eps_mult")
) -> list[Difference]:
    """Where two plans for the same parameters would train them differently, forward multipliers absorbed.

    Raises UsageError where they are not for the same parameters.
    """
    if set(first.rows) != set(second.rows):
        raise UsageError(f"The plans differ in parameters: {sorted(set(first.rows) ^ set(second.rows))[:4]}.")
    return list(_differences(first.absorb(), second.absorb(), fields))


def _differences(first: Plan, second: Plan, fields: Sequence[str]) -> Iterator[Difference]:
    for row in first:
        for field in fields:
            a, b = getattr(row, field), getattr(second.rows[row.name], field)
            if abs(a - b) > 1e-9 * max(abs(a), abs(b)):
                yield Difference(row.name, field, a, b)
