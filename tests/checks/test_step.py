"""audit_step: a real step moves every weight as its plan implies; what stands between plan and weights is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.checks.step import StepAudit

optim = torch.optim
PAIR = {"hidden": optim.Muon, "rest": optim.AdamW}
SETTINGS = {optim.Muon: {"lr": 0.02, "weight_decay": 0.1}, optim.AdamW: {"lr": 3e-3, "weight_decay": 0.1}}
X, Y = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.up = nn.Linear(16, width), nn.Linear(width, 4 * width, bias=False)
        self.down, self.norm = nn.Linear(4 * width, width, bias=False), nn.LayerNorm(width)
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        return self.out(self.norm(h + self.down(torch.relu(self.up(h)))))


def planned(optimizer=PAIR, width: int = 64, **choices) -> tuple[nn.Module, hpt.Plan]:
    torch.manual_seed(0)
    base, model = Net(16), Net(width)
    plan = hpt.make_plan(model, base=base, example_inputs=(X,), optimizer=optimizer, **choices)
    hpt.parametrize_(model, plan)
    return model, plan


def backward(model: nn.Module, factor: float = 1.0) -> None:
    model.zero_grad()
    (factor * nn.functional.cross_entropy(model(X), Y)).backward()


def wrong(audit: StepAudit) -> dict[str, str]:
    return {row.name: row.why for row in audit.rows if row.why}


@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_a_pair_that_steps_as_planned_passes_at_every_step(width: int, adjust: str | None) -> None:
    given = {"hidden": {"adjust_lr_fn": adjust}, "rest": {}}
    model, plan = planned(width=width, optimizer_options=given)
    settings = {**SETTINGS, optim.Muon: {**SETTINGS[optim.Muon], "adjust_lr_fn": adjust}}
    optimizer = hpt.build_optimizers(model, plan, settings)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    for _ in range(4):
        backward(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before the step: neither update sees it
        audit = hpt.audit_step(model, plan, optimizer)
        assert audit.ok, audit
        scheduler.step()
    assert audit.base == pytest.approx({"Muon": 0.02 / 4, "AdamW": 3e-3 / 4})
    assert StepAudit.from_line(audit.to_line()) == audit and "PASS: 8 of 8" in str(audit)


class MuonInZeRO(optim.Optimizer):
    """A test double of an engine that orthogonalises gradients, clips their global norm, and only then applies them."""

    def __init__(self, groups, clip: float = 1.0) -> None:
        super().__init__(groups, {})
        self.clip = clip

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        updates = []
        for group in self.param_groups:
            for p in group["params"]:
                if group["hpt_optimizer"] == "Muon":
                    u, _, v = torch.linalg.svd(p.grad, full_matrices=False)
                    updates.append((p, group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5, u @ v))
                else:
                    updates.append((p, group["lr"], p.grad.sign()))
        total = float(torch.stack([u.norm() for _, _, u in updates]).norm())
        for p, lr, update in updates:
            p.sub_(update * min(1.0, self.clip / total), alpha=lr)


@pytest.mark.parametrize("width", [64, 256])
def test_a_clip_that_eats_muons_rate_is_caught(width: int) -> None:
    """|U V^T|_F = sqrt(rank): a clip at 1 of the whole divides by more than sqrt(width), and by more at more width."""
    model, plan = planned(width=width)
    groups = [g for cls, lr in ((optim.Muon, 0.02), (optim.AdamW, 3e-3)) for g in
              hpt.param_groups(model, plan, lr=lr, optimizer=cls)]  # fmt: skip
    backward(model)
    audit = hpt.audit_step(model, plan, MuonInZeRO(groups))
    found = wrong(audit)
    assert "up.weight" in found and "is its update clipped, or skipped?" in found["up.weight"]
    eaten = next(row.implied / row.moved for row in audit.rows if row.name == "up.weight")
    assert eaten > width**0.5
    backward(model)
    assert hpt.audit_step(model, plan, MuonInZeRO(groups, clip=1e9)).ok


class Flat:
    """A test double of a wrapper that keeps one flat group and drops the plan's: one rate for all."""

    def __init__(self, model: nn.Module, lr: float, cls=optim.AdamW, shown: list | None = None) -> None:
        self.inner = cls(model.parameters(), lr=lr)
        self.param_groups = self.inner.param_groups if shown is None else shown

    def step(self) -> None:
        self.inner.step()


@pytest.mark.filterwarnings("ignore::hptransfer.core.errors.HalfApplied")
@pytest.mark.parametrize("honest", [True, False])
def test_a_wrapper_that_drops_groups_is_caught_whatever_it_shows(honest: bool) -> None:
    model, plan = planned(optim.AdamW, width=512)
    shown = None if honest else hpt.param_groups(model, plan, lr=3e-3)
    backward(model)
    audit = hpt.audit_step(model, plan, Flat(model, 3e-3, shown=shown), lr=3e-3)
    small = {row.name for row in plan if row.lr_mult < 1}
    assert set(wrong(audit)) == small and len(small) == 3
    assert all(
        ("something set it" if honest else "stepped twice, or by another rate") in why for why in wrong(audit).values()
    )


