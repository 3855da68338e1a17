"""The choices on which implementations disagree, each a named option with a stated default."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from hptransfer.core.errors import UsageError

DecayRule = Literal["independent", "coupled"]
ExportForm = Literal["regex", "torchtitan", "megatron", "deepspeed", "optax"]
"""What a plan can be written as for another tool."""


@dataclass(frozen=True)
class Options:
    """Choices on which implementations disagree. The defaults are the derived ones.

    readout_init: "own" keeps the base's own readout init times the rule's ratio; "zero" starts the weights that make
    the outputs at zero, at every size, the base's included, and under every scheme, the control included. A frozen one
    stays, as does a gate's; one that could not learn from zero is refused (tied, multiplied with another such one, or
    divided by its own norm). "fan-in" starts them at n^-1/2 in place of n^-1 and leaves every rate as it is: a base
    whose readout starts small starves no wider model (docs/limits.md); of untied ones, and not with forward="unit".
    attention: logits multiplier; None takes the scheme's.
    forward: "own" keeps the base's own initial scales; "unit" replaces those of its weights, at every size, so that
    each weight's output has rms 1 at the base (a readout's fan_in^-1/2), and puts residual branches at (2/L)^1/2 of the
    stream. Measured on the base, which must be real, with its example inputs. For every scheme but "sp"; see
    docs/theory/unit-scaling.md.
    weight_decay: "independent" keeps lr x wd per step equal to the base's; "coupled" leaves wd as given.
    eps: "scaled" follows the gradient's scale, so that a plan trains the same function in every form. "fixed" leaves
    it in every group of the plan that make_plan returns exactly as given, as mup 1.0.0 does, whatever batch, depth or
    absorbed multipliers ask for. What is trained then depends on the form: an eps beside an absorbed multiplier theta
    acts as theta eps would beside a forward one (2011.14522), so mup's function comes back only where eps is
    negligible. `absorb` and `as_multipliers` keep the function and move eps. The floor of a relative step (Adafactor's
    second eps) is a weight's scale, which is followed.
    unused: "error" refuses a trainable parameter that the traced forward never uses; "keep" leaves it as it is.
    weights: "initial" weights are scaled by the rules; "pretrained" ones keep their values and their forward pass, but
    for adapters and trained readouts. None: pretrained where a hidden matrix is frozen.
    bottleneck_init: of a trained matrix that contracts the width to a fixed rank inside a pretrained model (LoRA's A):
    "fan-in", n^-1/2 as PEFT draws it (LoRA+), or "readout", n^-1 as its fans say, see docs/limits.
    grouped_heads: of weights that make heads of a fixed size for ever more query heads to read (grouped-query attention
    whose key-value heads do not grow): "readout", n^-1 as their fans say, so that heads start small; or "fan-in",
    n^-1/2, as a hidden matrix. The learning rate is the same. The default is the derived one: with n^-1/2 a step of the
    earlier layers moves the values by n^1/2. The code released with 2605.15290 takes n^-1/2; see docs/gqa.md.
    unplaced: "error" refuses a plan of which a forward multiplier has no place; "note" goes on without it.
    depth: "error" refuses a plan under a scheme with a depth rule of which a layer that the base lacks stands in no
    residual branch; "note" leaves such layers without one.
    batch, duration, decay_horizon: rules for batch size and tokens, see hptransfer.core.horizon.carried.
    """

    readout_init: Literal["own", "zero", "fan-in"] = "own"
    attention: Literal["1/d", "1/sqrt(d)"] | None = None
    forward: Literal["own", "unit"] = "own"
    weight_decay: DecayRule = "independent"
    eps: Literal["scaled", "fixed"] = "scaled"
    unused: Literal["error", "keep"] = "error"
    unplaced: Literal["error", "note"] = "error"
    depth: Literal["error", "note"] = "error"
    weights: Literal["initial", "pretrained"] | None = None
    bottleneck_init: Literal["fan-in", "readout"] = "fan-in"
    grouped_heads: Literal["readout", "fan-in"] = "readout"
    batch: str = "default"
    duration: str = "none"
    decay_horizon: str = "timescale"

    def __post_init__(self) -> None:
        allowed = {
            "readout_init": ("own", "zero", "fan-in"),
            "attention": (None, "1/d", "1/sqrt(d)"),
            "forward": ("own", "unit"),
            "weight_decay": ("independent", "coupled"),
            "eps": ("scaled", "fixed"),
            "unused": ("error", "keep"),
            "unplaced": ("error", "note"),
            "depth": ("error", "note"),
            "weights": (None, "initial", "pretrained"),
            "bottleneck_init": ("fan-in", "readout"),
            "grouped_heads": ("readout", "fan-in"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UsageError(f"Options({name}={getattr(self, name)!r}): use one of {values}.")
        if (self.readout_init, self.forward) == ("fan-in", "unit"):
            raise UsageError("Options(readout_init='fan-in', forward='unit'): both set the readout's init; give one.")


@dataclass(frozen=True)
class Tuned:
    """Multipliers that were tuned once at the base for one kind of module; they transfer like every base setting.

    lr, init, weight_decay: factors on the learning rate, the initial std and the weight decay of matching parameters.
    Raises UsageError where one is not positive. Source: per-module hyperparameters, 2512.22382 (Completed-P).
    """

    lr: float = 1.0
    init: float = 1.0
    weight_decay: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (isfinite(value) and value > 0):
                raise UsageError(f"Tuned({name}={value!r}): must be a positive finite factor.")
