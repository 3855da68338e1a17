"""Published laws for the best learning rate, as data: formula, source, units, where they were fitted.

They contradict each other (the exponent of D runs from -.56 to +.31), their constants belong to one recipe each, and
on another recipe a law may do worse than no law. So none of them is a recommendation by itself: score them on your own
sweep first (score.py), against the best constant.

Symbols: N parameters (without embeddings unless said otherwise), D training tokens, B batch in tokens, C = 6 N D
floating-point operations, L loss in nats per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import BATCH_RULES, JOINT
from hptransfer.prediction.provenance import Kind, Prediction

Variable = Literal["params", "tokens", "batch", "flop", "loss"]


@dataclass(frozen=True)
class Law:
    """One law.

    quantity: "lr" or "batch" (tokens). formula: for people. needs: the variables it takes. function: those variables
    as floats -> value. has_constant: False where only the shape is known (or only the shape could be verified); such
    a law predicts ratios, or needs its constant fitted. domain: variable -> (smallest, largest) value it was fitted
    on, where known. source; checked: how the formula was verified.
    """

    name: str
    quantity: Literal["lr", "batch"]
    formula: str
    needs: tuple[Variable, ...]
    function: Callable[..., float]
    source: str
    checked: str
    recipe: str
    has_constant: bool = True
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def value(self, **at: float) -> float:
        """The law's value; extra variables are ignored, flop is 6 N D where it is not given.

        Raises UsageError where a variable is missing or not positive, or the law gives no positive value there.
        """
        if "flop" not in at and {"params", "tokens"} <= set(at):
            at = at | {"flop": 6 * at["params"] * at["tokens"]}
        missing = [name for name in self.needs if name not in at]
        if missing:
            raise UsageError(f"Law {self.name!r} ({self.formula}) needs {', '.join(missing)}; got {', '.join(at)}.")
        used = {name: at[name] for name in self.needs}
        if not all(math.isfinite(x) and x > 0 for x in used.values()):
            raise UsageError(f"Law {self.name!r}: its variables must be positive and finite, but got {used}.")
        value = self.function(**used)
        if not value > 0:
            raise UsageError(f"Law {self.name!r} gives {value:.3g} at {used}, outside where it means anything.")
        return value

    def outside(self, **at: float) -> tuple[str, ...]:
        """A sentence for every variable that lies outside the law's domain."""
        notes: list[str] = []
        for name, (low, high) in self.domain.items():
            if name in at and not low <= at[name] <= high:
                notes.append(f"{name}={at[name]:.3g} lies outside {low:.3g} to {high:.3g}, where it was fitted")
        return tuple(notes)

    def predict(self, **at: float) -> Prediction:
        """The law's value as a prediction (no interval: the papers give none that holds on another recipe).

        Raises UsageError where only the law's shape is known.
        """
        if not self.has_constant:
            raise UsageError(
                f"Law {self.name!r} ({self.formula}) has no known constant. Use `ratio`, or fit it on a sweep."
            )
        name, unit = ("learning rate", "1") if self.quantity == "lr" else ("batch size", "tokens")
        assumptions = (f"the recipe it was fitted on: {self.recipe}", *self.outside(**at))
        kind = Kind("published", "published")
        return Prediction(name, self.value(**at), None, None, unit, self.name, self.source, assumptions, kind)

    def ratio(self, base: Mapping[str, float], target: Mapping[str, float]) -> float:
        """value(target)/value(base): the part of the law that its constant does not touch."""
        return self.value(**target) / self.value(**base)


def power(constant: float, **exponents: float) -> Callable[..., float]:
    """constant * prod x^e, by logarithms."""

    def law(**at: float) -> float:
        return constant * math.exp(sum(e * math.log(at[name]) for name, e in exponents.items()))

    return law


def _kaplan_lr(params: float) -> float:
    return 0.003239 - 0.0001395 * math.log(params)


