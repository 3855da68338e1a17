"""mup 1.0.0 as the parity oracle: its base shapes are read and written, its rules are a plan, and ours agree."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.parametrization.interop.mup import (
    compare_plans,
    mup_plan,
    read_base_shapes,
    write_base_shapes,
)

mup = pytest.importorskip("mup", reason="mup is not installed (pip install --no-deps mup)")

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X[:, :4].sin()


class Net(nn.Module):
    """readout: mup.MuReadout or nn.Linear, on the same weights."""

    def __init__(self, width: int, readout: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.inp, self.hidden = nn.Linear(16, width), nn.Linear(width, width)
        self.norm, self.out = nn.LayerNorm(width), readout(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.norm(self.hidden(torch.relu(self.inp(x))))))


def pair(width: int = 64) -> tuple[nn.Module, nn.Module]:
    """(mup's model, a plain model with the same values)."""
    torch.manual_seed(0)
    model = Net(width, mup.MuReadout).double()
    mup.set_base_shapes(model, Net(16, mup.MuReadout))
    plain = Net(width).double()
    plain.load_state_dict(model.state_dict())
    return model, plain


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: int = 15) -> Tensor:
    losses = []
    for _ in range(steps):
        loss = (model(X) - Y).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("theirs", "cls", "options"),
    [
        ("MuAdam", torch.optim.Adam, {"lr": 1e-2}),
        ("MuAdamW", torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
        ("MuSGD", torch.optim.SGD, {"lr": 1e-1, "momentum": 0.9, "weight_decay": 0.1}),
    ],
)
def test_mups_rules_as_a_plan_train_a_plain_model_alike(theirs, cls, options):
    model, plain = pair()
    plan = mup_plan(model, optimizer=cls).absorb()
    reference = train(model, getattr(mup, theirs)(model.parameters(), **options))
    hpt.parametrize_(plain, plan)
    rest = {k: v for k, v in options.items() if k not in {"lr", "weight_decay"}}
    wd = options.get("weight_decay", 0.0)
    own = train(plain, cls(hpt.param_groups(plain, plan, lr=options["lr"], weight_decay=wd), lr=options["lr"], **rest))
    torch.testing.assert_close(own, reference, rtol=1e-9, atol=0)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.SGD])
def test_our_plan_is_mups_but_for_eps_and_l2(cls):
    """From the trace, without MuReadout: the same init and learning rates; eps and L2 decay follow the gradient."""
    model, plain = pair()
    ours = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,), optimizer=cls)
    assert compare_plans(mup_plan(model, optimizer=cls), ours, fields=("init_mult", "lr_mult")) == []
    others = compare_plans(mup_plan(model, optimizer=cls), ours)
    assert {d.field for d in others} == ({"eps_mult", "wd_mult"} if cls is torch.optim.Adam else set())
    assert "hidden.weight: eps_mult 1 against 0.25" in {str(d) for d in others} or cls is torch.optim.SGD


def test_a_model_with_mureadout_is_planned_too():
    """Ours on mup's own model: the readout's division by width_mult is found in the graph and taken into account."""
    model, plain = pair()
    base = Net(16, mup.MuReadout).double()
    mup.set_base_shapes(base, None)
    plan = hpt.make_plan(model, base=base, example_inputs=(X,))
    other = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,))
    # the forward already divides by 4: nothing is left for the readout's weight to hold
    assert plan["out.weight"].lr_mult == pytest.approx(4 * other["out.weight"].lr_mult)
    assert plan["hidden.weight"].lr_mult == other["hidden.weight"].lr_mult


def test_base_shapes_stand_in_for_a_base_model(tmp_path):
    model, plain = pair()
    mup.save_base_shapes(model, str(tmp_path / "theirs.bsh"))
    for shapes in (read_base_shapes(model), read_base_shapes(tmp_path / "theirs.bsh")):
        assert shapes["hidden.weight"] == (16, 16) and shapes["inp.weight"] == (16, None)
        plan = hpt.make_plan(plain, base=shapes, example_inputs=(X,))
        full = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,))
        assert compare_plans(plan, full) == []
        assert "known by its shapes alone" in plan.notes[-1]
        with pytest.raises(hpt.UsageError, match="no initial std"):
            hpt.parametrize_(copy.deepcopy(plain), plan)
    with pytest.raises(hpt.UsageError, match="'out' divides by mup's width_mult"):
        hpt.make_plan(model, base=read_base_shapes(model), example_inputs=(X,))


