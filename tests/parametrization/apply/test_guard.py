"""The guard on learning rates that are tensors: read where reading is free, left alone on an accelerator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from tests.cases.models import MLP, batches, losses, seeded

LR = 1e-2


class Still(torch.optim.Optimizer):
    """Takes no step, so that rates may lie anywhere."""

    def __init__(self, params) -> None:
        super().__init__(params, {"lr": LR})

    def step(self, closure=None):  # type: ignore[override]
        return None


def groups(lr: float | Tensor) -> tuple[nn.Module, list[dict]]:
    model, x = seeded(MLP, 32), batches("mlp", 1)[0][0]
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(x,), optimizer=torch.optim.AdamW)
    hpt.parametrize_(model, plan)
    return model, hpt.param_groups(model, plan, lr=lr)


def test_tensor_rates_on_the_cpu_that_were_overwritten_are_an_error() -> None:
    model, listed = groups(torch.tensor(LR))
    optimizer = torch.optim.AdamW(listed)
    losses(model, optimizer, batches("mlp", 1))  # as planned: no complaint
    for group in optimizer.param_groups:
        group["lr"].fill_(LR)
    with pytest.raises(hpt.UsageError, match="something overwrote the plan's multipliers"):
        losses(model, optimizer, batches("mlp", 1))


def test_rates_on_an_accelerator_are_not_read() -> None:
    """Reading one would wait for the device. A meta tensor stands for it: it has no value, and reading it raises."""
    _, listed = groups(LR)
    optimizer = Still(listed)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(LR, device="meta")
    optimizer.step()
    with pytest.raises(RuntimeError):
        float(optimizer.param_groups[0]["lr"])


def test_a_group_at_rate_zero_says_nothing_about_the_base_rate() -> None:
    """lr_mult 0 fixes no ratio: whatever its rate, and the other groups are still compared."""
    _, listed = groups(LR)
    optimizer = Still(listed)
    optimizer.param_groups[0].update(lr_mult=0.0, lr=123.0)
    optimizer.step()
    optimizer.param_groups[-1]["lr"] *= 2
    assert len(optimizer.param_groups) > 2
    with pytest.raises(hpt.UsageError, match="overwrote"):
        optimizer.step()
