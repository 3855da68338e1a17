"""Functions of a weight that no rule covers: where init or learning rate must follow the width, they are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role
from hptransfer.graph.ops import op
from hptransfer.graph.parameters.uses import Use


def refuse_function(name: str, use: Use, role: Role) -> None:
    """Refuse f(W), contracted over an axis that grows, unless f(t W) = t f(W) and its entries have both signs.

    A weight divided by its own norm is judged by that norm, see compare. Raises UsageError, which names the op.
    """
    if role.kind not in {"hidden", "readout"} or "contracted" not in use.axes:
        return
    form, why = use.form, ""
    if use.mate is not None:
        why = (
            f"it is multiplied entry by entry with another weight of its shape ({op(use.mate)}), and either could hold"
        )
        why += " the scale of both"
    elif form.one_sign:
        why = f"after {_named(use)} its entries have one sign, so that they add up in full over the width instead of"
        why += " cancelling"
    elif math.isnan(form.degree):
        why = f"{_named(use)} bends it, so that no factor on the parameter is one on the weight that acts"
    elif form.degree != 1 and not (form.degree == 0 and use.normalised):
        why = f"{_named(use)} makes of a factor t on it t^{form.degree:g}, and its rule is for t"
    if why:
        raise UsageError(
            f"{name!r} is used as a {role.kind} weight ({use}), but {why}: no initial scale and learning rate are "
            f"right at every width. Use the parameter as it is, or a function f(W) with f(t W) = t f(W) and "
            f"entries of both signs; or say what it is with roles={{{name!r}: Role(...)}} and scale its output."
        )


def _named(use: Use) -> str:
    return f"the op {op(use.form.by)!r}" if use.form.by is not None else "what acts on it"


@dataclass(frozen=True)
class Lost:
    """A weight divided by its own norm, whose entries are `ratio` times what the rule asks for, target against base.

    why: what is wrong, in words.
    """

    name: str
    ratio: float
    why: str

    @property
    def remedy(self) -> str:
        return (
            f"{self.why}. Drop the normalisation there, or annotate it with roles= and multiply its output by "
            f"{1 / self.ratio:.4g} yourself."
        )


def lost_scale(name: str, use: Use, role: Role) -> Lost:
    """What a norm leaves of a weight's scale: whatever the init, it keeps that norm."""
    growth = {  # init's ratio that the role asks for, over the one that the norm leaves
        "rows": role.m_in**-0.5 if role.kind == "readout" else 1.0,
        "whole": (role.m_out / role.m_in) ** 0.5,
        "columns": (role.m_out / role.m_in) ** 0.5,
        "taps": role.m_out**0.5,
        "entries": role.m_in ** (-1.0 if role.kind == "readout" else -0.5),
    }[use.normalised or "rows"]
    spread = "standard deviation" if use.normalised == "entries" else "norm"
    return Lost(
        name,
        1 / growth,
        f"{name!r} is divided by its own {spread} before it is used as a {role.kind} weight ({use}), so its initial "
        f"scale is lost and cannot follow the width: its output x {growth:.4g}",
    )
