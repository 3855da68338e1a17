"""What a transfer check found: plain data, as JSON in a directory (verdict.json beside runs.jsonl)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, read_json, write_json
from hptransfer.core.training.recipe import Axis
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.runs import RUNS_FILE, Job, Key, Run, latest, read_runs
from hptransfer.validation.records.tally import NO_RUNS, Tally
from hptransfer.validation.settings.setting import Setting, setting_named

VERDICT_FILE = "verdict.json"
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Missing = Literal["", "diverged", "pruned", "failed", "not run"]
"""Why a size has no optimum: every run diverged, or some failed and so nobody knows; "" where it has one."""


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of one (scheme, size), where size is the width or the depth.

    log2_lr, low, high: log2 of the optimal base LR with its 90% interval. loss, loss_low, loss_high: the loss
    there. at_edge: the best LR of the grid is its first or its last, so the optimum may lie outside. seeds: how
    many. missing: why there is none; log2_lr and the interval are nan then, and loss is inf. blocked: runs next to the
    best LR failed, so the optimum may lie there. tally: how its runs ended. band: log2 (lowest, highest) of the LRs
    that cost at most a hundredth of the best loss, None where it is not known.
    """

    scheme: str
    size: int
    log2_lr: float
    low: float
    high: float
    loss: float
    loss_low: float
    loss_high: float
    at_edge: bool
    seeds: int
    missing: Missing = ""
    blocked: bool = False
    tally: Tally = NO_RUNS
    band: tuple[float, float] | None = None


@dataclass(frozen=True)
class Drift:
    """How far a scheme's optimum moved from the smallest to the largest size, in octaves (90% interval)."""

    scheme: str
    octaves: float
    low: float
    high: float


@dataclass(frozen=True)
class Regret:
    """The loss at the largest size at the smallest size's optimal LR, less that size's own best loss.

    low, high: 90% interval. loss is inf where the transferred LR diverges. lr: the transferred LR. shift: what a rate
    off by 1.5 tolerances costs at that size, None where it is not known.
    """

    scheme: str
    loss: float
    low: float
    high: float
    lr: float = 0.0
    shift: float | None = None


@dataclass(frozen=True)
class LossGap:
    """Tuned loss of the checked scheme less that of tuned SP at one size, with a 90% interval.

    tolerance: what seed noise alone allows. ok: mup_minus_sp <= tolerance.
    """

    size: int
    mup_minus_sp: float
    low: float
    high: float
    tolerance: float
    ok: bool

    @property
    def worse(self) -> bool:
        """Whether it is more than the noise allows; where the noise is not known (one seed) nobody can tell."""
        return not self.ok and not math.isnan(self.tolerance)


@dataclass(frozen=True)
class SizePair:
    """Two neighbouring sizes at one learning rate: loss(large) - loss(small), with a 90% interval.

    ok: the larger model is no worse within seed noise.
    """

    scheme: str
    lr: float
    small: int
    large: int
    difference: float
    low: float
    high: float
    ok: bool


@dataclass(frozen=True)
class Measures:
    """A scheme's transfer in the field's measures, each with a 90% interval where seeds give one; None: not known.

    exponent, fit_error: of the best rate as a power of the size, and how far the optima scatter about it in octaves.
    robustness: the cost of a rate off by an octave, as a share of the loss, goes as size^-robustness. penalty: the
    tuned loss extrapolated to infinite size, over that of the best scheme, less 1. share: what the smallest size's rate
    loses at the largest, over what the larger size gains; speed: "fast" where it is surely less than 1, "slow" where
    surely more. saved: the part of a search's time saved at the smallest size. See verdict/measures.py.
    """

    scheme: str
    exponent: float | None
    fit_error: float | None
    robustness: float | None
    robustness_low: float | None
    robustness_high: float | None
    penalty: float | None
    penalty_low: float | None
    penalty_high: float | None
    share: float | None
    speed: Literal["fast", "slow", "unknown"]
    saved: float | None


