"""The factor on present values that gives them the plan's initial scale: exact where the model's init follows a law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import scheme_named
from hptransfer.parametrization.init.laws import Sample, own_ratios
from hptransfer.parametrization.measure import is_ordered, kurtosis, rms
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row


def initial_factors(parameters: Mapping[str, nn.Parameter], plan: Plan) -> dict[str, tuple[float, float]]:
    """Parameter name -> (factor on the present values, their rms). The factor is target/base of the plan over that of
    the model's own init, which a bias shares with the weight that it stands beside. Ordered vectors (time constants
    such as Mamba's log(1..heads), slopes, frequencies) were not drawn, so they have no initial std: they are left out.

    Raises UsageError where values are on meta or not finite, or the plan has no initial std for a parameter.
    """
    scaled = not scheme_named(plan.scheme).global_lr  # the control changes no scale but by tuned factors
    rows = {name: _untuned(row) for name, row in plan.rows.items()}
    factors = _untuned_factors(parameters, rows, scaled=scaled)
    for name in (n for n in parameters if plan.rows[n].tuned_init != 1.0):
        row = plan.rows[name]
        if row.role != "unused" and not row.kept:
            factor, present = factors.get(name) or (1.0, _checked(parameters[name], row, scaled=scaled))
            factors[name] = factor * row.tuned_init, present
    return factors


def _untuned(row: Row) -> Row:
    """The row without its tuned factor: what is tuned tells nothing of the law of the model's own init."""
    std = None if row.init_std is None else row.init_std / row.tuned_init
    return replace(row, init_std=std, init_mult=row.init_mult / row.tuned_init)


def _untuned_factors(
    parameters: Mapping[str, nn.Parameter], rows: Mapping[str, Row], *, scaled: bool
) -> dict[str, tuple[float, float]]:
    own: dict[str, float] = {}
    factors: dict[str, tuple[float, float]] = {}
    for beside in (False, True):  # weights before the biases beside them
        samples: list[Sample] = []
        for name in sorted(n for n in parameters if (rows[n].host != "") == beside):
            row = rows[name]
            if row.role == "unused" or row.kept or not (scaled or row.init_std == 0.0) or _is_right(row, rows, own):
                continue
            present = _checked(parameters[name], row)
            if present == 0.0 or row.init_std == 0.0:
                factors[name] = (1.0 if present == 0.0 else 0.0), present
            elif not (row.init_mult == 1.0 and is_ordered(parameters[name])):
                samples.append(_sample(parameters[name], row, present, own.get(row.host)))
        found = own_ratios(samples)
        own |= found
        factors |= {s.row.name: (s.row.init_mult / found[s.row.name], s.rms) for s in samples}
    return factors


def _sample(parameter: nn.Parameter, row: Row, present: float, host: float | None) -> Sample:
    return Sample(row, present, (row.init_std or 1.0) / row.init_mult, kurtosis(parameter, present), host)


def _is_right(row: Row, rows: Mapping[str, Row], own: Mapping[str, float]) -> bool:
    """True where the values stay whatever their law: of the base's own size, or beside a weight that already fits."""
    same = row.init_mult == 1.0 and row.shape == row.base_shape and row.host not in own
    return same or (row.host in own and _is_carried(own[row.host], rows[row.host]))


def _is_carried(own: float, row: Row) -> bool:
    """True where a weight's values already have the plan's scale, and no common law explains that."""
    return own == row.init_mult and own not in (1.0, row.m_in**-0.5)


def _checked(parameter: nn.Parameter, row: Row, *, scaled: bool = True) -> float:
    """The rms of the present values, once it is clear that they can be scaled."""
    if parameter.device.type == "meta":
        raise UsageError(
            f"{row.name!r} is on the meta device, so it has no values to scale. Materialise and initialise the model "
            f"first (to_empty, then its own init), then call parametrize_."
        )
    present = rms(parameter)
    if not math.isfinite(present):
        raise UsageError(f"{row.name!r} holds values that are not finite; initialise the model before parametrize_.")
    if row.init_std is None and scaled:
        raise UsageError(
            f"The plan has no initial std for {row.name!r}: its base was on meta. Make the plan with a real base, or "
            f"pass base_std={{name: rms}} to make_plan."
        )
    return present
