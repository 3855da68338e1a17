"""The coordinate check: PASS for muP, FAIL for what blows up or stands still, never PASS from what it cannot see."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hptransfer.checks.coord.check import coord_check
from hptransfer.checks.coord.report import CoordReport
from hptransfer.checks.coord.rows import NATURAL, Module, Row, judge
from hptransfer.checks.coord.verdict import verdict_of
from hptransfer.checks.proxy import Proxies
from hptransfer.core.errors import UsageError
from hptransfer.core.rules import SCHEMES
from hptransfer.core.statistics import Slope
from hptransfer.core.training.recipe import load_recipe
from hptransfer.parametrization.options import Options
from tests.cases.coord import WIDTHS, build_mlp, conv, mlp, mlp_decayed, mlp_sgd, tied, transformer

RECIPES = {r.name: r for r in (mlp, mlp_sgd, conv, transformer, tied)}
UNTIED = [name for name in RECIPES if name != "case-tied"]


@functools.cache
def check(name: str, scheme: str) -> CoordReport:
    """A check at the default settings, made once for all tests."""
    return coord_check(RECIPES[name], widths=WIDTHS, scheme=scheme)


@pytest.mark.parametrize("name", RECIPES)
def test_mup_passes(name):
    report = check(name, "mup")
    assert report.verdict == "PASS", report.reasons
    assert not any(row.ok is False for row in report.rows)


@pytest.mark.parametrize("name", UNTIED)
def test_sp_fails_by_blowing_up_after_the_first_step(name):
    """Adam under one LR: (dW) x ~ n. SGD: the readout's update ~ n, so its change grows at least as n^1/2."""
    report = check(name, "sp")
    assert report.verdict == "FAIL"
    blown = [row for row in report.rows if row.ok is False and row.t >= 1 and row.low > report.tolerance]
    assert any(row.quantity == "change" for row in blown) and any(row.quantity == NATURAL for row in blown)
    assert any("grows with width" in reason for reason in report.reasons)


@pytest.mark.parametrize("name", UNTIED)
def test_kernel_regime_fails_by_standing_still(name):
    """NTK: the change of hidden features fades as n^-1/2 at every step, and nothing blows up."""
    report = check(name, "ntk")
    assert report.verdict == "FAIL"
    hidden = [r for r in report.rows if r.quantity == "change" and r.allowed_low is not None and r.judged]
    faded = [r for r in hidden if r.ok is False]
    assert {r.t for r in faded} == {1, 2, 3} and all(-0.75 < r.slope - r.expected < -0.25 for r in faded)
    assert any("fades with width" in reason for reason in report.reasons)


def test_kernel_exponents_are_minus_one_half_where_the_theory_is_exact():
    """Under Adam the first layer's first step is lr in every entry, and lr ~ n^-1/2."""
    row = check("case-mlp", "ntk").row("0", 1, "update")
    assert row.slope == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("name", ["case-mlp", "case-mlp-sgd"])
def test_ntp_at_full_alignment_rates_moves_its_features_but_blows_up_its_readout(name):
    """Everett et al.'s NTP keeps (dW) x ~ 1; an n^-1/2 readout aligned with it adds up to n^1/2: W_0 dx shows it."""
    report = check(name, "ntp")
    assert report.verdict == "FAIL"
    failed = [r for r in report.rows if r.ok is False]
    assert all(r.allowed_low is None for r in failed) and any(r.quantity == "carried" for r in failed)


def test_exponents_of_sp_adam_are_those_of_theory_at_the_first_step():
    """Hidden (dW) x: n entries of size lr, aligned: n^1. First layer: its fan_in is fixed, n^0."""
    report = check("case-mlp", "sp")
    assert report.row("2", 1, "update").slope == pytest.approx(1, abs=0.15)
    assert report.row("0", 1, "update").slope == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("scheme", "exponent"), [("sp", 0.0), ("ntk", 0.0), ("mup", -0.5)])
def test_a_readout_without_bias_starts_as_its_scheme_says(scheme, exponent):
    assert check("case-transformer", scheme).row("head", 0, "rms").slope == pytest.approx(exponent, abs=0.1)