@dataclass(frozen=True)
class TransferResult(Document):
    """Everything a transfer check found, and what it was found with.

    verdict, rule, reasons: the judgement, the rule that was used, and what decided it. axis: what grows, width or
    depth; sizes: its values, ascending; base_size: the base's. lrs: the grid, the union where it was extended for one
    (scheme, size). optima: of the scheme and of SP, per size.
    plan: Plan.to_json() at the largest size. coord: CoordReport.to_json(), or None. environment: versions,
    machine, device, date. command: the exact command line. against: the control scheme (SP), or None.
    tolerance: allowed drift, octaves. notes: what the reader should know of how it ran. tally: how all runs ended.
    measures: of every scheme, reported and not judged. also: further schemes that were run beside, not judged.
    setting: what was swept; where it is not "lr", all that is said of learning rates here (lrs, log2_lr, Regret.lr) is
    of factors on the base's value of it. tuned: setting -> value that all runs had, beside what was swept. vector: the
    loss at the largest size with the tuned vector, less that with what was swept searched anew there.
    """

    SCHEMA = 2
    TITLE = "a transfer result"
    REMEDY = "Run `hptransfer check` again with the same --out: the runs that are there are not made again."

    recipe: str
    scheme: str
    verdict: Verdict
    rule: str
    reasons: tuple[str, ...]
    axis: Axis
    sizes: tuple[int, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    base_size: int | None
    optima: tuple[Optimum, ...]
    drifts: tuple[Drift, ...]
    regrets: tuple[Regret, ...]
    loss_gaps: tuple[LossGap, ...]
    larger_is_better: tuple[SizePair, ...]
    runs: tuple[Run, ...] = field(repr=False)
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    coord: Mapping[str, Any] | None = field(default=None, repr=False)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    against: str | None = "sp"
    tolerance: float = 0.5
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    tally: Tally = NO_RUNS
    measures: tuple[Measures, ...] = ()
    also: tuple[str, ...] = ()
    setting: str = "lr"
    tuned: Mapping[str, float] = field(default_factory=dict)
    vector: Regret | None = None

    @property
    def swept(self) -> Setting:
        """What was swept."""
        return setting_named(self.setting)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The checked scheme, its control, and those run beside them."""
        return tuple(dict.fromkeys(s for s in (self.scheme, self.against, *self.also) if s))

    def optimum(self, scheme: str, size: int) -> Optimum:
        """The optimum of one (scheme, size). Raises KeyError where it was not measured."""
        for found in self.optima:
            if (found.scheme, found.size) == (scheme, size):
                return found
        raise KeyError((scheme, size))

    def without_runs(self) -> dict[str, Any]:
        """The result as JSON but for its runs, which runs.jsonl holds: verdict.json, and what --json prints."""
        return {name: value for name, value in self.to_json().items() if name != "runs"}

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write verdict.json, and add to runs.jsonl the runs it does not hold yet. Returns the directory.

        Raises UsageError where the directory cannot be written.
        """
        root = Path(directory)
        verdict = self.without_runs()
        verdict["keys"] = [run.key for run in self.runs]
        try:
            root.mkdir(parents=True, exist_ok=True)
            known = latest(read_runs(root / RUNS_FILE)[0])
            if missing := [run for run in self.runs if known.get(run.key) != run]:
                with RunLog(root) as log:
                    for run in missing:
                        log.append(run)
            write_json(root / VERDICT_FILE, verdict)
        except OSError as error:
            raise UsageError(f"Cannot write to {root}: {error}. Give a writable directory.") from error
        return root

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> TransferResult:
        """The result saved in a directory; a cut-off last line of runs.jsonl is noted.

        Raises UsageError where verdict.json is missing or not one, or runs.jsonl holds a line that is not a run.
        """
        path = Path(directory) / VERDICT_FILE
        if not path.is_file():
            raise UsageError(f"No {VERDICT_FILE} in {directory}. Give a directory that `check --out` wrote.")
        data = read_json(path)
        result = cls.from_json({**data, "runs": []} if isinstance(data, dict) else data)
        runs, notes = read_runs(Path(directory) / RUNS_FILE)
        known, keys = latest(runs), data.get("keys", [])
        known |= {_twelve_digits(run.job): run for run in runs if _twelve_digits(run.job) not in known}
        lost = sum(key not in known for key in keys)
        if lost:
            notes.append(f"{lost} of the {len(keys)} runs of this result are not in {RUNS_FILE}.")
        kept = tuple(known[key] for key in keys if key in known)
        return dataclasses.replace(result, runs=kept, notes=(*result.notes, *notes))


def _twelve_digits(job: Job) -> Key:
    """The key of a run as versions before 0.2 wrote it: sizes to 6 digits, rates to 12."""
    where = " ".join(f"{axis}={value:g}" for axis, value in job.scale.said.items())
    return f"{job.scheme} {where} lr={job.lr:.12g} seed={job.seed} steps={job.steps} {job.fingerprint}".strip()
