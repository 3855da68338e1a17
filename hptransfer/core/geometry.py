"""An optimizer's geometry: what its update looks like before the learning rate multiplies it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import Geometry

_KNOWN: dict[str, Geometry] = {
    **dict.fromkeys(("SGD", "ASGD", "DSGD"), "gradient"),
    **dict.fromkeys(
        ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adamax", "Adagrad", "Adadelta", "Adafactor", "Lion",
         "SignSGD", "Signum", "SparseAdam", "Rprop", "Adam8bit", "AdamW8bit", "FusedAdam", "DeepSpeedCPUAdam",
         "AdEMAMix", "Sophia"),
        "sign",
    ),
    **dict.fromkeys(("Muon", "Scion", "Dion", "Shampoo", "DistributedShampoo", "SOAP"), "spectral"),
}  # fmt: skip
"""gradient: proportional to the gradient; sign: entries of order one; spectral: all singular values of order one."""

_DECOUPLED = {"AdamW", "Muon", "Lion", "Adafactor", "Scion", "Dion", "AdamW8bit", "AdEMAMix"}


def register_optimizer(
    optimizer: type[torch.optim.Optimizer] | str, geometry: Geometry, *, decoupled: bool = True
) -> None:
    """Declare a user's own optimizer: the geometry of its update, and whether its weight decay is decoupled."""
    if geometry not in ("gradient", "sign", "spectral"):
        raise UsageError(f"Geometry {geometry!r} is unknown; use 'gradient', 'sign' or 'spectral'.")
    name = optimizer_name(optimizer)
    _KNOWN[name] = geometry
    (_DECOUPLED.add if decoupled else _DECOUPLED.discard)(name)


def optimizer_name(optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer | str) -> str:
    """The class name of an optimizer given as class, instance or name."""
    if isinstance(optimizer, str):
        return optimizer
    return optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__


def geometry_of(optimizer: type[torch.optim.Optimizer] | str) -> Geometry:
    """The geometry of an optimizer's update. Raises UsageError for one that is not known."""
    name = optimizer_name(optimizer)
    for candidate in [name, *(c.__name__ for c in getattr(optimizer, "__mro__", ()))]:
        if candidate in _KNOWN:
            return _KNOWN[candidate]
    raise UsageError(
        f"The geometry of optimizer {name!r} is not known. Declare it once: hptransfer.register_optimizer({name}, "
        f"'gradient' | 'sign' | 'spectral'). Known: {', '.join(sorted(_KNOWN))}."
    )


def decoupled_decay(optimizer: type[torch.optim.Optimizer] | str, options: Mapping[str, Any] | None = None) -> bool:
    """True where weight decay multiplies the weight directly (AdamW), False where it joins the gradient (Adam, SGD)."""
    if options and "decoupled_weight_decay" in options:
        return bool(options["decoupled_weight_decay"])
    return optimizer_name(optimizer) in _DECOUPLED


def default_eps(optimizer: type[torch.optim.Optimizer] | str, options: Mapping[str, Any] | None = None) -> float | None:
    """The eps that the optimizer adds to the root of its second moment; None where it has no such float."""
    if options and isinstance(options.get("eps"), (int, float)):
        return float(options["eps"])
    cls = getattr(torch.optim, optimizer, None) if isinstance(optimizer, str) else optimizer
    if cls is None or optimizer_name(optimizer) in {"Muon", "Adafactor"}:
        return None
    parameter = inspect.signature(cls).parameters.get("eps")
    return float(parameter.default) if parameter is not None and isinstance(parameter.default, float) else None


def default_betas(
    optimizer: type[torch.optim.Optimizer] | str, options: Mapping[str, Any] | None = None
) -> tuple[float, ...] | None:
    """The optimizer's betas, from its options or its class's defaults; None where it has no option of that name."""
    if options and "betas" in options:
        return tuple(float(beta) for beta in options["betas"])
    cls = getattr(torch.optim, optimizer, None) if isinstance(optimizer, str) else optimizer
    parameter = inspect.signature(cls).parameters.get("betas") if cls is not None else None
    return tuple(parameter.default) if parameter is not None and isinstance(parameter.default, tuple) else None


@dataclass(frozen=True)
class OptimizerInfo:
    """What the rules need to know of an optimizer.

    name: its class; geometry: of its update; decoupled: its weight decay multiplies the weight directly;
    default_eps: None where it has none; shape_factor: the library's own factor on a matrix's learning rate;
    betas: its averaging constants, None where it has none of that name.
    """

    name: str
    geometry: Geometry
    decoupled: bool
    default_eps: float | None
    shape_factor: str | None = None
    betas: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls, optimizer: type[torch.optim.Optimizer] | str, options: Mapping[str, Any] | None = None
    ) -> OptimizerInfo:
        """Read it off an optimizer's class (or name) and keyword options."""
        name = optimizer_name(optimizer)
        factor = (options or {}).get("adjust_lr_fn") or "original" if name == "Muon" else None
        eps, decoupled = default_eps(optimizer, options), decoupled_decay(optimizer, options)
        return cls(name, geometry_of(optimizer), decoupled, eps, factor, default_betas(optimizer, options))

    def own_factor(self, shape: Sequence[int]) -> float:
        """The library's own factor on the learning rate of a rows x columns matrix, which the plan divides out.

        torch.optim.Muon: "original" is sqrt(max(1, rows/columns)), "match_rms_adamw" .2 sqrt(max(rows, columns)).
        Source: torch.optim._muon._adjust_lr, checked against it in tests.
        """
        if self.shape_factor is None or len(shape) < 2:
            return 1.0
        rows, columns = shape[0], shape[1]
        if self.shape_factor == "original":
            return math.sqrt(max(1.0, rows / columns))
        if self.shape_factor == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        raise UsageError(f"Muon's adjust_lr_fn {self.shape_factor!r} is unknown; use 'original' or 'match_rms_adamw'.")
