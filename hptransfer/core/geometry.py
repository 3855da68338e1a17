"""An optimizer's geometry: what its update looks like before the learning rate multiplies it, read off its class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.core.declared import (
    Optimizer,
    check_options,
    initializers,
    is_declared,
    known_class,
    optimizer_name,
    row_of,
)
from hptransfer.core.errors import UsageError
from hptransfer.core.optimizers import HYPERBALL, SHAPE_FACTORS, Decay, OptimizerRow, torch_row
from hptransfer.core.rules import Geometry

Eps = float | tuple[float | None, float]

_DECAY_SWITCHES: Mapping[str, tuple[Decay, Decay]] = {
    "decoupled_weight_decay": ("l2", "decoupled"),
    "adam_w_mode": ("l2", "decoupled"),
    "adamw_mode": ("l2", "decoupled"),
    "weight_decouple": ("l2", "decoupled"),
}
"""Option -> the decay where it is False, and True: of torch's Adam, NAdam and RAdam; of FusedAdam (apex, DeepSpeed,
Transformer Engine); of DeepSpeedCPUAdam; of pytorch_optimizer's classes, whose `fixed_decay` makes it free of lr."""


def geometry_of(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> Geometry:
    """The geometry of an optimizer's update under these keyword options.

    Raises UsageError for one that is not known, that no single geometry describes, or that ignores lr.
    """
    geometry = row_of(optimizer).geometry
    assert geometry is not None  # row_of refuses those
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


def decay_of(optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> Decay:
    """What weight decay does under these keyword options: see hptransfer.core.optimizers.Decay."""
    if _setting(optimizer, options, "fixed_decay"):
        return "fixed"
    for switch, (without, with_it) in _DECAY_SWITCHES.items():
        said = switch in (options or {}) or not is_declared(optimizer)
        chosen = _setting(optimizer, options, switch) if said else None
        if chosen is not None:  # torch.optim.AdamW has no such option: it passes it on by itself
            return with_it if chosen else without
    return row_of(optimizer).decay


def decay_in_group(group: Mapping[str, Any]) -> tuple[str, Decay] | None:
    """The option in an optimizer's group that says what its weight decay does, and what; None where none says so."""
    if group.get("fixed_decay"):
        return "fixed_decay", "fixed"
    for switch, (without, with_it) in _DECAY_SWITCHES.items():
        if switch in group:
            return switch, with_it if group[switch] else without
    return None


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


def _averages(row: OptimizerRow, optimizer: Optimizer, options: Mapping[str, Any] | None) -> dict[str, float]:
    """Options beside betas that are an average's decay per step, with their values."""
    values = {key: _setting(optimizer, options, key) for key in row.averages if key != "betas"}
    return {key: float(value) for key, value in values.items() if isinstance(value, (int, float))}


def _shape(row: OptimizerRow, optimizer: Optimizer, options: Mapping[str, Any] | None) -> str | None:
    """The name of the shape factor; None without one. Raises UsageError on a value that the option does not have."""
    name = row.shape
    if row.shape_option:
        chosen = _setting(optimizer, options, row.shape_option)
        if chosen not in row.shape_choices:
            known = ", ".join(repr(value) for value in row.shape_choices)
            raise UsageError(f"{row.name}'s {row.shape_option} {chosen!r} is unknown; use one of {known}.")
        name = row.shape_choices[chosen]
    return None if name == "none" else name


def _setting(optimizer: Optimizer, options: Mapping[str, Any] | None, key: str) -> Any:
    """A keyword option, or its default in the optimizer's class (a name means torch.optim's); None without one."""
    if options and key in options:
        return options[key]
    passed = _passed_on(optimizer, options or {})
    return passed[key] if key in passed else class_default(optimizer, key)


def _passed_on(optimizer: Optimizer, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a subclass with an __init__ of its own gives a torch optimizer, as its groups hold it; {} for others."""
    known = known_class(optimizer)
    if isinstance(optimizer, str) or known is None or known is optimizer or not known.__module__.startswith("torch."):
        return {}
    classes = optimizer.__mro__[: optimizer.__mro__.index(known)]
    if not any("__init__" in vars(cls) for cls in classes):
        return {}
    try:
        return optimizer([torch.zeros(1, 1, requires_grad=True)], **options).param_groups[0]  # type: ignore[call-arg]
    except Exception:
        return {}


def class_default(optimizer: Optimizer, key: str) -> Any:
    """The default of a keyword in an optimizer's class or those it derives from (a name means torch.optim's).

    None where there is none.
    """
    for maker in initializers(optimizer):
        parameter = inspect.signature(maker).parameters.get(key)
        if parameter is not None:
            return None if parameter.default is inspect.Parameter.empty else parameter.default
    return None


@dataclass(frozen=True)
class OptimizerInfo:
    """What the rules need to know of an optimizer.

    name: its class; geometry: of its update; decoupled: its weight decay multiplies the weight directly;
    default_eps: None where it has none; shape_factor: the library's own factor on a matrix's learning rate;
    betas: its averaging constants, None where it has none of that name.
    eps_power: eps is compared with the gradient's entries to this power. step_per_eps: the update, before lr, is
    proportional to eps to this power (Adadelta's is, to the root). floor: the second of an eps that is a pair, the
    least weight rms that a relative step assumes. decay_in_step: weight decay is multiplied by the relative step, not
    by lr alone. free_of_lr: weight decay is not multiplied by the size of lr, only by the schedule (decay "fixed").
    averages: options beside betas that are an average's decay per step.
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
    free_of_lr: bool = False
    averages: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, optimizer: Optimizer, options: Mapping[str, Any] | None = None) -> OptimizerInfo:
        """Read it off an optimizer's class (or name) and keyword options. Raises UsageError on an unknown option."""
        row, geometry, decay = row_of(optimizer), geometry_of(optimizer, options), decay_of(optimizer, options)
        check_options(optimizer, options or {})
        eps = _setting(optimizer, options, "eps")
        scales_itself = _setting(optimizer, options, "scale_parameter") is not None  # transformers' Adafactor
        return cls(
            optimizer_name(optimizer),
            geometry,
            decay != "l2",
            default_eps(optimizer, options),
            _shape(row, optimizer, options),
            default_betas(optimizer, options),
            eps_power=2.0 if scales_itself else row.eps_power,
            step_per_eps=row.step_per_eps,
            floor=float(eps[1]) if isinstance(eps, (tuple, list)) else None,
            decay_in_step=scales_itself and geometry == "relative",
            free_of_lr=decay == "fixed",
            averages=tuple(_averages(row, optimizer, options).items()),
        )

    @property
    def l2_in_step(self) -> bool:
        """Weight decay joins the gradient before a step that does not see the gradient's size (torch.optim.Adam)."""
        return self.geometry != "gradient" and not self.decoupled

    @property
    def relative(self) -> bool:
        """Its step is proportional to the weight's own norm."""
        return self.geometry == "relative" or self.shape_factor == HYPERBALL

    @property
    def decay(self) -> Decay:
        """What its weight decay does."""
        return "fixed" if self.free_of_lr else "decoupled" if self.decoupled else "l2"

    @property
    def matrices_only(self) -> bool:
        """It refuses parameters that are not 2-D (torch.optim.Muon)."""
        row = torch_row(self.name)
        return row is not None and row.matrices_only and self.shape_factor in row.shape_choices.values()

    def eps_ratio(self, gradient: float) -> float:
        """The ratio that keeps eps beside a gradient whose entries change by this ratio; 1 without such an eps."""
        return gradient**self.eps_power if self.geometry in {"sign", "relative"} else 1.0

    def group_eps(self, default: float | None, eps_mult: float, scale_mult: float) -> Eps | None:
        """A group's eps; for a relative step the pair (eps, floor), the floor following the weight's scale."""
        scaled = None if default is None else default * eps_mult
        return scaled if self.floor is None else (scaled, self.floor * scale_mult)

    def own_factor(self, shape: Sequence[int]) -> float:
        """The library's own factor on the learning rate of a rows x columns matrix, which the plan divides out.

        Raises UsageError where the factor was declared as a function in another process. Source: SHAPE_FACTORS, torch's
        checked against torch.optim._muon._adjust_lr in tests.
        """
        if self.shape_factor is None or len(shape) < 2:
            return 1.0
        if self.shape_factor not in SHAPE_FACTORS:
            raise UsageError(
                f"{self.name}'s shape factor {self.shape_factor!r} is unknown here. Declare it as where the plan was "
                f"made, with hptransfer.register_optimizer; names are {', '.join(SHAPE_FACTORS)}."
            )
        return SHAPE_FACTORS[self.shape_factor](shape[0], shape[1])
