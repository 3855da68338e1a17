"""Products of parameters on the weights' side: a factor that is repeated along an axis of the other is a gain.

Base 8, target 32 (m = 4), AdamW: a gain on slices of a weight has entries of order one that one coordinate of the
result each sees: (init, rate) x (1, 1), like a LayerNorm's. The weight beside it keeps the hidden rule, (.5, .25).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hptransfer as hpt
from tests.cases.traces import plan_of

X = (torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),)
SPELLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "column": lambda w, g: w * g,
    "column, the gain first": lambda w, g: g * w,
    "column, expanded": lambda w, g: w * g.expand_as(w),
    "column, divided": lambda w, g: w / g,
    "column, one plus": lambda w, g: w * (1 + g),
    "column, exp": lambda w, g: w * g.exp(),
    "column by a diagonal": lambda w, g: w @ torch.diag(g),
    "column by an embedded diagonal": lambda w, g: torch.matmul(w, torch.diag_embed(g.exp())),
    "column in letters": lambda w, g: torch.einsum("i,oi->oi", g, w),
    "row": lambda w, g: g[:, None] * w,
    "row, unsqueezed": lambda w, g: g.unsqueeze(1) * w,
    "row, transposed": lambda w, g: (w.T * g).T,
    "row by a diagonal": lambda w, g: torch.diag(g) @ w,
    "row in letters": lambda w, g: torch.einsum("oi,o->oi", w, g),
    "row of a unit weight": lambda w, g: g[:, None] * w / w.norm(dim=1, keepdim=True),
    "both": lambda w, g: g[:, None] * w * g,
    "blocks": lambda w, g: (w.view(4, -1, w.shape[1]) * g[:4, None, None]).reshape(w.shape),
    "blocks, repeated": lambda w, g: w * g[: g.shape[0] // 2].repeat_interleave(2)[:, None],
}


class Gained(nn.Module):
    def __init__(self, width: int, spelling: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.spelling, self.first, self.last = spelling, nn.Linear(5, width), nn.Linear(width, 3)
        self.W, self.gain = nn.Parameter(torch.randn(width, width) * width**-0.5), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(F.linear(torch.relu(self.first(x)), self.spelling(self.W, self.gain))))


@pytest.mark.parametrize("kind", sorted(SPELLINGS))
def test_a_gain_on_a_weight_is_a_gain(kind: str) -> None:
    plan = plan_of(lambda width: Gained(width, SPELLINGS[kind]), X)
    assert (plan["gain"].role, plan["gain"].init_mult, plan["gain"].lr_mult) == ("vector", 1, 1)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_one_number_on_a_weight_is_a_scalar(shape: tuple[int, ...]) -> None:
    class One(Gained):
        def __init__(self, width: int) -> None:
            super().__init__(width, lambda w, g: w * g)
            self.gain = nn.Parameter(torch.ones(shape))

    plan = plan_of(One, X)
    assert (plan["gain"].role, plan["gain"].init_mult, plan["gain"].lr_mult) == ("scalar", 1, 1)
    assert plan["W"].init_mult == pytest.approx(0.5)


def test_a_gain_in_letters_beside_the_activation() -> None:
    class Letters(Gained):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.einsum("bi,i,oi->bo", torch.relu(self.first(x)), self.gain, self.W))

    plan = plan_of(lambda width: Letters(width, SPELLINGS["column"]), X)
    assert (plan["gain"].init_mult, plan["gain"].lr_mult) == (1, 1)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda w, v: w * v,
        lambda w, v: torch.einsum("oi,oi->oi", w, v),
        lambda w, v: w.view(-1).mul(v.view(-1)).view(w.shape),
        lambda w, v: w * v.sigmoid(),
        lambda w, v: (w.T * v.T).T,
    ],
    ids=["times", "letters", "flat", "gate", "transposed"],
)
def test_two_weights_multiplied_entry_by_entry_are_refused(spelling: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Which one holds the scale of W V? Both rules would shrink it twice."""

    class Two(Gained):
        def __init__(self, width: int) -> None:
            super().__init__(width, spelling)
            self.gain = nn.Parameter(torch.randn(width, width))

    with pytest.raises(hpt.UsageError, match=r"entry by entry|'sigmoid'|contracts and produces one axis"):
        plan_of(Two, X)


def test_a_mask_that_is_not_trained_is_no_factor() -> None:
    class Masked(Gained):
        def __init__(self, width: int) -> None:
            super().__init__(width, lambda w, g: w * g)
            self.gain = nn.Parameter(torch.ones(width, width), requires_grad=False)

    assert plan_of(Masked, X)["W"].init_mult == pytest.approx(0.5)


# Stacked: one axis holds what every layer has of its own, and no fan grows by it

STACKED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "index": lambda p, i: p[i],
    "select": lambda p, i: p.select(0, i),
    "unbind": lambda p, i: p.unbind(0)[i],
    "chosen by name": lambda p, i: torch.unbind(p)[i],
}


