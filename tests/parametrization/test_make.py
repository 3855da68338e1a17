"""make_plan: its arguments, their errors, and the choices that it offers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.roles import Role
from tests.cases.models import MLP, Shape, Transformer, batches, seeded

X = batches("mlp", 1)[0][0]


def plan_of(width: int = 32, base: int = 8, **options) -> hpt.Plan:
    return hpt.make_plan(seeded(MLP, width), base=seeded(MLP, base), example_inputs=(X,), **options)


@pytest.mark.parametrize(
    ("optimizer", "lr", "wd"),
    [
        # decoupled or in a gradient step lr wd is kept; L2 inside Adam is compared with the gradient: wd ~ grad/weight
        (torch.optim.AdamW, 1 / 4, 4.0),
        (torch.optim.Adam, 1 / 4, (1 / 4) / (1 / 2)),
        (torch.optim.SGD, 1.0, 1.0),
    ],
)
def test_a_hidden_matrix_under_each_optimizer(optimizer, lr: float, wd: float) -> None:
    row = plan_of(optimizer=optimizer)["hidden.weight"]
    assert (row.init_mult, row.lr_mult, row.wd_mult) == pytest.approx((1 / 2, lr, wd))
    assert (row.role, row.fan_in, row.fan_out, row.m_in, row.m_out) == ("hidden", 32, 32, 4, 4)


def test_a_smaller_target_than_the_base_is_the_inverse() -> None:
    up, down = plan_of(32, 8), plan_of(8, 32)
    for name, row in up.rows.items():
        twin = down[name]
        for field in ("init_mult", "lr_mult", "wd_mult", "eps_mult"):
            assert getattr(row, field) * getattr(twin, field) == pytest.approx(1.0)


def test_multipliers_compose_over_sizes() -> None:
    """8 -> 16 -> 64 is 8 -> 64: the base is a unit of measurement, not a choice that matters."""
    a, b, both = plan_of(16, 8), plan_of(64, 16), plan_of(64, 8)
    for name, row in both.rows.items():
        for field in ("init_mult", "lr_mult", "wd_mult", "eps_mult"):
            assert getattr(row, field) == pytest.approx(getattr(a[name], field) * getattr(b[name], field))


def test_named_choices() -> None:
    assert {row.eps_mult for row in plan_of(options=hpt.Options(eps="fixed"))} == {1.0}
    assert {row.wd_mult for row in plan_of(options=hpt.Options(weight_decay="coupled"))} == {1.0}
    with pytest.raises(hpt.UsageError, match=r"Options\(eps='none'\): use one of \('scaled', 'fixed'\)"):
        hpt.Options(eps="none")  # type: ignore[arg-type]
    with pytest.raises(hpt.UsageError, match="Scheme 'mupp' is unknown; use one of"):
        plan_of(scheme="mupp")


def test_tuned_factors_and_annotated_roles_match_by_glob() -> None:
    plan = plan_of(tuned={"last.*": hpt.Tuned(lr=2.0, init=0.5)}, roles={"hid*.weight": Role("vector", 1, 32, 1, 8)})
    assert plan["last.weight"].lr_mult == pytest.approx(2 / 4) and plan["last.weight"].init_mult == pytest.approx(1 / 8)
    assert plan["hidden.weight"].role == "vector" and plan["hidden.weight"].lr_mult == 1.0


def test_keyword_inputs_and_inputs_of_the_base_s_own() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a = nn.Linear(width, width)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.a(x)

    given = {"example_inputs": {"x": torch.randn(2, 32)}, "base_example_inputs": {"x": torch.randn(2, 8)}}
    assert hpt.make_plan(Net(32), base=Net(8), **given)["a.weight"].lr_mult == 0.25


def test_two_optimizers_split_hidden_matrices_from_the_rest_at_every_size() -> None:
    chosen = {"optimizer": {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}}
    for width in (8, 32):
        plan = plan_of(width, **chosen)
        assert {row.name for row in plan if row.optimizer == "Muon"} == {"hidden.weight"}
    model, base = seeded(Transformer, Shape(16)), seeded(Transformer, Shape(16))
    plan = hpt.make_plan(model, base=base, example_inputs=(batches("transformer", 1)[0][0],), **chosen)
    muon = {row.name.removeprefix("blocks.0.") for row in plan if row.optimizer == "Muon"}
    assert muon == {*(f"attention.{part}.weight" for part in ("q", "k", "v", "out")), "up.weight", "down.weight"}
    with pytest.raises(hpt.UsageError, match="give the two keys 'hidden'"):
        plan_of(optimizer={"matrices": torch.optim.Muon})


def test_models_that_do_not_correspond() -> None:
    with pytest.raises(hpt.UsageError, match=r"'first.weight' of the model has no counterpart"):
        hpt.make_plan(seeded(MLP, 32), base=nn.Linear(8, 8).double(), example_inputs=(X,))

    class Flat(MLP):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            if width == 8:
                self.hidden.weight = nn.Parameter(torch.randn(64))

        def forward(self, x: Tensor) -> Tensor:
            if self.hidden.weight.dim() == 1:
                return self.last(self.first(x) @ self.hidden.weight.view(8, 8).T + self.hidden.bias)
            return super().forward(x)

    with pytest.raises(hpt.UsageError, match=r"'hidden.weight' has shape \(32, 32\), but .* of the base has \(64,\)"):
        hpt.make_plan(seeded(Flat, 32), base=seeded(Flat, 8), example_inputs=(X,))


def test_a_plan_made_under_no_grad_and_in_eval_mode_is_the_same() -> None:
    plan = plan_of()
    with torch.no_grad():
        assert plan_of() == plan
    evaluated = hpt.make_plan(seeded(MLP, 32).eval(), base=seeded(MLP, 8).eval(), example_inputs=(X,))
    assert evaluated == plan


def test_neither_model_is_touched() -> None:
    model, base = seeded(MLP, 32), seeded(MLP, 8)
    before = [p.detach().clone() for m in (model, base) for p in m.parameters()]
    hpt.make_plan(model, base=base, example_inputs=(X,))
    after = [p for m in (model, base) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
