"""From one condition to every exponent: how init, learning rate and eps scale with fans and depth.

The condition (spectral condition, Yang, Simon & Bernstein 2023, 2310.17813; desideratum of 2011.14522): at any width,
activations and their change in one step have entries of order 1. Written for one weight W of fan_in i and fan_out o:

  init     W x has entries of order 1       ->  std = i^-1/2; the readout shares its n features, so its std is a
                                                choice: i^-1 (features learn: muP, MFP) or i^-1/2 (SP, NTP, NTK)
  backward delta, the gradient at W's output, is set by the readout: entries o^-1 with the former, o^-1/2 the latter
  update   (dW) x has entries of order 1    ->  gradient step: dW = lr delta x^T, |x|^2 = i   -> lr = i^-1 delta^-1
                                                sign step: entries lr, aligned with x         -> lr = i^-1
                                                sign step, not aligned (Everett 2024)         -> lr = i^-1/2
                                                relative step: entries lr rms(W)              -> sign's lr / std
                                                spectral step: |dW|_2 = lr, |x| = i^1/2       -> lr = (o/i)^1/2
           kernel (NTK): what the readout sees of dW x has order 1, not dW x itself. An i^-1/2 readout that is aligned
           with it adds n i^-1/2 = n^1/2 up, so every lr behind it takes o^-1/2 more, and the features stand still
  eps      follows the gradient's entries   ->  eps = delta

A quantity that grows with neither fan drops out, so roles need no table: an embedding or a gain has i fixed, a readout
o. So have key-value heads that stay as they are while the query heads that read them grow: delta ~ 1, and a readout's
init (docs/gqa.md, equations 1 to 6; a "bottleneck" is the same with a hidden matrix's init). Depth (CompleteP, Dey et
al. 2025, 2505.01618): a branch multiplied by L^-alpha has delta ~ L^-alpha, and L updates add up: sign, relative and
spectral lr = L^(alpha-1), gradient lr = L^(2 alpha-1), eps = L^-alpha. What acts on the stream
itself is not multiplied: alpha = 0 there.

Copies: of E alike weights whose outputs are added up with shares that sum to one (experts behind a router, parallel
branches) each gets 1/E of the gradient, whether all meet every token or K of them do: K/E of the tokens times a share
of 1/K. So delta ~ E^-1, and with it gradient lr = E and eps = E^-1; no other step sees it (2601.20205).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role

Geometry = Literal["gradient", "sign", "relative", "spectral"]
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Power:
    """fan_in^fan_in x fan_out^fan_out x depth^depth x copies^copies, with exact exponents."""

    fan_in: Fraction = Fraction(0)
    fan_out: Fraction = Fraction(0)
    depth: Fraction = Fraction(0)
    copies: Fraction = Fraction(0)

    def at(self, m_in: float, m_out: float, m_depth: float = 1.0, m_copies: float = 1.0) -> float:
        """The ratio target/base, for ratios m_in, m_out, m_depth and m_copies."""
        fans = m_in ** float(self.fan_in) * m_out ** float(self.fan_out)
        return fans * m_depth ** float(self.depth) * m_copies ** float(self.copies)

    def __mul__(self, other: Power) -> Power:
        fans = self.fan_in + other.fan_in, self.fan_out + other.fan_out
        return Power(*fans, self.depth + other.depth, self.copies + other.copies)

    def inverse(self) -> Power:
        """One over it."""
        return Power(-self.fan_in, -self.fan_out, -self.depth, -self.copies)

    def __str__(self) -> str:
        named = (("m_in", self.fan_in), ("m_out", self.fan_out), ("m_L", self.depth), ("m_copies", self.copies))
        shown = [name if e == 1 else f"{name}^{e}" for name, e in named if e != 0]
        return " ".join(shown) or "1"


@dataclass(frozen=True)
class Scheme:
    """The choices that a parametrization makes; everything else is derived from them.

    readout_init: exponent of fan_in in the readout's initial std: -1 (muP, MFP) or -1/2 (SP, NTP, NTK).
    aligned: whether an update is taken to be aligned with the activation (Everett et al. 2024, 2407.05872).
    depth_alpha: exponent of the residual branch multiplier L^-alpha; None leaves depth alone.
    attention: logits multiplier relative to the base: "1/d" or "1/sqrt(d)".
    kernel: the readout's change is of order one, not the features' (lazy training); needs readout_init -1/2.
    global_lr: one learning rate and the model's own init (the SP control), but for the embedding's where embedding_lr
    is not 0. embedding_lr: further exponent of fan_out in the rate of input weights (sign steps).
    unit: weights are stored with unit rms, their scale in the forward pass (unit scaling).
    source: where it is published.
    """

    name: str
    readout_init: Fraction = Fraction(-1)
    aligned: bool = True
    kernel: bool = False
    depth_alpha: Fraction | None = None
    attention: Literal["1/d", "1/sqrt(d)"] = "1/d"
    global_lr: bool = False
    exact_spectral: bool = False
    embedding_lr: Fraction = Fraction(0)
    unit: bool = False
    source: str = ""


SCHEMES: Mapping[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("sp", -HALF, attention="1/sqrt(d)", global_lr=True, source="PyTorch's defaults, one global LR"),
        Scheme(
            "sp-embedding",
            -HALF,
            attention="1/sqrt(d)",
            global_lr=True,
            embedding_lr=Fraction(1),
            source="SP, the input weights' rate times the width: Kalra & Barkeshli 2026, 2605.21486",
        ),
        Scheme("ntp", -HALF, attention="1/sqrt(d)", source="Everett et al. 2024, 2407.05872"),
        Scheme("ntk", -HALF, kernel=True, attention="1/sqrt(d)", source="Jacot et al. 2018, 1806.07572; 2308.01814"),
        Scheme(
            "mfp",
            source="mean field, Mei et al. 2018, 1804.06561: trains muP's function, equal to it up to abc-symmetry "
            "(2407.05872, Table 1)",
        ),
        Scheme("mup", source="Yang et al. 2022, 2203.03466, Table 8"),
        Scheme("mup-no-align", aligned=False, source="Everett et al. 2024, 2407.05872"),
        Scheme("spectral", exact_spectral=True, source="Yang, Simon & Bernstein 2023, 2310.17813, Condition 1"),
        Scheme("completep", depth_alpha=Fraction(1), source="Dey et al. 2025, 2505.01618, Table 1"),
        Scheme("depth-mup", depth_alpha=HALF, source="Yang et al. 2023, 2310.02244"),
        Scheme(
            "umup", embedding_lr=-HALF, depth_alpha=HALF, unit=True, source="Blake et al. 2024, 2407.17465, Table 2"
        ),
    )
}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name. Raises UsageError, listing the valid names."""
    if name not in SCHEMES:
        raise UsageError(f"Scheme {name!r} is unknown; use one of {', '.join(SCHEMES)}.")
    return SCHEMES[name]


