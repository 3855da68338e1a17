"""Marks on a model that its weights were scaled for a plan, so that the other half of the plan can miss them."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.init.initial import initial_factors
from hptransfer.parametrization.plan import Plan

_ATTRIBUTE = "_hpt_plan"
OFF = 0.15
"""Relative error of a weight's scale above which it is not the plan's."""
SEEN = 64
"""Entries from which on a weight's rms says something: it is known to 1 / sqrt(2 x entries), 9%."""

_planned = WeakTensorKeyDictionary()
"""Parameter -> (fingerprint of the plan that its model was scaled for, its name there, whether the plan asks anything
of its optimizer)."""


def mark(model: nn.Module, plan: Plan) -> None:
    """Note on the model, and for its parameters, that it was scaled for this plan."""
    object.__setattr__(model, _ATTRIBUTE, plan.fingerprint)
    for name, parameter in plain_names(model, plan).items():
        row = plan.rows[name]
        _planned[parameter] = plan.fingerprint, name, not row.lr_mult == row.wd_mult == row.eps_mult == 1.0


def marks(model: nn.Module) -> set[str]:
    """The fingerprints of the plans that a model, behind its wrappers, was scaled for."""
    return {vars(module)[_ATTRIBUTE] for module in model.modules() if _ATTRIBUTE in vars(module)}


def plan_of_parameter(parameter: Tensor) -> str | None:
    """The plan that a parameter's model was scaled for; None where that asks nothing of the optimizer."""
    fingerprint, _, asks = _known(parameter)
    return fingerprint if asks else None


def name_of_parameter(parameter: Tensor, plan: Plan) -> str | None:
    """The name under which a plan knows a parameter of a model that was scaled for it; None for others."""
    fingerprint, name, _ = _known(parameter)
    return name if fingerprint == plan.fingerprint else None


def _known(parameter: Tensor) -> tuple[str, str, bool]:
    known = _planned.get(parameter, None)
    return ("", "", False) if known is None else known


def unscaled(model: nn.Module, plan: Plan) -> str | None:
    """How a model shows that it was not scaled for this plan, in words; None where it was, or nothing shows.

    A mark settles it. Without one, hooks and forward multipliers are missing, or present values tell: their scale is
    the plan's where the model's own init follows the plan's law anyway.
    """
    if marks(model):
        return None
    if plan.hooks or any(row.fwd_mult != 1.0 for row in plan):
        return "it carries none of the plan's forward multipliers"
    try:
        factors = initial_factors(plain_names(model, plan), plan)
    except UsageError:  # no values yet, or none that could be compared
        return None
    for name, (factor, present) in factors.items():
        known = math.prod(plan.rows[name].shape) >= SEEN or factor == 0.0
        if known and present > 0 and abs(factor - 1) > OFF:
            return f"the rms of {name!r} is {present:.3g}, but the plan's {present * factor:.3g}"
    return None
