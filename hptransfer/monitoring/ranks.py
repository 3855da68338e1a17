"""The processes of a data-parallel run: who writes, and means over all of them."""

# pyright: strict
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The ranks of a process group (default: the whole run's); one where nothing is distributed."""

    def __init__(self, group: Any = None) -> None:
        self._group = group
        alone = not (dist.is_available() and dist.is_initialized())
        self.count: int = 1 if alone else int(dist.get_world_size(group))
        self.rank: int = 0 if alone else int(dist.get_rank(group))

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, in place; every rank must call it."""
        if self.count > 1:
            distributed: Any = dist
            distributed.all_reduce(tensor, group=self._group)
            tensor /= self.count
        return tensor

    def means(self, numbers: dict[str, float], device: torch.device) -> dict[str, float]:
        """The means over the ranks of plain numbers, the same on every rank."""
        if self.count == 1:
            return numbers
        packed = torch.tensor(list(numbers.values()), dtype=torch.float64).to(device, torch.float32)
        mean: Any = self.mean(packed)
        return {name: float(mean[k]) for k, name in enumerate(numbers)}
