"""Residual streams of other kinds: nGPT's sphere, a neural ODE, a hypernetwork, an attention spelled out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from outside.family import CLASSES, Outside, normal, text
from torch import Tensor, nn

VOCAB, HEADS = 40, 4


def unit(x: Tensor) -> Tensor:
    """The vector of length 1 along the last axis."""
    return F.normalize(x, dim=-1)


class _NgptBlock(nn.Module):
    """Loshchilov et al. 2024, 2410.01131: unit vectors, unit weight rows, learned steps on the sphere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.attention_step, self.mlp_step = (
            nn.Parameter(torch.full((width,), 0.05)),
            nn.Parameter(torch.full((width,), 0.05)),
        )
        self.qk_gain, self.gate_gain = nn.Parameter(torch.ones(width // HEADS)), nn.Parameter(torch.ones(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        width, size = x.shape[-1], x.shape[-1] // HEADS
        q, k, v = (
            F.linear(x, unit(m.weight)).unflatten(-1, (HEADS, size)).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        q, k = unit(q) * self.qk_gain, unit(k) * self.qk_gain
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=size**0.5)
        h = unit(F.linear(mixed.transpose(1, 2).flatten(-2), unit(self.o.weight)))
        x = unit(x + self.attention_step * (h - x))
        u, gate = (F.linear(x, unit(self.up.weight)) * self.gate_gain * width**0.5).chunk(2, -1)
        h = unit(F.linear(u * F.silu(gate), unit(self.down.weight)))
        return unit(x + self.mlp_step * (h - x))


class _Ngpt(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB, bias=False)
        self.blocks = nn.ModuleList(_NgptBlock(width) for _ in range(depth))
        self.gain = nn.Parameter(torch.ones(VOCAB))

    def forward(self, tokens: Tensor) -> Tensor:
        x = unit(F.embedding(tokens, unit(self.embed.weight)))
        for block in self.blocks:
            x = block(x)
        return F.linear(x, unit(self.readout.weight)) * self.gain


class _SpelledOut(nn.Module):
    """A pre-norm transformer in einsum, with its softmax, its LayerNorm and its GELU written by hand."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        size = width // HEADS
        self.embed = nn.Parameter(torch.randn(VOCAB, width))
        self.qkv = nn.Parameter(torch.randn(depth, 3, HEADS, width, size) * width**-0.5)
        self.out = nn.Parameter(torch.randn(depth, HEADS, size, width) * width**-0.5)
        self.up, self.down = (
            nn.Parameter(torch.randn(depth, *s) * s[0] ** -0.5) for s in ((width, 2 * width), (2 * width, width))
        )
        self.gains = nn.Parameter(torch.ones(depth, 2, width))
        self.readout = nn.Parameter(torch.randn(width, VOCAB) * width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed[tokens]
        for qkv, out, up, down, gains in zip(self.qkv, self.out, self.up, self.down, self.gains, strict=True):
            q, k, v = torch.einsum("btd,chds->cbhts", self._normed(x) * gains[0], qkv)
            logits = torch.einsum("bhts,bhus->bhtu", q, k) / q.shape[-1] ** 0.5
            weights = torch.exp(logits - logits.amax(-1, keepdim=True))
            weights = weights / weights.sum(-1, keepdim=True)
            x = x + torch.einsum("bhtu,bhus,hsd->btd", weights, v, out)
            h = (self._normed(x) * gains[1]) @ up
            x = x + (h * torch.sigmoid(1.702 * h)) @ down
        return self._normed(x) @ self.readout

    @staticmethod
    def _normed(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


class _Ode(nn.Module):
    """A neural ODE with eight Euler steps of one field (1806.07366)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(width, CLASSES)
        self.inner, self.outer = nn.Linear(width + 1, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for step in range(8):
            time = torch.full_like(h[:, :1], step / 8)
            h = h + self.outer(torch.tanh(self.inner(torch.cat([h, time], -1)))) / 8
        return self.readout(h)


class _Hypernetwork(nn.Module):
    """A network whose hidden matrix is made by another from a code (1609.09106)."""

    def __init__(self, width: int, code: int = 16) -> None:
        super().__init__()
        self.width = width
        self.code = nn.Parameter(torch.randn(code))
        self.maker = nn.Linear(code, width * width)
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.maker.weight.mul_((code * width) ** -0.5 * 3**0.5 * code**0.5)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.maker(torch.tanh(self.code)).view(self.width, self.width)
        return self.readout(torch.relu(torch.relu(self.embed(x)) @ matrix))


class _Highway(nn.Module):
    """Highway layers: x + t (h - x) with a learned gate t (1505.00387)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(width, CLASSES)
        self.gates, self.maps = (nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for gate, mapped in zip(self.gates, self.maps, strict=True):
            x = torch.lerp(x, torch.relu(mapped(x)), torch.sigmoid(gate(x)))
        return self.readout(x)


def _inputs() -> tuple[Tensor]:
    return (normal(8),)


STREAMS = (
    Outside("hand-ngpt", "handwritten", "torch", _Ngpt, text(), True),
    Outside("hand-spelled-out-gpt", "handwritten", "torch", _SpelledOut, text()),
    Outside("hand-neural-ode", "handwritten", "torch", lambda width, depth: _Ode(width), _inputs),
    Outside("hand-hypernetwork", "handwritten", "torch", lambda width, depth: _Hypernetwork(width), _inputs),
    Outside("hand-highway", "handwritten", "torch", _Highway, _inputs, True),
)
