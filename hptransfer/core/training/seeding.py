"""Randomness from a seed: the global generators for a while, and generators of one's own for one purpose each."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn

from hptransfer.core.errors import RECIPE_ERRORS, UsageError, described
from hptransfer.core.training.recipe import Recipe, Scale

Purpose = Literal["weights", "training"]
_SHIFT: dict[Purpose, int] = {"weights": 0, "training": 0x5EED}
"""What is added to a seed: dropout during training is not drawn as the weights were. Recorded runs depend on it."""


@contextlib.contextmanager
def seeded(seed: int | None, purpose: Purpose = "weights") -> Iterator[None]:
    """Torch (CPU and every GPU), numpy and Python draw from (seed, purpose) inside; all go on after as if not.

    seed: None leaves the generators where they are, and still brings them back.
    """
    python, arrays = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(gpus)):
        if seed is not None:
            seed += _SHIFT[purpose]
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def torch_generator(seed: int) -> torch.Generator:
    """A generator of its own on the CPU, so that every device gets the same draws."""
    return torch.Generator().manual_seed(seed)


def numpy_generator(seed: int) -> np.random.Generator:
    """A generator of its own."""
    return np.random.default_rng(seed)


def seeded_model(recipe: Recipe, scale: Scale, seed: int) -> nn.Module:
    """A freshly initialised model on CPU, drawn from `seed`. Raises UsageError where the recipe cannot build it."""
    with seeded(seed):
        try:
            return recipe.build(scale)
        except UsageError:
            raise
        except RECIPE_ERRORS as error:
            raise UsageError(
                f"Recipe {recipe.name!r} cannot be built at {scale}: {described(error)}. Give widths and depths that "
                "it accepts."
            ) from error
