"""Many runs trained as one: the same architecture in lanes along a new first axis, by torch.func.

Lane k has its own weights, data, learning rate and optimizer state. The forward pass is the recipe's own loss, batched
by vmap. One optimizer steps all lanes at the largest of their learning rates; since its update is proportional to the
learning rate, lane k then goes lr_k / lr_max of the way. That holds for the elementwise optimizers below, whose state
does not depend on the learning rate: p' = p - lr f(p, g, state), decoupled weight decay being part of f.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from hptransfer.core.optimizers import torch_rows
from hptransfer.core.training.loop import Divergence, finish, next_batch, schedule_factor, set_lrs, to_device
from hptransfer.core.training.recipe import Batch, Recipe
from hptransfer.core.training.seeding import seeded
from hptransfer.validation.engines.trainer import Trainer, run_of
from hptransfer.validation.records.runs import Job, Run

ELEMENTWISE = frozenset(getattr(torch.optim, row.name) for row in torch_rows() if row.lanes)
"""Optimizers whose step on stacked weights is each lane's own step, and proportional to the learning rate."""


class LanesUnsupported(Exception):
    """This recipe cannot be trained in lanes; the text says why."""


def train_lanes(trainer: Trainer, jobs: Sequence[Job]) -> list[Run]:
    """The runs of jobs that differ in learning rate and seed only, trained together: the loop's, up to rounding.

    Raises LanesUnsupported where the optimizer is not elementwise, an operation has no batching rule, or the model
    draws random numbers as it trains (dropout: each lane would see other draws than the loop).
    """
    if not set(trainer.recipe.optimizers.values()) <= ELEMENTWISE or trainer.pair:
        raise LanesUnsupported(f"{trainer.recipe.optimizer_name} is not known to step elementwise")
    if trainer.recipe.autocast is not None:  # under vmap not every operation that autocast keeps in float32 stays there
        raise LanesUnsupported(f"autocast to {trainer.recipe.autocast} is not the loop's under vmap")
    if len({(j.scheme, j.scale, j.steps, j.settings) for j in jobs}) != 1:
        raise LanesUnsupported("lanes must share scheme, scale, steps and settings")
    try:
        with warnings.catch_warnings():  # vmap warns of operations that it runs lane by lane; a probe times them
            warnings.filterwarnings("ignore", "There is a performance drop")
            return _Lanes(trainer, jobs).train()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, SystemExit) as error:
        first = str(error).strip().split("\n")[0]
        raise LanesUnsupported(f"{type(error).__name__}: {first}") from error


class _Loss(nn.Module):
    """The recipe's loss as a module, so that functional_call can swap the model's weights for a lane's."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, batch: Batch) -> Tensor:
        return self.recipe.loss(self.model, batch)


def _clip(weights: Sequence[Tensor], bound: float) -> None:
    """What clip_grad_norm_ does, for each lane's gradient by itself; the first axis is the lanes'."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.to(gradient).view(-1, *[1] * (gradient.dim() - 1)))


