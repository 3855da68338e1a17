"""A plan in a script that stands: two lines, its own groups, rates, decay filters and schedule are kept."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from tests.cases.models import MLP, batches, losses, seeded

optim = torch.optim
X, Y = torch.randint(0, 32, (8, 12), generator=torch.Generator().manual_seed(0)), torch.arange(96).reshape(8, 12) % 32


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).chunk(3, -1))
        read = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(read.transpose(1, 2).flatten(2))
        return x + self.proj(nn.functional.gelu(self.fc(self.ln_2(x))))


class GPT(nn.Module):
    """In the manner of nanoGPT: a model that makes its own optimizer, decaying what has two dimensions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wte, self.wpe, self.ln_f = nn.Embedding(32, width), nn.Embedding(12, width), nn.LayerNorm(width)
        self.h = nn.ModuleList(Block(width) for _ in range(2))
        self.lm_head = nn.Linear(width, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for block in self.h:
            h = block(h)
        return self.lm_head(self.ln_f(h))

    def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: tuple[float, float]) -> Any:
        named = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in named if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in named if p.dim() < 2], "weight_decay": 0.0},
        ]
        return optim.AdamW(groups, lr=learning_rate, betas=betas)


def gpt(width: int = 64) -> GPT:
    torch.manual_seed(0)
    return GPT(width)


def loss_of(model: nn.Module, part: slice = slice(None)) -> Tensor:
    return nn.functional.cross_entropy(model(X[part]).flatten(0, 1), Y[part].flatten())


def planned(model: nn.Module, **choices) -> hpt.Plan:
    return hpt.make_plan(model, base=gpt(32), example_inputs=(X,), **choices)


def of_each(optimizer: torch.optim.Optimizer, keys=("lr", "lr_mult", "weight_decay", "eps", "betas")) -> dict[str, Any]:
    """Parameter -> what its group holds."""
    return {n: {k: g.get(k) for k in keys} for g in optimizer.param_groups for n in g["hpt_names"]}


@pytest.mark.parametrize("choices", [{}, {"scale": hpt.Scale(batch=64), "base_scale": hpt.Scale(batch=16)}])
def test_a_nanogpt_script_in_two_lines(choices) -> None:
    """The groups are those of param_groups with the script's decay filter; the loop's schedule goes through set_lr."""
    model = gpt()
    plan = planned(model, optimizer_options={"betas": (0.9, 0.95)}, **choices)
    hpt.parametrize_(model, plan)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95))
    hpt.apply_plan(plan, optimizer)

    twin = hpt.param_groups(model, plan, lr=6e-4, weight_decay=0.1, decay=lambda n, p: p.dim() >= 2)
    assert of_each(optimizer) == of_each(optim.AdamW(twin, betas=(0.9, 0.95)))
    for it in range(4):  # warm-up and cosine by hand, two micro-batches a step, clipped
        hpt.set_lr(optimizer, 6e-4 * min(1.0, (it + 1) / 2) * 0.5 * (1 + math.cos(math.pi * it / 4)))
        optimizer.zero_grad(set_to_none=True)
        for part in (slice(0, 4), slice(4, 8)):
            (loss_of(model, part) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        audit = hpt.audit_step(model, plan, optimizer)
        assert audit.ok, audit


def test_a_loop_that_sets_every_rate_itself_is_told() -> None:
    model = gpt()
    plan = planned(model)
    hpt.parametrize_(model, plan)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95))
    hpt.apply_plan(plan, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 3e-4
    loss_of(model).backward()
    with pytest.raises(hpt.UsageError, match=r"In a loop use hptransfer\.set_lr"):
        optimizer.step()


def test_groups_of_ones_own_keep_their_ratios_keys_and_order() -> None:
    model = gpt()
    plan = planned(model)
    hpt.parametrize_(model, plan)
    tables, rest = (
        [model.wte.weight, model.wpe.weight],
        [p for n, p in model.named_parameters() if "wte" not in n and "wpe" not in n],
    )
    optimizer = optim.AdamW(
        [{"params": tables, "lr": 5e-3, "name": "tables", "eps": 1e-10},
         {"params": rest, "name": "rest", "amsgrad": True}],
        lr=1e-3, weight_decay=0.2,
    )  # fmt: skip
    hpt.apply_plan(plan, optimizer)
    names = [group["name"] for group in optimizer.param_groups]
    assert names == sorted(names, key=["tables", "rest"].index) and {
        g["amsgrad"] for g in optimizer.param_groups[-2:]
    } == {True}
    held = of_each(optimizer, ("lr", "lr_mult", "eps", "weight_decay"))
    for row in plan:
        own, eps = (5.0, 1e-10) if row.name in {"wte.weight", "wpe.weight"} else (1.0, 1e-8)
        assert held[row.name] == pytest.approx(
            {"lr": 1e-3 * own * row.lr_mult, "lr_mult": own * row.lr_mult, "eps": eps * row.eps_mult,
             "weight_decay": 0.2 * row.wd_mult}
        ), row.name  # fmt: skip
    hpt.set_lr(optimizer, 2e-3)
    assert of_each(optimizer)["wte.weight"]["lr"] == pytest.approx(1e-2 * plan["wte.weight"].lr_mult)
    loss_of(model).backward()
    audit = hpt.audit_step(model, plan, optimizer)
    assert audit.ok and audit.base == pytest.approx({"AdamW": 2e-3}), audit


def test_state_and_schedulers() -> None:
    model = gpt()
    plan = planned(model)
    hpt.parametrize_(model, plan)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95))
    hpt.apply_plan(plan, optimizer)
    with pytest.raises(hpt.UsageError, match="carry a plan's multipliers already"):
        hpt.apply_plan(plan, optimizer)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        scheduler.step()
    again = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95))
    hpt.apply_plan(plan, again)
    again.load_state_dict(optimizer.state_dict())
    assert of_each(again) == of_each(optimizer)
    other = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95))
    optim.lr_scheduler.CosineAnnealingLR(other, 10)
    with pytest.raises(hpt.UsageError, match="Apply the plan first, then make the scheduler"):
        hpt.apply_plan(plan, other)


