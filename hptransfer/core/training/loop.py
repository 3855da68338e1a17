"""One training run: deterministic given its seed, on any device, with one definition of "diverged"."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Batch, Recipe, Scale
from hptransfer.core.training.seeding import seeded

CURVE_POINTS = 40
"""A run records at most this many points of its training loss."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    val_loss: mean of the recipe's loss over its validation batches at the end, inf when diverged.
    train_loss: mean training loss of the last tenth of the steps, inf when diverged.
    curve: (steps done, training loss averaged since the previous point), at most CURVE_POINTS of them.
    seconds: wall time, validation included. steps: optimizer steps done (fewer than asked for when diverged).
    """

    val_loss: float
    train_loss: float
    curve: tuple[tuple[int, float], ...]
    diverged: bool
    seconds: float
    steps: int


def tail_length(steps: int) -> int:
    """How many steps the last tenth of a run has, at least one."""
    return max(1, math.ceil(steps / 10))


class Divergence:
    """Tells from the training losses alone, fed in order, whether a run has diverged.

    Diverged: a loss is not finite, or the mean loss over a tenth of the run (at least 10 steps) lies above the cut,
    which is first loss + max(|first loss|, 0.1): twice the loss at initialisation for a positive loss. A short spike
    that training recovers from is no divergence, nor is a run that merely learns nothing.
    """

    def __init__(self, steps: int) -> None:
        self.window: deque[float] = deque(maxlen=max(10, tail_length(steps)))
        self.cut = math.inf

    def __call__(self, loss: float) -> bool:
        """Take the next training loss; True from the step on at which the run counts as diverged."""
        if not math.isfinite(loss):
            return True
        if not self.window and self.cut == math.inf:
            self.cut = loss + max(abs(loss), 0.1)
        self.window.append(loss)
        return len(self.window) == self.window.maxlen and sum(self.window) / len(self.window) > self.cut


def thin(losses: Sequence[float], points: int = CURVE_POINTS) -> tuple[tuple[int, float], ...]:
    """At most `points` (steps done, mean loss since the previous point) over per-step losses."""
    count = min(points, len(losses))
    ends = [(i + 1) * len(losses) // count for i in range(count)]
    starts = [0, *ends[:-1]]
    return tuple((b, sum(losses[a:b]) / (b - a)) for a, b in zip(starts, ends, strict=True))


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """A batch (tensor, or nested tuple, list or mapping of tensors) on `device`; other leaves are left alone."""
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch


def next_batch(recipe: Recipe, batches: Iterator[Batch], step: int) -> Batch:
    """The batch of step `step`. Raises UsageError where the recipe's batches end before the run does."""
    for batch in batches:
        return batch
    raise UsageError(
        f"Recipe {recipe.name!r}: batches ended after {step} of {recipe.steps} steps; it must be an endless iterator."
    )


def schedule_factor(recipe: Recipe, step: int) -> float:
    """The factor on the learning rate at step `step` (from 0). Raises UsageError where it is negative or not finite."""
    progress = (step + 0.5) / recipe.steps
    factor = float(recipe.schedule(progress))
    if not (math.isfinite(factor) and factor >= 0):
        raise UsageError(
            f"Recipe {recipe.name!r}: schedule({progress:g}) = {factor}, but a factor on the learning rate must be "
            "finite and not negative."
        )
    return factor


