"""Small recipes that the validation tests train: a two-layer net on a fixed nonlinear regression, in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from hptransfer.core.training.recipe import Recipe, Scale

INPUTS, ROWS = 8, 256


def rows(seed: int, count: int = ROWS) -> tuple[Tensor, Tensor]:
    """Inputs [count, 8] and targets [count, 1] of a smooth function, drawn from `seed`."""
    x = torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(seed))
    return x, torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def build(scale: Scale, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Module:
    width = scale.width or 16
    layers = (nn.Linear(INPUTS, width, bias=bias), nn.Tanh(), nn.Linear(width, 1, bias=bias))
    return nn.Sequential(*layers).to(dtype)


def batches(scale: Scale, seed: int, *, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
    (x, y), draw = rows(0), torch.Generator().manual_seed(seed)
    while True:
        pick = torch.randint(ROWS, (16,), generator=draw)
        yield x[pick].to(dtype), y[pick].to(dtype)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def validation(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    x, y = rows(1, 64)
    return [(x[:32].to(dtype), y[:32].to(dtype)), (x[32:].to(dtype), y[32:].to(dtype))]


def example_inputs() -> tuple[Tensor]:
    return (torch.zeros(2, INPUTS),)


recipe = Recipe(
    name="regression",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=example_inputs,
    base=Scale(width=8),
    optimizer=torch.optim.Adam,
    steps=20,
    widths=(8, 16),
    lrs=(2**-8, 2**-6, 2**-4),
    seeds=2,
)

double = recipe.replace(
    name="regression in float64",
    build=partial(build, dtype=torch.float64),
    batches=partial(batches, dtype=torch.float64),
    validation=partial(validation, torch.float64),
)


def nan_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return loss(model, batch) * math.nan


def raising_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    raise RuntimeError("the data are on fire")


def loaded(scale: Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that a DataLoader's own worker process reads."""
    data = torch.utils.data.TensorDataset(*rows(0))
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, num_workers=1, generator=draw)