@dataclass(frozen=True)
class Rule:
    """How one parameter's effective (absorbed) hyperparameters scale. Each is a Power of the target/base ratios.

    eps: also the scale of the gradient's entries, whether or not the optimizer has an eps that follows them.
    """

    init: Power
    lr: Power
    eps: Power


def gradient_scale(scheme: Scheme) -> Power:
    """delta: entries of the gradient at a weight's output. A readout's fan_out does not grow, so it drops out there."""
    return Power(fan_out=scheme.readout_init if scheme.readout_init > -1 else Fraction(-1), copies=Fraction(-1))


def rule_for(
    role: Role, geometry: Geometry, scheme: Scheme, *, in_branch: bool = False, on_stream: bool = False
) -> Rule:
    """The rule of a parameter from its role, the optimizer's geometry and the scheme's choices.

    in_branch: the parameter is used inside a residual branch (depth rules apply). on_stream: it acts on the stream
    itself in every layer (a gain behind the add, a learned scalar), where no L^-alpha stands before its update.
    """
    if scheme.global_lr or role.kind == "unused":
        lr = Power(fan_out=scheme.embedding_lr) if role.kind == "input" else Power()
        return Rule(Power(), lr, Power())
    delta = gradient_scale(scheme)
    init = Power(fan_in=scheme.readout_init if role.kind == "readout" else -HALF)
    acts = on_stream and not in_branch and scheme.depth_alpha is not None
    alpha = Fraction(0) if acts else scheme.depth_alpha if in_branch else None
    lr, eps = _update(geometry, role, scheme, delta, init), delta
    if scheme.kernel:
        lr = lr * Power(fan_out=-1 - scheme.readout_init)
    if alpha is not None:
        lr = lr * Power(depth=2 * alpha - 1 if geometry == "gradient" else alpha - 1)
        eps = eps * Power(depth=-alpha)
    return Rule(init, lr, eps)


def _update(geometry: Geometry, role: Role, scheme: Scheme, delta: Power, init: Power) -> Power:
    """The learning rate at which (dW) x keeps entries of order 1: see the derivation at the top."""
    aligned = Power(fan_in=Fraction(-1) if scheme.aligned else -HALF)
    if geometry == "gradient":
        return aligned * delta.inverse()
    if geometry == "spectral":
        across = -HALF if scheme.aligned or role.kind not in {"readout", "bottleneck"} else Fraction(0)
        return Power(fan_in=across, fan_out=HALF)
    step = aligned * Power(fan_out=scheme.embedding_lr) if role.kind == "input" else aligned
    return step * init.inverse() if geometry == "relative" else step


def init_ratio(role: Role, rule: Rule, scheme: Scheme, m_depth: float = 1.0) -> float:
    """Target/base ratio of the initial std; for the spectral scheme from |W|_2 = std (i^1/2 + o^1/2) at true sizes."""
    if has_exact_std(role, scheme):
        return _spectral_std(role.fan_in, role.fan_out) / _spectral_std(role.base_fan_in, role.base_fan_out)
    return rule.init.at(role.m_in, role.m_out, m_depth, role.m_copies)


def has_exact_std(role: Role, scheme: Scheme) -> bool:
    """Whether the spectral condition sets a weight's std at true sizes: hidden matrices and readouts.

    An input's fan_in is the data's: i^-1/2 keeps the features' entries exactly, and |W|_2 / (o/i)^1/2 = 1 + (i/o)^1/2
    goes to 1 (2310.17813, Condition 1, holds in the limit). The exact norm would make the features of a narrow model
    smaller, by 1 + (i/o)^1/2, and so transfer worse: measured in tests.
    """
    return scheme.exact_spectral and role.kind in {"hidden", "readout"}


def _spectral_std(fan_in: int, fan_out: int) -> float:
    # 2310.17813, section 3: a Gaussian matrix of std s has |W|_2 -> s (sqrt(fan_in) + sqrt(fan_out))
    return (fan_out / fan_in) ** 0.5 / (fan_in**0.5 + fan_out**0.5)
