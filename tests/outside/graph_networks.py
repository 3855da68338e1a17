"""Message passing networks of torch_geometric, and EGNN: what they read and gather depends on the edges."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from outside.family import CLASSES, Build, Outside, normal
from torch import Tensor, nn

NODES, EDGES, FEATURES = 20, 60, 12


def _graph() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(NODES, FEATURES, generator=draw), torch.randint(0, NODES, (2, EDGES), generator=draw)


def _pyg(name: str) -> Any:
    return getattr(import_module("torch_geometric.nn"), name)


class _Stack(nn.Module):
    """Two convolutions of a kind, with a ReLU between them."""

    def __init__(self, kind: str, width: int, **options: Any) -> None:
        super().__init__()
        conv = _pyg(kind)
        self.first = conv(FEATURES, width, **options)
        self.second = conv(width, width, **options)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = torch.relu(self.first(x, edges))
        return self.readout(torch.relu(self.second(h, edges)))


def _basic(name: str, **options: Any) -> Build:
    return lambda width, depth: _pyg(name)(FEATURES, width, depth, CLASSES, **options)


def _stack(kind: str, **options: Any) -> Build:
    return lambda width, depth: _Stack(kind, width, **options)


def _gin_deep(width: int, depth: int) -> nn.Module:
    return _pyg("GIN")(FEATURES, width, depth, CLASSES, norm="layer_norm", jk="cat")


class _Gps(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, width)
        conv, gin = _pyg("GPSConv"), _pyg("GINConv")
        self.layers = nn.ModuleList(
            conv(
                width,
                gin(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))),
                heads=4,
                norm="layer_norm",
            )
            for _ in range(depth)
        )
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h, edges)
        return self.readout(h)


class _DeepGcn(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(FEATURES, width), nn.Linear(width, CLASSES)
        layer, conv = _pyg("DeepGCNLayer"), _pyg("GENConv")
        self.layers = nn.ModuleList(
            layer(conv(width, width, num_layers=1), nn.LayerNorm(width), nn.ReLU(), block="res+") for _ in range(depth)
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h, edges)
        return self.readout(h)


class _EdgeConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        conv = _pyg("EdgeConv")
        self.first = conv(nn.Sequential(nn.Linear(2 * FEATURES, width), nn.ReLU(), nn.Linear(width, width)))
        self.second = conv(nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)))
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.readout(torch.relu(self.second(torch.relu(self.first(x, edges)), edges)))


def _egnn(width: int, depth: int) -> nn.Module:
    return import_module("egnn_pytorch").EGNN_Network(
        num_tokens=9, dim=width, depth=depth, m_dim=width // 4, num_nearest_neighbors=0
    )


def _egnn_inputs() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 9, (4, 8), generator=torch.Generator().manual_seed(1)), normal(8, 3)


def _family(name: str, build: Build, *, deepens: bool = False, unused: bool = False) -> Outside:
    return Outside(f"pyg-{name}", "graph", "torch_geometric", build, _graph, deepens, unused)


GRAPHS = (
    _family("gcn", _basic("GCN")),
    _family("gat", _basic("GAT", heads=4)),
    _family("gat-v2", _basic("GAT", heads=4, v2=True)),
    _family("gin", _basic("GIN")),
    _family("gin-norm-jk", _gin_deep),
    _family("sage", _basic("GraphSAGE")),
    _family("edge-conv", lambda width, depth: _EdgeConv(width)),
    _family("cheb", _stack("ChebConv", K=3)),
    _family("tag", _stack("TAGConv", K=2)),
    _family("graph-conv", _stack("GraphConv")),
    _family("transformer-conv", _stack("TransformerConv")),
    _family("arma", _stack("ARMAConv"), unused=True),
    _family("sg", _stack("SGConv", K=2)),
    _family("gps", _Gps, deepens=True),
    _family("deep-gcn", _DeepGcn, deepens=True),
    Outside("egnn", "graph", "egnn_pytorch", _egnn, _egnn_inputs, True),
)
