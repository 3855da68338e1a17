"""The verdict: PASS, FAIL or INCONCLUSIVE by a fixed rule, with what decided it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hptransfer.core.training.recipe import Axis
from hptransfer.validation.records.results import Drift, LossGap, Optimum, Regret, Verdict
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.verdict.comparisons import drift_between
from hptransfer.validation.verdict.optimum import Fit, optima
from hptransfer.validation.verdict.phrases import amount, bracket

REGRET_TOLERANCE = 0.01
MARGIN, PRECISION = 1.75, 1.25
"""In tolerances: the drift's interval must lie within so many, and half of it be no more, so that a drift of 1.5 passes
one time in twenty at most (scripts/bench_verdict.py)."""
STRAIGHT = 2.5
"""Standard errors: the curvature at the smallest and the largest size together below which a loss counts as flat."""
MIN_SEEDS = 3

RULE = """\
PASS needs all of: at least {seeds} seeds; no optimum of {scheme} at an edge of its grid; the optimal {what} \
moves by at most {tolerance:g} octaves from the smallest to the largest {axis}, its 90% interval lies within \
{margin:g} and is known to {precision:g}; no {axis} in between has an optimum significantly further than that from \
the smallest one's (all of them together at 5% to a side); the loss bends about its lowest place beyond seed noise; \
the transferred {what} costs at most {regret:.0%} of the largest {axis}'s tuned loss, or no more than seed \
noise, known to better than what one off by 1.5 tolerances costs; and at every {axis} from the base on the tuned \
loss is no worse than that of tuned {control}, within seed noise. FAIL: all runs of {scheme} diverge at some {axis}, \
or one of these is violated beyond its 90% interval. Else INCONCLUSIVE; so is a size whose best {what} stands \
beside runs that failed with an error, and a check in which no run learned anything or the loss does not bend."""

Status = Literal["ok", "bad", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One part of the rule: whether it holds, and a sentence with the numbers."""

    status: Status
    text: str


def rule_text(
    scheme: str, control: str | None, tolerance: float, *, axis: Axis = "width", what: str = RATE.words
) -> str:
    """The rule as applied, in words. what: is swept."""
    return RULE.format(
        scheme=scheme,
        control=control or "nothing",
        tolerance=tolerance,
        margin=MARGIN * tolerance,
        precision=PRECISION * tolerance,
        regret=REGRET_TOLERANCE,
        seeds=MIN_SEEDS,
        axis=axis,
        what=what,
    )


