"""torch.optim.Muon: its own shape factors are divided out, so the layer changes equally at every width."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.parametrization.apply.optimizers import build_optimizers

WIDTHS = (32, 64, 128, 256)
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Stack(nn.Module):
    """16 -> width, then a square, a widening and a narrowing matrix (4x), -> 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.square = nn.Linear(16, width), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.out = nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        h = h + self.square(h)
        return self.out(h + self.down(torch.relu(self.up(h))))


@pytest.mark.parametrize("factor", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256), (7, 1000)])
def test_the_library_s_own_factor_is_the_library_s(factor, shape):
    library = pytest.importorskip("torch.optim._muon", reason="torch.optim.Muon came with torch 2.9")
    info = OptimizerInfo.of(torch.optim.Muon, {"adjust_lr_fn": factor})
    assert info.own_factor(shape) == pytest.approx(library._adjust_lr(1.0, factor, torch.Size(shape)))


@pytest.mark.parametrize("factor", ["original", "match_rms_adamw"])
def test_the_update_has_the_spectral_norm_of_the_rule_at_every_width(factor):
    """|dW|_2 ~ sqrt(fan_out / fan_in) (2310.17813, Condition 1), up to Newton-Schulz's own .5 to 1.5."""
    norms: dict[str, list[float]] = {}
    for width in WIDTHS:
        model, base = Stack(width), Stack(32)
        plan = mixed(model, base, factor)
        hpt.parametrize_(model, plan)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        opt = build_optimizers(
            model,
            plan,
            {
                torch.optim.Muon: {"lr": 0.02, "adjust_lr_fn": factor, "weight_decay": 0.0},
                torch.optim.AdamW: {"lr": 1e-3},
            },
        )
        model(X).square().mean().backward()
        opt.step()
        for name in ("square.weight", "up.weight", "down.weight"):
            step = model.get_parameter(name).detach() - before[name]
            norms.setdefault(name, []).append(float(torch.linalg.matrix_norm(step, 2)))
    base_factor = {"original": (1, 2, 1), "match_rms_adamw": (0.2 * 32**0.5, 0.2 * 128**0.5, 0.2 * 128**0.5)}[factor]
    for (name, found), own in zip(norms.items(), base_factor, strict=True):
        # constant over widths: the ratio fan_out/fan_in of each is, and the base keeps its library's factor
        assert np.array(found) / 0.02 == pytest.approx(np.full(4, own), rel=0.3), name


def mixed(model: nn.Module, base: nn.Module, factor: str | None = None) -> hpt.Plan:
    return hpt.make_plan(
        model,
        base=base,
        example_inputs=(X,),
        optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW},
        optimizer_options={"hidden": {"adjust_lr_fn": factor}, "rest": {"betas": (0.9, 0.95)}},
    )


SETTINGS = {
    torch.optim.Muon: {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    torch.optim.AdamW: {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.0},
}


@pytest.fixture
def pair() -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    model, base = Stack(64), Stack(32)
    plan = mixed(model, base)
    hpt.parametrize_(model, plan)
    return model, plan


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: int, schedulers=()) -> float:
    for _ in range(steps):
        loss = (model(X) - 1).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        for scheduler in schedulers:
            scheduler.step()
    return float((model(X) - 1).square().mean().detach())


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw(pair):
    model, plan = pair
    opt = build_optimizers(model, plan, SETTINGS)
    owner = {n: type(o).__name__ for o in opt.inner for g in o.param_groups for n in g["hpt_names"]}
    muon = {"square.weight", "up.weight", "down.weight"}
    assert owner == {n: "Muon" if n in muon else "AdamW" for n, _ in model.named_parameters()}
    start = train(model, opt, 0)
    assert train(model, opt, 20) < 0.2 * start


def test_one_scheduler_drives_both_or_each_has_its_own(pair):
    model, plan = pair
    opt = build_optimizers(model, plan, SETTINGS)
    before = [g["lr"] for g in opt.param_groups]
    train(model, opt, 1, [torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)])
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([lr / 2 for lr in before])
    again = build_optimizers(model, plan, SETTINGS)
    train(model, again, 2, [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)) for o in again.inner])
    assert [g["lr"] for g in again.param_groups] == pytest.approx([lr / 3 for lr in before])


def test_the_pair_resumes_from_its_state(pair, tmp_path):
    model, plan = pair
    opt = build_optimizers(model, plan, SETTINGS)
    train(model, opt, 3)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "x.pt")
    through = train(model, opt, 3)
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    twin = Stack(64)
    twin.load_state_dict(saved["model"])
    resumed = build_optimizers(twin, plan, SETTINGS)
    resumed.load_state_dict(saved["optimizer"])
    assert train(twin, resumed, 3) == through
    with pytest.raises(hpt.UsageError, match="the optimizers are Muon, AdamW"):
        resumed.load_state_dict(saved["optimizer"]["Muon"])


def test_closures_gradscaler_and_clipping_see_one_optimizer(pair):
    model, plan = pair
    opt = build_optimizers(model, plan, SETTINGS)
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        opt.zero_grad()
        loss = (model(X) - 1).square().mean()
        loss.backward()
        return loss

    first = opt.step(closure).detach()
    assert len(calls) == 1 and opt.step(closure).detach() < first
    assert len(opt.state) == len(list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    opt.zero_grad()
    scaler.scale((model(X) - 1).square().mean()).backward()
    scaler.unscale_(opt)
    before = model.square.weight.detach().clone()
    model.square.weight.grad.fill_(float("nan"))
    scaler.step(opt)
    scaler.update()
    assert torch.equal(model.square.weight, before) or scaler.get_scale() == 4.0
    with pytest.raises(hpt.UsageError, match="inner"):
        opt.add_param_group({"params": []})
    with pytest.raises(hpt.UsageError, match="two base rates"):
        hpt.set_lr(opt, 1.0)


def test_muon_alone_names_the_parameter_it_cannot_take(pair):
    model, _ = pair
    plan = hpt.make_plan(model, base=Stack(32), example_inputs=(X,), optimizer=torch.optim.Muon)
    with pytest.raises(hpt.UsageError, match=r"2-D parameters only, but 'inp.bias' has shape \(64,\)"):
        hpt.param_groups(model, plan, lr=0.02)


def test_options_that_change_muons_rule_must_be_the_plans(pair):
    model, plan = pair
    changed = {**SETTINGS, torch.optim.Muon: {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"}}
    with pytest.raises(hpt.UsageError, match="change its rules"):
        build_optimizers(model, plan, changed)