@pytest.mark.parametrize(
    ("scheme", "where", "exponent"),
    [("mup-no-align", {"2.weight", "4.weight"}, 0.5), ("umup", {"0.weight"}, -0.5)],
)
def test_schemes_that_leave_the_condition_are_found_out_where_they_leave_it(scheme, where, exponent):
    """No alignment: lr m^-1/2 where updates do align. u-muP: input lr n^-1/2 by choice, forward scales elsewhere."""
    report = check("case-mlp", scheme)
    failed = {r.module: r.slope for r in report.rows if r.ok is False and r.quantity == NATURAL and r.t == 1}
    assert report.verdict == "FAIL" and set(failed) == where
    assert all(slope == pytest.approx(exponent, abs=0.15) for slope in failed.values())


def test_absorbed_multipliers_shift_the_expected_exponent_of_just_the_modules_that_hold_them():
    """Attention's extra m^-1/2 is split over q and k, m^-1/4 each; a tied readout's 1/m sits on the last norm."""
    expected = {r.module: r.expected for r in check("case-tied", "mup").rows}
    assert expected["q"] == expected["k"] == pytest.approx(-0.25) and expected["norm"] == pytest.approx(-1)
    assert {m for m, e in expected.items() if e} == {"q", "k", "norm", "q.weight", "k.weight"}
    row = check("case-tied", "mup").row("norm", 0, "rms")
    assert row.slope == pytest.approx(-1, abs=1e-3) and row.ok


def test_a_module_without_parameters_shows_the_multiplier_of_the_one_it_reads():
    recipe = tied.replace(build=lambda scale: _with_dropout(tied.build(scale)))
    report = coord_check(recipe, widths=(32, 64, 128), seeds=2, max_seeds=2, steps=1)
    assert report.row("norm.1", 0, "rms").expected == pytest.approx(-1)


def _with_dropout(model: nn.Module) -> nn.Module:
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.0))
    return model


def test_zero_readout_is_skipped_until_it_moves_and_then_judged():
    report = coord_check(transformer, widths=(64, 128, 256), steps=2, options=Options(readout_init="zero"))
    start, hidden = report.row("head", 0, "rms"), report.row("up", 1, "change")
    assert not start.judged and "zero-initialised" in start.reason and math.isnan(start.slope)
    assert not hidden.judged  # no gradient passes a zero readout at the first step
    assert report.row("head", 1, "change").judged and report.row("up", 2, "change").judged
    assert report.verdict == "PASS", report.reasons


def test_frozen_layers_are_not_judged_by_their_update():
    def build(scale):
        model = build_mlp(scale)
        model[2].requires_grad_(False)
        return model

    report = coord_check(mlp.replace(build=build), widths=WIDTHS, steps=1, max_seeds=3)
    assert not report.row("2", 1, "update").judged and "frozen" in report.row("2", 1, "update").reason
    assert {m.parameter for m in report.moved} == {"0.weight", "0.bias", "4.weight", "4.bias"}


def test_a_layer_with_too_small_a_rate_is_found_though_its_features_still_change(monkeypatch):
    """mup's own check looks at activations: lower layers' change, carried on, hides a layer that no longer learns."""
    honest = Proxies.plan

    def slowed(self, width):
        plan = honest(self, width)
        row = plan.rows["2.weight"]
        slow = dataclasses.replace(row, lr_mult=row.lr_mult * (width / 32) ** -0.75)
        return dataclasses.replace(plan, rows={**plan.rows, "2.weight": slow})

    monkeypatch.setattr(Proxies, "plan", slowed)
    report = coord_check(mlp, widths=WIDTHS)
    failed = {(r.module, r.quantity) for r in report.rows if r.ok is False}
    assert report.verdict == "FAIL" and failed == {("2.weight", NATURAL)}


def test_update_sizes_meet_the_spectral_condition_under_mup_only():
    """||dW||_2 ~ sqrt(fan_out / fan_in): exponent 0 for every matrix under muP, 1 for SP's hidden matrix (Adam)."""
    good, bad = check("case-mlp", "mup"), check("case-mlp", "sp")
    assert all(good.row(f"{i}.weight", t, NATURAL).ok for i in (0, 2, 4) for t in (1, 3))
    assert bad.row("2.weight", 1, NATURAL).slope == pytest.approx(1, abs=0.2)
    assert all(not r.judged and not r.module.endswith("weight") for r in good.updates if r.quantity == NATURAL)
    first = next(m for m in good.moved if (m.parameter, m.width, m.t) == ("2.weight", 64, 1))
    assert first.update_rms == pytest.approx(2**-7 / 2, rel=0.05)  # Adam's first step: lr / m but for dead units