def verdict_of(findings: Sequence[Finding]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and the sentences that decided it (all of them for a PASS)."""
    bad = tuple(f.text for f in findings if f.status == "bad")
    unknown = tuple(f.text for f in findings if f.status == "unknown")
    if bad:
        return "FAIL", bad + unknown
    if unknown:
        return "INCONCLUSIVE", unknown
    return "PASS", tuple(f.text for f in findings)


def judge_learning(fits: Sequence[Fit]) -> list[Finding]:
    """Where not one size of any scheme ended below the loss it started from, there is nothing to compare."""
    if not fits or not all(fit.at_chance for fit in fits):
        return []
    nearest = min(fits, key=lambda fit: fit.loss - fit.curve.initial)
    return [
        Finding(
            "unknown",
            f"No run learned anything: the best validation loss, {nearest.loss:.4g}, is no lower than the training "
            f"loss of the first steps, {nearest.curve.initial:.4g}. Train for more steps, or check data and loss.",
        )
    ]


def judge_seeds(seeds: int) -> list[Finding]:
    """Too few seeds allow no interval worth the name."""
    if seeds >= MIN_SEEDS:
        return []
    return [Finding("unknown", f"{seeds} seed{'s' * (seeds > 1)}: at least {MIN_SEEDS} are needed for an interval.")]


def judge_optima(optima: Sequence[Optimum], *, axis: Axis = "width", setting: Setting = RATE) -> list[Finding]:
    """Optima of the checked scheme: there must be one at every size, inside its grid."""
    findings = []
    for optimum in optima:
        where = f"{optimum.scheme} at {axis} {optimum.size}"
        if optimum.missing in ("diverged", "") and not math.isfinite(optimum.log2_lr):
            findings.append(Finding("bad", f"{where}: every run diverged."))
        elif optimum.missing:
            findings.append(Finding("unknown", f"{where}: no optimum; {optimum.tally or 'nothing was run'}."))
        elif optimum.blocked:
            text = f"{where}: runs next to the best {setting.words}, {_power(optimum.log2_lr, setting)}, failed"
            findings.append(Finding("unknown", f"{text}; {optimum.tally.failures}."))
        elif optimum.at_edge:
            text = (
                f"{where}: the best {setting.words}, {_power(optimum.log2_lr, setting)}, lies at the edge of the grid."
            )
            findings.append(Finding("unknown", text + (" Widen lrs." if setting.is_rate else " Give a larger extend.")))
    return findings


def judge_bend(small: Fit, large: Fit, *, axis: Axis = "width") -> list[Finding]:
    """Where the loss does not bend about its lowest place beyond noise, that place says nothing."""
    bends = [fit.basin.bend for fit in (small, large) if fit.basin is not None]
    together = sum(bends) / math.sqrt(len(bends)) if bends else math.nan
    if not together < STRAIGHT:
        return []
    ends = f"{axis} {small.curve.size} and {large.curve.size}"
    what = small.curve.setting.words
    text = f"{small.curve.scheme}: at {ends} the loss hardly depends on the {what}: its bend is "
    return [Finding("unknown", f"{text}{together:.1f} standard errors. Give more seeds, steps or a wider range.")]


def judge_drift(
    drift: Drift, *, sizes: tuple[int, int], tolerance: float, axis: Axis = "width", setting: Setting = RATE
) -> Finding:
    """The drift over the whole range of sizes, against the tolerance in octaves."""
    half = drift.high - drift.octaves
    text = (
        f"{drift.scheme}: the optimal {setting.words} moves by {drift.octaves:+.2f} octaves"
        f"{bracket(drift.low, drift.high)} from {axis} {sizes[0]} to {sizes[1]}; {tolerance:g} are allowed"
    )
    if drift.low > tolerance or drift.high < -tolerance:
        return Finding("bad", text + ".")
    if not math.isfinite(half):
        return Finding("unknown", text + ", but its noise is not known.")
    if half > PRECISION * tolerance:
        return Finding("unknown", text + ", but the interval is too wide to tell: give more seeds, steps or rates.")
    if abs(drift.octaves) + half > MARGIN * tolerance:
        return Finding("unknown", text + ", and the interval reaches into what is allowed: give more seeds.")
    return Finding("ok", text + ".")


def judge_between(drift: Drift, *, size: int, tolerance: float, axis: Axis = "width") -> list[Finding]:
    """A size in between must not lie significantly further from the smallest than the tolerance."""
    if not (drift.low > tolerance or drift.high < -tolerance):
        return []
    text = f"{drift.scheme} at {axis} {size}: the optimum lies {drift.octaves:+.2f} octaves from the smallest {axis}'s"
    return [Finding("bad", f"{text} [{drift.low:+.2f}, {drift.high:+.2f}]; {tolerance:g} are allowed.")]


def judge_regret(regret: Regret, *, size: int, tuned: float, axis: Axis = "width", setting: Setting = RATE) -> Finding:
    """The cost of the transferred rate, or factor, against a hundredth of the tuned loss and against seed noise."""
    what = f"{regret.scheme}: the transferred {setting.words} {setting.shown(regret.lr)}"
    if not math.isfinite(regret.loss):
        status: Status = "bad" if regret.loss == math.inf else "unknown"
        how = "diverges" if status == "bad" else "could not be measured"
        return Finding(status, f"{what} {how} at {axis} {size}.")
    allowed = REGRET_TOLERANCE * abs(tuned)
    text = (
        f"{what} costs {regret.loss:+.4f}"
        f"{bracket(regret.low, regret.high, '+.4f')} at {axis} {size}, whose tuned loss is {tuned:.4f}"
    )
    if regret.low > allowed:
        return Finding("bad", text + ".")
    if regret.high - regret.loss > max(allowed, math.inf if regret.shift is None else regret.shift):
        return Finding("unknown", text + ", but the interval is too wide to tell: give more seeds or steps.")
    if regret.loss <= allowed or regret.low <= 0:
        return Finding("ok", text + ".")
    return Finding(
        "unknown", text + (f"; more than {allowed:.4f} is not ruled out." if math.isfinite(regret.low) else ".")
    )


def judge_gaps(
    gaps: Sequence[LossGap], control: Sequence[Optimum], *, blocked: Collection[int] = (), axis: Axis = "width"
) -> list[Finding]:
    """Tuned against tuned control, at every size from the base on. blocked: sizes where failed runs hide the best."""
    open_ones = {o.size: "lies beside failed runs" for o in control if o.blocked}
    open_ones |= {o.size: "lies at the edge of its grid" for o in control if o.at_edge}
    findings = []
    for gap in gaps:
        text = (
            f"{axis.capitalize()} {gap.size}: tuned loss less that of tuned {control[0].scheme} is "
            f"{amount(gap.mup_minus_sp, '+.4f')}; seed noise allows {amount(gap.tolerance, '.4f')}"
        )
        if not gap.ok and (math.isnan(gap.tolerance) or gap.size in blocked):
            findings.append(Finding("unknown", text + "."))
        elif not gap.ok:
            findings.append(Finding("bad", text + "."))
        elif gap.size in open_ones and math.isfinite(gap.mup_minus_sp):
            findings.append(Finding("unknown", text + f", but {control[0].scheme}'s optimum {open_ones[gap.size]}."))
        else:
            findings.append(Finding("ok", text + "."))
    return findings


def findings(
    fits: Sequence[Fit],
    control: Sequence[Fit],
    tolerance: float,
    *,
    drift: Drift,
    regret: Regret | None,
    gaps: Sequence[LossGap],
) -> list[Finding]:
    """Every part of the rule on the checked scheme's fits (by ascending size) and the control's."""
    if unlearned := judge_learning([*fits, *control]):
        return unlearned
    best, axis, setting = optima(fits), fits[0].curve.axis, fits[0].curve.setting
    found = [*judge_seeds(fits[0].curve.seeds), *judge_optima(best, axis=axis, setting=setting)]
    inside = [fit for fit in fits if fit.settled]
    flat = judge_bend(fits[0], fits[-1], axis=axis) if fits[0].settled and fits[-1].settled else []
    if flat:
        return [*found, *flat, *_gaps(gaps, best, control, axis)]
    if fits[0].settled:
        for fit in (fit for fit in inside[1:] if fit is not fits[-1]):
            moved = drift_between(fits[0], fit, fits, tests=max(1, len(fits) - 2))
            found += judge_between(moved, size=fit.curve.size, tolerance=tolerance, axis=axis)
    if fits[0].settled and fits[-1].settled:
        ends = fits[0].curve.size, fits[-1].curve.size
        found.append(judge_drift(drift, sizes=ends, tolerance=tolerance, axis=axis, setting=setting))
    if regret is not None and fits[-1].found:
        large = fits[-1]
        found.append(judge_regret(regret, size=large.curve.size, tuned=large.loss, axis=axis, setting=setting))
    return [*found, *_gaps(gaps, best, control, axis)]


def _power(log2: float, setting: Setting) -> str:
    """A rate, or a factor, as a power of two."""
    return f"{setting.of_base}2^{log2:.2f}"


def _gaps(gaps: Sequence[LossGap], best: Sequence[Optimum], control: Sequence[Fit], axis: Axis) -> list[Finding]:
    blocked = {optimum.size for optimum in best if optimum.blocked}
    return judge_gaps(gaps, optima(control), blocked=blocked, axis=axis)
