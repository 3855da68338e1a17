"""Small models that the tests share: one MLP, one conv net and one transformer with every variation as an option."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, CONTEXT, CLASSES, PIXELS = 17, 6, 5, 8


class MLP(nn.Module):
    """Inputs of 8 numbers, two hidden layers, 5 classes. readout: the class of the last layer."""

    def __init__(self, width: int, *, readout: Callable[..., nn.Module] = nn.Linear, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, width, bias=bias)
        self.hidden = nn.Linear(width, width, bias=bias)
        self.last = readout(width, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(torch.tanh(self.first(x)))))


class ConvNet(nn.Module):
    """8x8 images of one channel, two convolutions with a norm each, pooled, 5 classes."""

    def __init__(self, width: int, *, readout: Callable[..., nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.hidden = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.last = readout(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.hidden(x)).mean((2, 3)))


class RMSNorm(nn.Module):
    """Written out, as most language models do; gain w, 1 + w or none."""

    def __init__(self, width: int, gain: str = "w") -> None:
        super().__init__()
        self.gain = gain
        self.weight = None if gain == "none" else nn.Parameter(torch.full((width,), float(gain == "w")))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        if self.weight is None:
            return x
        return x * (self.weight if self.gain == "w" else 1 + self.weight)


@dataclass(frozen=True)
class Shape:
    """What a `Transformer` looks like. heads stay, so that the head dimension grows with width.

    norm: "layer", "layer-plain" (no gain or bias), "rms", "rms-plain", "rms-1+w". attention: "sdpa", "eager" (constant
    on the logits) or "scaled-q" (constant on the queries). embed_scale: None, "float" or "buffer": times sqrt(width).
    """

    width: int
    depth: int = 1
    heads: int = 2
    norm: str = "layer"
    attention: str = "sdpa"
    fused_qkv: bool = False
    qk_norm: bool = False
    tied: bool = False
    parallel: bool = False
    post_norm: bool = False
    bias: bool = True
    embed_scale: str | None = None


def norm_of(kind: str, width: int) -> nn.Module:
    """The norm that Shape.norm names."""
    if kind.startswith("layer"):
        return nn.LayerNorm(width, elementwise_affine=kind == "layer")
    return RMSNorm(width, {"rms": "w", "rms-plain": "none", "rms-1+w": "1+w"}[kind])


class Attention(nn.Module):
    """Causal attention. scale: head dimension -> logits multiplier (1/sqrt(d) by default); factor: a further one."""

    def __init__(self, shape: Shape, scale: Callable[[int], float], factor: float) -> None:
        super().__init__()
        self.shape, self.factor = shape, factor
        width, bias = shape.width, shape.bias
        self.dim = width // shape.heads
        self.scale = scale(self.dim)
        if shape.fused_qkv:
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        if shape.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.dim), RMSNorm(self.dim)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        projected = self.qkv(x).chunk(3, -1) if self.shape.fused_qkv else (self.q(x), self.k(x), self.v(x))
        q, k, v = (p.view(batch, time, self.shape.heads, self.dim).transpose(1, 2) for p in projected)
        if self.shape.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.out(self.mix(q, k, v).transpose(1, 2).reshape(batch, time, width))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = self.scale * self.factor
        if self.shape.attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        scaled_q = self.shape.attention == "scaled-q"
        logits = (q * scale if scaled_q else q) @ k.transpose(-1, -2)
        logits = logits if scaled_q else logits * scale
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).tril()
        return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ v


class Block(nn.Module):
    """Attention and MLP on a residual stream: pre-norm, post-norm or parallel. branch: the residual multiplier."""

    def __init__(self, shape: Shape, scale: Callable[[int], float], factor: float, branch: float) -> None:
        super().__init__()
        self.shape, self.branch = shape, branch
        self.norm_1, self.norm_2 = norm_of(shape.norm, shape.width), norm_of(shape.norm, shape.width)
        self.attention = Attention(shape, scale, factor)
        self.up = nn.Linear(shape.width, 2 * shape.width, bias=shape.bias)
        self.down = nn.Linear(2 * shape.width, shape.width, bias=shape.bias)

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.shape.parallel:
            return x + (self.attention(self.norm_1(x)) + self.mlp(self.norm_2(x))) * self.branch
        if self.shape.post_norm:
            x = self.norm_1(x + self.attention(x) * self.branch)
            return self.norm_2(x + self.mlp(x) * self.branch)
        x = x + self.attention(self.norm_1(x)) * self.branch
        return x + self.mlp(self.norm_2(x)) * self.branch


class Transformer(nn.Module):
    """A language model over 17 tokens. The forward multipliers are 1 unless asked for.

    readout: class of the head (ignored where tied); scale: see `Attention`; logits, attention_factor, branch: explicit
    forward multipliers of the output, the attention logits and the residual branches.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        readout: Callable[..., nn.Module] = nn.Linear,
        scale: Callable[[int], float] = lambda d: 1 / math.sqrt(d),
        logits: float = 1.0,
        attention_factor: float = 1.0,
        branch: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape, self.logits = shape, logits
        self.wte, self.wpe = nn.Embedding(VOCAB, shape.width), nn.Embedding(CONTEXT, shape.width)
        self.blocks = nn.ModuleList(Block(shape, scale, attention_factor, branch) for _ in range(shape.depth))
        self.norm = nn.Identity() if shape.post_norm else norm_of(shape.norm, shape.width)
        self.head = readout(shape.width, VOCAB, bias=False)
        if shape.tied:
            self.head.weight = self.wte.weight
        if shape.embed_scale == "buffer":
            self.register_buffer("embed_scale", torch.tensor(math.sqrt(shape.width)), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens)
        if self.shape.embed_scale is not None:
            x = x * (self.embed_scale if self.shape.embed_scale == "buffer" else math.sqrt(self.shape.width))
        x = x + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) * self.logits


def batches(name: str, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Fixed random batches of 4 for "mlp", "conv" or "transformer": (inputs, integer targets)."""
    g = torch.Generator().manual_seed(seed)
    if name == "transformer":
        tokens = [torch.randint(VOCAB, (4, CONTEXT + 1), generator=g) for _ in range(steps)]
        return [(t[:, :-1], t[:, 1:]) for t in tokens]
    size = {"mlp": (4, PIXELS), "conv": (4, 1, PIXELS, PIXELS)}[name]
    inputs = [torch.randn(size, generator=g, dtype=dtype) for _ in range(steps)]
    return [(x, torch.randint(CLASSES, (4,), generator=g)) for x in inputs]


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Loss before each step of plain training on `data`: the trajectory that two models are compared by."""
    trajectory: list[float] = []
    for x, y in data:
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        trajectory.append(float(loss.detach()))
    return trajectory


def seeded(build: Callable[..., nn.Module], *args: Any, seed: int = 0, **kwargs: Any) -> nn.Module:
    """A model in float64 with weights drawn from one seed."""
    random: Any = torch.random
    random.manual_seed(seed)
    return build(*args, **kwargs).double()
