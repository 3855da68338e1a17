"""u-muP's published table, written by hand: what the scheme derives is its product of multiplier and rate."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from hptransfer.core.roles import Role
from hptransfer.core.rules import SCHEMES, Power, rule_for

# Blake et al. 2024 (2407.17465), Table 2, Adam: weights A w, w of unit std (B = 1), learning rate C. The rate of the
# embedding falls as the root of its fan-out (their section 4.4); plain muP leaves it alone. A and C as exponents:
TABLE = {
    "input": {"A": Power(), "C": Power(fan_out=F(-1, 2))},
    "hidden": {"A": Power(fan_in=F(-1, 2)), "C": Power(fan_in=F(-1, 2))},
    "readout": {"A": Power(fan_in=F(-1)), "C": Power()},
}


def role(kind: str, n: int, base: int) -> Role:
    """10 tokens or classes, width n."""
    fans = {"input": (10, n, 10, base), "hidden": (n, n, base, base), "readout": (n, 10, base, 10)}[kind]
    return Role(kind, *fans)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", TABLE)
def test_effective_init_and_rate_are_the_table_s(kind: str) -> None:
    """The effective weight A w has std A B and, under Adam, moves by A C per step."""
    a, c = TABLE[kind]["A"], TABLE[kind]["C"]
    rule = rule_for(role(kind, 256, 64), "sign", SCHEMES["umup"])
    m = role(kind, 256, 64)
    assert rule.init.at(m.m_in, m.m_out) == a.at(m.m_in, m.m_out)
    assert rule.lr.at(m.m_in, m.m_out) == (a * c).at(m.m_in, m.m_out)


@pytest.mark.parametrize(("geometry", "exponent"), [("sign", F(-1, 2)), ("relative", F(-1, 2)), ("gradient", F(1))])
def test_the_embedding_s_rate_at_four_times_the_width(geometry, exponent: F) -> None:
    """A half, at 4 x the width; muP's is 1. A gradient step has no such rule in the paper and keeps muP's rate, m."""
    m = role("input", 256, 64)
    assert rule_for(m, geometry, SCHEMES["umup"]).lr.at(m.m_in, m.m_out) == 4.0**exponent
    assert rule_for(m, "sign", SCHEMES["mup"]).lr.at(m.m_in, m.m_out) == 1.0


def test_the_embedding_s_rate_is_all_that_differs_from_depth_mup() -> None:
    for kind in ("input", "hidden", "readout"):
        for in_branch in (False, True):
            ours = rule_for(role(kind, 256, 64), "sign", SCHEMES["umup"], in_branch=in_branch)
            theirs = rule_for(role(kind, 256, 64), "sign", SCHEMES["depth-mup"], in_branch=in_branch)
            assert (ours.init, ours.eps) == (theirs.init, theirs.eps)
            assert (ours.lr == theirs.lr) == (kind != "input")
