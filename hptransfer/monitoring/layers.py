"""One forward pass on the current batch: how large every module's output is, and how aligned weights and inputs are.

For a linear map y = W x with n inputs, rms(W x) = n^a rms(W) rms(x): a = 1/2 where W is random to x (entries add as in
a random walk), a = 1 where they line up (Everett et al. 2407.05872, the log alignment ratio). The same of the last
update dW says by which power of the width a step changes the outputs: muP's rates assume 1, "no alignment" assumes 1/2.
"""

# pyright: strict
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hptransfer.checks.coord.probe import first_tensor, rms, watched
from hptransfer.core.training.buffers import buffers_kept
from hptransfer.core.training.seeding import seeded

ROWS = 1024
"""Inputs of a module that its alignment is measured on, at most."""
MODULES = 256
"""Modules that a reading holds, at most; of more, evenly spaced ones."""


@dataclass
class Layers:
    """outputs: module -> root mean square of its output; alignment, update_alignment: module -> exponent."""

    outputs: dict[str, float] = field(default_factory=dict[str, float])
    alignment: dict[str, float] = field(default_factory=dict[str, float])
    update_alignment: dict[str, float] = field(default_factory=dict[str, float])


def look(model: nn.Module, forward: Callable[[], object], updates: Mapping[str, Tensor], *, seed: int) -> Layers:
    """Run `forward` without gradients and look at `model`'s modules; buffers and random state stay as they were.

    updates: parameter name -> its last change; seed: of dropout's masks.
    """
    seen = Layers()
    handles = [
        module.register_forward_hook(_hook(name, seen, updates.get(f"{name}.weight".lstrip("."))))
        for name, module in chosen_modules(model).items()
    ]
    compiler: Any = torch.compiler
    try:
        with torch.no_grad(), seeded(seed), buffers_kept(model), compiler.set_stance("force_eager"):
            forward()
    finally:
        _remove(handles)
    return seen


def chosen_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that are looked at: those with parameters of their own, and the model itself; at most MODULES."""
    names = {
        name: module
        for name, module in watched(model).items()
        if module is model or any(True for _ in module.parameters(recurse=False))
    }
    if len(names) <= MODULES:
        return names
    kept = [list(names)[round(k * (len(names) - 1) / (MODULES - 1))] for k in range(MODULES)]
    return {name: names[name] for name in kept}


def alignment(weight: Tensor, inputs: Tensor) -> float | None:
    """The exponent a of rms(W x) = n^a rms(W) rms(x). weight: (out, n); inputs: (rows, n). None where one is zero."""
    size = rms([weight]) * rms([inputs])
    image = rms([inputs @ weight.T])
    if size == 0 or image == 0 or weight.shape[1] < 2 or not math.isfinite(image):
        return None
    return math.log(image / size) / math.log(weight.shape[1])


def _hook(name: str, seen: Layers, update: Tensor | None) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        made = first_tensor(output)
        if made is None:
            return
        seen.outputs.setdefault(name, rms([made]))
        weight = getattr(module, "weight", None)
        inputs = first_tensor(args)
        if isinstance(weight, Tensor) and inputs is not None and _is_linear(weight, inputs, made):
            rows = inputs.detach().reshape(-1, weight.shape[1])[:ROWS]
            _note(seen.alignment, name, weight, rows)
            if update is not None:
                _note(seen.update_alignment, name, update, rows)

    return hook


def _is_linear(weight: Tensor, inputs: Tensor, output: Tensor) -> bool:
    return weight.dim() == 2 and (output.shape[-1:], inputs.shape[-1:]) == (weight.shape[:1], weight.shape[1:])


def _note(where: dict[str, float], name: str, weight: Tensor, rows: Tensor) -> None:
    exponent = alignment(weight.detach().float(), rows.float())
    if exponent is not None:
        where.setdefault(name, exponent)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
