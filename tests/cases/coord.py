"""Small recipes for the coordinate and equilibrium checks: MLP, conv net with BatchNorm and dropout, transformer.

Random inputs with labels from a fixed random teacher, few classes or tokens (n >> outputs), so that the exponents of
the infinite-width limit show at widths that train in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.training.recipe import Recipe, Scale

FEATURES, CLASSES, TOKENS, LENGTH, HEADS = 24, 4, 12, 12, 2
WIDTHS = (32, 64, 128, 256)


@cache
def labelled(seed: int, count: int = 512) -> tuple[Tensor, Tensor]:
    """Inputs [count, 24] and the classes that a fixed random linear teacher gives them."""
    x = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    teacher = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(99))
    return x, (x @ teacher).argmax(1)


def draws(count: int, seed: int, batch: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(count, (batch,), generator=draw)


def rows(scale: Scale, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = labelled(0)
    for picked in draws(len(x), seed, 64):
        yield x[picked], y[picked]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def build_mlp(scale: Scale) -> nn.Module:
    n = scale.width or 32
    return nn.Sequential(
        nn.Linear(FEATURES, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(inplace=True), nn.Linear(n, CLASSES)
    )


mlp = Recipe(
    name="case-mlp",
    build=build_mlp,
    batches=rows,
    loss=loss,
    validation=lambda: [labelled(1, 128)],
    example_inputs=lambda: (torch.zeros(2, FEATURES),),
    base=Scale(width=32),
    optimizer=torch.optim.Adam,
    lrs=(2.0**-8, 2.0**-7, 2.0**-6),
    widths=WIDTHS,
)
mlp_sgd = mlp.replace(name="case-mlp-sgd", optimizer=torch.optim.SGD, lrs=(0.05, 0.1, 0.2))
mlp_decayed = mlp.replace(name="case-mlp-decayed", optimizer=torch.optim.AdamW)


class ConvNet(nn.Module):
    """[batch, 24] as a 1-D signal: convolutions, BatchNorm, dropout, mean over positions."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, n, 3, padding=1), nn.Conv1d(n, n, 3, padding=1, bias=False)
        self.norm, self.drop, self.head = nn.BatchNorm1d(n), nn.Dropout(0.1), nn.Linear(n, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.second(F.relu(self.first(x.unsqueeze(1))))))
        return self.head(self.drop(h).mean(2))


def build_conv(scale: Scale) -> nn.Module:
    return ConvNet(scale.width or 32)


conv = mlp.replace(name="case-conv", build=build_conv)


class Transformer(nn.Module):
    """One pre-norm block over 12 tokens; logits for the last position from an own or a tied head."""

    def __init__(self, n: int, *, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(TOKENS, n), nn.Parameter(0.5 * torch.randn(LENGTH, n))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(n), nn.LayerNorm(n), nn.LayerNorm(n)
        self.q, self.k, self.v, self.proj = (nn.Linear(n, n) for _ in range(4))
        self.up, self.down = nn.Linear(n, 2 * n), nn.Linear(2 * n, n)
        self.head = nn.Linear(n, TOKENS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x))


def sentences(seed: int, count: int) -> Tensor:
    """Token sequences [count, 13] of the rule: next = 5 x token + previous, mod 12."""
    tokens = torch.randint(TOKENS, (count, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    for t in range(2, LENGTH + 1):
        tokens[:, t] = (5 * tokens[:, t - 1] + tokens[:, t - 2]) % TOKENS
    return tokens


def token_batches(scale: Scale, seed: int) -> Iterator[Tensor]:
    data = sentences(0, 1024)
    for picked in draws(len(data), seed, 64):
        yield data[picked]


def token_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


transformer = Recipe(
    name="case-transformer",
    build=lambda scale: Transformer(scale.width or 32),
    batches=token_batches,
    loss=token_loss,
    validation=lambda: [sentences(1, 32)],
    example_inputs=lambda: (torch.zeros(2, LENGTH, dtype=torch.long),),
    base=Scale(width=32),
    optimizer=torch.optim.AdamW,
    optimizer_options={"betas": (0.9, 0.95), "weight_decay": 0.0},
    lrs=(2.0**-9, 2.0**-8, 2.0**-7),
    widths=WIDTHS,
)


def build_tied(scale: Scale) -> nn.Module:
    return Transformer(scale.width or 32, tied=True)


tied = transformer.replace(name="case-tied", build=build_tied)