@pytest.mark.parametrize("kind", sorted(STACKED))
@pytest.mark.parametrize("layers", [2, 6])
def test_a_parameter_that_stacks_layers(kind: str, layers: int) -> None:
    class Stack(nn.Module):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
            self.lam, self.gain = nn.Parameter(torch.ones(depth)), nn.Parameter(torch.ones(depth, width))
            self.W = nn.Parameter(torch.randn(depth, width, width) * width**-0.5)

        def forward(self, x: Tensor) -> Tensor:
            x, picked = torch.relu(self.first(x)), STACKED[kind]
            for i in range(len(self.lam)):
                x = torch.relu(F.linear(x * picked(self.gain, i), picked(self.W, i)) * picked(self.lam, i))
            return self.last(x)

    plan = hpt.make_plan(Stack(32, layers), base=Stack(8, 2), example_inputs=X)
    assert [plan[n].role for n in ("lam", "gain", "W")] == ["scalar", "vector", "hidden"]
    assert [(plan[n].init_mult, plan[n].lr_mult) for n in ("lam", "gain")] == [(1, 1), (1, 1)]
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("optimizer", ["SGD", "Muon"])
def test_no_fan_grows_by_the_number_of_layers(optimizer: str) -> None:
    """The same width with more layers: every row as at the base."""

    class Deeper(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.first, self.last, self.gain = nn.Linear(5, 8), nn.Linear(8, 3), nn.Parameter(torch.ones(depth, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            for gain in self.gain:
                x = torch.relu(x * gain)
            return self.last(x)

    kinds = "SGD" if optimizer == "SGD" else {"hidden": "Muon", "rest": "AdamW"}
    plan = hpt.make_plan(Deeper(6), base=Deeper(2), example_inputs=X, optimizer=kinds)
    assert (plan["gain"].init_mult, plan["gain"].lr_mult) == (1, 1)


BOTH_LAST: Any = ([1], [1])
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tensordot": lambda x, w: torch.tensordot(x, w, BOTH_LAST),
    "tensordot, a number of axes": lambda x, w: torch.tensordot(x, w.T, dims=1),
    "tensordot, the weight first": lambda x, w: torch.tensordot(w, x, BOTH_LAST).T,
    "inner": lambda x, w: torch.inner(x, w),
    "linear": F.linear,
}


@pytest.mark.parametrize("kind", sorted(PRODUCTS))
def test_products_written_otherwise(kind: str) -> None:
    class Product(Gained):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(PRODUCTS[kind](torch.relu(self.first(x)) * self.gain, self.W)))

    plan = plan_of(lambda width: Product(width, SPELLINGS["column"]), X)
    assert (plan["W"].role, plan["W"].init_mult, plan["W"].lr_mult) == ("hidden", pytest.approx(0.5), 0.25)


class Ensemble(nn.Module):
    """The mean of members that vmap calls at once; `rows`: a layer whose rows are."""

    def __init__(self, width: int, members: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.W = (
            nn.Parameter(torch.randn(members, width, 5)),
            nn.Parameter(torch.randn(members, width, width)),
        )
        self.last = nn.Parameter(torch.randn(members, 3, width))

    def forward(self, x: Tensor) -> Tensor:
        def member(first: Tensor, inner: Tensor, last: Tensor) -> Tensor:
            return F.linear(torch.relu(F.linear(torch.relu(F.linear(x, first)), inner)), last)

        if self.how == "vmap":
            return torch.vmap(member)(self.first, self.W, self.last).mean(0)
        if self.how == "vmap by layer":
            h = torch.vmap(F.linear, in_dims=(None, 0))(x, self.first).relu()
            return torch.vmap(F.linear)(torch.vmap(F.linear)(h, self.W).relu(), self.last).mean(0)
        if self.how == "rows":
            h = torch.relu(F.linear(x, self.first[0]))
            h = torch.relu(torch.vmap(lambda row: h @ row, out_dims=1)(self.W[0]))
            return F.linear(h, self.last[0])
        h = torch.relu(torch.einsum("bi,koi->kbo", x, self.first))
        h = torch.relu(torch.einsum("kbi,koi->kbo", h, self.W))
        return torch.einsum("kbi,koi->bo", h, self.last) / len(self.W)


@pytest.mark.parametrize("how", ["vmap", "vmap by layer", "rows", "letters"])
def test_members_keep_their_own_fans(how: str) -> None:
    plan = plan_of(lambda width: Ensemble(width, 3, how), X)
    assert [plan[n].role for n in ("first", "W", "last")] == ["input", "hidden", "readout"]
    assert [plan[n].lr_mult for n in ("first", "W", "last")] == [1, 0.25, 0.25]


@pytest.mark.parametrize("how", ["vmap", "vmap by layer", "letters"])
def test_more_members_averaged_change_nothing_but_the_average(how: str) -> None:
    """Under Adam every member moves as at the base, and their mean as each of them; outputs may start smaller."""
    plan = hpt.make_plan(Ensemble(8, 6, how), base=Ensemble(8, 3, how), example_inputs=X)
    assert all((plan[n].init_mult, plan[n].lr_mult) == (1, 1) for n in plan.rows)
    assert not plan.hooks
