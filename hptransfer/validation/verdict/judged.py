"""Everything that a transfer's fitted curves say: comparisons and the verdict on them, whoever made the runs."""

# pyright: strict
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.validation.records.results import Drift, LossGap, Optimum, Regret, SizePair, Verdict
from hptransfer.validation.records.runs import Run
from hptransfer.validation.verdict import comparisons, judge
from hptransfer.validation.verdict.optimum import Fit, optima


@dataclass(frozen=True)
class Judged:
    """A verdict with its reasons, and the comparisons that it rests on (see TransferResult)."""

    verdict: Verdict
    reasons: tuple[str, ...]
    optima: tuple[Optimum, ...]
    drifts: tuple[Drift, ...]
    regrets: tuple[Regret, ...]
    loss_gaps: tuple[LossGap, ...]
    larger_is_better: tuple[SizePair, ...]


def judged(
    fits: Mapping[str, Sequence[Fit]],
    runs: Sequence[Run],
    *,
    scheme: str,
    control: str | None,
    tolerance: float,
    base: int | None,
) -> Judged:
    """Judge a scheme's fits, by ascending size, and the control's at the same sizes where there is one.

    tolerance: allowed drift in octaves. base: the base's size; losses are compared from it on, None: at every size.
    """
    drifts = {name: comparisons.drift_between(own[0], own[-1], own) for name, own in fits.items()}
    rates = {name: comparisons.transferred_lr(own[0]) for name, own in fits.items()}
    regrets = {s: comparisons.regret_of(fits[s][-1], runs, lr=lr) for s, lr in rates.items() if lr is not None}
    gaps = comparisons.loss_gaps(fits[scheme], fits[control], base_size=base) if control else []
    against = fits.get(control or "", [])
    findings = judge.findings(
        fits[scheme], against, tolerance, drift=drifts[scheme], regret=regrets.get(scheme), gaps=gaps
    )
    verdict, reasons = judge.verdict_of(findings)
    every = [fit for own in fits.values() for fit in own]
    return Judged(
        *(verdict, reasons, tuple(optima(every)), tuple(drifts.values()), tuple(regrets.values()), tuple(gaps)),
        tuple(comparisons.size_pairs([fit.curve for fit in every])),
    )
