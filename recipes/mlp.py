"""Three-layer ReLU MLP on scikit-learn's handwritten digits: the smallest recipe of them all.

    hptransfer check recipes/mlp.py      sweep the learning rate at every width and judge the transfer
    python recipes/mlp.py                train once at the base width and print the loss

All but the last layer keep torch's own initialisation. The split is fixed; the seed draws the weights and the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.training.recipe import Recipe, Scale

BASE = Scale(width=64)
BATCH = 64
VALIDATION = 597  # of the 1797 images, chosen once and for all


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64], every pixel standardised over all images, and labels [1797], in one fixed random order."""
    data, target = load_digits(return_X_y=True)
    pixels = torch.tensor(data, dtype=torch.float32)
    pixels = (pixels - pixels.mean(0)) / pixels.std(0).clamp_min(1e-3)  # three pixels are always blank
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    return pixels[order], torch.tensor(target)[order]


def build(scale: Scale) -> nn.Module:
    width = scale.width or 64
    head = nn.Linear(width, 10)
    nn.init.normal_(head.weight, std=width**-0.5)  # tuned at the base, see docs/limits.md
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), head)


def batches(scale: Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = digits()
    draw = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(VALIDATION, len(labels), (int(scale.batch or BATCH),), generator=draw)
        yield images[rows], labels[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def validation() -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return [(images[:VALIDATION], labels[:VALIDATION])]


recipe = Recipe(
    name="mlp",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, 64),),
    base=BASE,
    unit="images",
    optimizer=torch.optim.Adam,
    steps=100,
    widths=(64, 128, 256, 512),
    lrs=tuple(2.0**k for k in range(-11, -3)),
    seeds=3,
    quick={"widths": (64, 128, 256), "steps": 60},
)
adamw = recipe.replace(  # the same with weight decay, for `hptransfer tune recipes/mlp.py:adamw`
    name="mlp-adamw", optimizer=torch.optim.AdamW, optimizer_options={"weight_decay": 0.1}
)

if __name__ == "__main__":
    from hptransfer.core.training.loop import train

    torch.manual_seed(0)
    model = build(BASE)
    result = train(recipe, model, torch.optim.Adam(model.parameters(), lr=2**-7), scale=BASE, seed=0)
    print(f"{recipe.name}: width {BASE.width}, {recipe.steps} steps, validation loss {result.val_loss:.4f}")
