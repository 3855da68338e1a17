"""A recipe for a vision transformer with Muon and AdamW. Written by `hptransfer init --model vision`; it runs as it is.

    hptransfer check FILE.py --quick      does the learning rate transfer over width? A few minutes on two cores
    hptransfer plan FILE.py --width 768   what changes at another width, and why

Put your own model and images where it says CHANGE. What is swept is the rate of "hidden", Muon's; that of "rest",
AdamW's, keeps the ratio of the two `lr` below. torch.optim.Muon needs torch 2.9 or newer.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt

# The base: the size at which your learning rates, weight decay and initialisation keep their meaning. Tune there.
BASE = hpt.Scale(width=32, depth=2, batch=64)
PIXELS, PATCH, HEADS, CLASSES = 16, 4, 4, 10


class Block(nn.Module):
    """CHANGE: your own block. x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """CHANGE: your own model. Images [batch, 1, 16, 16] -> logits [batch, 10]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.position = nn.Parameter(0.02 * torch.randn((PIXELS // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def build(scale: hpt.Scale) -> nn.Module:
    """The model at a width and a depth, freshly initialised; the seed is set for you."""
    return ViT(scale.width or 32, scale.depth or 2)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """CHANGE: your images. Here: ten fixed random pictures, each moved about and hidden in noise; no download."""
    draw, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    pictures = torch.randn(CLASSES, PIXELS, PIXELS, generator=fixed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    shifts = torch.randint(4, (count, 2), generator=draw).tolist()
    moved = [torch.roll(pictures[label], shift, (0, 1)) for label, shift in zip(labels, shifts, strict=True)]
    return (torch.stack(moved) + torch.randn(count, PIXELS, PIXELS, generator=draw))[:, None], labels


def batches(scale: hpt.Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An endless iterator of training batches; the seed shuffles them."""
    pixels, labels = images(4096, seed=1)
    draw = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(labels), (int(scale.batch or 64),), generator=draw)
        yield pixels[rows], labels[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean loss of a batch."""
    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels)


def validation() -> list[tuple[Tensor, Tensor]]:
    """A fixed list of batches that training never sees."""
    return [images(512, seed=2)]


recipe = hpt.Recipe(
    name="FILE",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, 1, PIXELS, PIXELS),),
    base=BASE,
    unit="images",
    optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW},  # Muon came with torch 2.9
    optimizer_options={"hidden": {"lr": 0.02, "weight_decay": 0.0}, "rest": {"lr": 0.005, "weight_decay": 0.0}},
    steps=150,  # of one run
    widths=(16, 32, 64, 128),  # what a check trains
    lrs=tuple(2.0**k for k in range(-9, -1)),  # where it looks first; it goes on where the best lies at an end
    seeds=3,
    quick={"widths": (16, 32, 64), "steps": 40},  # what --quick makes smaller
)
