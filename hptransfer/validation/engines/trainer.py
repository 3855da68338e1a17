"""Turns jobs into runs in this process: seeds, builds, parametrizes and trains; plans and data are made once."""

from __future__ import annotations

import functools
import inspect
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hptransfer.checks.proxy import inputs_for
from hptransfer.core.errors import RECIPE_ERRORS, UsageError, described
from hptransfer.core.loop import TrainResult, thin, train
from hptransfer.core.recipe import Recipe, Scale
from hptransfer.core.seeding import seeded_model
from hptransfer.parametrization.apply.groups import param_groups
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.make import make_plan
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan
from hptransfer.validation.records.portable import Portable
from hptransfer.validation.records.runs import Job, Run, State

CONTROL = "sp"
"""The scheme that changes nothing: the target's own init and one global learning rate. It needs a plan only for what
the options ask of every scheme, a readout that starts at zero."""

CONTROL_TAKES = ("roles", "base_example_inputs", "constants")
"""Those of make_plan's arguments that a control's plan needs to be made, and that change none of its numbers."""


class Pruned(Exception):
    """Raised by an on_step callback to stop a run that is not worth finishing. losses: its training losses so far."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(f"pruned after {len(losses)} steps")
        self.losses = list(losses)


class Trainer:
    """Makes runs of one recipe on one device.

    plan_options: further keyword arguments of make_plan (options, roles, base_example_inputs). Raises UsageError from
    `prepare` where a scale cannot be built or planned; `run` keeps a run's exceptions in its record instead.
    """

    def __init__(self, recipe: Recipe, *, device: str = "cpu", plan_options: Mapping[str, Any] | None = None) -> None:
        self.given, self.recipe = recipe, recipe.replace(validation=functools.cache(recipe.validation))
        self.device, self.plan_options = device, dict(plan_options or {})
        self.plans: dict[tuple[str, Scale], Plan] = {}
        self.base: nn.Module | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its recipe's source and its plans, so that a spawned process can rebuild it."""
        return _rebuilt, (Portable.of(self.given), self.device, self.plan_options, self.plans)

    def prepare(self, scheme: str, scale: Scale) -> Plan | None:
        """The plan of one (scheme, scale), made once; None for the control where its readout starts as it does."""
        given = self.options_of(scheme)
        if given is None:
            return None
        if (scheme, scale) not in self.plans:
            self.plans[scheme, scale] = self._planned(scheme, scale, given)
        return self.plans[scheme, scale]

    def _planned(self, scheme: str, scale: Scale, given: Mapping[str, Any]) -> Plan:
        try:
            return make_plan(
                self.sketch(scale),
                base=self._base(),
                example_inputs=inputs_for(self.recipe, given.get("options")),
                scheme=scheme,
                optimizer=self.recipe.optimizer,
                optimizer_options=self.recipe.optimizer_options,
                **given,
            )
        except SystemExit as error:
            raise UsageError(
                f"Recipe {self.recipe.name!r} ended the process as its plan was made at {scale}: {described(error)}."
            ) from error

    def options_of(self, scheme: str) -> dict[str, Any] | None:
        """The keyword arguments of a scheme's plan, None where it needs none. The control keeps its own forward."""
        options: Options = self.plan_options.get("options") or Options()
        if scheme != CONTROL:
            return self.plan_options
        if options.readout_init == "own":
            return None
        own = {name: self.plan_options[name] for name in CONTROL_TAKES if name in self.plan_options}
        return {**own, "options": replace(options, forward="own")}

    def sketch(self, scale: Scale) -> nn.Module:
        """The model on meta, or with weights where it cannot be built there. Raises UsageError if not even that."""
        try:
            with torch.device("meta"):
                return self.recipe.build(scale)
        except RECIPE_ERRORS:
            return self.build(scale, seed=0)

    def build(self, scale: Scale, *, seed: int) -> nn.Module:
        """A freshly initialised model on CPU, drawn from `seed`. Raises UsageError where the recipe cannot build it."""
        return seeded_model(self.recipe, scale, seed)

    def model(self, job: Job) -> nn.Module:
        """The job's parametrized model, on the device."""
        model = self.build(scale_of(job), seed=job.seed)
        plan = self.prepare(job.scheme, scale_of(job))
        if plan is not None:
            parametrize_(model, plan)
        return model.to(self.device)

    def groups(self, job: Job, model: nn.Module, *, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of a job's model at base learning rate `lr`."""
        plan = self.prepare(job.scheme, scale_of(job))
        if plan is None:
            return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]
        defaults = inspect.signature(self.recipe.optimizer).parameters
        decay = defaults["weight_decay"].default if "weight_decay" in defaults else 0.0
        given = self.recipe.optimizer_options
        return param_groups(model, plan, lr=lr, weight_decay=given.get("weight_decay", decay), eps=given.get("eps"))

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The recipe's optimizer on groups that carry their own lr."""
        return self.recipe.optimizer(groups, **self.recipe.optimizer_options)

    def run(self, job: Job, on_step: Callable[[int, float], None] | None = None) -> Run:
        """Train one job. Whatever the recipe raises, sys.exit too, makes it a failed run that keeps the error's text.

        Only an interrupt of the user's goes through; a worker process gets none, so that one in it is the recipe's.
        """
        began = time.perf_counter()
        try:
            model = self.model(job)
            optimizer = self.optimizer(self.groups(job, model, lr=job.lr))
            recipe = self.recipe.replace(steps=job.steps)
            scale = scale_of(job)
            result = train(recipe, model, optimizer, scale=scale, seed=job.seed, device=self.device, on_step=on_step)
        except Pruned as pruned:
            return _unfinished(job, "pruned", None, seconds=time.perf_counter() - began, losses=pruned.losses)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
                raise
            return failed(job, described(error), seconds=time.perf_counter() - began)
        return run_of(job, result)

    def _base(self) -> nn.Module:
        if self.base is None:
            self.base = self.build(self.recipe.base, seed=0)
        return self.base


def _rebuilt(recipe: Portable, device: str, plan_options: Mapping[str, Any], plans: dict[Any, Plan]) -> Trainer:
    trainer = Trainer(recipe.recipe(), device=device, plan_options=plan_options)
    trainer.plans.update(plans)
    return trainer


def scale_of(job: Job) -> Scale:
    """The scale a job is trained at."""
    return Scale(width=job.width, depth=job.depth, batch=job.batch, tokens=job.tokens)


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
