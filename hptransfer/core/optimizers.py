"""What every optimizer does: one row each. Rules, groups, engines and predictions read this table and nothing else.

A row holds for the class of that name in the packages that it names; what else bears the name is declared by the user
(hptransfer.core.declared), since implementations disagree: a Muon may carry any of four shape factors, a decay may or
may not be multiplied by the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hptransfer.core.rules import Geometry

Decay = Literal["l2", "decoupled", "fixed"]
"""l2: joins the gradient (Adam, SGD). decoupled: the weight loses lr x wd of itself (AdamW). fixed: it loses wd of
itself whatever the size of lr (times lr / initial lr, where the schedule counts)."""

Momentum = Literal["", "none", "heavy ball", "nesterov option", "ema", "ema nesterov", "corrected ema", "nadam"]
"""How past gradients add up: nothing known, nothing kept, a sum, a sum that may look ahead, an average (corrected: for
its start)."""

ShapeFactor = Callable[[float, float], float]
"""(rows, columns) of a weight as the optimizer sees it -> what the library multiplies its learning rate by."""

SHAPE_FACTORS: dict[str, ShapeFactor] = {
    "none": lambda rows, columns: 1.0,
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_norm": lambda rows, columns: math.sqrt(rows / columns),
    "sqrt_max": lambda rows, columns: math.sqrt(max(rows, columns)),
    "hyperball": lambda rows, columns: math.sqrt(rows / min(rows, columns)),
}
"""original, match_rms_adamw: torch.optim._muon (2502.16982 for the latter). spectral_norm: Scion (2502.07529, its
spectral ball) and Dion (2504.05295). hyperball: MuonH's orthogonal step has the Frobenius norm lr |W|_F, hence singular
values lr |W|_F / min(rows, columns)^1/2, and a hidden W of std columns^-1/2 has |W|_F = rows^1/2; it grows with W, so a
factor absorbed into W asks for no other rate. Declared ones join them."""

HYPERBALL = "hyperball"
"""The one shape factor that is relative to the weight's norm."""

_DION_CHOICES = {None: "none", "spectral_norm": "spectral_norm", "rms_norm": "match_rms_adamw"}


@dataclass(frozen=True)
class OptimizerRow:
    """One optimizer.

    geometry: of its update; None where no single one describes it: `refused` says why. homes: packages whose class of
    this name it is; () where it is known by name alone. decay: without options. shape: its shape factor without
    options; shape_option: the option that chooses it, shape_choices: what that option's values mean.
    eps_power: eps is compared with the gradient's entries to this power; step_per_eps: the update, before lr, is
    proportional to eps to this power. matrices_only: it refuses parameters that are not 2-D.
    averages: options that are an average's decay per step, which follow the batch as betas do; scale-free ones only.
    momentum, curvature: how predictions see it: how gradients add up, and the preconditioner.
    lanes: its step on stacked weights is each one's own and proportional to lr.
    options: keyword options of a class that is known by name only, beside lr, betas, eps and weight_decay.
    """

    name: str
    geometry: Geometry | None
    homes: tuple[str, ...] = ("torch.optim.",)
    decay: Decay = "l2"
    shape: str = "none"
    shape_option: str = ""
    shape_choices: Mapping[str | None, str] = field(default_factory=dict[str | None, str])
    eps_power: float = 1.0
    step_per_eps: float = 0.0
    matrices_only: bool = False
    averages: tuple[str, ...] = ("betas",)
    momentum: Momentum = ""
    curvature: Literal["", "identity", "elementwise", "matrix"] = ""
    lanes: bool = False
    options: tuple[str, ...] = ()
    refused: str = ""


def _bitsandbytes() -> Iterable[OptimizerRow]:
    """bitsandbytes' family: its Adam takes its AdamW's step, at 8 bits too (csrc/kernels.cu, case ADAM)."""
    kinds: dict[str, tuple[Geometry, Decay]] = {
        **dict.fromkeys(("Adam", "AdamW", "AdEMAMix", "Lion"), ("sign", "decoupled")),
        **{"SGD": ("gradient", "l2"), "RMSprop": ("sign", "l2"), "Adagrad": ("sign", "l2")},
    }
    for name, (geometry, decay) in kinds.items():
        for form in (f"{paged}{name}{bits}" for paged in ("", "Paged") for bits in ("", "8bit", "32bit")):
            yield OptimizerRow(form, geometry, ("bitsandbytes.",), decay)


def _torchao() -> Iterable[OptimizerRow]:
    """torchao's quantised states: Adam adds L2 to the gradient, like torch's, AdamW does not."""
    for bits in ("8bit", "4bit", "Fp8"):
        yield OptimizerRow(f"Adam{bits}", "sign", ("torchao.",))
        yield OptimizerRow(f"AdamW{bits}", "sign", ("torchao.",), "decoupled")


_FUSED = ("apex.", "deepspeed.", "transformer_engine.")