def test_weight_decay_rules_look_alike_to_a_coordinate_check():
    recipe = mlp_decayed.replace(optimizer_options={"weight_decay": 0.1})
    verdicts = [
        coord_check(recipe, widths=WIDTHS, options=Options(weight_decay=rule)).verdict
        for rule in ("independent", "coupled")
    ]
    assert verdicts == ["PASS", "PASS"]


@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_values_that_are_not_finite_fail_with_the_width_named(scheme):
    class Fragile(nn.Sequential):
        def forward(self, x):
            return super().forward(x) / (0.0 if self[0].out_features > 100 else 1.0) * 0.0 + super().forward(x)

    recipe = mlp.replace(build=lambda scale: Fragile(*build_mlp(scale)))
    report = coord_check(recipe, widths=WIDTHS, seeds=2, scheme=scheme)
    assert report.verdict == "FAIL"
    assert report.reasons[0].startswith("the output of (output) at width 128 is not finite after 0 steps")
    assert CoordReport.from_json(report.to_json()).to_json() == report.to_json()


def test_divergence_in_training_names_the_width_and_step():
    """A cliff that only the widest model's SP step falls over."""
    recipe = mlp.replace(
        loss=lambda model, batch: torch.log(5 - model(batch[0]).square().mean()) * 0 + mlp.loss(model, batch)
    )
    report = coord_check(recipe, widths=WIDTHS, scheme="sp", lr=0.1, seeds=2)
    assert report.verdict == "FAIL" and "is not finite after" in report.reasons[0] and "width" in report.reasons[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (32, 64)}, "2 distinct, but a slope"),
        ({"widths": (32, 32, 64, 64)}, "2 distinct"),
        ({"widths": ()}, "0 distinct"),
        ({"widths": (32, 64, -128)}, "width -128"),
        ({"widths": (32, 64, 99.5)}, "width 99.5"),
        ({"seeds": 1}, "seeds=1"),
        ({"seeds": True}, "seeds=True"),
        ({"max_seeds": 0}, "max_seeds=0"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"tolerance": 0.5}, "nearest exponent of another regime"),
        ({"scheme": "mupp"}, "use one of " + ", ".join(SCHEMES)),
    ],
)
def test_bad_arguments_are_usage_errors(arguments, message):
    with pytest.raises(UsageError) as error:
        coord_check(mlp, **{"widths": (32, 64, 128), **arguments})
    assert message in str(error.value)


def test_recipes_without_rates_or_validation_are_usage_errors():
    with pytest.raises(UsageError, match="no lrs"):
        coord_check(mlp.replace(lrs=()), widths=WIDTHS)
    with pytest.raises(UsageError, match="no batches"):
        coord_check(mlp.replace(validation=list), widths=WIDTHS)


def test_the_default_rate_is_the_middle_of_the_recipes():
    assert check("case-mlp", "mup").settings["lr"] == 2**-7


def test_seeds_are_added_only_while_the_verdict_is_open():
    """SGD's readout needs more than 3 runs here; SP fails with 3."""
    assert 3 < check("case-mlp-sgd", "mup").settings["seeds"] <= 8
    assert check("case-mlp-sgd", "sp").settings["seeds"] == 3
    few = coord_check(mlp_sgd, widths=WIDTHS, seeds=2, max_seeds=2)
    assert few.verdict == "INCONCLUSIVE" and few.settings["seeds"] == 2 and "give more seeds" in few.reasons[0]


