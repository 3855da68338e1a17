"""Turns jobs into runs in this process: seeds, builds, parametrizes and trains; plans and data are made once."""

from __future__ import annotations

import functools
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from hptransfer.checks.planned import PlannedModels
from hptransfer.core.errors import UsageError, described
from hptransfer.core.rules import SCHEMES
from hptransfer.core.training.loop import TrainResult, thin, train
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.scale import MIXTURE
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.tuned import tuned_plan
from hptransfer.validation.records.portable import Portable
from hptransfer.validation.records.runs import Job, Run, State
from hptransfer.validation.settings.effect import factors_on
from hptransfer.validation.settings.vector import Vector

CONTROL = "sp"
"""The scheme that changes nothing: the target's own init and one global learning rate. It needs a plan only for what
the options ask of every scheme, a readout that starts at zero, and for factors on the base's settings."""

CONTROL_TAKES = ("roles", "base_example_inputs", "constants")
"""Those of make_plan's arguments that a control's plan needs to be made, and that change none of its numbers."""


class Pruned(Exception):
    """Raised by an on_step callback to stop a run that is not worth finishing. losses: its training losses so far."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(f"pruned after {len(losses)} steps")
        self.losses = list(losses)


class Trainer(PlannedModels):
    """Makes runs of one recipe on one device.

    plan_options: further keyword arguments of make_plan (options, roles, base_example_inputs). Raises UsageError from
    `prepare` where a scale cannot be built or planned; `run` keeps a run's exceptions in its record instead.
    """

    def __init__(self, recipe: Recipe, *, device: str = "cpu", plan_options: Mapping[str, Any] | None = None) -> None:
        cached = recipe.replace(validation=functools.cache(recipe.validation))
        super().__init__(cached, device=device, plan_options=plan_options)
        self.given = recipe
        self.tuned_plans: dict[tuple[str, Scale, str], Plan] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its recipe's source and its plans, so that a spawned process can rebuild it."""
        return _rebuilt, (Portable.of(self.given), self.device, self.plan_options, self.plans)

    def prepare(self, scheme: str, scale: Scale, settings: str = "") -> Plan | None:
        """The plan of one (scheme, scale), made once; None for the control where it needs none.

        settings: factors on the base's settings (Job.settings), which every scheme takes, the control too.
        """
        choices = self.options_of(scheme)
        if not settings:
            return None if choices is None else self._planned(scheme, scale, choices)
        if (scheme, scale, settings) not in self.tuned_plans:
            plan = self._planned(scheme, scale, self._control_options() if choices is None else choices)
            factors = factors_on(Vector.read(settings), {row.name: row.shape for row in plan})
            self.tuned_plans[scheme, scale, settings] = tuned_plan(plan, factors)
        return self.tuned_plans[scheme, scale, settings]

    def prepared(self, job: Job) -> Plan | None:
        """The plan of a job."""
        return self.prepare(job.scheme, self.scale(job), job.settings)

    def scale(self, job: Job) -> Scale:
        """Where a job is trained: with the base's mixture of experts where it says nothing of one."""
        said, base = job.scale, self.recipe.base
        mixture = {axis: getattr(base, axis) for axis in MIXTURE if getattr(said, axis) is None}
        return said.with_(**mixture)

    def _planned(self, scheme: str, scale: Scale, choices: Mapping[str, Any]) -> Plan:
        try:
            return self.plan(scheme, scale, choices)
        except SystemExit as error:
            raise UsageError(
                f"Recipe {self.recipe.name!r} ended the process as its plan was made at {scale}: {described(error)}."
            ) from error

    def options_of(self, scheme: str) -> dict[str, Any] | None:
        """The keyword arguments of a scheme's plan, None where it needs none. The control keeps its own forward."""
        options: Options = self.plan_options.get("options") or Options()
        if not SCHEMES[scheme].global_lr:
            return self.plan_options
        if (
            scheme == CONTROL and options.readout_init != "zero" and not self.pair
        ):  # a pair's plan says which parameter each one trains
            return None
        return self._control_options()

    def _control_options(self) -> dict[str, Any]:
        options: Options = self.plan_options.get("options") or Options()
        kept = {name: self.plan_options[name] for name in CONTROL_TAKES if name in self.plan_options}
        return {**kept, "options": replace(options, forward="own")}

    def ready(self, job: Job) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The job's parametrized model on the device, and its optimizer groups at the job's learning rate."""
        plan = self.prepared(job)
        model = self.model(plan, self.scale(job), seed=job.seed)
        return model, self.groups(plan, model, lr=job.lr)

    def run(self, job: Job, on_step: Callable[[int, float], None] | None = None) -> Run:
        """Train one job. Whatever the recipe raises, sys.exit too, makes it a failed run that keeps the error's text.

        Only an interrupt of the user's goes through; a worker process gets none, so that one in it is the recipe's.
        """
        began = time.perf_counter()
        try:
            model, groups = self.ready(job)
            optimizer = self.optimizer(groups)
            recipe = self.recipe.replace(steps=job.steps)
            scale = self.scale(job)
            result = train(recipe, model, optimizer, scale=scale, seed=job.seed, device=self.device, on_step=on_step)
        except Pruned as pruned:
            return _unfinished(job, "pruned", None, seconds=time.perf_counter() - began, losses=pruned.losses)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
                raise
            return failed(job, described(error), seconds=time.perf_counter() - began)
        plan = self.prepared(job)
        return replace(run_of(job, result), plan=plan.fingerprint if plan is not None else "")


def _rebuilt(recipe: Portable, device: str, plan_options: Mapping[str, Any], plans: dict[Any, Plan]) -> Trainer:
    trainer = Trainer(recipe.recipe(), device=device, plan_options=plan_options)
    trainer.plans.update(plans)
    return trainer


def run_of(job: Job, result: TrainResult, *, engine: str = "loop") -> Run:
    """The record of a job that was trained."""
    return Run(
        **vars(job),
        val_loss=result.val_loss,
        train_loss=result.train_loss,
        curve=result.curve,
        diverged=result.diverged,
        seconds=result.seconds,
        state="diverged" if result.diverged else "complete",
        engine=engine,
    )


def failed(job: Job, error: str, *, seconds: float = 0.0) -> Run:
    """The record of a job that ended in an error."""
    return _unfinished(job, "failed", error, seconds=seconds)


def _unfinished(job: Job, state: State, error: str | None, *, seconds: float, losses: Sequence[float] = ()) -> Run:
    curve = thin(losses) if losses else ()
    last = curve[-1][1] if curve else math.inf
    return Run(
        **vars(job),
        val_loss=math.inf,
        train_loss=last,
        curve=curve,
        diverged=False,
        seconds=seconds,
        state=state,
        error=error,
    )
