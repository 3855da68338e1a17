"""The factor on present values that gives them the plan's initial scale: exact where the model's init follows a law."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import scheme_named
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row


def initial_factors(parameters: Mapping[str, nn.Parameter], plan: Plan) -> dict[str, tuple[float, float]]:
    """Parameter name -> (factor on the present values, their rms). The factor is target/base of the plan over that of
    the model's own init, which a bias shares with the weight that it stands beside.

    Raises UsageError where values are on meta or not finite, or the plan has no initial std for a parameter.
    """
    scaled = not scheme_named(plan.scheme).global_lr  # the control changes no scale
    own: dict[str, float] = {}
    factors: dict[str, tuple[float, float]] = {}
    for name in sorted(parameters, key=lambda n: plan.rows[n].host != ""):  # weights before the biases beside them
        row = plan.rows[name]
        same = row.init_mult == 1.0 and row.shape == row.base_shape and row.host not in own
        carried = row.host in own and _is_carried(own[row.host], plan.rows[row.host])
        if row.role == "unused" or row.kept or same or carried or not (scaled or row.init_std == 0.0):
            continue
        present = _checked(parameters[name], row)
        if present == 0.0 or row.init_std == 0.0:
            factors[name] = (1.0 if present == 0.0 else 0.0), present
            continue
        own[name] = _own_ratio(present * row.init_mult / (row.init_std or 1.0), row, own.get(row.host))
        factors[name] = row.init_mult / own[name], present
    return factors


def _is_carried(own: float, row: Row) -> bool:
    """True where a weight's values already have the plan's scale, and no common law explains that."""
    return own == row.init_mult and own not in (1.0, row.m_in**-0.5)


def _checked(parameter: nn.Parameter, row: Row) -> float:
    """The rms of the present values, once it is clear that they can be scaled."""
    if parameter.device.type == "meta":
        raise UsageError(
            f"{row.name!r} is on the meta device, so it has no values to scale. Materialise and initialise the model "
            f"first (to_empty, then its own init), then call parametrize_."
        )
    present = rms(parameter)
    if not math.isfinite(present):
        raise UsageError(f"{row.name!r} holds values that are not finite; initialise the model before parametrize_.")
    if row.init_std is None:
        raise UsageError(
            f"The plan has no initial std for {row.name!r}: its base was on meta. Make the plan with a real base, or "
            f"pass base_std={{name: rms}} to make_plan."
        )
    return present


def _own_ratio(measured: float, row: Row, host: float | None) -> float:
    """target/base ratio of the model's own init: an exact law of the width where the sample agrees with one.

    A sample of N normal values has a relative standard error of (2N)^-1/2 in its rms. First the laws of common inits,
    within three standard errors: constant, fan_in^-1/2, for a bias that of its weight; then rarer ones, and the plan's
    own where the model already carries it; else the measured ratio itself.
    """
    numel, base_numel = max(1, math.prod(row.shape)), max(1, math.prod(row.base_shape))
    error = (1 / (2 * numel) + 1 / (2 * base_numel)) ** 0.5
    fans = (row.m_in * row.m_out) ** 0.5
    common = [1.0, row.m_in**-0.5] if host is None else [host, 1.0]
    rarer = [row.init_mult, row.m_in**-1.0, row.m_out**-0.5, fans**-0.5, fans**-1.0]
    if host is not None and abs(math.log(measured / host)) <= 3 * error:
        return host
    for laws in (common, rarer):
        law = min(laws, key=lambda law: abs(math.log(measured / law)))
        if abs(math.log(measured / law)) <= 3 * error:
            return law
    return measured
