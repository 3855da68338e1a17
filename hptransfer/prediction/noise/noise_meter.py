"""A meter of the gradient noise scale inside the user's own training loop, per parameter group and in total.

    meter = NoiseScaleMeter(model, micro_batch=8)
    for step in range(steps):
        for x, y in microbatches:                        # >= 2 per step, or >= 2 ranks under DDP
            (loss(model(x), y) / len(microbatches)).backward()
        meter.step()                                      # after the last backward, before clipping and zero_grad
        optimizer.step(); optimizer.zero_grad()
    print(meter.prediction())

Hooks on the parameters see each microbatch's own gradient before it is added to `.grad`, so nothing is copied and the
cost is one squared norm per parameter and backward. Under DistributedDataParallel the hooks see local gradients and
`.grad` holds the mean over ranks, so ranks act as further microbatches; the meter all-reduces one vector per step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hptransfer.core.errors import UsageError
from hptransfer.prediction.noise.noise_scale import NoiseScale, predict_noise_scale, summarise, two_batch_estimate
from hptransfer.prediction.provenance import Prediction

TOTAL = "total"


class NoiseScaleMeter:
    """Exponential averages of |G|^2 and tr S.

    model: bare, or wrapped in DDP (before or after). micro_batch: examples (or tokens) per backward and rank; the noise
    scale comes out in the same `unit`. groups: parameter name -> group (default: the name itself). averaged: whether
    the loss was divided by the number of microbatches, so that `.grad` is their mean (else their sum). decay: weight
    of a step against the next. process_group: for DDP over a subgroup.

    Limits: each backward counts as one microbatch; microbatches must be equally large; sharded gradients (FSDP,
    tensor parallel) are refused; gradients of whole accumulated batches must be finite, else the step is skipped.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        micro_batch: float,
        groups: Callable[[str], str] | None = None,
        averaged: bool = True,
        decay: float = 0.95,
        unit: str = "examples",
        process_group: Any = None,
    ):
        if not (micro_batch > 0 and 0 < decay < 1):
            raise UsageError(f"NoiseScaleMeter: {micro_batch=} must be > 0 and {decay=} within (0, 1).")
        named = {n.removeprefix("module."): p for n, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise UsageError("NoiseScaleMeter: the model has no trainable parameter.")
        sharded = [n for n, p in named.items() if type(p).__name__ == "DTensor"]
        if sharded:
            raise UsageError(
                f"NoiseScaleMeter: {sharded[0]} is sharded; FSDP and tensor parallelism are not supported."
            )
        self.micro_batch, self.averaged, self.decay, self.unit = micro_batch, averaged, decay, unit
        self.skipped = 0
        self._group_of: Callable[[str], str] = groups or str
        self._process_group = process_group
        self._names = list(dict.fromkeys(self._group_of(n) for n in named))
        if TOTAL in self._names:
            raise UsageError(f"NoiseScaleMeter: the group name {TOTAL!r} is taken. Rename the group.")
        self._parameters = named
        self._squares: dict[str, Tensor] = {}
        self._backwards: dict[str, int] = {}
        keep = math.ceil(math.log(1e-3) / math.log(decay))  # older steps weigh < .001
        self._history: dict[str, deque[NoiseScale]] = {g: deque(maxlen=keep) for g in [*self._names, TOTAL]}
        self._handles: list[RemovableHandle] = [_hooked(p, self._hook(n)) for n, p in named.items()]

    def step(self, *, grad_scale: float = 1.0) -> None:
        """Take in one optimizer step's gradients. grad_scale: of a GradScaler whose `unscale_` was not called yet.

        Raises UsageError where there was no backward since the last step, or one microbatch on one rank only.
        """
        count = max(self._backwards.values(), default=0)
        if not count:
            raise UsageError("NoiseScaleMeter.step: no backward since the last step.")
        small, big = self._collect(count)
        self._squares.clear()
        self._backwards.clear()
        self.update(small / grad_scale**2, big / grad_scale**2, microbatches=count * self._world())

    def update(self, small: Tensor, big: Tensor, *, microbatches: int) -> None:
        """Take in mean squared norms per group (groups,): of microbatch gradients, and of their mean."""
        if microbatches < 2:
            raise UsageError(
                "NoiseScaleMeter: one microbatch on one rank holds one batch size only. Accumulate over >= 2."
            )
        values = np.asarray(torch.stack([small, big]).double().cpu(), dtype=np.float64)
        if not np.isfinite(values).all():
            self.skipped += 1
            return
        sizes = {"small": self.micro_batch, "big": self.micro_batch * microbatches}
        per_group = [two_batch_estimate(float(s), float(b), **sizes) for s, b in values.T]
        for name, estimate in zip(self._names, per_group, strict=True):
            self._history[name].append(estimate)
        total = NoiseScale(sum(e.signal for e in per_group), sum(e.noise for e in per_group))
        self._history[TOTAL].append(total)

    @property
    def groups(self) -> tuple[str, ...]:
        """The group names, without the total."""
        return tuple(self._names)

    def reading(self, group: str = TOTAL) -> NoiseScale:
        """The averaged signal and noise of a group. Raises UsageError before the first step or for an unknown group."""
        return summarise(self._of(group), decay=self.decay)

    def prediction(self, group: str = TOTAL) -> Prediction:
        """The noise scale of a group with its interval. Raises UsageError where the signal is not resolved yet."""
        name = "noise scale" if group == TOTAL else f"noise scale of {group}"
        return predict_noise_scale(self._of(group), decay=self.decay, unit=self.unit, name=name)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on: plain lists of numbers."""
        return {name: [(e.signal, e.noise) for e in history] for name, history in self._history.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a `state_dict` back. Raises UsageError where its groups are not this meter's."""
        if set(state) != set(self._history):
            raise UsageError(f"NoiseScaleMeter: the saved groups differ: {sorted(set(state) ^ set(self._history))}.")
        for name, rows in state.items():
            self._history[name].clear()
            self._history[name].extend(NoiseScale(float(s), float(n)) for s, n in rows)

    def close(self) -> None:
        """Remove the hooks. The readings stay."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> NoiseScaleMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        group = self._group_of(name)

        def add(gradient: Tensor) -> None:
            square = gradient.detach().float().square().sum()
            self._squares[group] = self._squares[group] + square if group in self._squares else square
            self._backwards[name] = self._backwards.get(name, 0) + 1

        return add

    def _collect(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean squared norm of a microbatch's gradient, and squared norm of the mean gradient, per group."""
        device = next(iter(self._squares.values())).device
        zero = torch.zeros((), device=device)
        small = torch.stack([self._squares.get(g, zero).to(device) for g in self._names])
        big = {g: zero for g in self._names}
        for name, p in self._parameters.items():
            if p.grad is not None:
                big[self._group_of(name)] = big[self._group_of(name)] + p.grad.detach().float().square().sum().to(
                    device
                )
        if self._world() > 1:
            distributed: Any = dist
            distributed.all_reduce(small, group=self._process_group)
            small = small / self._world()
        scale = count if self.averaged else 1  # a hook sees g_i / count where the loss was divided by count
        mean = 1 if self.averaged else count
        return small * scale**2 / count, torch.stack([big[g] for g in self._names]) / mean**2

    def _world(self) -> int:
        return dist.get_world_size(self._process_group) if dist.is_available() and dist.is_initialized() else 1

    def _of(self, group: str) -> list[NoiseScale]:
        if group not in self._history:
            raise UsageError(f"Unknown group {group!r}: choose from {TOTAL}, {', '.join(self._names)}.")
        return list(self._history[group])


def _hooked(parameter: Any, hook: Callable[[Tensor], None]) -> RemovableHandle:
    return parameter.register_hook(hook)
