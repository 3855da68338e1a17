"""A few real optimizer steps of one small model: what every module's output, every weight and attention did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.checks.coord.probe import OUTPUT, difference, first_tensor, rms
from hptransfer.checks.oracle.subject import Subject
from hptransfer.core.errors import UsageError
from hptransfer.core.training.buffers import buffers_kept
from hptransfer.parametrization.apply.optimizers import build_optimizers
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.plan import Plan

STEPS = 2
RELATIVE = 0.1
"""The learning rate is chosen so that at the smallest size a step changes no output by more than about this share."""
_TRIES = 4

Trained = Mapping[type[torch.optim.Optimizer], Mapping[str, Any]]
"""Optimizer class -> its options but lr."""


Outputs = dict[str, list[Tensor]]
"""Module -> the first tensor of its output, once per call; "(output)" is the model itself."""


@dataclass(frozen=True)
class Walk:
    """What STEPS steps of one model did.

    size, change: module -> rms of its output before, and of its change; entries: module -> numbers in that output.
    steps: parameter -> rms of its own change; gradients: parameter -> rms of its gradient before.
    """

    size: Mapping[str, float]
    change: Mapping[str, float]
    entries: Mapping[str, int]
    steps: Mapping[str, float]
    gradients: Mapping[str, float]

    @property
    def relative(self) -> float:
        """The largest change of an output as a share of its size."""
        shares = [self.change[name] / size for name, size in self.size.items() if size > 0 and name in self.change]
        return max((share for share in shares if math.isfinite(share)), default=0.0)


def walk(
    subject: Subject,
    plan: Plan,
    trained: Trained,
    size: int,
    seed: int,
    *,
    lr: float,
    only: Callable[[str], bool] | None = None,
) -> Walk:
    """Build the model of one size, parametrize it, and take STEPS steps on one batch.

    lr: the base's, without weight decay. only: the parameters whose steps count; the others return to where they were.
    Raises UsageError where something stops being finite, or the optimizer does not take the model.
    """
    model, batch = subject.model(size, seed), subject.batch(seed)
    parametrize_(model, plan)
    options = {cls: {**own, "lr": lr, "weight_decay": 0.0} for cls, own in trained.items()}
    optimizer = build_optimizers(model, plan, options)
    named = plain_names(model, plan)
    initial = {name: p.detach().clone() for name, p in named.items() if p.requires_grad}
    before, gradients = outputs_of(subject, model, batch, seed), dict[str, float]()
    for t in range(STEPS):
        optimizer.zero_grad()
        subject.score(model, batch, seed).backward()
        if t == 0:
            gradients = {n: rms([p.grad]) for n, p in named.items() if p.grad is not None}
        optimizer.step()
    steps = {name: rms([named[name].detach() - old]) for name, old in initial.items()}
    with torch.no_grad():
        for name, old in initial.items():
            if only is not None and not only(name):
                named[name].copy_(old)
    after = outputs_of(subject, model, batch, seed)
    return _walk(before, after, steps, gradients)


def _walk(before: Outputs, after: Outputs, steps: Mapping[str, float], gradients: Mapping[str, float]) -> Walk:
    size = {name: rms(tensors) for name, tensors in before.items()}
    compared = {name: difference(now, before.get(name)) for name, now in after.items()}
    change = {name: value for name, value in compared.items() if value is not None}
    if not all(map(math.isfinite, (*size.values(), *change.values()))):
        raise UsageError("outputs stop being finite within two small steps")
    entries = {name: sum(t.numel() for t in tensors) for name, tensors in before.items()}
    return Walk(size, change, entries, steps, gradients)


def outputs_of(subject: Subject, model: nn.Module, batch: Any, seed: int) -> Outputs:
    """Every module's output in one forward pass, which leaves buffers as they were."""
    seen: Outputs = {}
    with torch.no_grad(), buffers_kept(model), _recorded(model, seen):
        subject.score(model, batch, seed)
    return seen


@contextmanager
def _recorded(model: nn.Module, seen: Outputs) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                seen.setdefault(name or OUTPUT, []).append(tensor.detach().clone())

        return note

    watched = [(n, m) for n, m in model.named_modules() if "parametrizations" not in n.split(".")]
    handles = [module.register_forward_hook(hook(name)) for name, module in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def chosen_lr(subject: Subject, plan: Plan, trained: Trained, size: int) -> float:
    """A learning rate at which the smallest model's outputs change by about RELATIVE of their size.

    Raises UsageError where none is found: nothing moves, or everything blows up.
    """
    lr = 1e-3
    for _ in range(_TRIES):
        share = walk(subject, plan, trained, size, 0, lr=lr).relative
        if share == 0:
            raise UsageError("a step changes no output: these inputs give no gradient")
        if RELATIVE / 3 <= share <= 3 * RELATIVE:
            return lr
        lr *= min(1e6, max(1e-6, RELATIVE / share))
    return lr
