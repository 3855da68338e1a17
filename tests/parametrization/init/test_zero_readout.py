"""Options(readout_init="zero"): the same weights start at zero at every size, the base's included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.rules import SCHEMES
from tests.cases.models import MLP, ConvNet, Shape, Transformer, batches, seeded

ZERO = hpt.Options(readout_init="zero")


class Routed(nn.Module):
    """A router and two experts on a residual stream, two heads: the router grows like a readout but makes no output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(8, width), nn.Linear(width, 2)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.deep, self.policy, self.value = nn.Linear(width, width), nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        gates = self.router(x).softmax(-1)
        x = self.norm(x + sum(gates[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts)))
        return self.policy(torch.tanh(self.deep(x))), self.value(x)


BUILDERS = {  # name -> (builder, example inputs, what must start at zero)
    "mlp": (lambda w: seeded(MLP, w), batches("mlp", 1)[0][0], {"last.weight"}),
    "conv": (lambda w: seeded(ConvNet, w), batches("conv", 1)[0][0], {"last.weight"}),
    "transformer": (
        lambda w: seeded(Transformer, Shape(w, depth=2)),
        batches("transformer", 1)[0][0],
        {"head.weight"},
    ),
    "routed, two heads": (lambda w: seeded(Routed, w), batches("mlp", 1)[0][0], {"policy.weight", "value.weight"}),
    "no head": (
        lambda w: nn.Sequential(seeded(nn.Linear, 8, w), nn.LayerNorm(w).double()),
        batches("mlp", 1)[0][0],
        set(),
    ),
}


@pytest.mark.parametrize("scheme", ["mup", "sp", "umup"])
@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_exactly_the_weights_that_make_outputs_are_zero_at_every_size(name: str, width: int, scheme: str) -> None:
    build, x, expected = BUILDERS[name]
    model = build(width)
    plan = hpt.make_plan(model, base=build(16), example_inputs=(x,), scheme=scheme, options=ZERO)
    zero_before = {n for n, p in model.named_parameters() if not p.any()}
    hpt.parametrize_(model, plan)
    zero = {n for n, p in model.named_parameters() if not p.any()} - zero_before
    assert {n.replace("parametrizations.weight.original", "weight") for n in zero} == expected
    assert all("starts at zero" in plan[n].why[1] for n in expected)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_own_and_zero_differ_in_the_readout_alone(scheme: str) -> None:
    build, x, _ = BUILDERS["transformer"]
    given = {"base": build(16), "example_inputs": (x,), "scheme": scheme}
    own, zero = (hpt.make_plan(build(32), **given, options=o) for o in (None, ZERO))
    assert {row.name for row, other in zip(own, zero, strict=True) if row != other} == {"head.weight"}
    assert own["head.weight"].lr_mult == zero["head.weight"].lr_mult or SCHEMES[scheme].unit


@pytest.mark.parametrize("width", [16, 32])
def test_a_tied_readout_is_refused_at_every_size(width: int) -> None:
    def build(w: int) -> nn.Module:
        return seeded(Transformer, Shape(w, tied=True))

    given = {"base": build(16), "example_inputs": (batches("transformer", 1)[0][0],), "options": ZERO}
    with pytest.raises(hpt.UsageError, match=r"readout_init='zero'\): 'wte.weight' is the readout and an input"):
        hpt.make_plan(build(width), **given)


def test_a_frozen_readout_keeps_its_values_and_pretrained_weights_get_a_zero_head_at_every_size() -> None:
    for width in (16, 32):
        frozen = seeded(MLP, width)
        frozen.last.requires_grad_(False)
        given = {"base": seeded(MLP, 16), "example_inputs": (batches("mlp", 1)[0][0],)}
        plan = hpt.make_plan(frozen, **given, options=ZERO)
        assert plan["last.weight"].init_mult != 0
        pretrained = hpt.Options(readout_init="zero", weights="pretrained")
        model = seeded(MLP, width)
        changes = hpt.parametrize_(model, hpt.make_plan(model, **given, options=pretrained))
        assert [change.name for change in changes if change.factor == 0] == ["last.weight"]


def test_an_annotated_role_overrules_the_trace() -> None:
    given = {"base": seeded(MLP, 16), "example_inputs": (batches("mlp", 1)[0][0],), "options": ZERO}
    roles = {"last.weight": hpt.Role("hidden", 16, 5, 16, 5), "hidden.weight": hpt.Role("readout", 16, 16, 16, 16)}
    plan = hpt.make_plan(seeded(MLP, 16), **given, roles=roles)
    assert {row.name for row in plan if row.init_mult == 0} == {"hidden.weight"}


class Towers(nn.Module):
    """Two towers and the products of what they make, as in contrastive learning. normed: by their own norms."""

    def __init__(self, width: int, *, normed: bool = False) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(8, width), nn.Linear(width, 4), nn.Linear(width, 4)
        self.normed = normed

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(torch.relu(self.first(x))), self.right(torch.tanh(self.first(x)))
        if self.normed:
            left, right = (side / side.norm(dim=-1, keepdim=True) for side in (left, right))
        return left @ right.T


@pytest.mark.parametrize("width", [16, 32])
def test_readouts_that_could_not_learn_from_zero_are_refused_and_one_of_them_may_be_called_hidden(width: int) -> None:
    given = {"example_inputs": (batches("mlp", 1)[0][0],), "options": ZERO}
    with pytest.raises(hpt.UsageError, match=r"'left\.weight', 'right\.weight' .* multiplies zeros with each other"):
        hpt.make_plan(seeded(Towers, width), base=seeded(Towers, 16), **given)
    with pytest.raises(hpt.UsageError, match=r"'left\.weight', 'right\.weight' .* divides zeros by their own norm"):
        hpt.make_plan(seeded(Towers, width, normed=True), base=seeded(Towers, 16, normed=True), **given)
    roles = {"left.weight": hpt.Role("hidden", width, 4, 16, 4)}
    plan = hpt.make_plan(seeded(Towers, width), base=seeded(Towers, 16), **given, roles=roles)
    assert {row.name for row in plan if row.init_mult == 0} == {"right.weight"}
