"""Checkpoints carry the plan: they resume bit for bit under it, and any other plan, or none, is an error."""

import copy
import pickle
import random

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils.checkpoint import checkpoint

import hptransfer as hpt
from hptransfer.parametrization.apply.checkpoint import attach, plan_of, plan_state
from hptransfer.parametrization.apply.optimizers import build_optimizers

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, width: int, recompute: bool = False) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.recompute = recompute

    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.hidden(torch.relu(self.inp(x))))

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.body, x, use_reentrant=False) if self.recompute else self.body(x)
        return self.out(h)


def planned(model: nn.Module, base_width: int = 16, **options) -> hpt.Plan:
    torch.manual_seed(7)
    return hpt.make_plan(model, base=Net(base_width), example_inputs=(X,), **options)


def steps(model: nn.Module, opt: torch.optim.Optimizer, count: int) -> float:
    for _ in range(count):
        opt.zero_grad()
        model(X).square().mean().backward()
        opt.step()
    return float(model(X).detach().square().mean())


@pytest.fixture
def trained() -> tuple[nn.Module, hpt.Plan, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net(64)
    plan = planned(model)
    hpt.parametrize_(model, plan)
    opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    steps(model, opt, 3)
    return model, plan, opt


def test_resuming_continues_bit_for_bit(trained, tmp_path):
    model, plan, opt = trained
    torch.save({"model": model.state_dict(), "opt": opt.state_dict(), **plan_state(plan)}, tmp_path / "c.pt")
    through = steps(model, opt, 3)
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    again = Net(64)
    again.load_state_dict(saved["model"])
    stored = plan_of(saved)
    resumed = build_optimizers(again, stored, {torch.optim.AdamW: {"lr": 1e-2}})
    resumed.load_state_dict(saved["opt"])
    assert steps(again, resumed, 3) == through
    assert stored == plan


def test_a_plan_made_again_from_another_seed_of_the_base_is_the_same_plan(trained):
    model, plan, _ = trained
    torch.manual_seed(random.randrange(2**31))
    again = hpt.make_plan(model, base=Net(16), example_inputs=(X,))
    assert again != plan and again.fingerprint == plan.fingerprint  # measured stds differ, nothing that training reads


@pytest.mark.parametrize("change", [{"scheme": "ntp"}, {"base_width": 32}, {"optimizer": torch.optim.Adam}])
def test_loading_under_another_plan_names_both(trained, change):
    model, plan, opt = trained
    other = planned(model, **change)
    cls = change.get("optimizer", torch.optim.AdamW)
    mine = build_optimizers(model, other, {cls: {"lr": 1e-2, "weight_decay": 0.0}})
    with pytest.raises(
        hpt.UsageError, match=f"under plan {plan.fingerprint}, but the plan in hand is {other.fingerprint}"
    ):
        mine.load_state_dict(opt.state_dict())
    with pytest.raises(hpt.UsageError, match=f"{plan.fingerprint}.*{other.fingerprint}"):
        plan_of(plan_state(plan), expected=other)


def test_a_checkpoint_without_a_plan_is_an_error(trained):
    _, plan, opt = trained
    plain = torch.optim.AdamW([{"params": g["params"]} for g in opt.param_groups], lr=1e-2)
    with pytest.raises(hpt.UsageError, match=f"no plan fingerprint.*{plan.fingerprint}.*set 'hpt_plan'"):
        opt.load_state_dict(plain.state_dict())
    with pytest.raises(hpt.UsageError, match="carries no plan fingerprint"):
        attach(plan, plain)
    with pytest.raises(hpt.UsageError, match=r"holds no plan \(its keys: model\)"):
        plan_of({"model": {}})
    with pytest.raises(hpt.UsageError, match="Not a plan: Expecting property name"):
        plan_of({"hptransfer_plan": "{"})


@pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.9's own
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_carry_it_too(trained, tmp_path, flat):
    model, plan, opt = trained
    options = dcp.state_dict.StateDictOptions(flatten_optimizer_state_dict=flat)
    dcp.save({"opt": get_optimizer_state_dict(model, opt, options=options)}, checkpoint_id=tmp_path)
    through = [copy.deepcopy(model).state_dict(), steps(model, opt, 2)]
    again = Net(64)
    again.load_state_dict(through[0])
    resumed = build_optimizers(again, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    state = {"opt": get_optimizer_state_dict(again, resumed, options=options)}
    dcp.load(state, checkpoint_id=tmp_path)
    set_optimizer_state_dict(again, resumed, state["opt"], options=options)
    assert steps(again, resumed, 2) == through[1]
    other = planned(again, scheme="ntp")
    mine = build_optimizers(again, other, {torch.optim.AdamW: {"lr": 1e-2}})
    state = {"opt": get_optimizer_state_dict(again, mine, options=options)}
    dcp.load(state, checkpoint_id=tmp_path)
    with pytest.raises(hpt.UsageError, match="going on would change learning rates silently"):
        set_optimizer_state_dict(again, mine, state["opt"], options=options)


def test_activation_checkpointing_is_the_same_function():
    losses = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Net(64, recompute)
        plan = planned(model)
        hpt.parametrize_(model, plan)
        losses.append(steps(model, build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-2}}), 4))
        fingerprint = plan.fingerprint
    assert losses[0] == losses[1]
    assert fingerprint == planned(Net(64)).fingerprint  # the trace looks into the recomputed region


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_model_train_alike(trained, copied):
    model, plan, _ = trained
    twin = copied(model)
    losses = [steps(m, build_optimizers(m, plan, {torch.optim.AdamW: {"lr": 1e-2}}), 3) for m in (model, twin)]
    assert losses[0] == losses[1]


def test_assign_keeps_the_plan(trained):
    model, plan, _ = trained
    with torch.device("meta"):
        twin = Net(64)
    twin.load_state_dict(model.state_dict(), assign=True)
    losses = [
        steps(m, build_optimizers(m, plan, {torch.optim.AdamW: {"lr": 1e-2}}), 3) for m in (copy.deepcopy(model), twin)
    ]
    assert losses[0] == losses[1]


def test_meta_then_to_empty_then_init():
    """A plan made on meta, applied after the weights are materialised, is the plan of the real model."""
    torch.manual_seed(0)
    real = Net(64)
    with torch.device("meta"):
        model = Net(64)
    plan = planned(model)
    assert plan.fingerprint == planned(real).fingerprint
    with pytest.raises(hpt.UsageError, match="to_empty, then its own init"):
        hpt.parametrize_(model, plan)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    hpt.parametrize_(model, plan)
    hpt.parametrize_(real, plan)
    for name, value in real.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
