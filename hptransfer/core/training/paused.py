"""A training run that can be taken up again: the same steps, data and randomness as one that never stopped."""

from __future__ import annotations

import math

import torch
from torch import nn

from hptransfer.core.training.loop import Divergence, evaluate, tail_length, training_step
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.seeding import seeded


class PausedRun:
    """A run of recipe.steps steps of a model that is on `device`, advanced in parts.

    losses: training losses so far; diverged: whether they say so (see Divergence). The schedule is that of the whole
    run. Between parts the random state of dropout and the like is kept with the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        scale: Scale,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.model, self.optimizer, self.device = recipe, model, optimizer, device
        self.losses: list[float] = []
        self.diverged = False
        self._initial = [float(group["lr"]) for group in optimizer.param_groups]
        self._seed: int | None = seed
        self._state: torch.Tensor | None = None
        self._batches = recipe.batches(scale, seed)
        self._told = Divergence(recipe.steps)

    def advance(self, until: int) -> PausedRun:
        """Train up to step `until` (at most the run's end), or to divergence. Returns itself."""
        with seeded(self._seed, "training"):
            if self._state is not None:
                torch.set_rng_state(self._state)
            self.model.train()
            while len(self.losses) < min(until, self.recipe.steps) and not self.diverged:
                self._step()
            self._state, self._seed = torch.get_rng_state(), None
        return self

    def _step(self) -> None:
        where = self._initial, self._batches, len(self.losses), self.device
        self.losses.append(float(training_step(self.recipe, self.model, self.optimizer, *where)))
        self.diverged = self._told(self.losses[-1])

    def recent_loss(self) -> float:
        """Mean training loss over the last tenth of the steps so far; inf where the run diverged."""
        tail = self.losses[-tail_length(len(self.losses)) :]
        return math.inf if self.diverged or not tail else math.fsum(tail) / len(tail)

    def validation_loss(self) -> float:
        """The loss on the recipe's validation batches now; inf where the run diverged."""
        value = math.inf if self.diverged else evaluate(self.recipe, self.model, self.device)
        return value if math.isfinite(value) else math.inf
