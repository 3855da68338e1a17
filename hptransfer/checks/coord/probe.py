"""Look at every module's output on one fixed batch, without leaving a trace in the model.

Between t = 0 and t a module's output changes for two reasons, which add up exactly:

  f(W_t, x_t) - f(W_0, x_0)  =  [f(W_t, x_t) - f(W_0, x_t)]  +  [f(W_0, x_t) - f(W_0, x_0)]
          change                        update                          carried

The update is what the module's own parameters learned; what is carried was learned before it. The split is the
"refined coordinate check" of Haas et al. 2025 (2505.22491), for any module: f(W_0, x_t) is one more call of it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from hptransfer.checks.coord.logits import LogitWatch
from hptransfer.core.training.buffers import buffers_kept
from hptransfer.core.training.seeding import seeded

OUTPUT = "(output)"
"""The name of the whole model's output, where no module within it made that very tensor."""


@dataclass
class Seen:
    """What one forward pass showed.

    outputs: module -> the first tensor of its output, once per call. unmoved: the same with the module's parameters of
    t = 0 at the inputs of now. source: module without parameters -> the module whose output was its one tensor input.
    logits: attention product or softmax, in order of execution -> its largest logit.
    """

    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    unmoved: dict[str, list[Tensor]] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    logits: dict[str, float] = field(default_factory=dict)


def watched(model: nn.Module) -> dict[str, nn.Module]:
    """Name (indices kept) -> module: all without children, all that own a parameter, and the model itself."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inner = [child for child, _ in module.named_children() if child != "parametrizations"]
        owns = any(True for _ in module.parameters(recurse=False)) or hasattr(module, "parametrizations")
        if name and "parametrizations" not in name.split(".") and (not inner or owns):
            found[name] = module
    return {**found, OUTPUT: model}


class Probe:
    """Calls `forward` on a model and records every watched module's output.

    forward: runs the model on the probe batch; seed: of the dropout masks, the same at every call.
    Made at t = 0: keeps a copy of the parameters as they are then. Every call leaves parameters, buffers, hooks, mode
    and random state as they were.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], object], *, seed: int = 0) -> None:
        self.model, self.forward, self.seed = model, forward, seed
        self.modules = watched(model)
        self.initial = {
            name: {n: p.detach().clone() for n, p in module.named_parameters()}
            for name, module in self.modules.items()
            if name != OUTPUT and any(True for _ in module.parameters())
        }
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._entries: dict[str, list[_Entry]] = {}
        self._makers: list[tuple[Tensor, str]] = []
        self._paused = False

    @torch.no_grad()
    def __call__(self, *, unmoved: bool = False) -> Seen:
        """One forward pass. unmoved: also call every module that has parameters with those of t = 0."""
        seen, watch = Seen(), LogitWatch()
        self._entries, self._makers = {}, []
        with seeded(self.seed), buffers_kept(self.model), self._hooks(seen, watch, unmoved), watch:
            self.forward()
        self._entries, self._makers = {}, []
        seen.logits = watch.largest
        return seen

    @contextlib.contextmanager
    def _hooks(self, seen: Seen, watch: LogitWatch, unmoved: bool) -> Iterator[None]:
        handles = []
        for name, module in self.modules.items():
            if unmoved and name in self.initial:
                handles.append(module.register_forward_pre_hook(self._enter(name), prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave(name, seen, watch, unmoved), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._paused:
                copied_args, copied_kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
                entry = _Entry(copied_args, copied_kwargs, _random_state(self.device))
                self._entries.setdefault(name, []).append(entry)

        return hook

    def _leave(self, name: str, seen: Seen, watch: LogitWatch, unmoved: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensor = None if self._paused else first_tensor(output)
            if tensor is None or (name == OUTPUT and self._maker(tensor) is not None):
                return
            self._note_source(name, args, kwargs, seen)
            self._makers.append((tensor, name))
            seen.outputs.setdefault(name, []).append(tensor.detach().clone())
            if unmoved and name in self.initial:
                with watch.paused():
                    seen.unmoved.setdefault(name, []).append(self._again(name, module))

        return hook

    def _again(self, name: str, module: nn.Module) -> Tensor:
        """The module's output with its parameters of t = 0, at the inputs and random state of the call just made."""
        entry = self._entries[name].pop()
        self._paused = True
        try:
            with seeded(None):
                _set_random_state(self.device, entry.random)
                output = functional_call(module, self.initial[name], entry.args, entry.kwargs)
        finally:
            self._paused = False
        tensor = first_tensor(output)
        assert tensor is not None
        return tensor.detach().clone()

    def _maker(self, tensor: Tensor) -> str | None:
        return next((name for made, name in reversed(self._makers) if made is tensor), None)

    def _note_source(self, name: str, args: Any, kwargs: Any, seen: Seen) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        maker = self._maker(tensors[0]) if len(tensors) == 1 else None
        if maker is not None and name not in self.initial:
            seen.source[name] = maker


@dataclass(frozen=True)
class _Entry:
    """What a module was called with."""

    args: Any
    kwargs: Any
    random: Tensor


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor of a module's output: a tensor, tuple, mapping or ModelOutput."""
    leaves = output.values() if isinstance(output, Mapping) else pytree.tree_leaves(output)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    return None


def rms(tensors: list[Tensor]) -> float:
    """Root mean square over all entries of several tensors; 0 for none."""
    squares = sum(float(torch.linalg.vector_norm(t.float() if t.dtype != torch.float64 else t)) ** 2 for t in tensors)
    count = sum(t.numel() for t in tensors)
    return math.sqrt(squares / count) if count else 0.0


def difference(now: list[Tensor] | None, before: list[Tensor] | None) -> float | None:
    """RMS of the difference, call by call; None where the calls or their shapes do not correspond (routing)."""
    if now is None or before is None or [t.shape for t in now] != [t.shape for t in before]:
        return None
    return rms([a - b for a, b in zip(now, before, strict=True)])