_ROWS: tuple[OptimizerRow, ...] = (
    OptimizerRow("SGD", "gradient", averages=(), momentum="nesterov option", curvature="identity", lanes=True),
    OptimizerRow("DSGD", "gradient", (), averages=()),
    OptimizerRow("Adam", "sign", momentum="corrected ema", curvature="elementwise", lanes=True),
    OptimizerRow(
        "AdamW", "sign", decay="decoupled", momentum="corrected ema", curvature="elementwise", lanes=True
    ),
    OptimizerRow("NAdam", "sign", momentum="nadam", curvature="elementwise", lanes=True),
    OptimizerRow("RAdam", "sign", momentum="corrected ema", curvature="elementwise", lanes=True),
    OptimizerRow(
        "RMSprop", "sign", averages=("alpha",), momentum="heavy ball", curvature="elementwise", lanes=True
    ),
    OptimizerRow("Adagrad", "sign", averages=(), momentum="none", curvature="elementwise", lanes=True),
    OptimizerRow("Adamax", "sign", lanes=True),
    OptimizerRow("Adadelta", "sign", eps_power=2.0, step_per_eps=0.5, averages=("rho",), lanes=True),
    OptimizerRow("SparseAdam", "sign"),
    OptimizerRow("Adafactor", "relative", decay="decoupled", averages=()),
    OptimizerRow(
        "Adafactor", "relative", ("transformers.", "fairseq."), "decoupled", eps_power=2.0, averages=(),
        options=("relative_step", "scale_parameter", "warmup_init", "clip_threshold", "decay_rate", "beta1"),
    ),
    OptimizerRow(
        "Muon", "spectral", decay="decoupled", shape="original", shape_option="adjust_lr_fn",
        shape_choices={None: "original", "original": "original", "match_rms_adamw": "match_rms_adamw"},
        matrices_only=True, averages=("momentum",), momentum="ema nesterov", curvature="matrix",
    ),
    OptimizerRow("FusedAdam", "sign", _FUSED, "decoupled", options=("adam_w_mode", "bias_correction", "amsgrad")),
    OptimizerRow("DeepSpeedCPUAdam", "sign", _FUSED, "decoupled", options=("adamw_mode", "bias_correction", "amsgrad")),
    OptimizerRow("FusedSGD", "gradient", _FUSED, averages=(), options=("momentum", "dampening", "nesterov")),
    OptimizerRow("Lion", "sign", ("lion_pytorch.",), "decoupled"),
    OptimizerRow("FusedLion", "sign", _FUSED, "decoupled"),
    OptimizerRow("DeepSpeedCPULion", "sign", _FUSED, "decoupled"),
    OptimizerRow("AdEMAMix", "sign", (), "decoupled", options=("alpha", "t_alpha", "t_beta3")),
    OptimizerRow("SignSGD", "sign", (), averages=()),
    OptimizerRow("Signum", "sign", (), averages=("momentum",), options=("momentum",)),
    OptimizerRow("DecoupledAdamW", "sign", ("composer.",), "fixed"),
    OptimizerRow("DecoupledSGDW", "gradient", ("composer.",), "fixed", averages=(), options=("momentum",)),
    OptimizerRow("Scion", "spectral", (), "decoupled", "spectral_norm", averages=(), options=("momentum", "norm")),
    OptimizerRow("Dion", "spectral", (), "decoupled", "spectral_norm", averages=(), options=("mu", "rank_fraction")),
    OptimizerRow("Shampoo", "spectral", (), averages=(), options=("momentum", "update_freq")),
    OptimizerRow("NorMuon", "spectral", (), "decoupled", "match_rms_adamw", options=("momentum", "beta2"), averages=()),
    OptimizerRow("AdamH", "relative", (), "decoupled", averages=("betas",)),
    OptimizerRow("MuonH", "spectral", (), "decoupled", HYPERBALL, averages=("momentum",), options=("momentum",)),
    OptimizerRow("AdamWScheduleFree", "sign", ("schedulefree.",), "decoupled"),
    OptimizerRow("RAdamScheduleFree", "sign", ("schedulefree.",), "decoupled"),
    OptimizerRow("SGDScheduleFree", "gradient", ("schedulefree.",), averages=()),
    *_torchao(),
    *_bitsandbytes(),
    OptimizerRow(
        "Rprop", None,
        refused="every entry adapts its own step size, so lr is only its starting value and no multiplier on it lasts",
    ),
    OptimizerRow(
        "ASGD", None,
        refused="lr also sets its step decay and its averaging constant lambd, so no multiplier on lr alone scales it",
    ),
    OptimizerRow("LBFGS", None, refused="it takes one group and sets its own step length"),
    OptimizerRow(
        "SOAP", None, (),
        refused="its update lies between 'sign' and 'spectral', depending on its averaging; declare which one you mean",
    ),
    OptimizerRow(
        "DistributedShampoo", None, (),
        refused="grafting sets the size of its update; declare the geometry of the grafted optimizer",
    ),
    OptimizerRow(
        "Sophia", None, (),
        refused="its update is 'sign' where clipped and Newton's elsewhere; declare 'sign' if clipping is the rule",
    ),
)  # fmt: skip
"""The first row of a name is what that name means as a string."""


def _by_name(rows: Iterable[OptimizerRow]) -> dict[str, tuple[OptimizerRow, ...]]:
    named: dict[str, tuple[OptimizerRow, ...]] = {}
    for row in rows:
        named[row.name] = (*named.get(row.name, ()), row)
    return named


OPTIMIZERS: Mapping[str, tuple[OptimizerRow, ...]] = _by_name(_ROWS)
"""Name -> its rows, one per library that does it in a way of its own."""


def torch_row(name: str) -> OptimizerRow | None:
    """The row of torch.optim's class of this name; None where the table has none."""
    rows = OPTIMIZERS.get(name, ())
    return next((row for row in rows if "torch.optim." in row.homes), None)


def torch_rows() -> tuple[OptimizerRow, ...]:
    """The rows of torch.optim's own classes."""
    return tuple(row for row in _ROWS if "torch.optim." in row.homes)