def test_zero_that_skips_muons_matrices_is_caught() -> None:
    model, plan = planned()
    adamw = optim.AdamW(hpt.param_groups(model, plan, lr=3e-3, optimizer=optim.AdamW))
    backward(model)
    audit = hpt.audit_step(model, plan, adamw, lr={"Muon": 0.02, "AdamW": 3e-3})
    assert wrong(audit) == {f"{n}.weight": "it did not move: no group holds it" for n in ("up", "down")}
    backward(model)
    with pytest.raises(hpt.UsageError, match="no group holds a parameter that Muon trains; give its base rate"):
        hpt.audit_step(model, plan, adamw)


@pytest.mark.filterwarnings("ignore::hptransfer.core.errors.HalfApplied")
def test_rates_that_were_overwritten_are_caught_where_the_guard_cannot_look() -> None:
    """A compiled step is not guarded; here the multipliers themselves are gone."""
    model, plan = planned(optim.AdamW)
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-3))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
        del group["lr_mult"]
    backward(model)
    audit = hpt.audit_step(model, plan, optimizer)
    assert set(wrong(audit)) == {row.name for row in plan if row.lr_mult != 1.0} and audit.verdict == "FAIL"
    assert "its rate is 0.001 where the plan's is 0.00025: something set it" in str(audit)


def test_a_step_that_an_overflow_skipped_did_not_move() -> None:
    model, plan = planned(optim.AdamW)
    optimizer = hpt.build_optimizers(model, plan, {optim.AdamW: {"lr": 1e-3}})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for scale, ok in ((1.0, True), (float("inf"), False)):
        model.zero_grad()
        scaler.scale(scale * nn.functional.cross_entropy(model(X), Y)).backward()
        audit = hpt.audit_step(model, plan, optimizer, step=lambda: scaler.step(optimizer))
        scaler.update()
        assert audit.ok == ok, audit
    assert set(wrong(audit).values()) == {"it did not move"}


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (optim.Adafactor, {"lr": 1e-2}),
    ],
)
def test_accumulated_gradients_and_decay_are_taken_into_account(cls, options) -> None:
    model, plan = planned(cls)
    optimizer = hpt.build_optimizers(model, plan, {cls: options})
    for _ in range(3):
        model.zero_grad()
        for part in (slice(0, 32), slice(32, 64)):
            (nn.functional.cross_entropy(model(X[part]), Y[part]) / 2).backward()
        assert (audit := hpt.audit_step(model, plan, optimizer)).ok, audit


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit's own, while torch.compile looks at it
def test_a_compiled_step_whose_rates_change_passes() -> None:
    model, plan = planned(optim.AdamW)
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=torch.tensor(1e-3)))
    compiled = torch.compile(optimizer.step, backend="eager")
    for rate in (1e-3, 4e-3):
        hpt.set_lr(optimizer, rate)
        backward(model)
        audit = hpt.audit_step(model, plan, optimizer, step=compiled)
        assert audit.ok and audit.base == pytest.approx({"AdamW": rate}), audit


def test_without_gradients_there_is_nothing_to_audit() -> None:
    model, plan = planned(optim.AdamW)
    with pytest.raises(hpt.UsageError, match=r"no parameter has a gradient\. Call loss\.backward"):
        hpt.audit_step(model, plan, optim.AdamW(hpt.param_groups(model, plan, lr=1e-3)))
    model.out.weight.grad = torch.ones_like(model.out.weight)
    audit = hpt.audit_step(model, plan, optim.AdamW(hpt.param_groups(model, plan, lr=1e-3)))
    assert audit.ok  # what had no gradient need not move


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_matrix_of_another_shape_factor_is_caught(factor: float) -> None:
    """A declaration that is wrong by the width's root: the audit sees the size, the plan cannot."""

    class Scaled(optim.Optimizer):
        def __init__(self, params, lr: float = 0.02) -> None:
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    u, _, v = torch.linalg.svd(p.grad, full_matrices=False)
                    p.sub_(factor * (u @ v), alpha=group["lr"])

    hpt.register_optimizer(Scaled, "spectral", shape_factor="none")
    model, plan = planned({"hidden": Scaled, "rest": optim.AdamW})
    optimizer = hpt.build_optimizers(model, plan, {Scaled: {"lr": 0.02}, optim.AdamW: {"lr": 1e-3}})
    backward(model)
    assert set(wrong(hpt.audit_step(model, plan, optimizer))) == {"up.weight", "down.weight"}
