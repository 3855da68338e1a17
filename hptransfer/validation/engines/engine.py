"""Which engine makes the runs: one at a time, or many as lanes of one; measured on an accelerator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch

from hptransfer.core.training.recipe import Scale
from hptransfer.validation.engines.lanes import LanesUnsupported, train_lanes
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.records.runs import Job, Run

EngineName = Literal["auto", "loop", "lanes"]
MAX_LANES = 64
PROBE_STEPS = 8
AGREEMENT = 1e-3
"""Largest relative difference of a training loss after PROBE_STEPS steps at which lanes count as the same run."""


@dataclass(frozen=True)
class Lanes:
    """How many alike jobs are trained as one at each scale (1 where it is not named), and what is to be said.

    decided: the scales that were measured, whatever came of it.
    """

    at: Mapping[Scale, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    decided: frozenset[Scale] = frozenset()


def chosen_lanes(trainer: Trainer, jobs: Sequence[Job], *, engine: EngineName, workers: int) -> Lanes:
    """Which engine makes the runs of each scale that the jobs are of.

    "auto": the loop on CPU (the same bits on every machine with the same torch, and as fast there); on an accelerator
    whatever a short probe finds faster per run. "lanes": lanes wherever they work. A scale at which they do not work
    gets the loop, and a note says why.
    """
    if engine == "loop" or (engine == "auto" and trainer.device == "cpu"):
        return Lanes()
    at: dict[Scale, int] = {}
    decided: set[Scale] = set()
    notes: list[str] = []
    for scale in dict.fromkeys(job.scale for job in jobs):
        alike = [job for job in jobs if job.scale == scale]
        if len({(job.scheme, job.settings) for job in alike}) == len(alike):
            continue  # no two that could be trained as one: nothing to choose, nor to remember
        probe = measure(trainer, alike)
        decided.add(scale)
        if probe.reason is None and (engine == "lanes" or probe.lanes_seconds < probe.loop_seconds):
            at[scale] = min(probe.lanes, math.ceil(len(alike) / workers))
        notes += [_note(scale, probe)] if probe.reason is not None else []
    return Lanes(at, tuple(notes), frozenset(decided))


def train_jobs(trainer: Trainer, jobs: Sequence[Job]) -> list[Run]:
    """The runs of jobs that are alike: as lanes, or one by one where there is a single one or lanes fail after all."""
    if len(jobs) > 1:
        try:
            return train_lanes(trainer, jobs)
        except LanesUnsupported:
            pass
    return [trainer.run(job) for job in jobs]


@dataclass(frozen=True)
class Probe:
    """Seconds per run by either engine over PROBE_STEPS steps; how many lanes fit; why lanes do not work, if so."""

    loop_seconds: float
    lanes_seconds: float
    lanes: int
    reason: str | None


def measure(trainer: Trainer, jobs: Sequence[Job]) -> Probe:
    """Time both engines on the first jobs that are alike, and check that they agree."""
    brief = _brief(trainer)
    same = [job for job in jobs if _kind(job) == _kind(jobs[0])]
    alike = [replace(job, steps=PROBE_STEPS) for job in same[:MAX_LANES]]
    loop_seconds, single = _timed(lambda: [brief.run(alike[0])])
    while True:
        try:
            lanes_seconds, several = _timed(partial(train_lanes, brief, list(alike)))
            break
        except LanesUnsupported as error:
            if "OutOfMemoryError" not in str(error) or len(alike) == 1:
                return Probe(loop_seconds, math.inf, 1, str(error))
            alike = alike[: len(alike) // 2]
    alone, beside = single[0].train_loss, several[0].train_loss
    agree = single[0].state == several[0].state and (alone == beside or abs(alone - beside) <= AGREEMENT * abs(alone))
    reason = None if agree else f"a lane's loss is {beside:.6g} where the loop's is {alone:.6g}"
    return Probe(loop_seconds, lanes_seconds / len(alike), len(alike), reason)


def _kind(job: Job) -> tuple[str, Scale, str]:
    """What jobs that may be trained as one have in common."""
    return job.scheme, job.scale, job.settings


def _brief(trainer: Trainer) -> Trainer:
    """The trainer with a single validation batch."""
    brief = Trainer(trainer.recipe, device=trainer.device, plan_options=trainer.plan_options)
    brief.plans, brief.tuned_plans = trainer.plans, trainer.tuned_plans
    brief.recipe = trainer.recipe.replace(validation=lambda: list(trainer.recipe.validation())[:1])
    return brief


def _timed(make: Callable[[], list[Run]]) -> tuple[float, list[Run]]:
    """Seconds of the second of two calls (the first one warms up), and its runs."""
    make()
    began = time.perf_counter()
    runs = make()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, runs


def _note(scale: Scale, probe: Probe) -> str:
    return f"At {scale} runs were made one by one, not in lanes: {probe.reason}."
