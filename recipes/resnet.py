"""Small residual conv net with GroupNorm on scikit-learn's handwritten digits (8 x 8 pixels).

    hptransfer check recipes/resnet.py      sweep the learning rate at every width and judge the transfer
    python recipes/resnet.py                train once at the base width and print the loss

Width is the number of channels; the number of groups is fixed. The split is fixed; the seed draws the weights and
the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale

BASE = Scale(width=16, depth=2)
BATCH, GROUPS = 64, 4
VALIDATION = 597  # of the 1797 images, chosen once and for all


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] standardised as a whole, and labels [1797], in one fixed random order."""
    data, target = load_digits(return_X_y=True)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data, dtype=torch.float32)[order].view(-1, 1, 8, 8)
    return (images - images.mean()) / images.std(), torch.tensor(target)[order]


class Block(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class ResNet(nn.Module):
    """Images [batch, 1, 8, 8] -> logits [batch, 10]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        if width % GROUPS:
            raise UsageError(f"width={width} does not divide into {GROUPS} groups; give a multiple of {GROUPS}.")
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.GroupNorm(GROUPS, width), nn.Linear(width, 10)
        nn.init.normal_(self.head.weight, std=width**-0.5)  # tuned at the base, see docs/limits.md

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


def build(scale: Scale) -> nn.Module:
    return ResNet(scale.width or 16, scale.depth or 2)


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
    name="resnet",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, 1, 8, 8),),
    base=BASE,
    unit="images",
    optimizer=torch.optim.Adam,
    steps=100,
    widths=(16, 32, 64, 128),
    lrs=tuple(2.0**k for k in range(-10, -2)),
    seeds=3,
    quick={"widths": (16, 32, 64), "steps": 60},
)

if __name__ == "__main__":
    from hptransfer.core.training.loop import train

    torch.manual_seed(0)
    model = build(BASE)
    result = train(recipe, model, torch.optim.Adam(model.parameters(), lr=2**-6), scale=BASE, seed=0)
    print(f"{recipe.name}: width {BASE.width}, {recipe.steps} steps, validation loss {result.val_loss:.4f}")