def _batch_law(rule: str, formula: str, exponent: float, recipe: str) -> Law:
    row = BATCH_RULES[rule]
    law, checked = power(1.0, batch=exponent), "derived where noise dominates; see core/horizon/rules.py"
    return Law(f"{rule}-batch", "lr", formula, ("batch",), law, row.source, checked, recipe, has_constant=False)


PAPER = "formula as quoted in several public sources"

LR_LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            "step-law",
            "lr",
            "1.797 N^-.7129 D^.3075",
            ("params", "tokens"),
            power(1.797, params=-0.7129, tokens=0.3075),
            "arXiv:2503.04715",
            "rounds to the published 1.79, -.713, .307",
            "Llama-like, AdamW, 2000 warm-up steps, cosine to a fixed 1e-5; N without vocabulary; peak rate at B*(D)",
            domain={"params": (6e7, 1.1e9), "tokens": (2e9, 1e11)},
        ),
        Law(
            "deepseek",
            "lr",
            ".3118 C^-.1250",
            ("flop",),
            power(0.3118, flop=-0.125),
            "arXiv:2401.02954 eq. 1",
            PAPER,
            "DeepSeek LLM, AdamW, multi-step schedule, C by non-embedding operations per token",
            domain={"flop": (1e17, 2e19)},
        ),
        Law(
            "kaplan",
            "lr",
            ".003239 - .0001395 ln N",
            ("params",),
            _kaplan_lr,
            "arXiv:2001.08361 eq. D.1",
            PAPER,
            "GPT-2-like, Adam, cosine; breaks down by the authors' own word above 1e10 parameters",
            domain={"params": (1e3, 1e10)},
        ),
        Law(
            "porian",
            "lr",
            "3.7 N^-.36",
            ("params",),
            power(3.7, params=-0.36),
            "arXiv:2406.19146",
            PAPER,
            "Llama-like, AdamW, beta2 tuned per batch, at B*(N) and compute-optimal D",
            domain={"params": (5e6, 9e8)},
        ),
        Law(
            "moonlight",
            "lr",
            ".0127 C^-.057",
            ("flop",),
            power(0.0127, flop=-0.057),
            "arXiv:2502.16982",
            "as quoted in one public source",
            "DeepSeek-V3-like without experts, AdamW",
        ),
        Law(
            "minicpm",
            "lr",
            ".01, whatever the size",
            (),
            power(0.01),
            "arXiv:2404.06395 sec. 3",
            PAPER,
            "under its own width and depth parametrization, WSD; not for a standard parametrization",
            domain={"params": (4e7, 2.1e9)},
        ),
        Law(
            "bjorck",
            "lr",
            "k N^-.23 D^-.32",
            ("params", "tokens"),
            power(1.0, params=-0.23, tokens=-0.32),
            "arXiv:2409.19913",
            "exponents as quoted in several public sources; the constant is quoted in units that give absurd rates",
            "GPT-3-like, AdamW, cosine, fixed batch of .5M tokens",
            has_constant=False,
            domain={"params": (5e7, 2.7e9), "tokens": (2.5e10, 8e11)},
        ),
        Law(
            "filatov",
            "lr",
            "k B^.62 D^-.56",
            ("batch", "tokens"),
            power(1.0, batch=0.62, tokens=-0.56),
            "Filatov et al. 2025 (Scion)",
            "exponents read in a summary only",
            "Scion (norm-based updates), not Adam",
            has_constant=False,
        ),
        Law(
            "joint",
            "lr",
            f"k B^{JOINT.batch:.2f} D^{JOINT.tokens:.2f}",
            ("batch", "tokens"),
            power(1.0, batch=JOINT.batch, tokens=JOINT.tokens),
            f"{max(JOINT.sources)} data sets, core/horizon/evidence.py",
            "mean over data sets; scored leaving each out by scripts/bench_factors.py",
            "any; the forecast's default",
            has_constant=False,
        ),
        _batch_law("sqrt", "k B^1/2", 0.5, "Adam well below the critical batch"),
        _batch_law("linear", "k B", 1.0, "SGD well below the critical batch"),
    )
}
"""Learning-rate laws by name."""
