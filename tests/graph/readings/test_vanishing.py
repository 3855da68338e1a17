"""Which weights can start at zero: read off the graph as autograd finds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.graph.parameters.uses import parameter_uses
from hptransfer.graph.readings.outputs import output_uses
from hptransfer.graph.readings.vanishing import stopped
from hptransfer.graph.trace import trace


class Head(nn.Module):
    """Two heads u, g without biases on features of width 8, joined in one of many ways."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.first, self.u, self.g = nn.Linear(5, 8), nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.join, self.scale, self.shift = join, nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return JOINS[self.join][0](self, h, self.u(h), self.g(h))


CHOSEN = {"u.weight", "g.weight"}
JOINS = {  # how they meet -> (what is computed, which of them make the output, which of these cannot start at zero)
    "sum": (lambda m, h, u, g: u + g - g.mean(-1, keepdim=True), CHOSEN, set()),
    "two outputs": (lambda m, h, u, g: torch.cat([u, g], -1), CHOSEN, set()),
    "towers": (lambda m, h, u, g: u @ g.T * m.scale, CHOSEN, CHOSEN),
    "linear gate": (lambda m, h, u, g: u * g, CHOSEN, CHOSEN),
    "gate that starts shut": (lambda m, h, u, g: u * F.silu(g), CHOSEN, CHOSEN),
    "relu gate": (lambda m, h, u, g: u * torch.relu(g), CHOSEN, CHOSEN),
    "normed towers": (lambda m, h, u, g: (u / u.norm(dim=-1, keepdim=True)) @ F.normalize(g, dim=-1).T, CHOSEN, CHOSEN),
    "biased towers": (lambda m, h, u, g: (u + m.shift) @ (g + m.shift).T, CHOSEN, CHOSEN),
    "sigmoid gate": (lambda m, h, u, g: u * torch.sigmoid(g), {"u.weight"}, set()),
    "wavenet gate": (lambda m, h, u, g: torch.tanh(u) * torch.sigmoid(g), {"u.weight"}, set()),
    "softmax over heads": (lambda m, h, u, g: (u * g.softmax(-1)).sum(-1), {"u.weight"}, set()),
    "divided": (lambda m, h, u, g: u / F.softplus(g), {"u.weight"}, set()),
    "highway": (lambda m, h, u, g: torch.sigmoid(g) * u + (1 - torch.sigmoid(g)) * h[:, :4], {"u.weight"}, set()),
    "attention": (lambda m, h, u, g: ((u[:, None] @ g[:, :, None]).softmax(0) * h).sum(0), set(), set()),
    "attends": (lambda m, h, u, g: F.scaled_dot_product_attention(g, g, u), {"u.weight"}, set()),
    "noise": (lambda m, h, u, g: u + g.exp() * torch.ones_like(u), CHOSEN, set()),
    "expectation": (lambda m, h, u, g: u.softmax(-1) * m.scale + g.sigmoid() * torch.arange(1, 5), CHOSEN, set()),
    "probabilities": (lambda m, h, u, g: (u + g).softmax(-1), CHOSEN, set()),
    "silu written out": (lambda m, h, u, g: u * torch.sigmoid(u) + g, CHOSEN, set()),
    "own norm": (lambda m, h, u, g: u / u.norm(dim=-1, keepdim=True) + g, CHOSEN, {"u.weight"}),
    "normalize": (lambda m, h, u, g: F.normalize(u, dim=-1) + g, CHOSEN, {"u.weight"}),
    "layer norm": (lambda m, h, u, g: F.layer_norm(u, (4,)) + g, CHOSEN, {"u.weight"}),
    "rms norm by hand": (lambda m, h, u, g: u * (u.pow(2).mean() + 1e-6).rsqrt() + g, CHOSEN, {"u.weight"}),
    "layer norm of a sum": (lambda m, h, u, g: F.layer_norm(u + g + h[:, :4], (4,)), CHOSEN, set()),
    "square": (lambda m, h, u, g: u**2 + g, CHOSEN, {"u.weight"}),
    "cosine": (lambda m, h, u, g: F.linear(h, F.normalize(m.u.weight, dim=-1)) + g, CHOSEN, {"u.weight"}),
    "relu": (lambda m, h, u, g: torch.relu(u) + g, CHOSEN, {"u.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("join", sorted(JOINS))
def test_what_makes_the_output_and_can_start_at_zero(join: str) -> None:
    torch.manual_seed(0)
    model, (_, chosen, refused) = Head(join).double(), JOINS[join]
    graph = trace(model, (torch.randn(6, 5).double(),))
    outputs = output_uses(graph, parameter_uses(graph))
    assert set(outputs) - {"scale", "shift"} == chosen
    found = stopped(graph, outputs)
    assert set(found.names if found is not None else ()) <= refused and bool(found) == bool(refused)
    others = stopped(graph, set(outputs) - set(found.names)) if found is not None else None
    assert {*(found.names if found else ()), *(others.names if others else ())} == refused


@pytest.mark.parametrize("join", sorted(JOINS))
def test_autograd_agrees(join: str) -> None:
    """At zero, a weight that is passed has a gradient of the order of what it reads; one that is refused has none, or
    one that is not finite, or one amplified by 1 / eps."""
    torch.manual_seed(0)
    model, (_, chosen, refused) = Head(join).double(), JOINS[join]
    with torch.no_grad():
        for name in chosen:
            model.get_parameter(name).zero_()
        model.shift.zero_()
    out = model(torch.randn(6, 5).double())
    (out * torch.randn(out.shape, dtype=out.dtype)).sum().backward()
    for name in chosen:
        grad = model.get_parameter(name).grad
        size = 0.0 if grad is None else float(grad.norm())
        learns = 1e-2 < size < 1e2
        assert learns == (name not in refused), (name, size)