def test_a_pair_and_a_class_of_both_halves() -> None:
    model = gpt()
    plan = planned(model, optimizer={"hidden": optim.Muon, "rest": optim.AdamW})
    hpt.parametrize_(model, plan)
    hidden = {row.name for row in plan if row.optimizer == "Muon"}
    parts = [[p for n, p in model.named_parameters() if (n in hidden) == chosen] for chosen in (True, False)]
    for cls, params in ((optim.Muon, parts[0]), (optim.AdamW, parts[1])):
        hpt.apply_plan(plan, cls(params, lr=0.02))
    both = SingleDeviceMuonWithAuxAdam(
        [{"params": parts[0], "use_muon": True, "lr": 0.02}, {"params": parts[1], "use_muon": False, "lr": 1e-3}]
    )
    hpt.apply_plan(plan, both)
    loss_of(model).backward()
    audit = hpt.audit_step(model, plan, both, lr={"Muon": 0.02, "AdamW": 1e-3})
    assert audit.ok and {row.optimizer for row in audit.rows} == {"Muon", "AdamW"}, audit
    wrong = SingleDeviceMuonWithAuxAdam([{"params": list(model.parameters()), "use_muon": False, "lr": 1e-3}])
    with pytest.raises(hpt.UsageError, match="use_muon=False, but the plan trains it with Muon"):
        hpt.apply_plan(plan, wrong)
    with pytest.raises(hpt.UsageError, match=r"AdamW holds .* but the plan trains it with Muon"):
        hpt.apply_plan(plan, optim.AdamW(model.parameters(), lr=1e-3))


class SingleDeviceMuonWithAuxAdam(torch.optim.Optimizer):
    """A double of the class of that name: one optimizer for both halves, which takes these group keys and no other."""

    KEYS: ClassVar = {True: {"params", "use_muon", "lr", "momentum", "weight_decay"},
            False: {"params", "use_muon", "lr", "betas", "eps", "weight_decay"}}  # fmt: skip

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            group.setdefault("weight_decay", 0.0)
            for key, value in {True: {"momentum": 0.95}, False: {"betas": (0.9, 0.95), "eps": 1e-10}}[
                group["use_muon"]
            ].items():
                group.setdefault(key, value)
            assert set(group) == self.KEYS[group["use_muon"]]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if group["use_muon"]:
                    u, _, v = torch.linalg.svd(p.grad, full_matrices=False)
                    p.sub_(u @ v * max(1, p.shape[0] / p.shape[1]) ** 0.5, alpha=group["lr"])
                else:
                    p.sub_(p.grad / (p.grad.abs() + group["eps"]), alpha=group["lr"])


def test_parameters_that_the_plan_does_not_know_are_named() -> None:
    model = seeded(MLP, 32)
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(batches("mlp", 1)[0][0],))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(hpt.UsageError, match=r"of shape \(\d+, \d+\) that plan .* does not know.*parametrize_"):
        hpt.apply_plan(plan, optimizer)
    hpt.apply_plan(plan, optimizer, model=model)
    hpt.parametrize_(model, plan)
    losses(model, optimizer, batches("mlp", 3))


class Module(nn.Module):
    """In the manner of a LightningModule: configure_optimizers returns an optimizer and its schedule."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = gpt(width)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.net.configure_optimizers(0.1, 1e-2, (0.9, 0.95))
        self.apply_plan(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=hpt.max_lrs(optimizer), total_steps=8, cycle_momentum=False)}  # fmt: skip

    def apply_plan(self, optimizer: torch.optim.Optimizer) -> None:
        plan = planned(self.net)
        hpt.parametrize_(self.net, plan)  # as in the module's __init__
        hpt.apply_plan(plan, optimizer, model=self.net)


def test_a_lightning_style_module() -> None:
    module = Module(64)
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]
    for _ in range(8):
        optimizer.zero_grad()
        loss_of(module.net).backward()
        optimizer.step()
        scheduler.step()
    own = [g["lr"] / g["lr_mult"] for g in optimizer.param_groups]
    assert own == pytest.approx([own[0]] * len(own))


def test_a_trainer_that_makes_its_own_optimizer(tmp_path) -> None:
    """transformers.Trainer, unchanged but for two lines after its own create_optimizer."""
    pytest.importorskip("accelerate", reason="accelerate is not installed; transformers.Trainer needs it")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.workers import trainer as worker

    model, plan = worker.llama(64), worker.planned()
    hpt.parametrize_(model, plan)

    class Mine(transformers.Trainer):
        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            super().create_optimizer(*args, **kwargs)
            hpt.apply_plan(plan, self.optimizer, model=self.model)
            return self.optimizer

    trainer = Mine(model=model, args=worker.arguments(tmp_path), train_dataset=worker.DATA)
    trainer.train()
    held = {n: g for g in trainer.optimizer.param_groups for n in g["hpt_names"]}
    assert held["model.norm.weight"]["weight_decay"] == 0.0 and len(held) == len(plan)
    assert {n: g["initial_lr"] for n, g in held.items()} == pytest.approx({r.name: 1e-2 * r.lr_mult for r in plan})
