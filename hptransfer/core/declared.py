"""Which row of the optimizers' table a class or a name has: known by where it comes from, or declared by the user."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.optimizers import OPTIMIZERS, SHAPE_FACTORS, Decay, OptimizerRow, ShapeFactor
from hptransfer.core.rules import Geometry

Optimizer = type[torch.optim.Optimizer] | str

_DECLARED: dict[str, OptimizerRow] = {}
"""What users declared: a class by module and name, a name by itself."""

_ANYWHERE = ("lr", "betas", "eps", "weight_decay")
"""Keyword options that a class known by name only is taken to have."""

_NO_STEP = frozenset(("add_param_group", "zero_grad", "state_dict", "load_state_dict", "__repr__", "__doc__"))
"""What a subclass may define without its step being another one."""


def register_optimizer(
    optimizer: Optimizer,
    geometry: Geometry | None = None,
    *,
    like: Optimizer | None = None,
    decay: Decay | None = None,
    decoupled: bool | None = None,
    shape_factor: str | ShapeFactor | None = None,
    eps_power: float | None = None,
    averages: Sequence[str] | None = None,
) -> None:
    """Declare what an optimizer does, where its class is not one that the library knows.

    geometry: of its update, "gradient", "sign", "relative" or "spectral". like: a known optimizer whose row is taken,
    but for what is given beside it. decay: "decoupled" (default: the weight loses lr x wd of itself), "l2" (joins the
    gradient) or "fixed" (loses wd of itself, whatever lr is); decoupled: the first two as a bool.
    shape_factor: what the library itself multiplies the rate of a rows x columns matrix by: a name ("none", "original",
    "match_rms_adamw", "spectral_norm", "sqrt_max") or a function of (rows, columns); needed under "spectral", where
    libraries differ. eps_power: 1 where eps is added to a root of the second moment, 2 where it stands under the root.
    averages: options that are an average's decay per step, which follow the batch; "betas" by default.
    Raises UsageError where one is unknown or missing.
    """
    name, base = optimizer_name(optimizer), None if like is None else row_of(like)
    if geometry is None and base is None:
        raise UsageError(f"register_optimizer({name}): give a geometry or like=, an optimizer that steps alike.")
    row = replace(base, name=name, homes=()) if base is not None else OptimizerRow(name, None, (), "decoupled")
    if geometry is not None:
        row = replace(row, geometry=_one_of("Geometry", geometry, Geometry))
    if decay is not None and decoupled is not None:
        raise UsageError(f"register_optimizer({name}): decay={decay!r} and decoupled={decoupled}; give one of them.")
    kind = decay if decoupled is None else "decoupled" if decoupled else "l2"
    row = row if kind is None else replace(row, decay=_one_of("decay", kind, Decay))
    if shape_factor is not None:
        row = replace(row, shape=_shape_name(optimizer, shape_factor), shape_option="", shape_choices={})
    elif row.geometry == "spectral" and base is None:
        raise UsageError(
            f"register_optimizer({name}, 'spectral'): libraries multiply a matrix's rate by different functions of its "
            f"shape. Say which with shape_factor=: {', '.join(map(repr, SHAPE_FACTORS))}, or a function of (rows, "
            "columns)."
        )
    row = row if eps_power is None else replace(row, eps_power=eps_power)
    row = row if averages is None else replace(row, averages=tuple(averages))
    # a declared step is not known to be elementwise, nor what preconditions it
    _DECLARED[_key(optimizer)] = replace(row, lanes=False, curvature="", momentum="")


def _one_of(what: str, value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise UsageError(f"{what} {value!r} is unknown; use one of {', '.join(get_args(kind))}.")
    return value


def _shape_name(optimizer: Optimizer, factor: str | ShapeFactor) -> str:
    """The factor's name in the table of shape factors, where a function is entered."""
    if isinstance(factor, str):
        if factor not in SHAPE_FACTORS:
            raise UsageError(
                f"shape_factor {factor!r} is unknown; use one of {', '.join(SHAPE_FACTORS)}, or a function of "
                "(rows, columns)."
            )
        return factor
    try:
        usable = factor(3.0, 2.0) > 0
    except Exception as error:
        raise UsageError(
            f"shape_factor(3, 2) raised {type(error).__name__}: {error}. It takes (rows, columns)."
        ) from error
    if not usable:
        raise UsageError(f"shape_factor(3, 2) is {factor(3.0, 2.0)!r}: it must be a positive factor on the rate.")
    name = f"declared for {_key(optimizer)}"
    SHAPE_FACTORS[name] = factor
    return name


def optimizer_name(optimizer: Optimizer | torch.optim.Optimizer) -> str:
    """The class name of an optimizer given as class, instance or name."""
    if isinstance(optimizer, str):
        return optimizer
    return optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__


def row_of(optimizer: Optimizer) -> OptimizerRow:
    """The row of an optimizer, or of the class it derives from and whose step it keeps.

    Raises UsageError where it is not known, changes the step of one that is, bears a known name but comes from
    elsewhere, or is one that no single geometry describes.
    """
    row, known = _found(optimizer)
    if row is None:
        raise UsageError(_unknown(optimizer))
    if row.geometry is None:
        raise UsageError(
            f"No rule scales {optimizer_name(optimizer)}'s learning rate: {row.refused}. Use another optimizer, or "
            f"declare a geometry with hptransfer.register_optimizer({optimizer_name(optimizer)}, ...) if you know "
            "better."
        )
    changed = [] if known is None or isinstance(optimizer, str) else _changes(optimizer, known)
    if changed:
        raise UsageError(
            f"{optimizer_name(optimizer)} derives from {row.name} but defines {', '.join(changed)} itself, so its step "
            f"may be another one (decay that is not multiplied by lr, say). Declare it once: hptransfer."
            f"register_optimizer({optimizer_name(optimizer)}, like={row.name!r}), with decay='fixed', 'decoupled' or "
            f"'l2' and shape_factor= where they differ."
        )
    return row


