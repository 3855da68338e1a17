"""One model family from outside transformers, at any width and depth, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from families.family import Heads
from torch import Tensor, nn

BATCH, LAYERS, PIXELS, CLASSES = 4, 2, 16, 10

Build = Callable[[int, int], nn.Module]
"""(width, depth) -> a freshly initialised model."""


@dataclass(frozen=True)
class Outside:
    """One family: `package` is the module that has to be there; `build` imports it and makes the model.

    kind: vision, diffusion, graph, language, tabular, torch or handwritten. inputs: one forward call's keyword
    arguments, or its positional ones. deepens: `build` follows its depth, and the layers stand in residual branches.
    unused: some parameters have no part in this forward pass. frozen: some are frozen, although nothing is pretrained.
    """

    name: str
    kind: str
    package: str
    build: Build
    inputs: Callable[[], Mapping[str, Any] | tuple[Any, ...]]
    deepens: bool = False
    unused: bool = False
    frozen: bool = False
    modes: tuple[Heads, ...] = ("fixed",)

    @property
    def absent(self) -> str:
        """Why it cannot be tried here, or an empty string."""
        return "" if find_spec(self.package) else f"{self.package} is not installed"

    def builder(self, heads: Heads = "fixed") -> Callable[[int], nn.Module]:
        """Width -> model of LAYERS layers."""
        return lambda width: self.build(width, LAYERS)

    def deep_builder(self, width: int) -> Callable[[int], nn.Module]:
        """Depth -> model of this width."""
        return lambda depth: self.build(width, depth)


def normal(*shape: int, seed: int = 1) -> Tensor:
    """[batch, *shape] standard normal entries, the same at every call."""
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(seed))


def indices(high: int, *shape: int, seed: int = 1) -> Tensor:
    """[batch, *shape] int64 in [0, high), the same at every call."""
    return torch.randint(0, high, (BATCH, *shape), generator=torch.Generator().manual_seed(seed))


def images(size: int = PIXELS, channels: int = 3) -> Callable[[], tuple[Tensor]]:
    """One batch of square images."""
    return lambda: (normal(channels, size, size),)


def text(vocabulary: int = 40, length: int = 12) -> Callable[[], tuple[Tensor]]:
    """One batch of token sequences."""
    return lambda: (indices(vocabulary, length),)
