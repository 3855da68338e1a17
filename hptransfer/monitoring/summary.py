"""A monitored run in a few lines: where it stands against the edge, its noise, layers, spectra and its reference."""

# pyright: strict
from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.files import columns
from hptransfer.mechanics.edge_of_stability import EdgeTrace
from hptransfer.monitoring.collapse import Look, alarm, collapse, curve_of
from hptransfer.monitoring.measurements import DECAY
from hptransfer.monitoring.readings import Monitored, Spectrum
from hptransfer.prediction.noise.noise_scale import NoiseScale, predict_noise_scale

SHARPNESSES = {"sharpness": "2/lr", "preconditioned sharpness": "the optimizer's limit / lr"}
"""What is held against what."""
Rows = tuple[tuple[str, ...], ...]
ENOUGH = 4
"""Readings from which on a place at the edge is told."""


@dataclass(frozen=True)
class EdgeSummary:
    """One sharpness over the run. last: its last value; ratios: to the edge, (m,) with steps (m,); arrival: the first
    step with a ratio of 1 or more; place: "below", "at the edge", "above", or "" where there are too few readings."""

    name: str
    last: float
    steps: tuple[int, ...]
    ratios: tuple[float, ...]
    arrival: int | None
    place: str


@dataclass(frozen=True)
class LayerSummary:
    """One module. output: root mean square, first and last; alignment, update_alignment: the last exponents."""

    module: str
    first_output: float
    last_output: float
    alignment: float | None
    update_alignment: float | None


