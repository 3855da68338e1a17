"""The published tables, derived: effective (absorbed) init, learning rate and eps of every role, as exact exponents."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.roles import Role
from hptransfer.core.rules import SCHEMES, Power, Rule, init_ratio, rule_for, scheme_named

N, L = 16, 4  # width and depth ratio of the roles below

ROLES = {
    "input": Role("input", 10, 32 * N, 10, 32),
    "hidden": Role("hidden", 32 * N, 32 * N, 32, 32),
    "readout": Role("readout", 32 * N, 10, 32, 10),
    "vector": Role("vector", 1, 32 * N, 1, 32),
    "scalar": Role("scalar", 3, 5, 3, 5),
}

# Everett et al. 2024 (2407.05872), Table 1, with weights n^-a w, w of std n^-b, learning rate n^-c. Rows: a, b, c of
# Adam under full alignment and of SGD, for embedding, hidden and readout.
H = F(1, 2)
TABLE = {
    "sp": {"a": (0, 0, 0), "b": (0, H, H), "adam": (0, 1, 1), "sgd": (-H, H, 1)},
    "ntp": {"a": (0, H, H), "b": (0, 0, 0), "adam": (0, H, H), "sgd": (-H, -H, 0)},
    "mup": {"a": (-H, 0, H), "b": (H, H, H), "adam": (H, 1, H), "sgd": (0, 0, 0)},
    "mfp": {"a": (0, H, 1), "b": (0, 0, 0), "adam": (0, H, 0), "sgd": (-1, -1, -1)},
}
TRAINED = ("input", "hidden", "readout")


def width_exponent(power: Power, role: str) -> F:
    """Exponent of the width n: both fans of a hidden matrix are n, a readout's fan_in and an embedding's fan_out."""
    grows = {"input": (0, 1), "hidden": (1, 1), "readout": (1, 0), "vector": (0, 1)}[role]
    return power.fan_in * grows[0] + power.fan_out * grows[1]


@pytest.mark.parametrize("scheme", ["ntp", "mup", "mfp"])
@pytest.mark.parametrize(("k", "role"), list(enumerate(TRAINED)))
def test_effective_values_of_the_published_table_are_the_derived_ones(scheme: str, k: int, role: str) -> None:
    """The effective weight is n^-a w: its std n^-(a+b), its lr n^-(a+c) under Adam and n^-(2a+c) under SGD."""
    a, b, adam, sgd = (TABLE[scheme][key][k] for key in ("a", "b", "adam", "sgd"))
    signed = rule_for(ROLES[role], "sign", SCHEMES[scheme])
    stepped = rule_for(ROLES[role], "gradient", SCHEMES[scheme])
    assert width_exponent(signed.init, role) == -(a + b)
    assert width_exponent(signed.lr, role) == -(a + adam)
    assert width_exponent(stepped.lr, role) == -(2 * a + sgd)


def test_standard_parametrization_at_the_table_s_rates_is_ntp_in_another_gauge() -> None:
    """SP with the table's per-layer rates has NTP's effective values; our "sp" is the global-LR control."""
    for k, _ in enumerate(TRAINED):
        sp, ntp = TABLE["sp"], TABLE["ntp"]
        assert sp["a"][k] + sp["b"][k] == ntp["a"][k] + ntp["b"][k]
        assert sp["a"][k] + sp["adam"][k] == ntp["a"][k] + ntp["adam"][k]
        assert 2 * sp["a"][k] + sp["sgd"][k] == 2 * ntp["a"][k] + ntp["sgd"][k]


@pytest.mark.parametrize("role", TRAINED)
def test_mup_and_mean_field_are_one_parametrization(role: str) -> None:
    for geometry in ("sign", "gradient", "spectral"):
        assert rule_for(ROLES[role], geometry, SCHEMES["mup"]) == rule_for(ROLES[role], geometry, SCHEMES["mfp"])


@pytest.mark.parametrize(("role", "extra"), [("input", 0), ("hidden", H), ("readout", H)])
def test_without_alignment_hidden_and_output_rates_grow_by_the_root_of_the_width(role: str, extra: F) -> None:
    aligned = rule_for(ROLES[role], "sign", SCHEMES["mup"]).lr
    free = rule_for(ROLES[role], "sign", SCHEMES["mup-no-align"]).lr
    assert width_exponent(free, role) - width_exponent(aligned, role) == extra


@pytest.mark.parametrize("role", TRAINED)
def test_the_common_mup_adam_form(role: str) -> None:
    """Hidden init variance 1/m, LR 1/m; logits x 1/m, absorbed: readout std and LR 1/m; the embedding unchanged."""
    rule = rule_for(ROLES[role], "sign", SCHEMES["mup"])
    init, lr = {"input": (1, 1), "hidden": (N**-0.5, 1 / N), "readout": (1 / N, 1 / N)}[role]
    assert rule.init.at(ROLES[role].m_in, ROLES[role].m_out) == pytest.approx(init)
    assert rule.lr.at(ROLES[role].m_in, ROLES[role].m_out) == pytest.approx(lr)


# mup 1.0.0, optim.py: MuSGD multiplies vector-like rates by their width_mult and matrix-like ones by fan_out/fan_in;
# its readout has a forward multiplier 1/m and std m^0, so the effective rate is m (1/m)^2.
@pytest.mark.parametrize(
    ("role", "lr"), [("input", N), ("hidden", 1), ("readout", 1 / N), ("vector", N), ("scalar", 1)]
)
def test_mup_sgd_rates(role: str, lr: float) -> None:
    rule = rule_for(ROLES[role], "gradient", SCHEMES["mup"])
    assert rule.lr.at(ROLES[role].m_in, ROLES[role].m_out) == pytest.approx(lr)


@pytest.mark.parametrize("role", TRAINED)
def test_spectral_updates_have_spectral_norm_root_of_fan_out_over_fan_in(role: str) -> None:
    rule = rule_for(ROLES[role], "spectral", SCHEMES["mup"])
    assert rule.lr == Power(fan_in=-H, fan_out=H)


@pytest.mark.parametrize("role", TRAINED)
def test_relative_steps_divide_the_sign_rate_by_the_weight_s_own_scale(role: str) -> None:
    signed, relative = (rule_for(ROLES[role], g, SCHEMES["mup"]) for g in ("sign", "relative"))
    assert relative.lr == signed.lr * signed.init.inverse()


@pytest.mark.parametrize("role", ["hidden", "vector"])
def test_completep_table(role: str) -> None:
    """2505.01618, Table 1: hidden LR m_N^-1 m_L^(alpha-1), gains and biases m_L^(alpha-1), eps m_N^-1 m_L^-alpha."""
    for scheme in (SCHEMES["completep"], SCHEMES["depth-mup"]):
        alpha = scheme.depth_alpha
        rule = rule_for(ROLES[role], "sign", scheme, in_branch=True)
        assert rule.lr == Power(fan_in=F(-1), depth=alpha - 1)
        assert rule.eps == Power(fan_out=F(-1), depth=-alpha, copies=F(-1))
        assert rule.init == Power(fan_in=-H)
        outside = rule_for(ROLES[role], "sign", scheme)
        assert outside == rule_for(ROLES[role], "sign", SCHEMES["mup"])


def test_depth_rules_are_those_of_a_branch_with_multiplier_l_to_minus_alpha() -> None:
    """SGD: the gradient is L^-alpha and L updates add up, each through L^-alpha: lr L^(2 alpha - 1)."""
    rule = rule_for(ROLES["hidden"], "gradient", SCHEMES["completep"], in_branch=True)
    assert rule.lr.depth == 1
    assert rule_for(ROLES["hidden"], "gradient", SCHEMES["depth-mup"], in_branch=True).lr.depth == 0


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("geometry", ["gradient", "sign", "relative", "spectral"])
def test_nothing_that_does_not_grow_is_changed(scheme: str, geometry) -> None:
    for kind in ("input", "hidden", "readout", "vector", "scalar", "unused"):
        role = Role(kind, 24, 12, 24, 12)
        rule = rule_for(role, geometry, SCHEMES[scheme], in_branch=True)
        assert [p.at(role.m_in, role.m_out, 1.0) for p in (rule.init, rule.lr, rule.eps)] == [1.0, 1.0, 1.0]
        assert init_ratio(role, rule, SCHEMES[scheme]) == 1.0


@pytest.mark.parametrize("geometry", ["gradient", "sign", "relative", "spectral"])
def test_the_control_has_one_learning_rate(geometry) -> None:
    for role in ROLES.values():
        assert rule_for(role, geometry, SCHEMES["sp"]) == Rule(Power(), Power(), Power())


@pytest.mark.parametrize("geometry", ["gradient", "sign", "relative", "spectral"])
def test_the_second_control_is_the_first_but_for_the_rate_of_input_weights(geometry) -> None:
    for name, role in ROLES.items():
        rule = rule_for(role, geometry, SCHEMES["sp-embedding"])
        faster = Power(fan_out=F(1)) if role.kind == "input" else Power()
        assert rule == Rule(Power(), faster, Power()), name


@pytest.mark.parametrize("role", ["hidden", "readout"])
def test_exact_spectral_init_gives_the_norm_of_the_condition(role: str) -> None:
    """2310.17813, Condition 1: |W|_2 = sqrt(o/i), with |W|_2 = std (sqrt(i) + sqrt(o))."""
    r, scheme = ROLES[role], SCHEMES["spectral"]
    ratio = init_ratio(r, rule_for(r, "sign", scheme), scheme)

    def norm(std: float, i: int, o: int) -> float:
        return std * (i**0.5 + o**0.5)

    base_std = 0.02
    grown = norm(base_std * ratio, r.fan_in, r.fan_out) / norm(base_std, r.base_fan_in, r.base_fan_out)
    assert grown == pytest.approx(((r.fan_out / r.fan_in) / (r.base_fan_out / r.base_fan_in)) ** 0.5)


def test_powers_multiply_and_invert_exactly() -> None:
    p = Power(F(1, 3), F(-2, 7), F(5))
    assert p * p.inverse() == Power()
    assert (p * p).at(2.0, 3.0, 1.5) == pytest.approx(p.at(2.0, 3.0, 1.5) ** 2)
    assert Power(F(1), F(1), F(1)).at(2.0, 3.0) == 6.0  # depth does not count where it is not given
    assert str(Power()) == "1" and str(Power(fan_in=-H, depth=F(1))) == "m_in^-1/2 m_L"


def test_a_role_s_fans_are_one_unless_given_and_never_less() -> None:
    assert Role("vector") == Role("vector", 1, 1, 1, 1) and Role("hidden", 6, 8, 3, 2).m_out == 4.0
    for fans in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)):
        with pytest.raises(UsageError, match="every fan and every number of copies must be at least 1"):
            Role("hidden", *fans)


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'mupp' is unknown; use one of .*completep"):
        scheme_named("mupp")


@pytest.mark.parametrize("role", ["input", "hidden", "readout", "vector"])
def test_unaligned_a_gradient_step_gains_what_a_sign_step_does(role: str) -> None:
    """dW = lr delta x^T meets an x' with |x.x'| ~ i^1/2 instead of i: both gain i^1/2 (2407.05872, no alignment)."""
    gained = []
    for geometry in ("gradient", "sign"):
        lrs = [rule_for(ROLES[role], geometry, SCHEMES[name]).lr for name in ("mup-no-align", "mup")]
        gained.append(lrs[0] * lrs[1].inverse())
    assert gained[0] == gained[1] == Power(fan_in=H)


@pytest.mark.parametrize(("rows", "columns", "grown"), [(4, 64, (4, 256)), (64, 64, (256, 256)), (64, 4, (256, 4))])
def test_unaligned_an_orthogonal_step_moves_what_lies_in_its_rows(rows: int, columns: int, grown) -> None:
    """By brute force: entries of dW x, x drawn apart from dW, |dW|_2 = lr; readout, hidden, input at 4x the width."""
    kind = "readout" if columns > rows else "input" if rows > columns else "hidden"
    role = Role(kind, grown[1], grown[0], columns, rows)
    lr = rule_for(role, "spectral", SCHEMES["mup-no-align"]).lr.at(role.m_in, role.m_out)
    draw = torch.Generator().manual_seed(0)

    def moved(o: int, i: int, rate: float) -> float:
        u, _, v = torch.linalg.svd(torch.randn(o, i, generator=draw), full_matrices=False)
        return float((rate * (u @ v) @ torch.randn(i, 400, generator=draw)).square().mean().sqrt())

    assert moved(*grown, lr) == pytest.approx(moved(rows, columns, 1.0), rel=0.05)  # 1600 entries or more: 2%


def test_mean_field_trains_the_function_of_mup() -> None:
    """2407.05872, Table 1: n^-a times std and rates (n^-2a for SGD's) is the same in both rows, so one rule does."""
    tables = {  # multiplier a; std b; Adam's c; SGD's c, of embedding, hidden, readout
        "mup": ((-H, F(0), H), (H, H, H), (H, F(1), H), (F(0), F(0), F(0))),
        "mfp": ((F(0), H, F(1)), (F(0), F(0), F(0)), (F(0), H, F(0)), (F(-1), F(-1), F(-1))),
    }
    effective = {
        name: [(a + b, a + adam, 2 * a + sgd) for a, b, adam, sgd in zip(*table, strict=True)]
        for name, table in tables.items()
    }
    assert effective["mup"] == effective["mfp"]
    for geometry in ("gradient", "sign", "relative", "spectral"):
        for role in ROLES.values():
            assert rule_for(role, geometry, SCHEMES["mfp"]) == rule_for(role, geometry, SCHEMES["mup"])


def test_inputs_of_the_spectral_scheme_keep_their_features_and_reach_the_condition_in_the_limit() -> None:
    """W of std i^-1/2: entries of W x are those of x at any width, and |W|_2 / (o/i)^1/2 = 1 + (i/o)^1/2 -> 1."""
    draw, fan_in = torch.Generator().manual_seed(1), 16
    assert init_ratio(Role("input", fan_in, 512, fan_in, 32), rule_for(ROLES["input"], "sign", SCHEMES["spectral"]),
                      SCHEMES["spectral"]) == 1.0  # fmt: skip
    for outputs in (64, 4096):
        weight = torch.randn(outputs, fan_in, generator=draw) / fan_in**0.5
        features = weight @ torch.randn(fan_in, 200, generator=draw)
        norm = float(torch.linalg.matrix_norm(weight, 2)) * (fan_in / outputs) ** 0.5
        assert norm == pytest.approx(1 + (fan_in / outputs) ** 0.5, rel=0.08)  # a largest value fluctuates by o^-2/3
        assert float(features.square().mean()) == pytest.approx(1.0, rel=0.15)  # 200 x's of 16 entries: 2.5%, W's: 6%