def is_declared(optimizer: Optimizer) -> bool:
    """Whether what is known of an optimizer is the user's word."""
    known = _found(optimizer)[1]
    return _key(optimizer if known is None else known) in _DECLARED or optimizer_name(known or optimizer) in _DECLARED


def known_class(optimizer: Optimizer) -> type[torch.optim.Optimizer] | None:
    """The class whose row an optimizer has: itself, or one that it derives from; None for a name."""
    return _found(optimizer)[1]


def _found(optimizer: Optimizer) -> tuple[OptimizerRow | None, type[torch.optim.Optimizer] | None]:
    if isinstance(optimizer, str):
        return _DECLARED.get(optimizer) or next(iter(OPTIMIZERS.get(optimizer, ())), None), None
    for cls in optimizer.__mro__:
        home = next(
            (r for r in OPTIMIZERS.get(cls.__name__, ()) if f"{cls.__module__}.".startswith(r.homes or "-")), None
        )
        row = _DECLARED.get(_key(cls)) or home or _DECLARED.get(cls.__name__)
        if row is not None:
            return row, cls
    return None, None


def _changes(optimizer: type[torch.optim.Optimizer], known: type[torch.optim.Optimizer]) -> list[str]:
    """The methods of a known class that an optimizer derived from it replaces, and that its step may go through."""
    theirs = {name for cls in known.__mro__[:-1] for name in vars(cls)} - _NO_STEP
    names: dict[str, None] = {}
    for cls in optimizer.__mro__[: optimizer.__mro__.index(known)]:
        for name, value in vars(cls).items():
            callable_there = name in theirs and callable(value) and not name.startswith("__")
            # torch wraps `step` in place when the first instance is made: it is then the class's own, unchanged
            if callable_there and inspect.unwrap(value) is not inspect.unwrap(getattr(known, name)):
                names[name] = None
    return list(names)


def _unknown(optimizer: Optimizer) -> str:
    name = optimizer_name(optimizer)
    namesake = next(iter(OPTIMIZERS.get(name, ())), None)
    if namesake is not None and not isinstance(optimizer, str):
        theirs = " or ".join(home.rstrip(".") for row in OPTIMIZERS[name] for home in row.homes) or "the published one"
        spectral = ", shape_factor=..." if namesake.geometry == "spectral" else ""
        return (
            f"{name} of {optimizer.__module__} is not the {name} of {theirs}: what a class does with decay and with a "
            f"matrix's shape cannot be read off its name. Declare it once: hptransfer.register_optimizer({name}, "
            f"{namesake.geometry or 'sign'!r}, decay='decoupled' | 'l2' | 'fixed'{spectral}), or like={name!r} where "
            "it does the same."
        )
    known = ", ".join(sorted(n for n, rows in OPTIMIZERS.items() if rows[0].geometry))
    return (
        f"The geometry of optimizer {name!r} is not known. Declare it once: hptransfer.register_optimizer({name}, "
        f"{' | '.join(map(repr, get_args(Geometry)))}). Known: {known}."
    )


def _key(optimizer: Optimizer) -> str:
    return optimizer if isinstance(optimizer, str) else f"{optimizer.__module__}.{optimizer.__qualname__}"


def check_options(optimizer: Optimizer, options: Mapping[str, Any]) -> None:
    """Raise UsageError, with the nearest name, on a keyword option that the optimizer does not have."""
    known = known_options(optimizer)
    for key in options:
        if known is not None and key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            raise UsageError(
                f"{optimizer_name(optimizer)} has no option {key!r}{f'; did you mean {near[0]!r}?' if near else '.'} "
                f"It takes {', '.join(known)}."
            )


def known_options(optimizer: Optimizer) -> Sequence[str] | None:
    """The keyword options of an optimizer; None where they are not known (declared by name, without a class)."""
    named = list(dict.fromkeys(_parameters(optimizer)))
    if named and not isinstance(optimizer, str):
        return named
    if _key(optimizer) in _DECLARED:
        return None
    namesakes = OPTIMIZERS.get(optimizer_name(optimizer), ())  # as a string it may mean any library's
    return list(dict.fromkeys([*(named or _ANYWHERE), *(key for row in namesakes for key in row.options)]))


def _parameters(optimizer: Optimizer) -> Iterator[str]:
    """The keyword options that a class's constructor takes."""
    for maker in initializers(optimizer):
        for name, parameter in inspect.signature(maker).parameters.items():
            if not _open(parameter) and name not in {"self", "params", "defaults"}:
                yield name


def initializers(optimizer: Optimizer) -> Iterator[Callable[..., Any]]:
    """What takes a class's keyword options: it and, while they are passed on as **options, what it derives from.

    A name means torch.optim's class, unless it was declared; without a class there is none.
    """
    named = isinstance(optimizer, str)
    cls: Any = (
        None if named and optimizer in _DECLARED else getattr(torch.optim, optimizer, None) if named else optimizer
    )
    own = [] if cls is None else [vars(c)["__init__"] for c in cls.__mro__[:-1] if "__init__" in vars(c)]
    for maker in [cls, *own] if own else []:
        yield maker
        if not any(map(_open, inspect.signature(maker).parameters.values())):
            return


def _open(parameter: inspect.Parameter) -> bool:
    return parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
