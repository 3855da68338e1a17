"""An optimizer's geometry: what its update looks like before the learning rate multiplies it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import Geometry

Optimizer = type[torch.optim.Optimizer] | str
Eps = float | tuple[float | None, float]

_KNOWN: dict[str, Geometry] = {
    **dict.fromkeys(("SGD", "DSGD"), "gradient"),
    **dict.fromkeys(
        ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adamax", "Adagrad", "Adadelta", "Lion", "SignSGD", "Signum",
         "SparseAdam", "Adam8bit", "AdamW8bit", "FusedAdam", "DeepSpeedCPUAdam", "AdEMAMix"),
        "sign",
    ),
    "Adafactor": "relative",
    **dict.fromkeys(("Muon", "Scion", "Dion", "Shampoo"), "spectral"),
}  # fmt: skip
"""gradient: proportional to the gradient; sign: entries of order one; relative: entries of the order of the weight's
rms; spectral: all singular values of order one."""

_DECOUPLED = {
    *("AdamW", "Muon", "Lion", "Adafactor", "Scion", "Dion", "AdamW8bit", "AdEMAMix"),
    *("FusedAdam", "DeepSpeedCPUAdam"),  # by default: see _DECAY_SWITCHES
}
_DECAY_SWITCHES = ("decoupled_weight_decay", "adam_w_mode", "adamw_mode")
"""Options that decide it: of torch's Adam, NAdam and RAdam; of FusedAdam (apex, DeepSpeed, Transformer Engine) and of
DeepSpeedCPUAdam, both True by default."""

_REFUSED = {
    "Rprop": "every entry adapts its own step size, so lr is only its starting value and no multiplier on it lasts",
    "ASGD": "lr also sets its step decay and its averaging constant lambd, so no multiplier on lr alone scales it",
    "LBFGS": "it takes one group and sets its own step length",
    "SOAP": "its update lies between 'sign' and 'spectral', depending on its averaging; declare which one you mean",
    "DistributedShampoo": "grafting sets the size of its update; declare the geometry of the grafted optimizer",
    "Sophia": "its update is 'sign' where clipped and Newton's elsewhere; declare 'sign' if clipping is the rule",
}
"""Optimizers that are known and that no single geometry describes, with the reason."""

_EPS_POWER = {"Adadelta": 2.0}
_STEP_PER_EPS = {"Adadelta": 0.5}


def register_optimizer(
    optimizer: Optimizer, geometry: Geometry, *, decoupled: bool = True, eps_power: float = 1.0
) -> None:
    """Declare a user's own optimizer.

    geometry: of its update, "gradient", "sign", "relative" or "spectral". decoupled: its weight decay multiplies the
    weight directly. eps_power: 1 where eps is added to a root of the second moment, 2 where it stands under the root.
    Raises UsageError where the geometry is unknown.
    """
    if geometry not in get_args(Geometry):
        raise UsageError(f"Geometry {geometry!r} is unknown; use one of {', '.join(get_args(Geometry))}.")
    name = optimizer_name(optimizer)
    _KNOWN[name], _EPS_POWER[name] = geometry, eps_power
    (_DECOUPLED.add if decoupled else _DECOUPLED.discard)(name)


def optimizer_name(optimizer: Optimizer | torch.optim.Optimizer) -> str:
    """The class name of an optimizer given as class, instance or name."""
    if isinstance(optimizer, str):
        return optimizer
    return optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__


def _known_name(optimizer: Optimizer) -> str:
    """The name under which this optimizer, or the nearest class it derives from, is known. Raises UsageError."""
    name = optimizer_name(optimizer)
    for candidate in [name, *(c.__name__ for c in getattr(optimizer, "__mro__", ()))]:
        if candidate in _KNOWN:
            return candidate
        if candidate in _REFUSED:
            raise UsageError(
                f"No rule scales {name}'s learning rate: {_REFUSED[candidate]}. Use another optimizer, or declare a "
                f"geometry with hptransfer.register_optimizer({name}, ...) if you know better."
            )
    raise UsageError(
        f"The geometry of optimizer {name!r} is not known. Declare it once: hptransfer.register_optimizer({name}, "
        f"{' | '.join(map(repr, get_args(Geometry)))}). Known: {', '.join(sorted(_KNOWN))}."
    )


def geometry_of(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> Geometry:
    """The geometry of an optimizer's update under these keyword options.

    Raises UsageError for one that is not known, that no single geometry describes, or that ignores lr.
    """
    geometry = _KNOWN[_known_name(optimizer)]
    if _setting(optimizer, options, "initial_accumulator_value"):
        raise UsageError(
            f"{optimizer_name(optimizer)}(initial_accumulator_value=...) stands beside the squared gradients, but it "
            f"has no value per group, so it cannot follow them; leave it 0."
        )
    if _setting(optimizer, options, "relative_step"):
        raise UsageError(
            f"{optimizer_name(optimizer)}(relative_step=True) ignores lr, and with it every multiplier; pass "
            f"relative_step=False here, in optimizer_options, and to the optimizer."
        )
    scaled = _setting(optimizer, options, "scale_parameter")
    return "sign" if geometry == "relative" and scaled is False else geometry


def decoupled_decay(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> bool:
    """True where weight decay multiplies the weight directly (AdamW), False where it joins the gradient (Adam, SGD)."""
    for switch in _DECAY_SWITCHES:
        if options and switch in options:
            return bool(options[switch])
    name = _known_name(optimizer)
    # bitsandbytes' Adam takes its AdamW's step, at 8 bits too (csrc/kernels.cu, case ADAM); torchao's Adam8bit does not
    its_own = name in {"Adam", "Adam8bit"} and getattr(optimizer, "__module__", "").startswith("bitsandbytes.")
    return its_own or name in _DECOUPLED


def default_eps(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> float | None:
    """The eps that is compared with the gradient; None where the optimizer has none that can be set by group."""
    eps = _setting(optimizer, options, "eps")
    if isinstance(eps, (tuple, list)):
        eps = eps[0]
    adaptive = geometry_of(optimizer, options) in {"sign", "relative"}
    return float(eps) if adaptive and isinstance(eps, (int, float)) else None


def default_betas(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> tuple[float, ...] | None:
    """The optimizer's betas, from its options or its class's defaults; None where it has no option of that name."""
    betas = _setting(optimizer, options, "betas")
    return tuple(float(beta) for beta in betas) if isinstance(betas, (tuple, list)) else None


def _setting(optimizer: Optimizer, options: Mapping[str, Any] | None, key: str) -> Any:
    """A keyword option, or its default in the optimizer's class (a name means torch.optim's); None without one."""
    return options[key] if options and key in options else class_default(optimizer, key)


def class_default(optimizer: Optimizer, key: str) -> Any:
    """The default of a keyword in an optimizer's class (a name means torch.optim's); None where there is none."""
    cls = getattr(torch.optim, optimizer, None) if isinstance(optimizer, str) else optimizer
    parameter = inspect.signature(cls).parameters.get(key) if cls is not None else None
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


@dataclass(frozen=True)
class OptimizerInfo:
    """What the rules need to know of an optimizer.

    name: its class; geometry: of its update; decoupled: its weight decay multiplies the weight directly;
    default_eps: None where it has none; shape_factor: the library's own factor on a matrix's learning rate;
    betas: its averaging constants, None where it has none of that name.
    eps_power: eps is compared with the gradient's entries to this power. step_per_eps: the update, before lr, is
    proportional to eps to this power (Adadelta's is, to the root). floor: the second of an eps that is a pair, the
    least weight rms that a relative step assumes. decay_in_step: weight decay is multiplied by the relative step, not
    by lr alone.
    """

    name: str
    geometry: Geometry
    decoupled: bool
    default_eps: float | None
    shape_factor: str | None = None
    betas: tuple[float, ...] | None = None
    eps_power: float = 1.0
    step_per_eps: float = 0.0
    floor: float | None = None
    decay_in_step: bool = False

    @classmethod
    def of(cls, optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> OptimizerInfo:
        """Read it off an optimizer's class (or name) and keyword options."""
        known, geometry = _known_name(optimizer), geometry_of(optimizer, options)
        eps = _setting(optimizer, options, "eps")
        scales_itself = _setting(optimizer, options, "scale_parameter") is not None  # transformers' Adafactor
        return cls(
            optimizer_name(optimizer),
            geometry,
            decoupled_decay(optimizer, options),
            default_eps(optimizer, options),
            (options or {}).get("adjust_lr_fn") or "original" if known == "Muon" else None,
            default_betas(optimizer, options),
            eps_power=2.0 if scales_itself else _EPS_POWER.get(known, 1.0),
            step_per_eps=_STEP_PER_EPS.get(known, 0.0),
            floor=float(eps[1]) if isinstance(eps, (tuple, list)) else None,
            decay_in_step=scales_itself and geometry == "relative",
        )

    @property
    def l2_in_step(self) -> bool:
        """Weight decay joins the gradient before a step that does not see the gradient's size (torch.optim.Adam)."""
        return self.geometry != "gradient" and not self.decoupled

    @property
    def matrices_only(self) -> bool:
        """It refuses parameters that are not 2-D (torch.optim.Muon)."""
        return self.name == "Muon"

    def eps_ratio(self, gradient: float) -> float:
        """The ratio that keeps eps beside a gradient whose entries change by this ratio; 1 without such an eps."""
        return gradient**self.eps_power if self.geometry in {"sign", "relative"} else 1.0

    def group_eps(self, default: float | None, eps_mult: float, scale_mult: float) -> Eps | None:
        """A group's eps; for a relative step the pair (eps, floor), the floor following the weight's scale."""
        scaled = None if default is None else default * eps_mult
        return scaled if self.floor is None else (scaled, self.floor * scale_mult)

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
