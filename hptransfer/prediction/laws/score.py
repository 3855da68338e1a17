"""Scoring laws by regret on a table of runs, against the best constant: a law that loses to a constant says so.

Two questions. `score_lr_laws`: the batch is given, how much loss does the law's rate cost in every cell? And
`score_joint`: how much when the law chooses the batch too? Regret is the loss at the chosen setting minus the best loss
at that scale; between rates it is interpolated (`Cell.loss_at`), outside them it is that of the nearest end, which
flatters the law, so such cells are counted as clamped.

Everything that is tuned on the table is tuned without the block of cells that it is scored on: the constant rate, and
the constant factor of a calibrated law. Intervals and verdicts come from resampling blocks (model and horizon), and a
difference of less than `tolerance` of the best loss (1e-4: far below what seeds differ by) decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.laws.batch_laws import BATCH_LAWS
from hptransfer.prediction.laws.lr_laws import LR_LAWS, Law
from hptransfer.prediction.laws.own_law import OWN, OwnLaw, own_choices
from hptransfer.prediction.laws.plane import Plane
from hptransfer.prediction.laws.sweep_table import Cell, SweepTable

Array = np.ndarray
Verdict = Literal["beats a constant", "loses to a constant", "no better than a constant", "is the constant"]
_GRID = 241


@dataclass(frozen=True)
class LawScore:
    """How a law did on a table.

    law: its name. calibrated: whether its constant was fitted to the table (leaving out what it is scored on) or
    taken as published. mean_regret with its 90% interval and worst_regret: over cells, in the loss's unit.
    octaves: mean |log2(chosen/best rate)| over cells whose optimum lies inside the rates (nan if there is none).
    clamped: cells where the choice lies outside what was tried. diverged: cells where a run at or below the choice (and
    above the best rate) diverged. cells: scored. against_constant: mean regret minus
    the constant's, with its interval; verdict: from that interval.
    """

    law: str
    calibrated: bool
    mean_regret: float
    interval: tuple[float, float]
    worst_regret: float
    octaves: float
    clamped: int
    cells: int
    against_constant: float
    difference: tuple[float, float]
    verdict: Verdict
    diverged: int = 0

    @property
    def recommended(self) -> bool:
        """Only a law that beats the constant by more than the resampling noise, and never diverges, is one."""
        return self.verdict == "beats a constant" and not self.diverged

    def __str__(self) -> str:
        name = f"{self.law} (own constant)" if self.calibrated else self.law
        edge = f", {self.clamped} of {self.cells} clamped" if self.clamped else ""
        edge += f", {self.diverged} of {self.cells} DIVERGE" if self.diverged else ""
        return (
            f"{name}: regret {self.mean_regret:.4f} ({self.interval[0]:.4f} to {self.interval[1]:.4f}), worst "
            f"{self.worst_regret:.4f}, {self.octaves:.2f} octaves off{edge}: {self.verdict}"
        )


@dataclass(frozen=True)
class Scoreboard:
    """Scores, best first; the constant is among them. skipped: law -> why it could not be scored."""

    scores: tuple[LawScore, ...]
    skipped: dict[str, str]
    blocks: int

    def __str__(self) -> str:
        lines = [str(s) for s in self.scores]
        return "\n".join(lines + [f"{name}: not scored, {why}" for name, why in self.skipped.items()])


def score_lr_laws(
    table: SweepTable,
    laws: Mapping[str, Law] | None = None,
    *,
    own: OwnLaw | None = None,
    tolerance: float = 1e-4,
    resamples: int = 2000,
    seed: int = 0,
) -> Scoreboard:
    """Every law's regret with the batch given; each law also with its constant fitted to the other blocks.

    own: options of the table's own law, which is a row too: fitted to the optima of the other blocks. Raises UsageError
    with fewer than 2 blocks: the constant could then not be tested on what it was not chosen on.
    """
    blocks = _blocks(table)
    rates = _rate_grid([c for block in blocks for c in block])
    judge = _Judge(blocks, tolerance, resamples, seed)
    judge.add("constant", True, _chosen_by_others(blocks, rates, lambda _: 1.0))
    skipped: dict[str, str] = {}
    for name, law in (LR_LAWS if laws is None else laws).items():
        try:
            shape = {id(c): law.value(**c.variables()) for block in blocks for c in block}
        except UsageError as error:
            skipped[name] = str(error)
            continue
        if law.has_constant:
            judge.add(name, False, [[shape[id(c)] for c in block] for block in blocks])
        if law.needs:
            judge.add(name, True, _calibrated(blocks, rates, shape))
    if laws is None or own is not None:
        try:
            judge.add(OWN, True, own_choices(blocks, own or OwnLaw()))
        except UsageError as error:
            skipped[OWN] = str(error)
    return Scoreboard(judge.ranked(), skipped, len(blocks))


def score_joint(
    table: SweepTable,
    pairs: Sequence[str] | None = None,
    *,
    tolerance: float = 1e-4,
    resamples: int = 2000,
    seed: int = 0,
) -> Scoreboard:
    """The regret of letting a law choose batch and rate, in every block that has at least two batches.

    pairs: names that are both a learning-rate and a batch law with known constants (default: all). The loss between
    two tried batches is interpolated in ln B. The constant is the best (batch, rate) pair of the other blocks.
    Raises UsageError with fewer than 2 such blocks.
    """
    blocks = [block for block in _blocks(table) if len({c.batch for c in block}) >= 2]
    if len(blocks) < 2:
        raise UsageError(f"{table.source}: choosing a batch needs >= 2 scales with >= 2 batches, found {len(blocks)}.")
    planes = [Plane(block) for block in blocks]
    judge = _Judge([[p] for p in planes], tolerance, resamples, seed)
    judge.add("constant", True, _constant_pairs(planes))
    skipped: dict[str, str] = {}
    for name in [n for n in LR_LAWS if n in BATCH_LAWS] if pairs is None else pairs:
        try:
            if not LR_LAWS[name].has_constant:
                raise UsageError("its constant is not known")
            choices: list[list[tuple[float, float]]] = []
            for plane in planes:
                batch = BATCH_LAWS[name].value(**plane.scale)
                choices.append([(LR_LAWS[name].value(**plane.scale, batch=batch), batch)])
            judge.add(name, False, choices)
        except (UsageError, KeyError) as error:
            skipped[name] = str(error)
    return Scoreboard(judge.ranked(), skipped, len(blocks))


Choice = TypeVar("Choice", float, tuple[float, float], contravariant=True)


class _Scored(Protocol[Choice]):
    """What a choice (a rate, or a rate and a batch) is scored on: a cell, or the plane of a block."""

    @property
    def best_loss(self) -> float: ...
    @property
    def best_lr(self) -> float: ...
    @property
    def at_edge(self) -> bool: ...
    def regret(self, choice: Choice, /) -> float: ...
    def clamped(self, choice: Choice, /) -> bool: ...
    def diverges(self, choice: Choice, /) -> bool: ...


class _Judge(Generic[Choice]):
    """Collects per-block mean regrets and turns them into scores, all against the first one added."""

    def __init__(self, blocks: Sequence[Sequence[_Scored[Choice]]], tolerance: float, resamples: int, seed: int):
        self.blocks = blocks
        self.margin = tolerance * float(np.median([abs(c.best_loss) for block in blocks for c in block]))
        self.picks = numpy_generator(seed).integers(len(blocks), size=(resamples, len(blocks)))
        self.scores: list[LawScore] = []
        self.constant: Array | None = None

    def add(self, name: str, calibrated: bool, choices: Sequence[Sequence[Choice]]) -> None:
        pairs = [(c, x) for block, xs in zip(self.blocks, choices, strict=True) for c, x in zip(block, xs, strict=True)]
        regrets = [
            [c.regret(x) for c, x in zip(b, xs, strict=True)] for b, xs in zip(self.blocks, choices, strict=True)
        ]
        means = np.array([np.mean(r) for r in regrets])
        self.constant = means if self.constant is None else self.constant
        worse = means - self.constant
        off = [abs(math.log2(_rate(x) / c.best_lr)) for c, x in pairs if not c.at_edge]
        difference = self._interval(worse)
        self.scores.append(
            LawScore(
                law=name,
                calibrated=calibrated,
                mean_regret=float(means.mean()),
                interval=self._interval(means),
                worst_regret=float(max(max(r) for r in regrets)),
                octaves=float(np.mean(off)) if off else math.nan,
                clamped=sum(c.clamped(x) for c, x in pairs),
                cells=len(pairs),
                against_constant=float(worse.mean()),
                difference=difference,
                verdict=_verdict(name, difference, self.margin),
                diverged=sum(c.diverges(x) for c, x in pairs),
            )
        )

    def ranked(self) -> tuple[LawScore, ...]:
        """Least regret first; where less than a hundredth of what decides lies between, the simpler law."""

        def rank(score: LawScore) -> tuple[float, bool]:
            return round(score.mean_regret / self.margin, 2), score.law == OWN

        return tuple(sorted(self.scores, key=rank))

    def _interval(self, values: Array) -> tuple[float, float]:
        low, high = np.quantile(values[self.picks].mean(axis=1), [0.05, 0.95])
        return float(low), float(high)


def _verdict(name: str, difference: tuple[float, float], margin: float) -> Verdict:
    if name == "constant":
        return "is the constant"
    if difference[1] < -margin:
        return "beats a constant"
    return "loses to a constant" if difference[0] > margin else "no better than a constant"


def _rate(choice: float | tuple[float, float]) -> float:
    return choice[0] if isinstance(choice, tuple) else choice


def _blocks(table: SweepTable) -> list[list[Cell]]:
    blocks = list(table.blocks().values())
    if len(blocks) < 2:
        raise UsageError(
            f"{table.source}: {len(blocks)} combination of params and tokens. At least 2 are needed, as a constant "
            "must be judged where it was not chosen."
        )
    return blocks


def _rate_grid(cells: Sequence[Cell]) -> Array:
    return np.geomspace(min(c.lrs[0] for c in cells), max(c.lrs[-1] for c in cells), _GRID)


def _chosen_by_others(blocks: list[list[Cell]], factors: Array, shape: Callable[[Cell], float]) -> list[list[float]]:
    """For every cell factor * shape(cell), the factor being the one with the least mean regret on the other blocks."""
    regrets = np.array([np.mean([c.regrets(factors * shape(c)) for c in block], axis=0) for block in blocks])
    chosen: list[list[float]] = []
    for i, block in enumerate(blocks):
        others = np.delete(regrets, i, axis=0).mean(axis=0)
        ties = np.flatnonzero(others <= others.min() + 1e-12)  # a flat stretch: take its middle
        factor = math.exp(float(np.log(factors[ties]).mean()))
        chosen.append([factor * shape(c) for c in block])
    return chosen


def _calibrated(blocks: list[list[Cell]], rates: Array, shape: dict[int, float]) -> list[list[float]]:
    low, high = float(rates[0]) / max(shape.values()), float(rates[-1]) / min(shape.values())
    factors = np.geomspace(low, high, _GRID)
    return _chosen_by_others(blocks, factors, lambda c: shape[id(c)])


def _constant_pairs(planes: list[Plane]) -> list[list[tuple[float, float]]]:
    rates = _rate_grid([c for p in planes for c in p.cells])
    batches = sorted({c.batch for p in planes for c in p.cells})
    pairs = [(float(lr), batch) for batch in batches for lr in rates]
    regrets = np.array([np.concatenate([p.regrets(rates, batch) for batch in batches]) for p in planes])
    return [[pairs[int(np.argmin(np.delete(regrets, i, axis=0).mean(axis=0)))]] for i in range(len(planes))]
