"""Functions of a weight: f(W) is a weight where f(t W) = t f(W) with entries of both signs; elsewhere it is refused.

Base 8, target 32 (m = 4), AdamW: the rule of a hidden weight is init m^-1/2 = .5 and rate 1/m = .25. Why f(W) needs
those, too, where f is homogeneous of degree one: f(.5 W) = .5 f(W), and a step of a share of W is one of f(W).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.graph.parameters.homogeneity import forms
from hptransfer.graph.parameters.uses import depends_on_inputs, downstream
from hptransfer.graph.trace import trace
from tests.cases.traces import plan_of

Function = Callable[[Tensor], Tensor]
X = (torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),)


class Acting(nn.Module):
    """relu(first(x)) times f(W), read out."""

    def __init__(self, width: int, function: Function, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(5, width), nn.Linear(width, 3)
        self.W = nn.Parameter(torch.randn(shape or (width, width)) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(F.linear(torch.relu(self.first(x)), self.function(self.W))))


def quantised(w: Tensor) -> Tensor:
    step = w.abs().mean() + 1e-5
    return torch.round(w / step) * step


def straight_through(w: Tensor) -> Tensor:
    return w + (quantised(w) - w).detach()


DEGREE_ONE: dict[str, Function] = {
    "as it is": lambda w: w,
    "scaled": lambda w: 0.7 * w,
    "leaky": lambda w: F.leaky_relu(w, 0.3),
    "centred": lambda w: w - w.mean(1, keepdim=True),
    "antisymmetric": lambda w: w - w.T,
    "lower triangle": lambda w: w.tril(),
    "quantised": quantised,
    "quantised, gradients straight through": straight_through,
    "signs times their size": lambda w: torch.sign(w) * w.abs().mean(1, keepdim=True),
    "three levels": lambda w: torch.clamp(torch.round(w / w.abs().mean()), -1, 1) * w.abs().mean(),
    "root of a cube": lambda w: torch.sign(w) * (w.abs() ** 3) ** (1 / 3),
}
REFUSED: dict[str, tuple[Function, str]] = {
    "exp": (torch.exp, "exp"),
    "exp of minus": (lambda w: torch.exp(-w), "exp"),
    "softplus": (F.softplus, "softplus"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "tanh": (torch.tanh, "tanh"),
    "cos": (torch.cos, "cos"),
    "clamp": (lambda w: w.clamp(-0.1, 0.1), "clamp"),
    "round": (torch.round, "round"),
    "softmax": (lambda w: w.softmax(-1), "softmax"),
    "softmax by hand": (lambda w: w.exp() / w.exp().sum(-1, keepdim=True), "exp"),
    "abs": (torch.abs, "abs"),
    "root of a square": (lambda w: (w**2 + 1e-9).sqrt(), "sqrt"),
    "relu": (torch.relu, "relu"),
    "clamped below": (lambda w: w.clamp(min=0.0), "clamp"),
    "largest with zero": (lambda w: torch.maximum(w, torch.zeros(())), "maximum"),
    "cube": (lambda w: w**3, "pow"),
    "square": (torch.square, "square"),
    "times itself": (lambda w: w * w, "mul"),
    "times its size": (lambda w: w * w.abs(), "mul"),
    "silu": (F.silu, "silu"),
    "plus one": (lambda w: w + 1, "add"),
    "sign": (torch.sign, "sign"),
    "where it is positive": (lambda w: (w > 0).float(), "gt"),
    "tanh at a scale": (lambda w: 0.1 * torch.tanh(w / 0.1), "tanh"),
    "a share of the sum": (lambda w: w.abs() / w.abs().sum(1, keepdim=True), "div"),
}


@pytest.mark.parametrize("kind", sorted(DEGREE_ONE))
def test_a_function_of_degree_one_is_a_weight(kind: str) -> None:
    plan = plan_of(lambda width: Acting(width, DEGREE_ONE[kind]), X)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_another_function_is_refused_by_name_at_another_width(kind: str) -> None:
    function, shown = REFUSED[kind]
    with pytest.raises(hpt.UsageError, match=rf"'W' is used as a hidden weight.*'{shown}'.*roles="):
        plan_of(lambda width: Acting(width, function), X)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_it_stays_as_it_is_at_the_same_width(kind: str) -> None:
    model = Acting(8, REFUSED[kind][0])
    plan = hpt.make_plan(Acting(8, REFUSED[kind][0]), base=model, example_inputs=X)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == (1, 1)


@pytest.mark.parametrize("kind", ["exp", "softplus", "abs", "tanh", "cube"])
def test_a_function_of_a_vector_or_of_an_input_weight_is_allowed(kind: str) -> None:
    """Elementwise nothing adds up over the width; over a fixed number of inputs the rule changes neither."""

    class Elementwise(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(torch.randn(width, 5)), nn.Linear(width, 3)
            self.decay = nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.linear(x, REFUSED[kind][0](self.first)) * REFUSED[kind][0](self.decay))

    plan = plan_of(Elementwise, X)
    assert [(plan[n].init_mult, plan[n].lr_mult) for n in ("first", "decay")] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("kind", sorted({*DEGREE_ONE, *REFUSED} - {"largest with zero"}))
def test_forms_hold_numerically(kind: str) -> None:
    """The degree and the sign that are read off the graph, against the function's own values."""
    function = DEGREE_ONE.get(kind) or REFUSED[kind][0]
    model = Acting(8, function)
    graph = trace(model, X)
    placeholder = graph.parameters["W"]
    made = downstream(graph, {placeholder}) - depends_on_inputs(graph)
    at = next(n for n in graph.nodes if n in depends_on_inputs(graph) and any(p in made for p in n.all_input_nodes))
    form = forms(graph, placeholder, made)[next(p for p in at.all_input_nodes if p in made)]
    w = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, larger = function(w), function(3 * w)
    if math.isnan(form.degree):
        ratios = (larger / values)[values != 0]
        assert ratios.max() - ratios.min() > 1e-3
    else:
        torch.testing.assert_close(larger, 3**form.degree * values, rtol=1e-3, atol=1e-5)
    assert not form.one_sign or bool((values >= 0).all())
