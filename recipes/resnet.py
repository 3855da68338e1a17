"""Small residual conv net with GroupNorm on scikit-learn's handwritten digits (8 x 8 pixels), or on MNIST's files.

    hptransfer check recipes/resnet.py                  sweep the learning rate at every width and judge the transfer
    hptransfer check recipes/resnet.py --images DIR     the same on DIR's train-images-idx3-ubyte.gz and its labels
    python recipes/resnet.py                            train once at the base width and print the loss

Debian's package dataset-fashion-mnist puts such files into /usr/share/datasets/fashion-mnist. Width is the number of
channels; the number of groups is fixed. The split is fixed; the seed draws the weights and the batches.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale

BASE = Scale(width=16, depth=2)
BATCH, GROUPS = 64, 4
options = {  # --images DIR sets HPTRANSFER_IMAGES
    "images": "a directory with MNIST's training files (Fashion-MNIST's, too), in place of scikit-learn's digits",
}


@cache
def data() -> tuple[Tensor, Tensor]:
    """Images [count, 1, height, width] standardised as a whole, and labels [count], in one fixed random order."""
    chosen = os.environ.get("HPTRANSFER_IMAGES")
    if chosen:
        images, labels = (_idx(Path(chosen, f"train-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    else:
        pixels, target = load_digits(return_X_y=True)
        images, labels = torch.tensor(pixels).view(-1, 8, 8), torch.tensor(target)
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        raise UsageError(
            f"--images {chosen}: {tuple(images.shape)} images and {tuple(labels.shape)} labels do not match."
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = images.float()[order].unsqueeze(1)
    return (images - images.mean()) / images.std(), labels.long()[order]


def held_out() -> int:
    """How many of the images, the first ones, are for validation: 597 of the 1797 digits, else a twelfth."""
    count = len(data()[1])
    return 597 if count == 1797 else count // 12


def _idx(path: Path) -> Tensor:
    """An array of bytes in MNIST's format: two zeros, 8 for bytes, its dimensions, then its values; perhaps gzipped."""
    try:
        packed = path.with_name(path.name + ".gz")
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
        kind, *sizes = struct.unpack_from(f">i{content[3]}i", content)
        if kind >> 8 != 8:
            raise ValueError(f"its first bytes are {content[:4].hex()}")
        return torch.frombuffer(bytearray(content[4 + 4 * len(sizes) :]), dtype=torch.uint8).view(sizes)
    except (OSError, EOFError, IndexError, ValueError, RuntimeError, struct.error) as error:
        raise UsageError(
            f"--images: cannot read {path}[.gz] ({error}). Give a directory with MNIST's files."
        ) from error


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
    """Images [batch, 1, height, width] -> logits [batch, 10]."""

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
    images, labels = data()
    first, draw = held_out(), torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(first, len(labels), (int(scale.batch or BATCH),), generator=draw)
        yield images[rows], labels[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def validation() -> list[tuple[Tensor, Tensor]]:
    images, labels = data()
    return [(images[: held_out()], labels[: held_out()])]


recipe = Recipe(
    name="resnet",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, *data()[0].shape[1:]),),
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
