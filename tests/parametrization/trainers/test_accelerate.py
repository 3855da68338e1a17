"""Accelerate: prepare wraps model, optimizer and scheduler; names are found behind it, groups stay the plan's."""

import copy

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers
from tests.support.docs_blocks import run_block

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (pip install accelerate)")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].sin()


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(torch.relu(self.inp(x)))))


@pytest.fixture
def planned() -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    model = Net(64)
    return model, hpt.make_plan(model, base=Net(16), example_inputs=(X,))


def train(accelerator, model, opt, schedule, steps: int = 4) -> list[float]:
    losses = []
    for _ in range(steps):
        with accelerator.accumulate(model):
            loss = (model(X) - Y).square().mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("prepared_first", [False, True])
def test_prepared_training_is_plain_training(planned, prepared_first):
    model, plan = planned
    losses = []
    for prepare in (False, True):
        own = copy.deepcopy(model)
        accelerator = accelerate.Accelerator(cpu=True)
        if prepare and prepared_first:
            own = accelerator.prepare(own)
        hpt.parametrize_(own, plan)
        opt = build_optimizers(own, plan, {torch.optim.AdamW: {"lr": 1e-2}})
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t))
        if prepare:
            own, opt, schedule = accelerator.prepare(own, opt, schedule)
        losses.append(train(accelerator, own, opt, schedule))
        groups = opt.param_groups
        base = groups[0]["lr"] / groups[0]["lr_mult"]
        assert [g["lr"] / base for g in groups] == pytest.approx([g["lr_mult"] for g in groups])
    assert losses[1] == pytest.approx(losses[0])


def test_accelerates_checkpoints_verify_the_plan(planned, tmp_path):
    model, plan = planned
    accelerator = accelerate.Accelerator(cpu=True)

    def ready(made: hpt.Plan):
        own = copy.deepcopy(model)
        hpt.parametrize_(own, made)
        return accelerator.prepare(own, build_optimizers(own, made, {torch.optim.AdamW: {"lr": 1e-2}}))

    own, opt = ready(plan)
    schedule = torch.optim.lr_scheduler.ConstantLR(opt, 1.0)
    train(accelerator, own, opt, schedule, 2)
    accelerator.save_state(str(tmp_path / "s"))
    through = train(accelerator, own, opt, schedule, 2)
    accelerator.load_state(str(tmp_path / "s"))
    assert train(accelerator, own, opt, schedule, 2) == through
    accelerator.free_memory()
    other = hpt.make_plan(model, base=Net(16), example_inputs=(X,), scheme="ntp")
    ready(other)
    with pytest.raises(hpt.UsageError, match=f"under plan {plan.fingerprint}"):
        accelerator.load_state(str(tmp_path / "s"))


def test_names_are_found_behind_wrappers(planned):
    """DDP's module. and torch.compile's _orig_mod., nested either way: prefixes are removed, letters are not."""
    model, plan = planned

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    for wrapped in (Wrapped(model), torch.compile(model), Wrapped(torch.compile(model)), torch.compile(Wrapped(model))):
        names = {n for g in hpt.param_groups(wrapped, plan, lr=1.0) for n in g["hpt_names"]}
        assert names == set(plan.rows)


def test_the_mixed_pair_is_prepared_as_one(planned):
    model, _ = planned
    plan = hpt.make_plan(
        model, base=Net(16), example_inputs=(X,), optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
    )
    hpt.parametrize_(model, plan)
    opt = build_optimizers(model, plan, {torch.optim.Muon: {"lr": 0.02}, torch.optim.AdamW: {"lr": 1e-2}})
    accelerator = accelerate.Accelerator(cpu=True)
    model, opt = accelerator.prepare(model, opt)
    losses = train(accelerator, model, opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1.0), 8)
    assert losses[-1] < losses[0]


def test_the_documented_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block("howto/accelerate.md", "accelerate")
