"""Weight decay by what each optimizer does with it: one step without a gradient shrinks every weight as the base's."""

from __future__ import annotations

import pytest
import torch

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo
from tests.cases.models import MLP, batches, seeded

LR, WD, BASE, WIDE = 0.01, 0.1, 8, 64


class AdEMAMix(torch.optim.Optimizer):
    """Pagliardini et al. 2024, 2409.03137, Algorithm 1 without warm-ups: a second, slow momentum, decoupled decay."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=5.0, eps=1e-8, weight_decay=0.0) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, alpha=alpha, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            b1, b2, b3 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                state["step"] = t = state.get("step", 0) + 1
                fast, slow, square = (state.setdefault(k, torch.zeros_like(p)) for k in ("fast", "slow", "square"))
                fast.lerp_(p.grad, 1 - b1)
                slow.lerp_(p.grad, 1 - b3)
                square.lerp_(p.grad**2, 1 - b2)
                root = (square / (1 - b2**t)).sqrt() + group["eps"]
                update = (fast / (1 - b1**t) + group["alpha"] * slow) / root
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))


hpt.register_optimizer(AdEMAMix, like="AdEMAMix")


def shrinkage(cls, width: int, **options) -> dict[str, float]:
    """Parameter -> 1 - |after| / |before| of one step at zero gradient, under the plan for this width."""
    model, x = seeded(MLP, width), batches("mlp", 1)[0][0]
    plan = hpt.make_plan(model, base=seeded(MLP, BASE), example_inputs=(x,), optimizer=cls, optimizer_options=options)
    hpt.parametrize_(model, plan)
    optimizer = hpt.build_optimizers(model, plan, {cls: {"lr": LR, "weight_decay": WD, **options}})
    before = {name: p.detach().double().norm() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    after = {name: p.detach().double().norm() for name, p in model.named_parameters()}
    return {name: float(1 - after[name] / before[name]) for name in before if before[name] > 0}


def test_ademamix_shrinks_every_weight_by_lr_wd_at_every_width() -> None:
    """Its decay stands beside the step (2409.03137, Algorithm 1), so lr wd is kept by wd ~ 1/lr, as for AdamW."""
    info = OptimizerInfo.of(AdEMAMix)
    assert info.geometry == "sign" and info.decoupled and not info.l2_in_step
    for width in (BASE, WIDE):
        found = shrinkage(AdEMAMix, width)
        assert found == pytest.approx(dict.fromkeys(found, LR * WD), rel=1e-4)


def adafactor():
    return pytest.importorskip("transformers.optimization", reason="transformers is not installed").Adafactor


def test_adafactor_without_scaled_parameters_decays_by_lr_wd() -> None:
    """transformers' Adafactor multiplies decay by its step: lr, whatever the weight, with scale_parameter=False."""
    options = {"relative_step": False, "scale_parameter": False}
    assert not OptimizerInfo.of(adafactor(), options).decay_in_step
    for width in (BASE, WIDE):
        found = shrinkage(adafactor(), width, **options)
        assert found == pytest.approx(dict.fromkeys(found, LR * WD), rel=1e-4)


def test_adafactor_with_scaled_parameters_decays_by_the_base_weight_s_rms() -> None:
    """With scale_parameter=True the step, hence the decay, is lr rms(W): kept as at the base."""
    base, wide = (shrinkage(adafactor(), width, relative_step=False) for width in (BASE, WIDE))
    rms = {n: float(p.detach().square().mean().sqrt()) for n, p in seeded(MLP, BASE).named_parameters() if p.dim() == 2}
    assert {name: base[name] for name in rms} == pytest.approx({n: LR * WD * r for n, r in rms.items()}, rel=1e-3)
    # the base's matrices have 40 to 64 uniform entries: their rms is known to 7%, here four times that
    assert {name: wide[name] for name in rms} == pytest.approx({name: base[name] for name in rms}, rel=0.28)
