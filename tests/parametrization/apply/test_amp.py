"""Mixed precision: the plan is the same, and training under autocast, a scaler or in bfloat16 follows float32."""

import copy

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].sin()


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.hidden(torch.relu(self.inp(x))))))


@pytest.fixture
def pair() -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    model = Net(64)
    plan = hpt.make_plan(model, base=Net(16), example_inputs=(X,))
    hpt.parametrize_(model, plan)
    return model, plan


def run(model: nn.Module, plan: hpt.Plan, *, autocast: bool = False, scaler=None, steps: int = 20) -> list[float]:
    opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (model(X.to(model.out.weight.dtype)).float() - Y).square().mean()
        opt.zero_grad()
        if scaler is None:
            loss.backward()
            opt.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        losses.append(float(loss.detach()))
    return losses


def test_the_plan_does_not_depend_on_precision(pair):
    model, plan = pair
    torch.manual_seed(1)
    base = Net(16)
    with torch.autocast("cpu", torch.bfloat16):
        assert hpt.make_plan(model, base=base, example_inputs=(X,)).fingerprint == plan.fingerprint
    half = copy.deepcopy(model).bfloat16()
    assert hpt.make_plan(half, base=base.bfloat16(), example_inputs=(X.bfloat16(),)).fingerprint == plan.fingerprint


def test_autocast_training_follows_float32(pair):
    model, plan = pair
    plain = run(copy.deepcopy(model), plan)
    mixed = run(model, plan, autocast=True)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    # bfloat16 has 8 bits: activations are good to 2^-8, the loss after 20 steps to a few of these
    assert mixed == pytest.approx(plain, rel=0.1)
    assert mixed[-1] < 0.3 * mixed[0]


def test_a_scaler_changes_nothing_but_skips_bad_steps(pair):
    model, plan = pair
    plain = run(copy.deepcopy(model), plan)
    scaled = run(copy.deepcopy(model), plan, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    assert scaled == pytest.approx(plain, rel=1e-5)  # a power of two: exact up to the order of sums
    before = copy.deepcopy(model.state_dict())
    opt = build_optimizers(model, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(model(X).square().mean() * float("inf")).backward()
    scaler.step(opt)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def test_a_bfloat16_model_gets_the_same_scales(pair):
    _, plan = pair
    torch.manual_seed(0)
    model = Net(64).bfloat16()
    before = {n: p.detach().float().clone() for n, p in model.named_parameters()}
    hpt.parametrize_(model, plan)
    for name, p in model.named_parameters():
        expected = before[name] * plan[name].init_mult / (plan[name].m_in ** -0.5 if p.dim() > 1 else 1)
        if p.dim() > 1:
            torch.testing.assert_close(p.detach().float(), expected, rtol=2**-7, atol=0)
    losses = run(model, plan)
    assert losses[-1] < 0.5 * losses[0]
