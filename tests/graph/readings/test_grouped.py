"""Heads of a fixed size are told by what reads them, however they are repeated; what only looks like them is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.graph.parameters.uses import Use, parameter_uses
from hptransfer.graph.readings.grouped import grouped_heads
from hptransfer.graph.trace import trace
from hptransfer.parametrization.matching.compare import Comparison

TOKENS = torch.arange(12).view(2, 6) % 11
SIZE, FIXED = 4, 2
"""Of a head; key-value heads at every width."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [batch, heads, time, SIZE], keys and values [batch, FIXED, time, SIZE] -> [batch, heads, time, SIZE]."""


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def interleaved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // FIXED, dim=1) for x in (k, v))
    return (q @ k.transpose(-1, -2) * SIZE**-0.5).softmax(-1) @ v


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :, None].expand(-1, -1, q.shape[1] // FIXED, -1, -1).reshape(q.shape) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def lettered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q.unflatten(1, (FIXED, -1))
    weights = (torch.einsum("bgrtd,bgsd->bgrts", q, k) * SIZE**-0.5).softmax(-1)
    return torch.einsum("bgrts,bgsd->bgrtd", weights, v).flatten(1, 2)


def spread(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.unflatten(1, (FIXED, -1)), k[:, :, None], v[:, :, None]
    return ((q @ k.transpose(-1, -2) * SIZE**-0.5).softmax(-1) @ v).flatten(1, 2)


def rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The query heads of a group stand as further rows of one product (as in one-head multi-query attention)."""
    batch, heads, time, size = q.shape
    q = q.reshape(batch, FIXED, heads // FIXED * time, size)
    return ((q @ k.transpose(-1, -2) * SIZE**-0.5).softmax(-1) @ v).reshape(batch, heads, time, size)


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Normalised and rotated by positions on the way."""
    angle = torch.arange(q.shape[2], dtype=torch.float32)[:, None].expand(-1, SIZE)
    q, k = (F.rms_norm(x, (SIZE,)) * angle.cos() + x.roll(1, -1) * angle.sin() for x in (q, k))
    return expanded(q, k, v)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No softmax at all."""
    k, v = (x.repeat_interleave(q.shape[1] // FIXED, dim=1) for x in (k, v))
    return q @ (k.transpose(-1, -2) @ v) / q.shape[2]


class Net(nn.Module):
    """Tokens, one attention with growing query heads, logits; attend: how fixed heads are read."""

    def __init__(self, width: int, attend: Attend, heads: int = FIXED) -> None:
        super().__init__()
        self.attend, self.embed = attend, nn.Embedding(11, width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, heads * SIZE), nn.Linear(width, heads * SIZE)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (f(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.head(x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2)))


def heads_of(build: Callable[[int], nn.Module]) -> list[str]:
    graphs = [trace(build(width), (TOKENS,)) for width in (64, 32)]
    compared = Comparison(build(64), build(32), (graphs[0], graphs[1]), {})
    uses = {name: [u for u in own if isinstance(u, Use)] for name, own in parameter_uses(graphs[0]).items()}
    return grouped_heads(graphs[0], uses, compared.roles)


@pytest.mark.parametrize("attend", [fused, interleaved, expanded, lettered, spread, rows, turned, linear])
def test_fixed_heads_are_told_however_they_are_repeated(attend: Attend) -> None:
    assert heads_of(lambda width: Net(width, attend)) == ["k.weight", "v.weight"]


def test_one_head_for_all() -> None:
    def build(width: int) -> nn.Module:
        return Net(width, lambda q, k, v: F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q)), heads=1)

    assert heads_of(build) == ["k.weight", "v.weight"]


def test_growing_heads_are_none() -> None:
    def build(width: int) -> nn.Module:
        return Net(width, lambda q, k, v: F.scaled_dot_product_attention(q, k, v), heads=width // SIZE)

    assert heads_of(build) == []


class KeysOnly(Net):
    """Fixed keys beside values that grow."""

    def __init__(self, width: int) -> None:
        super().__init__(
            width, lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat(1, q.shape[1] // 2, 1, 1), v)
        )
        self.v = nn.Linear(width, width)


class Latent(nn.Module):
    """Keys: growing ones made of a fixed latent, beside a shared part that one weight makes with the latent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.q, self.down = nn.Embedding(11, width), nn.Linear(width, 2 * width), nn.Linear(width, 8 + SIZE)
        self.up_k, self.up_v, self.out = nn.Linear(8, width), nn.Linear(8, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        latent, shared = self.down(x).split([8, SIZE], -1)
        latent = F.rms_norm(latent, (8,))
        k, v = (up(latent).unflatten(-1, (-1, SIZE)).transpose(1, 2) for up in (self.up_k, self.up_v))
        k = torch.cat([k, shared[:, None].expand_as(k)], -1)
        q = self.q(x).unflatten(-1, (-1, 2 * SIZE)).transpose(1, 2)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(("build", "names"), [(KeysOnly, ["k.weight"]), (Latent, ["down.weight"])])
def test_relatives(build: Callable[[int], nn.Module], names: list[str]) -> None:
    assert heads_of(build) == names


class Others(nn.Module):
    """Weights from the width to a fixed size that make no heads: a router, a gate, pooling scores, a bottleneck."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.router, self.gate = nn.Embedding(11, width), nn.Linear(width, 3), nn.Linear(width, 1)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.score, self.head = nn.Linear(width, 2), nn.Linear(2 * width, 11)
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mixed = torch.einsum("bte,betn->btn", self.router(x).softmax(-1), torch.stack([e(x) for e in self.experts], 1))
        x = x + mixed + self.gate(x).sigmoid() * x + self.up(self.down(x).relu())
        return self.head((self.score(x).softmax(1).transpose(1, 2) @ x).flatten(1))


class Pooled(nn.Module):
    """Attention whose values are the class scores: they are the outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.q, self.k = nn.Embedding(11, width), nn.Linear(width, width), nn.Linear(width, width)
        self.classes = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.classes(x)).mean(1)


class Pointer(nn.Module):
    """Attention whose weights are the outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.q, self.k = nn.Embedding(11, width), nn.Linear(width, SIZE), nn.Linear(width, SIZE)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return (self.q(x) @ self.k(x).transpose(1, 2) * SIZE**-0.5).softmax(-1)


@pytest.mark.parametrize("build", [Others, Pooled, Pointer])
def test_what_makes_no_heads(build: Callable[[int], nn.Module]) -> None:
    assert heads_of(build) == []


def plan(**choices: str) -> hpt.Plan:
    torch.manual_seed(0)
    base, model = Net(16, fused), Net(64, fused)
    return hpt.make_plan(model, base=base, example_inputs=(TOKENS,), options=hpt.Options(**choices))


def test_the_option_sets_the_init_alone_and_the_plan_says_so() -> None:
    default, chosen = plan(), plan(grouped_heads="fan-in")
    for name in ("k.weight", "v.weight"):
        assert (default[name].role, default[name].init_mult, default[name].lr_mult) == ("readout", 1 / 4, 1 / 4)
        assert (chosen[name].role, chosen[name].init_mult, chosen[name].lr_mult) == ("bottleneck", 1 / 2, 1 / 4)
    assert [r for r in default if r.name not in {"k.weight", "v.weight"}] == [
        r for r in chosen if r.name not in {"k.weight", "v.weight"}
    ]
    assert any("k.weight, v.weight" in n and "start m^-1/2 = 0.5 of the base's" in n for n in default.notes)
    assert any("k.weight, v.weight" in n and "grouped_heads='fan-in'" in n for n in chosen.notes)


def test_nothing_to_say_at_the_base_or_under_the_control() -> None:
    models = Net(16, fused), Net(16, fused)
    assert hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,)).is_identity
    control = hpt.make_plan(Net(64, fused), base=models[1], example_inputs=(TOKENS,), scheme="sp")
    assert control.is_identity and not any("heads" in note for note in control.notes)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(hpt.UsageError, match="grouped_heads='mean'"):
        hpt.Options(grouped_heads="mean")  # type: ignore[arg-type]