class Part(NamedTuple):
    """A table, rows: a heading and its lines, or nothing; sentences that follow it, or stand alone; about: what the
    table holds."""

    title: str = ""
    rows: Rows = ()
    sentences: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Summary:
    """What a run's file says. noise: (value, low, high) of the noise scale, high None where there is no upper limit;
    None where nothing is resolved. looks: beside the reference; alarm: (progress, words) of the first from those."""

    run: Monitored
    edges: tuple[EdgeSummary, ...]
    noise: tuple[float, float | None, float | None] | None
    layers: tuple[LayerSummary, ...]
    weights: Mapping[str, Spectrum]
    updates: Mapping[str, Spectrum]
    looks: tuple[Look, ...]
    alarm: tuple[float, str] | None

    @property
    def alarmed(self) -> bool:
        """Whether anything gave an alarm, during the run or now."""
        return self.alarm is not None or any(reading.alarms for reading in self.run.readings)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What there is to tell, in the order in which it is read."""
        parts = (
            Part(sentences=(_headline(self.run), *_alarms(self))),
            Part(
                "Curvature",
                _edges(self.edges),
                about="Sharpness against the edge, beyond which nothing converges",
            ),
            Part(sentences=_noise(self.noise)),
            Part(sentences=_collapse(self.looks)),
            Part("Modules", _layers(self.layers), _aligned(self.layers), "Outputs at first and now; alignment now"),
            Part("Matrices", _spectra(self.weights, self.updates), about="Spectra of weights and their last updates"),
            Part(sentences=_dropped(self.run)),
        )
        return tuple(part for part in parts if part.rows or part.sentences)

    def __str__(self) -> str:
        texts = ["\n".join([*(columns(part.rows) if part.rows else ()), *part.sentences]) for part in self.parts]
        return "\n\n".join(texts)


def summarise_run(run: Monitored, reference: Monitored | None = None) -> Summary:
    """Read a run's file, beside that of a smaller one where given. Raises UsageError where the reference is no whole
    run."""
    looks = collapse(curve_of(run), curve_of(reference)) if reference is not None else ()
    edges = [_edge(run, name) for name in SHARPNESSES if run.number(name)[0]]
    weights: dict[str, Spectrum] = {}
    updates: dict[str, Spectrum] = {}
    for reading in run.readings:
        weights |= reading.weights
        updates |= reading.updates
    return Summary(run, tuple(edges), _noise_of(run), _layer_rows(run), weights, updates, looks, alarm(looks))


def _edge(run: Monitored, name: str) -> EdgeSummary:
    at, values = run.number(name)
    steps, ratios = run.number(f"{name} / edge")
    place, arrival = "", None
    if ratios:
        nothing = np.full(len(ratios), math.nan)
        trace = EdgeTrace(np.array(steps, dtype=np.float64), nothing, np.array(ratios), lr=1.0, limit=1.0)
        arrival = trace.arrival
        place = trace.place() if len(ratios) >= ENOUGH else ""
    return EdgeSummary(name, values[-1] if at else math.nan, tuple(steps), tuple(ratios), arrival, place)


def _noise_of(run: Monitored) -> tuple[float, float | None, float | None] | None:
    _, signal = run.number("gradient signal")
    _, noise = run.number("gradient noise")
    history = [NoiseScale(s, n) for s, n in zip(signal, noise, strict=True)]
    if not history:
        return None
    try:
        told = predict_noise_scale(history, decay=DECAY)
    except UsageError:
        return None
    return told.value, told.low, told.high


def _layer_rows(run: Monitored) -> tuple[LayerSummary, ...]:
    readings = [reading for reading in run.readings if reading.outputs]
    names = list(dict.fromkeys(name for reading in readings for name in reading.outputs))
    rows: list[LayerSummary] = []
    for name in names:
        outputs = [r.outputs[name] for r in readings if name in r.outputs]
        aligned = [r.alignment[name] for r in readings if name in r.alignment]
        updated = [r.update_alignment[name] for r in readings if name in r.update_alignment]
        last = aligned[-1] if aligned else None, updated[-1] if updated else None
        rows.append(LayerSummary(name, outputs[0], outputs[-1], *last))
    return tuple(rows)


def _headline(run: Monitored) -> str:
    header, readings = run.header, run.readings
    done = readings[-1].step if readings else 0
    losses = [r.loss for r in readings if r.loss is not None]
    _, shares = run.number("monitor share")
    loss = f", loss {losses[-1]:.4g}" if losses else ""
    cost = f"; the monitor took {shares[-1]:.1%} of the training time, of {header.budget:.0%}" if shares else ""
    named = f"{header.run}: " if header.run else ""
    length = f" of {header.steps}" if header.steps else ""
    return f"{named}{header.optimizer}, {header.parameters:,} parameters, step {done}{length}{loss}{cost}."


def _alarms(summary: Summary) -> list[str]:
    told = [f"ALARM at {text}" for reading in summary.run.readings for text in reading.alarms]
    if summary.alarm is not None and not told:
        told.append(f"ALARM at {summary.alarm[0]:.0%} of the run: no collapse on the reference: {summary.alarm[1]}")
    return told


def _edges(edges: Sequence[EdgeSummary]) -> Rows:
    if not edges:
        return ()
    rows: list[tuple[str, ...]] = [("", "last", "against", "last ratio", "largest", "edge reached", "place")]
    for edge in edges:
        ratios = (f"{edge.ratios[-1]:.2f}", f"{max(edge.ratios):.2f}") if edge.ratios else ("-", "-")
        reached = "no" if edge.arrival is None else f"step {edge.arrival}"
        rows.append((edge.name, f"{edge.last:.4g}", SHARPNESSES[edge.name], *ratios, reached, edge.place or "-"))
    return tuple(rows)


def _noise(noise: tuple[float, float | None, float | None] | None) -> tuple[str, ...]:
    if noise is None:
        return ()
    value, low, high = noise
    ends = f"{low or 0:.3g} to {'no upper limit' if high is None else f'{high:.3g}'}"
    return (f"Gradient noise scale: {value:.3g} examples (90%: {ends}); batches far above it buy little.",)


def _collapse(looks: Sequence[Look]) -> tuple[str, ...]:
    if not looks:
        return ()
    last = looks[-1]
    said = last.verdict or "as a healthy run does"
    off = f"off by {last.off:.1%} (allowed {last.off_limit:.1%})"
    above = f"above by {last.above:+.1%} (allowed {last.above_limit:.1%}) of its fall"
    return (f"Beside the reference at {last.progress:.0%}: {said}; {off}, {above}.",)


def _layers(layers: Sequence[LayerSummary]) -> Rows:
    if not layers:
        return ()
    rows = [("module", "output rms", "now", "times", "alignment", "of updates")]
    for row in layers:
        grown = row.last_output / row.first_output if row.first_output else math.nan
        exponents = _optional(row.alignment), _optional(row.update_alignment)
        rows.append((row.module, f"{row.first_output:.3g}", f"{row.last_output:.3g}", f"{grown:.2f}", *exponents))
    return tuple(rows)


def _aligned(layers: Sequence[LayerSummary]) -> tuple[str, ...]:
    middle = [row.update_alignment for row in layers if row.update_alignment is not None]
    if not middle:
        return ()
    return (f"Median alignment of updates: {statistics.median(middle):.2f} (muP's rates assume 1).",)


def _spectra(weights: Mapping[str, Spectrum], updates: Mapping[str, Spectrum]) -> Rows:
    if not weights:
        return ()
    rows = [("matrix", "norm", "stable rank", "update's norm", "natural", "stable rank")]
    for name, weight in weights.items():
        update = updates[name]
        told = f"{update.norm:.3g}", f"{update.natural:.3g}", f"{update.stable_rank:.3g}"
        rows.append((name, f"{weight.norm:.3g}", f"{weight.stable_rank:.3g}", *told))
    return tuple(rows)


def _dropped(run: Monitored) -> tuple[str, ...]:
    dropped = {name: why for reading in run.readings for name, why in reading.dropped.items()}
    never = [
        name
        for name in run.header.measured
        if name not in dropped and not any(_has(reading, name) for reading in run.readings)
    ]
    lines = [f"Not measured: {name}: {why}" for name, why in dropped.items()]
    if never:
        lines.append(
            f"Not measured yet, for the budget of {run.header.budget:.0%} did not pay for it: {', '.join(never)}."
        )
    return tuple(lines)


def _has(reading: object, name: str) -> bool:
    kept = {"spectra": "weights", "layers": "outputs"}.get(name)
    if kept is not None:
        return bool(getattr(reading, kept))
    numbers: Mapping[str, float] = getattr(reading, "numbers")  # noqa: B009
    return ("noise scale" if name == "noise" else name) in numbers


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
