"""A recipe: how to build, feed and train one model at any width. Written by `hptransfer init`; it runs as it is.

    hptransfer check FILE.py --quick      does the learning rate transfer over width? A minute on two cores
    hptransfer plan FILE.py --width 1024  what changes at another width, and why

Put your own model, data and loss where it says CHANGE. Keep it small: a check trains a hundred runs or so.
As it is, the quick check ends in FAIL: on these made-up points SP reaches lower losses than muP. Yours decide.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt

# The base: the size at which your learning rate, weight decay and initialisation keep their meaning. Tune there.
# CHANGE the batch to yours: it lets `hptransfer predict` speak of batch and duration.
BASE = hpt.Scale(width=32, depth=2, batch=64)
INPUTS, CLASSES = 32, 10


class Block(nn.Module):
    """CHANGE: your own layer. Nothing in it needs to know of hptransfer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def build(scale: hpt.Scale) -> nn.Module:
    """CHANGE: your model at a width (and a depth, for `--depths`), freshly initialised; the seed is set for you."""
    width, depth = scale.width or 32, scale.depth or 2
    blocks = [Block(width) for _ in range(depth)]
    return nn.Sequential(nn.Linear(INPUTS, width), *blocks, nn.LayerNorm(width), nn.Linear(width, CLASSES))


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stands for your data: points labelled by a fixed random network, so that nothing needs a download."""
    draw, teacher = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    inputs = torch.randn(count, INPUTS, generator=draw)
    first, second = (torch.randn(INPUTS, n, generator=teacher) for n in (INPUTS, CLASSES))
    return inputs, (torch.relu(inputs @ first) @ second).argmax(1)


def batches(scale: hpt.Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """CHANGE: an endless iterator of training batches; the seed shuffles them."""
    inputs, labels = examples(8192, seed=1)
    draw = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(labels), (int(scale.batch or 64),), generator=draw)
        yield inputs[rows], labels[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """CHANGE: the mean loss of a batch."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def validation() -> list[tuple[Tensor, Tensor]]:
    """CHANGE: a fixed list of batches that training never sees."""
    return [examples(1024, seed=2)]


recipe = hpt.Recipe(
    name="FILE",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, INPUTS),),  # CHANGE: the arguments of one forward call
    base=BASE,
    optimizer=torch.optim.AdamW,  # CHANGE: any of torch's, or {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
    optimizer_options={"weight_decay": 0.01},
    steps=200,  # of one run
    widths=(32, 64, 128, 256),  # what a check trains
    lrs=tuple(2.0**k for k in range(-11, -3)),  # where it looks first; it goes on where the best lies at an end
    seeds=3,
    quick={"widths": (32, 64, 128), "steps": 100},  # what --quick makes smaller
)
