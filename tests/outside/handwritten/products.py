"""Products of activations: factorization machines, two towers, tensordot layers, bilinear pooling, routing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from outside.family import CLASSES, Outside, indices, normal
from torch import Tensor, nn

FIELDS, CARDINALITY = 5, 20


class _DeepFm(nn.Module):
    """DeepFM (1703.04247): first order, pairwise products by the sum-of-squares identity, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.embed = nn.Embedding(CARDINALITY, 1), nn.Embedding(CARDINALITY, width)
        self.deep = nn.Sequential(nn.Linear(FIELDS * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.readout = nn.Linear(width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        v = self.embed(ids)
        pairs = 0.5 * (v.sum(1).pow(2) - v.pow(2).sum(1)).sum(-1, keepdim=True)
        return self.first(ids).sum(1) + pairs + self.readout(self.deep(v.flatten(1)))


class _Dlrm(nn.Module):
    """DLRM (1906.00091): the pairwise dot products of embeddings, beside a dense feature, feed an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.dense = nn.Embedding(CARDINALITY, width), nn.Linear(4, width)
        self.register_buffer("pairs", torch.tril_indices(FIELDS + 1, FIELDS + 1, -1))
        self.top = nn.Linear(width + (FIELDS + 1) * FIELDS // 2, width)
        self.readout = nn.Linear(width, 1)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        d = torch.relu(self.dense(dense))
        every = torch.cat([d[:, None], self.embed(ids)], 1)
        products = torch.bmm(every, every.mT)[:, self.pairs[0], self.pairs[1]]
        return self.readout(torch.relu(self.top(torch.cat([d, products], 1))))


class _CrossNet(nn.Module):
    """DCN-v2 (2008.13535): x0 * (W x + b) + x, over an input of embeddings."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CARDINALITY, width)
        self.cross = nn.ModuleList(nn.Linear(FIELDS * width, FIELDS * width) for _ in range(depth))
        self.readout = nn.Linear(FIELDS * width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = start = self.embed(ids).flatten(1)
        for layer in self.cross:
            x = start * layer(x) + x
        return self.readout(x)


class _TwoTowers(nn.Module):
    """Two towers under a cosine with a learned temperature, as CLIP's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, width))
        self.right = nn.Sequential(nn.Linear(12, width), nn.GELU(), nn.Linear(width, width))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = F.normalize(self.left(left), dim=-1), F.normalize(self.right(right), dim=-1)
        return self.temperature.exp() * a @ b.mT


class _Tensordot(nn.Module):
    """Layers spelled as torch.tensordot over two axes at once."""

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, groups * width)
        self.core = nn.Parameter(torch.randn(groups, width, groups, width) * (groups * width) ** -0.5)
        self.readout = nn.Parameter(torch.randn(groups, width, CLASSES) * (groups * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.embed(x)).unflatten(-1, (self.core.shape[0], -1))
        h = torch.relu(torch.tensordot(h, self.core, dims=([1, 2], [0, 1])))
        return torch.tensordot(h, self.readout, dims=2)


class _Mixture(nn.Module):
    """A dense mixture of experts: softmax gates over experts kept in one tensor."""

    def __init__(self, width: int, experts: int = 4) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(8, width), nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width) * (2 * width) ** -0.5)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        made = torch.einsum("ebf,efd->ebd", F.gelu(torch.einsum("bd,edf->ebf", h, self.up)), self.down)
        return self.readout(h + torch.einsum("be,ebd->bd", self.gate(h).softmax(-1), made))


class _SumAttention(nn.Module):
    """Attention spelled as a product and a sum over the head, and additive attention beside it (1409.0473)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(width, CLASSES)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        logits = (q[:, :, None] * k[:, None]).sum(-1) / q.shape[-1] ** 0.5
        h = h + self.o(logits.softmax(-1) @ v)
        pooled = self.score(torch.tanh(h)).softmax(1)
        return self.readout((pooled * h).sum(1))


def _ids() -> tuple[Tensor]:
    return (indices(CARDINALITY, FIELDS),)


PRODUCTS = (
    Outside("hand-deepfm", "handwritten", "torch", lambda width, depth: _DeepFm(width), _ids),
    Outside("hand-dlrm", "handwritten", "torch", lambda width, depth: _Dlrm(width), lambda: (*_ids(), normal(4))),
    Outside("hand-dcn-v2", "handwritten", "torch", _CrossNet, _ids, True),
    Outside("hand-two-towers", "handwritten", "torch", lambda width, depth: _TwoTowers(width),
            lambda: (normal(8), normal(12, seed=2))),
    Outside("hand-tensordot", "handwritten", "torch", lambda width, depth: _Tensordot(width), lambda: (normal(8),)),
    Outside("hand-dense-moe", "handwritten", "torch", lambda width, depth: _Mixture(width), lambda: (normal(8),)),
    Outside("hand-sum-attention", "handwritten", "torch", lambda width, depth: _SumAttention(width),
            lambda: (normal(6, 8),)),
)  # fmt: skip
