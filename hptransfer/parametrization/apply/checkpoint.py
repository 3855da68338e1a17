"""The plan in checkpoints: every optimizer group carries its fingerprint, and loading verifies it.

The fingerprint stands in the groups, so it goes wherever they go: torch.save, distributed checkpoints, FSDP, Trainer.
`attach` makes loading an optimizer's state under another plan an error. `plan_state` and `plan_of` put the whole plan
beside a model's weights: for plans with hooks (the weights alone are then not the model), and to resume without a base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.plan import Plan

GROUP_KEY = "hpt_plan"
STATE_KEY = "hptransfer_plan"


def attach(plan: Plan, *optimizers: torch.optim.Optimizer) -> None:
    """From now on each optimizer's load_state_dict refuses a state that was not saved under this plan.

    The hook is no part of the optimizer's state: attach again after unpickling or deep-copying the optimizer.
    Raises UsageError where an optimizer's groups are not the plan's, now or when a state is loaded.
    """
    for optimizer in optimizers:
        _verify(plan.fingerprint, optimizer.param_groups, "The optimizer")
        optimizer.register_load_state_dict_pre_hook(_Verify(plan.fingerprint))


def plan_state(plan: Plan) -> dict[str, str]:
    """An entry for any checkpoint: torch.save({"model": ..., **plan_state(plan)}). Plain text, read by `plan_of`."""
    return {STATE_KEY: plan.to_line()}


def plan_of(checkpoint: Mapping[str, Any], *, expected: Plan | None = None) -> Plan:
    """The plan that a checkpoint was trained under.

    Raises UsageError where the checkpoint holds none, or another than `expected`.
    """
    if STATE_KEY not in checkpoint:
        raise UsageError(
            f"The checkpoint holds no plan (its keys: {', '.join(map(str, list(checkpoint)[:5]))}). Save it with "
            f"**hptransfer.plan_state(plan) beside the weights; a model trained without a plan needs none."
        )
    plan = Plan.from_line(checkpoint[STATE_KEY])
    if expected is not None:
        _compare(expected.fingerprint, {plan.fingerprint}, "The checkpoint")
    return plan


class _Verify:
    """A load_state_dict pre-hook: compares the state's fingerprints with the plan's."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __call__(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        _verify(self.fingerprint, state["param_groups"], "The optimizer state")


def _verify(fingerprint: str, groups: Sequence[Mapping[str, Any]], what: str) -> None:
    stored = {group.get(GROUP_KEY) for group in groups}
    if None in stored or not stored:
        raise UsageError(
            f"{what} carries no plan fingerprint in its groups: it was made without hptransfer.param_groups, so its "
            f"learning rates are not those of plan {fingerprint}. If they are, set {GROUP_KEY!r} in each group first."
        )
    _compare(fingerprint, {str(s) for s in stored}, what)


def _compare(fingerprint: str, stored: set[str], what: str) -> None:
    if stored != {fingerprint}:
        raise UsageError(
            f"{what} was made under plan {', '.join(sorted(stored))}, but the plan in hand is {fingerprint}: going on "
            f"would change learning rates silently. Take the plan that was saved with it (hptransfer.plan_of)."
        )