def set_lrs(optimizer: torch.optim.Optimizer, initial: Sequence[Any], factor: float) -> None:
    """Give every group its initial learning rate times `factor`; an LR kept in a tensor stays in that tensor."""
    for group, lr in zip(optimizer.param_groups, initial, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(float(lr) * factor)
        else:
            group["lr"] = lr * factor


def loss_of(recipe: Recipe, model: nn.Module, batch: Batch, device: torch.device | str) -> Tensor:
    """The recipe's loss on a batch, which is moved to the device; in the recipe's autocast dtype."""
    if recipe.autocast is None:
        return recipe.loss(model, to_device(batch, device))
    with torch.autocast(torch.device(device).type, recipe.autocast):
        return recipe.loss(model, to_device(batch, device))


@torch.no_grad()
def evaluate(recipe: Recipe, model: nn.Module, device: torch.device | str) -> float:
    """Mean of the recipe's loss over its validation batches, in eval mode. Raises UsageError where there are none."""
    training = model.training
    model.eval()
    try:
        losses = [loss_of(recipe, model, batch, device) for batch in recipe.validation()]
    finally:
        model.train(training)
    if not losses:
        raise UsageError(f"Recipe {recipe.name!r}: validation() gave no batches; at least one is needed.")
    return math.fsum(torch.stack(losses).tolist()) / len(losses)


def train(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    scale: Scale,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train `model`, already on `device`, for recipe.steps steps and evaluate it.

    Every param group's initial lr is multiplied by recipe.schedule((t + 1/2) / T), so multipliers between groups
    stay; the lrs and the model's mode are as before on return, also after an exception. The data depend on (scale,
    seed) only: the same for every learning rate and scheme. Dropout and the like are drawn from the seed too, and the
    caller's random state is left as it was. Stops at once when the run diverges (see Divergence).
    on_step(t, loss) sees every training loss, t from 0, and may raise to stop the run.
    Raises UsageError where the batches end, validation is empty, or the schedule gives no usable factor.
    """
    began, training = time.perf_counter(), model.training
    initial = [float(group["lr"]) for group in optimizer.param_groups]
    with seeded(seed, "training"):
        try:
            model.train()
            losses, diverged = _steps(recipe, model, optimizer, initial, recipe.batches(scale, seed), device, on_step)
            val_loss = math.inf if diverged else evaluate(recipe, model, device)
        finally:
            set_lrs(optimizer, initial, 1.0)
            model.train(training)
    seconds = time.perf_counter() - began
    return finish(losses, val_loss=val_loss, diverged=diverged, seconds=seconds)


def finish(losses: Sequence[float], *, val_loss: float, diverged: bool, seconds: float) -> TrainResult:
    """The result of a run from its per-step training losses; a non-finite validation loss makes it diverged too."""
    diverged = diverged or not math.isfinite(val_loss)
    finite = [loss for loss in losses if math.isfinite(loss)]
    tail = losses[-tail_length(len(losses)) :]
    return TrainResult(
        val_loss=math.inf if diverged else val_loss,
        train_loss=math.inf if diverged else sum(tail) / len(tail),
        curve=thin(finite) if finite else (),
        diverged=diverged,
        seconds=seconds,
        steps=len(losses),
    )


def training_step(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    initial: Sequence[float],
    batches: Iterator[Batch],
    step: int,
    device: torch.device | str,
) -> Tensor:
    """One optimizer step on the next batches at the schedule's rate; their mean loss before it, on the device.

    initial: the groups' rates at schedule factor 1; step: from 0. Raises UsageError where the batches end.
    """
    set_lrs(optimizer, initial, schedule_factor(recipe, step))
    optimizer.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    for _ in range(recipe.accumulate):
        loss = loss_of(recipe, model, next_batch(recipe, batches, step), device) / recipe.accumulate
        loss.backward()
        losses.append(loss.detach())
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def _steps(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    initial: Sequence[float],
    batches: Iterator[Batch],
    device: torch.device | str,
    on_step: Callable[[int, float], None] | None,
) -> tuple[list[float], bool]:
    """The training losses up to the end or to divergence, and whether it diverged.

    On an accelerator the losses are read every 16 steps only, so that the device never waits for the host.
    """
    every = 1 if torch.device(device).type == "cpu" or on_step else 16
    diverged, losses, waiting = Divergence(recipe.steps), [], []
    for step in range(recipe.steps):
        waiting.append(training_step(recipe, model, optimizer, initial, batches, step, device))
        if len(waiting) == every or step == recipe.steps - 1:
            for value in torch.stack(waiting).tolist() if every > 1 else [waiting[0].item()]:
                losses.append(value)
                if on_step:
                    on_step(len(losses) - 1, value)
                if diverged(value):
                    return losses, True
            waiting.clear()
    return losses, False