def test_our_base_shapes_are_mups(tmp_path):
    model, plain = pair()
    plan = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,))
    write_base_shapes(plan, tmp_path / "ours.bsh")
    mup.save_base_shapes(model, str(tmp_path / "theirs.bsh"))
    assert read_base_shapes(tmp_path / "ours.bsh") == read_base_shapes(tmp_path / "theirs.bsh")
    again = Net(64, mup.MuReadout).double()
    mup.set_base_shapes(again, str(tmp_path / "ours.bsh"))
    assert all(p.infshape == q.infshape for p, q in zip(again.parameters(), model.parameters(), strict=True))


def test_wrapped_names_lose_their_prefix_and_nothing_else(tmp_path):
    """mup strips the characters of 'module.' from both ends: 'module.model.out' becomes 'odel.out' minus more."""
    (tmp_path / "x.bsh").write_text("module.model.lm: [16, null]\nmodule.out.mod: [null]\n")
    assert read_base_shapes(tmp_path / "x.bsh") == {"model.lm": (16, None), "out.mod": (None,)}


def test_what_cannot_be_read_is_said(tmp_path):
    _, plain = pair()
    with pytest.raises(hpt.UsageError, match=r"carries no mup base shape.*set_base_shapes.*lost on deepcopy"):
        read_base_shapes(plain)
    with pytest.raises(hpt.UsageError, match="cannot be read as base shapes"):
        read_base_shapes(tmp_path / "missing.bsh")
    (tmp_path / "bad.bsh").write_text("- 1\n- 2\n")
    with pytest.raises(hpt.UsageError, match="cannot be read as base shapes"):
        read_base_shapes(tmp_path / "bad.bsh")
    same = hpt.make_plan(Net(16).double(), base=Net(16).double(), example_inputs=(X,))
    with pytest.raises(hpt.UsageError, match="the base's own size"):
        write_base_shapes(same, tmp_path / "x.bsh")
    with pytest.raises(hpt.UsageError, match=r"lack \['inp.weight'.*unknown \['a'\]"):
        hpt.make_plan(plain, base={"a": (1,)}, example_inputs=(X,))
    with pytest.raises(hpt.UsageError, match="mup has no rule for Muon"):
        mup_plan(pair()[0], optimizer=torch.optim.Muon)


def test_a_shared_readout_becomes_a_hook():
    class Tied(nn.Module):
        def __init__(self, width: int, theirs: bool = True) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, width)
            if theirs:
                self.out = mup.MuSharedReadout(self.embed.weight, bias=False)
            else:
                self.out = nn.Linear(width, 11, bias=False)
                self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(torch.tanh(self.embed(tokens)))

    torch.manual_seed(0)
    tokens, model, plain = torch.arange(11), Tied(64).double(), Tied(64, False).double()
    mup.set_base_shapes(model, Tied(16), rescale_params=False)
    plain.load_state_dict(model.state_dict())
    plan = mup_plan(model)
    hpt.parametrize_(plain, plan)
    torch.testing.assert_close(plain(tokens), model(tokens))


def test_roles_and_fans_are_the_trace_s():
    """mup's metadata (ninf, main_idx, base sizes) say of every parameter what our trace of the plain twin says."""
    model, plain = pair()
    ours = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,))
    for row in mup_plan(model):
        own = ours[row.name]
        assert (row.role, row.m_in, row.m_out) == (own.role, own.m_in, own.m_out), row.name
        assert (row.shape, row.base_shape, row.fan_in, row.fan_out) == (
            own.shape,
            own.base_shape,
            own.fan_in,
            own.fan_out,
        )


def test_plans_that_differ_by_rounding_do_not_differ():
    _, plain = pair()
    plan = hpt.make_plan(plain, base=Net(16).double(), example_inputs=(X,))

    def scaled(factor: float) -> hpt.Plan:
        row = plan["hidden.weight"]
        return dataclasses.replace(
            plan, rows={**plan.rows, row.name: dataclasses.replace(row, lr_mult=row.lr_mult * factor)}
        )

    assert compare_plans(plan, scaled(1 + 1e-10)) == []
    (difference,) = compare_plans(plan, scaled(1 + 1e-8), fields=("lr_mult",))
    assert (difference.name, difference.field) == ("hidden.weight", "lr_mult")
    with pytest.raises(hpt.UsageError, match=r"differ in parameters: \['inp.bias'\]"):
        compare_plans(plan, dataclasses.replace(plan, rows={k: v for k, v in plan.rows.items() if k != "inp.bias"}))
