"""Byte-level pre-LayerNorm GPT on the source of Python's own standard library, or on any text.

    hptransfer check recipes/gpt.py                    sweep the learning rate at every width and judge the transfer
    hptransfer check recipes/gpt.py --text FILE        the same on FILE
    hptransfer check recipes/gpt.py --head-dim 8 --kv-heads 1        more query heads at every width, one key-value head
    hptransfer check recipes/gpt.py:moe --experts 4,8,16,32          every MLP a mixture of ever more experts
    python recipes/gpt.py [--text FILE]                train once at the base width and print the loss

The number of heads is fixed, so the head dimension grows with the width, unless --head-dim fixes that; --kv-heads fixes
the number of key-value heads, each read by as many query heads. The head is not tied to the embedding.
The last tenth of the bytes is the validation text. The seed draws the weights and the batches.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale

BASE = Scale(width=32, depth=2)
CONTEXT, BATCH, HEADS, BYTES = 64, 16, 4, 256
options = {  # --text FILE sets HPTRANSFER_TEXT
    "text": "a file to train on, in place of the standard library's source",
    "head-dim": "size of a head at every width, so that the number of query heads grows; default: four heads",
    "kv-heads": "key-value heads at every width, a divisor of the query heads; default: as many as those",
}


@cache
def text() -> tuple[Tensor, Tensor]:
    """(training bytes, validation bytes), each a 1-D int64 tensor."""
    chosen = os.environ.get("HPTRANSFER_TEXT")
    files = [Path(chosen)] if chosen else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    try:
        data = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8).long()
    except (OSError, ValueError) as error:
        raise UsageError(f"--text {chosen}: cannot read any bytes there ({error}). Give a text file.") from error
    if len(data) < 20 * CONTEXT:
        raise UsageError(f"--text {chosen}: {len(data)} bytes, but at least {20 * CONTEXT} are needed.")
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]


def heads_at(width: int) -> tuple[int, int]:
    """(query heads, key-value heads) of a model of this width. Raises UsageError where they do not divide."""
    size = _chosen("head-dim")
    if width % (size or HEADS):
        raise UsageError(f"width={width} does not divide into heads: give a multiple of {size or HEADS}.")
    heads = HEADS if size is None else width // size
    kv_heads = _chosen("kv-heads") or heads
    if heads % kv_heads:
        raise UsageError(f"--kv-heads {kv_heads}: width {width} has {heads} query heads; give a divisor of that.")
    return heads, kv_heads


def _chosen(option: str) -> int | None:
    value = os.environ.get(f"HPTRANSFER_{option.upper().replace('-', '_')}")
    if value is not None and not (value.isdigit() and int(value) > 0):
        raise UsageError(f"--{option} {value}: must be a whole number, at least 1.")
    return None if value is None else int(value)


class Mixture(nn.Module):
    """`active` of `experts` networks width -> hidden -> width for every token, by the router's largest scores.

    Their shares sum to one. All experts run on all tokens, the others' shares being zero; no loss balances them.
    """

    def __init__(self, width: int, experts: int, active: int, hidden: int) -> None:
        super().__init__()
        if active > experts:
            raise UsageError(f"{active} active experts of {experts}: give at least as many experts.")
        self.active, self.router = active, nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        largest, chosen = scores.topk(self.active, -1)
        shares = torch.zeros_like(scores).scatter(-1, chosen, largest.softmax(-1))
        inside = F.gelu(torch.einsum("btn,enh->bteh", x, self.up)) * shares[..., None]
        return torch.einsum("bteh,ehn->btn", inside, self.down)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), or a mixture in place of the mlp."""

    def __init__(self, width: int, heads: int, kv_heads: int, mixture: Mixture | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, kv_width = heads, kv_heads, width // heads * kv_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.proj = (nn.Linear(width, made) for made in (width, kv_width, kv_width, width))
        self.mixture = mixture
        if mixture is None:
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h, grouped = self.norm1(x), self.heads != self.kv_heads
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (f(h).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for f in (self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.proj(read.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + (self.down(F.gelu(self.up(h))) if self.mixture is None else self.mixture(h))


class GPT(nn.Module):
    """Bytes [batch, time] -> logits of the next byte [batch, time, 256]."""

    def __init__(self, width: int, depth: int, mixture: Callable[[], Mixture | None]) -> None:
        super().__init__()
        heads, kv_heads = heads_at(width)
        self.embed, self.position = nn.Embedding(BYTES, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, mixture()) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)
        for table in (self.embed, self.position):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.normal_(self.head.weight, std=width**-0.5)  # tuned at the base, see docs/limits.md

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build(scale: Scale) -> nn.Module:
    width = scale.width or 32
    sizes = (scale.experts, scale.active or 2, scale.expert_width or width)
    return GPT(width, scale.depth or 2, lambda: None if sizes[0] is None else Mixture(width, sizes[0], *sizes[1:]))


def windows(data: Tensor, starts: Tensor) -> Tensor:
    """The CONTEXT + 1 bytes from each start on: [batch, CONTEXT + 1]."""
    return data[starts[:, None] + torch.arange(CONTEXT + 1)]


def batches(scale: Scale, seed: int) -> Iterator[Tensor]:
    data, draw = text()[0], torch.Generator().manual_seed(seed)
    while True:
        yield windows(data, torch.randint(len(data) - CONTEXT, (int(scale.batch or BATCH),), generator=draw))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def validation() -> list[Tensor]:
    data = text()[1]
    return list(windows(data, torch.linspace(0, len(data) - CONTEXT - 1, 256).long()).split(64))


recipe = Recipe(
    name="gpt",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, CONTEXT, dtype=torch.long),),
    base=BASE,
    unit="sequences",
    tokens_per_example=CONTEXT,
    optimizer=torch.optim.AdamW,
    optimizer_options={"betas": (0.9, 0.95), "weight_decay": 0.0},
    steps=200,
    widths=(16, 32, 64, 128),
    lrs=tuple(2.0**k for k in range(-9, -3)),
    seeds=5,
    quick={"widths": (16, 32, 64), "seeds": 4, "lrs": tuple(2.0**k for k in range(-8, -3))},
)

moe = recipe.replace(name="moe", base=BASE.with_(experts=8, active=2), widths=(16, 32, 64), seeds=3)

if __name__ == "__main__":
    from hptransfer.core.training.loop import train

    if sys.argv[1:2] == ["--text"] and len(sys.argv) == 3:
        os.environ["HPTRANSFER_TEXT"] = sys.argv[2]
    elif sys.argv[1:]:
        sys.exit("usage: python recipes/gpt.py [--text FILE]")
    torch.manual_seed(0)
    model = build(BASE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2**-6, **recipe.optimizer_options)
    result = train(recipe, model, optimizer, scale=BASE, seed=0)
    print(f"{recipe.name}: width {BASE.width}, {recipe.steps} steps, validation loss {result.val_loss:.4f} nats a byte")