def test_the_same_call_gives_the_same_numbers_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    reports = [coord_check(conv, widths=(16, 32, 64), seeds=2, max_seeds=2, steps=2) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert reports[0].to_json() == reports[1].to_json()


def test_round_trip_through_a_file_and_clear_errors_for_others(tmp_path: Path):
    report = coord_check(mlp, widths=(32, 64, 128), seeds=2, max_seeds=2, options=Options(readout_init="zero"))
    report.save(tmp_path / "coord.json")
    again = CoordReport.load(tmp_path / "coord.json")
    assert again.to_json() == report.to_json() and str(again) == str(report)
    whole = (tmp_path / "coord.json").read_text()
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    for path in ("cut.json", "missing.json"):
        with pytest.raises(UsageError):
            CoordReport.load(tmp_path / path)
    with pytest.raises(UsageError, match="schema"):
        CoordReport.from_json({**report.to_json(), "schema": 99})
    with pytest.raises(UsageError, match="cannot be written"):
        report.save(tmp_path / "no" / "such" / "folder.json")


def test_the_table_puts_offenders_first_and_states_the_rule():
    text = str(check("case-mlp", "sp"))
    lines = text.splitlines()
    status = [line.split()[-1] for line in lines if line.endswith((" ok", " FAIL", " ?"))]
    assert status[0] == "FAIL" and status == sorted(status, key=("FAIL", "?", "ok").index)
    assert (
        lines[0].endswith("FAIL")
        and "The tolerance 0.25 is half of that" in text
        and "at least 95% of the judged rows" in text
    )
    assert "largest attention logit" in text


def test_attention_logits_and_losses_are_reported_for_every_width():
    report = check("case-transformer", "mup")
    assert {h.width for h in report.health} == set(WIDTHS)
    assert all(list(h.logits) == ["attention 0"] and math.isfinite(h.loss) for h in report.health)


# The judgement alone, on exponents given by hand.


@pytest.mark.parametrize(
    ("kind", "quantity", "interval", "ok"),
    [
        ("hidden", "rms", (-0.2, 0.2), True),
        ("hidden", "rms", (-0.7, -0.3), False),
        ("hidden", "rms", (-0.3, 0.1), None),
        ("hidden", "change", (0.3, 0.9), False),
        ("hidden", "change", (-3, 3), None),  # too wide to tell is not a pass
        ("hidden", "update", (-0.6, -0.4), True),  # part of dW x is random; the matrix itself is judged
        ("hidden", "update", (0.3, 0.4), False),
        ("hidden", "carried", (-9, -1), True),
        ("hidden", "carried", (0.26, 0.3), False),
        ("fixed", "rms", (-0.9, -0.4), True),  # muP's readout at its start
        ("fixed", "rms", (0.1, 0.3), None),
        ("fixed", "change", (-0.6, -0.4), True),
        ("fixed", "change", (0.3, 0.4), False),
        ("matrix", NATURAL, (-0.6, -0.4), False),  # a layer that learns less and less
        ("matrix", NATURAL, (0.9, 1.1), False),
        ("matrix", NATURAL, (-0.1, 0.2), True),
    ],
)
def test_which_exponents_pass(kind, quantity, interval, ok):
    slope = Slope(sum(interval) / 2, *interval)
    assert judge("m", 1, quantity, slope, Module(kind), 0.25).ok is ok
    shifted = Slope(slope.value - 0.25, slope.low - 0.25, slope.high - 0.25)
    assert judge("m", 1, quantity, shifted, Module(kind, held=-0.25), 0.25).ok is ok


def rows(*states: bool | None, module: str = "m", judged: bool = True) -> list[Row]:
    made = [judge(f"{module}{i}", 1, "rms", Slope(0.0, -0.1, 0.1), Module("hidden"), 0.25) for i in range(len(states))]
    return [dataclasses.replace(row, ok=ok, judged=judged) for row, ok in zip(made, states, strict=True)]


def test_the_verdict_of_rows():
    assert verdict_of(rows(*[True] * 30))[0] == "PASS"
    assert verdict_of(rows(*[True] * 99, False))[0] == "FAIL"
    assert verdict_of(rows(*[True] * 99), wild=["x at width 8"])[0] == "FAIL"
    assert verdict_of(rows(*[True] * 10, *[None] * 10))[0] == "INCONCLUSIVE"
    assert verdict_of([])[0] == verdict_of(rows(None, judged=False))[0] == "INCONCLUSIVE"


def test_a_row_that_no_step_decides_is_enough_for_no_pass():
    """One undecided t of three is chance, all three are not; 1 and 3 of 100 rows both stay within the quorum."""
    first = [dataclasses.replace(r, t=t) for t in (1, 2, 3) for r in rows(None, module="late")]
    rest = rows(*[True] * 97)
    assert verdict_of([*rest, *first])[0] == "INCONCLUSIVE"
    decided = [dataclasses.replace(first[0], ok=True), *first[1:]]
    assert verdict_of([*rest, *decided])[0] == "PASS"


# The project's own recipes, at their own widths.

OWN = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet", "gpt"])
@pytest.mark.parametrize(("scheme", "verdict"), [("mup", "PASS"), ("sp", "FAIL"), ("ntk", "FAIL")])
def test_own_recipes(name, scheme, verdict):
    recipe = load_recipe(str(OWN / f"{name}.py"))
    report = coord_check(recipe, widths=recipe.widths, scheme=scheme)
    assert report.verdict == verdict, report.reasons
