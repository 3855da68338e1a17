"""What each scheme promises of a running model, as exponents of sizes that can be measured.

The one law is that every activation, and its change in a step, keeps its size at any width and depth: exponent 0. A
scheme that departs from it says so where it was published; that is written down here, in the measured quantities and
not in multipliers, so that no number of core/rules.py can excuse itself. Outputs alone may start smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hptransfer.core.errors import UsageError


@dataclass(frozen=True)
class Promise:
    """Exponents that a scheme promises; the defaults are the law.

    start: of the outputs at init, in the number n of features that the readout sums. features: of the change that one
    step of a weight makes in its own output, in the growing fan_out. lookup: the same, of weights whose fan_in is
    fixed. unaligned: what alignment adds to that change per fan_in, where a scheme counts a sign step as unaligned.
    logits: of what one step changes attention logits by, in the head dimension, beyond the features' own change.
    branch: of what a step changes inside a residual branch, in the depth; None where depth is left alone.
    control: it promises nothing. source: where it is published.
    """

    start: float = -0.5
    features: float = 0.0
    lookup: float = 0.0
    unaligned: float = 0.0
    logits: float = 0.0
    branch: float | None = None
    control: bool = False
    source: str = ""

    @property
    def objective(self) -> float:
        """Of the outputs' change for what is learned before the readout.

        n features whose changes ~ n^features line up with a readout of entries n^(start - 1/2).
        """
        return 0.5 + self.start + self.features

    @property
    def backward(self) -> float:
        """Of the gradient at a hidden output beyond n^-1: the readout's entries are n^(start - 1/2)."""
        return self.start + 0.5


_LAZY = "Jacot et al. 2018, 1806.07572: features stand still while the outputs move"
PROMISES: Mapping[str, Promise] = {
    "sp": Promise(start=0.0, logits=0.5, control=True, source="PyTorch's defaults"),
    "ntp": Promise(start=0.0, logits=0.5, source="Everett et al. 2024, 2407.05872: outputs of order 1 at init"),
    "ntk": Promise(start=0.0, features=-0.5, logits=0.5, source=_LAZY),
    "mfp": Promise(source="Mei et al. 2018, 1804.06561: outputs are means over n features"),
    "mup": Promise(source="Yang et al. 2022, 2203.03466, Appendix J"),
    "mup-no-align": Promise(unaligned=0.5, source="Everett et al. 2024, 2407.05872: a step adds up as noise does"),
    "spectral": Promise(source="Yang, Simon & Bernstein 2023, 2310.17813, Condition 1"),
    "completep": Promise(branch=0.0, source="Dey et al. 2025, 2505.01618: every layer learns as much at any depth"),
    "depth-mup": Promise(branch=-0.5, source="Yang et al. 2023, 2310.02244: layers grow lazy as L^-1/2"),
    "umup": Promise(
        lookup=-0.5, branch=-0.5, source="Blake et al. 2024, 2407.17465: embeddings learn slower, as n^-1/2"
    ),
}


def promise_of(scheme: str, options: Mapping[str, str] | None = None) -> Promise:
    """The promise of a scheme under a plan's options. Raises UsageError where none is written down."""
    if scheme not in PROMISES:
        raise UsageError(f"No promise of scheme {scheme!r} is known; use one of {', '.join(PROMISES)}.")
    attention = (options or {}).get("attention")
    logits = {"1/d": 0.0, "1/sqrt(d)": 0.5}.get(str(attention))
    return PROMISES[scheme] if logits is None else replace(PROMISES[scheme], logits=logits)