class _Lanes:
    def __init__(self, trainer: Trainer, jobs: Sequence[Job]) -> None:
        self.jobs, self.device = list(jobs), trainer.device
        self.recipe = trainer.recipe.replace(steps=jobs[0].steps)
        top = max(job.lr for job in jobs)
        models, groups = zip(*(trainer.ready(replace(job, lr=top)) for job in jobs), strict=True)
        weights, buffers = stack_module_state(models)  # type: ignore[arg-type]
        self.weights = {f"model.{name}": weight for name, weight in weights.items()}
        self.buffers = {f"model.{name}": buffer for name, buffer in buffers.items()}
        self.loss = _Loss(models[0], self.recipe)  # lane 0's modules and hooks; its weights are never used
        self.optimizer = trainer.optimizer(self._stacked(groups[0], weights))
        self.share = torch.tensor([job.lr / top for job in jobs], dtype=torch.float64)

    def _stacked(self, groups: list[dict[str, Any]], weights: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Lane 0's groups with each parameter replaced by the stack of all lanes' parameters."""
        names = {id(parameter): name for name, parameter in self.loss.model.named_parameters()}
        return [{**g, "params": [weights[names[id(p)]] for p in g["params"]]} for g in groups]

    def train(self) -> list[Run]:
        began = time.perf_counter()
        with seeded(None):
            losses, diverged = self._steps()
            val_losses = self._evaluate()
        seconds = (time.perf_counter() - began) / len(self.jobs)
        return [
            run_of(job, finish(own, val_loss=val, diverged=gone, seconds=seconds), engine="lanes")
            for job, own, val, gone in zip(self.jobs, losses, val_losses, diverged, strict=True)
        ]

    def _steps(self) -> tuple[list[list[float]], list[bool]]:
        """Training losses per lane, up to its divergence, and whether it diverged; stops when every lane has."""
        judges = [Divergence(self.recipe.steps) for _ in self.jobs]
        losses: list[list[float]] = [[] for _ in self.jobs]
        diverged, waiting = [False] * len(self.jobs), []
        streams = {seed: self.recipe.batches(self.jobs[0].scale, seed) for seed in {j.seed for j in self.jobs}}
        initial = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.loss.train()
        for step in range(self.recipe.steps):
            set_lrs(self.optimizer, initial, schedule_factor(self.recipe, step))
            waiting.append(self._step(streams, step))
            if len(waiting) == 16 or step == self.recipe.steps - 1:
                for values in torch.stack(waiting).tolist():
                    for lane, value in enumerate(values):
                        if not diverged[lane]:
                            losses[lane].append(value)
                            diverged[lane] = judges[lane](value)
                waiting.clear()
                if all(diverged):
                    break
        return losses, diverged

    def _batch(self, drawn: dict[int, Batch]) -> tuple[Batch, Any]:
        """The lanes' batches stacked along a new first axis, on the device, and their in_dims for vmap."""
        flat = {seed: tree_flatten(batch) for seed, batch in drawn.items()}
        spec = next(iter(flat.values()))[1]
        leaves, dims = [], []
        for column in zip(*(flat[job.seed][0] for job in self.jobs), strict=True):
            stacks = isinstance(column[0], Tensor)
            leaves.append(to_device(torch.stack(column), self.device) if stacks else column[0])
            dims.append(0 if stacks else None)
        return tree_unflatten(leaves, spec), tree_unflatten(dims, spec)

    def _step(self, streams: Mapping[int, Iterator[Batch]], step: int) -> Tensor:
        """One optimizer step of every lane; the losses before it, one per lane."""
        self.optimizer.zero_grad(set_to_none=True)
        mean = torch.zeros(len(self.jobs), device=self.device)
        for _ in range(self.recipe.accumulate):
            drawn = {seed: next_batch(self.recipe, stream, step) for seed, stream in streams.items()}
            batch, dims = self._batch(drawn)
            losses = self._losses(batch, dims) / self.recipe.accumulate
            losses.sum().backward()
            mean = mean + losses.detach()
        if self.recipe.clip_norm is not None:
            _clip(tuple(self.weights.values()), self.recipe.clip_norm)
        before = [weight.detach().clone() for weight in self.weights.values()]
        self.optimizer.step()
        with torch.no_grad():
            for weight, old in zip(self.weights.values(), before, strict=True):
                share = self.share.to(weight).view(-1, *[1] * (weight.dim() - 1))
                weight.copy_(torch.lerp(old, weight, share))
        return mean

    def _losses(self, batch: Batch, dims: Any) -> Tensor:
        """Each lane's loss. dims: the batch's in_dims, None where all lanes share it.

        On an accelerator attention is written out: the fused kernels' backward fails under vmap ("LSE is not correctly
        aligned", torch 2.11).
        """
        written_out = contextlib.nullcontext() if self.device == "cpu" else sdpa_kernel(SDPBackend.MATH)
        with written_out:
            return vmap(self._lane, in_dims=(0, 0, dims), randomness="error")(self.weights, self.buffers, batch)

    def _lane(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
        return functional_call(self.loss, (weights, buffers), (batch,))

    @torch.no_grad()
    def _evaluate(self) -> list[float]:
        """Validation loss per lane."""
        self.loss.eval()
        totals = [self._losses(to_device(batch, self.device), None).tolist() for batch in self.recipe.validation()]
        return [math.fsum(lane) / len(totals) for lane in zip(*totals, strict=True)] or [math.nan] * len(self.jobs)
