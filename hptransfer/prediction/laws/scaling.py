"""Loss laws: the final loss of a model of N parameters trained on D tokens, and the best split of a compute budget.

One formula holds the usual three (parameters E, A, a, B, b, g):

    L(N, D) = E + [ (A/N^a)^(1/g) + (B/D^b)^(1/g) ]^g

    chinchilla   g = 1:  E + A/N^a + B/D^b                       (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2)
    kaplan       E = 0, g = b:  [(N_c/N)^(a_N/a_D) + D_c/D]^a_D  (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5), with
                 a = a_N, A = N_c^a_N, b = a_D, B = D_c^a_D
    generalised  all six free: between "errors add" (g = 1) and "the larger one counts" (g -> 0)

With C = k N D the best N minimises the bracket, for any g and E, at N = G (C/k)^(b/(a+b)) with
G = (a A^(1/g) / (b B^(1/g)))^(g/(a+b)); derived by setting the derivative to 0, and checked against a minimiser.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hptransfer.core.errors import UsageError

Array = np.ndarray
Form = Literal["chinchilla", "kaplan", "generalised"]

FREE: dict[Form, tuple[str, ...]] = {
    "chinchilla": ("A", "B", "a", "b", "E"),
    "kaplan": ("A", "B", "a", "b"),
    "generalised": ("A", "B", "a", "b", "E", "g"),
}
"""The parameters that each form leaves free."""


@dataclass(frozen=True)
class LossLaw:
    """A loss law with its parameters; losses in nats per token, N in parameters, D in tokens (as in its fit)."""

    form: Form
    E: float
    A: float
    a: float
    B: float
    b: float
    g: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UsageError(f"Unknown loss law {self.form!r}: choose from {', '.join(get_args(Form))}.")
        if not (self.E >= 0 and min(self.A, self.B, self.a, self.b, self.g) > 0):
            raise UsageError(f"A loss law needs E >= 0 and A, B, a, b, g > 0, but got {dataclasses.asdict(self)}.")

    def loss(self, params: float | Array, tokens: float | Array) -> Array:
        """L(N, D), broadcast over the inputs."""
        return np.exp(log_loss(self, np.log(params), np.log(tokens)))

    def optimal(self, flop: float, *, flop_per_param_token: float = 6.0) -> tuple[float, float, float]:
        """(N, D, L) that minimise the loss at N D = flop / flop_per_param_token. Raises UsageError unless flop > 0."""
        if not (flop > 0 and flop_per_param_token > 0):
            raise UsageError(f"A compute budget must be positive, but got {flop=!r}, {flop_per_param_token=!r}.")
        product = flop / flop_per_param_token
        log_g = (
            self.g * (math.log(self.a / self.b) + (math.log(self.A) - math.log(self.B)) / self.g) / (self.a + self.b)
        )
        params = math.exp(log_g + self.b / (self.a + self.b) * math.log(product))
        return params, product / params, float(self.loss(params, product / params))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def log_loss(law: LossLaw, log_params: float | Array, log_tokens: float | Array) -> Array:
    """ln L from ln N and ln D, by log-sum-exp so that nothing overflows."""
    u = (math.log(law.A) - law.a * np.asarray(log_params)) / law.g
    v = (math.log(law.B) - law.b * np.asarray(log_tokens)) / law.g
    reducible = law.g * np.logaddexp(u, v)
    return np.logaddexp(math.log(law.E), reducible) if law.E else reducible


def kaplan(*, N_c: float = 8.8e13, a_N: float = 0.076, D_c: float = 5.4e13, a_D: float = 0.095) -> LossLaw:
    """Kaplan et al.'s law in this module's parameters (N without embeddings; WebText2 tokens)."""
    return LossLaw("kaplan", 0.0, N_c**a_N, a_N, D_c**a_D, a_D, a_D)


@dataclass(frozen=True)
class PublishedLaw:
    """law: with its published parameters; source: paper and equation; note: what to know before using it."""

    law: LossLaw
    source: str
    note: str


LOSS_LAWS: dict[str, PublishedLaw] = {
    "kaplan": PublishedLaw(
        kaplan(),
        "arXiv:2001.08361 eqs. 1.1, 1.2, 1.5",
        "constants as quoted in several public summaries; N without embeddings, WebText2 tokens",
    ),
    "chinchilla": PublishedLaw(
        LossLaw("chinchilla", 1.69337, 406.4, 0.33917, 410.7, 0.28491),
        "arXiv:2203.15556 eq. 10 and appendix D.3, unrounded",
        "never round the exponents: to .34 and .28 its misfit more than triples",
    ),
    "besiroglu": PublishedLaw(
        LossLaw("chinchilla", 1.8172, 482.01, 0.3478, 2085.43, 0.3658),
        "arXiv:2404.10102, refit of the points read off Hoffmann et al.'s figure",
        "supersedes 'chinchilla' on the same data",
    ),
}
"""Published fits. Their constants belong to their data, tokenizer and way of counting N: use them for exponents, and
fit the constants to your own runs."""
