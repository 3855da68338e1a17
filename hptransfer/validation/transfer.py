"""transfer_check: does the optimal learning rate stay where it is as the model widens or deepens, and at what loss?"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.secrets import masked
from hptransfer.core.training.recipe import Axis, Recipe, load_recipe
from hptransfer.validation.axes import PLURALS, growth
from hptransfer.validation.choices import SamplerName
from hptransfer.validation.engines.engine import EngineName
from hptransfer.validation.engines.trainer import CONTROL
from hptransfer.validation.environment import command_line, environment
from hptransfer.validation.grid import Grid, grid_of
from hptransfer.validation.measure import Measurement, fitted, measure, sizes_of
from hptransfer.validation.probe import Cell
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.mixing import nondeterminism
from hptransfer.validation.records.results import Regret, TransferResult
from hptransfer.validation.records.runs import Run
from hptransfer.validation.records.tally import Tally
from hptransfer.validation.search.planner import Without
from hptransfer.validation.search.samplers import planner_of
from hptransfer.validation.settings.aim import Aim, Given, aimed
from hptransfer.validation.sweep import Sweep, refuse_no_growth
from hptransfer.validation.verdict import comparisons, judge
from hptransfer.validation.verdict.judged import judged
from hptransfer.validation.verdict.measures import measures_of

FEWEST_SEEDS = 3
"""An interval of the drift that is worth stopping at needs as many."""


@dataclass(frozen=True)
class Search:
    """How the runs of a check are chosen; see transfer_check."""

    sampler: SamplerName
    extend: float
    precision: float | None


def transfer_check(
    recipe: Recipe | str,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    experts: Sequence[int] | None = None,
    active: Sequence[int] | None = None,
    expert_widths: Sequence[int] | None = None,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    steps: int | None = None,
    scheme: str | None = None,
    against: str | None = CONTROL,
    also: Sequence[str] = (),
    tolerance: float = 0.5,
    extend: float = 4.0,
    sampler: SamplerName = "zoom",
    precision: float | None = None,
    tuned: Given | None = None,
    setting: str | None = None,
    storage: str | None = None,
    timeout: float | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: EngineName = "auto",
    plan_options: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> TransferResult:
    """Sweep the learning rate at every width, or depth, under `scheme` and under the control, and judge the transfer.

    widths: at least two; lrs: base learning rates; seeds: a count or a list (3 or more for an interval); steps: all
    default to the recipe's own. depths: in place of widths, at the base's width. batches: at the base's tokens, so that
    runs have fewer steps; tokens: at the base's batch; either beside widths or depths, of as many sizes, grows together
    with them (see axes.growth). experts, active, expert_widths: of a mixture, where the builder reads scale.experts and
    so on. scheme: default "mup" over widths, "completep" over depths. against: the control, None for none. also:
    further schemes, run and reported beside them and not judged ("sp-embedding": SP with the embedding's rate as muP
    has it). tolerance: allowed drift in octaves. sampler: "zoom" runs rates two octaves apart with one seed, then half
    an octave apart around the best with all seeds, larger sizes starting at the transferred rate; "grid" runs every
    rate; "tpe" and "gp" let Optuna choose as many as the grid has. extend: a search whose best rate is its first or
    last goes on by up to this many octaves on that side, for that (scheme, size). precision: stop adding seeds, from
    the third on, once the drift's interval reaches no further than so many octaves to either side; default: use all
    seeds. tuned: what `tune` gave, its file, or values as {"lr": 0.01, "weight_decay": 4.0}: every scheme trains with
    these factors on the recipe's own settings. setting: sweep the factor of this one of them in place of the learning
    rate, which is held at the tuned one; drift is in octaves of the factor, and the result's `vector` says what the
    tuned value costs at the largest size. timeout: seconds that a run may take; one that takes longer is killed and
    recorded as failed. out: a directory that gets runs.jsonl as runs finish and verdict.json at the end. storage: an
    Optuna storage URL through which the runs are shared with `hptransfer worker` processes. Either makes the check
    resumable. workers, device, engine, plan_options: as in run_sweep. command: recorded in the result; default: this
    process's. Raises UsageError on bad input, and where all runs of a scheme fail. See judge.RULE for the verdict.
    """
    choices = {"storage": storage, "timeout": timeout, "plan_options": plan_options}
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    mixture = {"experts": experts, "active": active, "expert_widths": expert_widths}
    grown = growth(loaded, widths=widths, depths=depths, batches=batches, tokens=tokens, **mixture, steps=steps)
    sweep = Sweep.of(grown.recipe, device=device, workers=workers, engine=engine, **choices)
    axis = grown.axis
    scheme = scheme or ("completep" if axis == "depth" else "mup")
    control = None if against == scheme else against
    schemes = list(dict.fromkeys(name for name in (scheme, control, *also) if name is not None))
    told = {"fingerprint": sweep.fingerprint, "steps": sweep.trainer.recipe.steps if steps is None else steps}
    aim = aimed(sweep.trainer, tuned, setting, **told)
    chosen = {"scales": grown.scales, "lrs": aim.values(lrs), "seeds": seeds, "steps": steps}
    grid = replace(grid_of(sweep.trainer.recipe, schemes=schemes, **chosen), setting=aim.setting, held=aim.held)
    search = Search(sampler, extend, precision)
    _refuse_no_range(grid, axis, tolerance, search)
    refuse_no_growth(sweep.trainer, grid)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(RunLog(out)) if out is not None else None
        found = _measured(sweep, grid, axis, search, log)
        found = _with_tuned(sweep, found, aim, log)
    notes = (*(log.notes if log else ()), *sweep.notes, *found.notes, *aim.notes, *_two_inits(sweep, scheme, control))
    notes = (*notes, *_unlike_at_base(sweep, found, axis, scheme, control), *_rule_carried(sweep, grid, axis, scheme))
    result = _result(sweep, found, axis, control, tolerance, command or command_line(), notes)
    result = replace(result, vector=_vector_regret(found, aim, tolerance))
    if out is not None:
        result.save(out)
    return result


def _measured(sweep: Sweep, grid: Grid, axis: Axis, search: Search, log: RunLog | None) -> Measurement:
    """The search and what follows from it; with a precision, seed after seed from the third on until it is reached."""
    if search.precision is None:
        return _with_seeds(sweep, grid, axis, search, log)
    for count in range(min(FEWEST_SEEDS, len(grid.seeds)), len(grid.seeds)):
        found = _with_seeds(sweep, replace(grid, seeds=grid.seeds[:count]), axis, search, log)
        fits = found.of(grid.schemes[0])
        drift = comparisons.drift_between(fits[0], fits[-1], fits)
        if (drift.high - drift.low) / 2 <= search.precision:
            return found
    return _with_seeds(sweep, grid, axis, search, log)


def _with_seeds(sweep: Sweep, grid: Grid, axis: Axis, search: Search, log: RunLog | None) -> Measurement:
    planner = planner_of(search.sampler, grid, fingerprint=sweep.fingerprint, extend=search.extend, axis=axis)

    def made(broken: Collection[Cell]) -> list[Run]:
        whole = Without(planner, broken)
        runs = sweep.search(whole, whole.only(grid.jobs(sweep.fingerprint)), log=log)
        return [runs[job.key] for job in whole.chosen(runs) if job.key in runs]

    return measure(grid, made, lambda jobs: sweep.make(jobs, log=log), fingerprint=sweep.fingerprint, axis=axis)


def _with_tuned(sweep: Sweep, found: Measurement, aim: Aim, log: RunLog | None) -> Measurement:
    """The measurement with the tuned value itself at the largest size, under the checked scheme."""
    grid, value = found.grid, aim.tuned
    if value is None:
        return found
    fits = found.of(grid.schemes[0])
    axis, size = fits[-1].curve.axis, fits[-1].curve.size
    scale = next(scale for scale in grid.scales if getattr(scale, axis) == size)
    jobs = [grid.job(grid.schemes[0], scale, value, seed, fingerprint=sweep.fingerprint) for seed in grid.seeds]
    runs = list(dict.fromkeys([*found.runs, *sweep.make(jobs, log=log)]))
    return replace(found, runs=runs, fits=fitted(grid, runs, axis))


def _vector_regret(found: Measurement, aim: Aim, tolerance: float) -> Regret | None:
    """What the tuned vector costs at the largest size, beside that with what was swept searched anew there."""
    fits = found.of(found.grid.schemes[0])
    if aim.tuned is None or not fits[-1].found:
        return None
    return comparisons.regret_of(fits[0], fits[-1], lr=aim.tuned, tolerance=tolerance)


def _two_inits(sweep: Sweep, scheme: str, control: str | None) -> list[str]:
    """What a unit forward does to the comparison with the control, which keeps the model's own initial scales."""
    options = sweep.trainer.plan_options.get("options")
    if control != CONTROL or options is None or options.forward == "own":
        return []
    return [
        f"forward={options.forward!r} sets the initial scales of {scheme!r} at every size; {control!r} keeps the "
        f"model's own. The loss gaps compare the two inits as well, at the base too."
    ]


def _rule_carried(sweep: Sweep, grid: Grid, axis: Axis, scheme: str) -> list[str]:
    """What the plan's rule for batch and tokens does to the rate, so that the drift is what the rule leaves."""
    if axis not in ("batch", "tokens"):
        return []
    small, large = min(sizes := sizes_of(grid, axis)), max(sizes)
    ends = [next(s for s in grid.scales if getattr(s, axis) == size) for size in (small, large)]
    plans = [sweep.trainer.prepare(scheme, scale) for scale in ends]  # its rule, without what was tuned
    factors = [next(iter(plan.rows.values())).lr_mult if plan is not None else 1.0 for plan in plans]
    moved = math.log2(factors[1] / factors[0])
    return [
        f"Learning rates are the base's: from {axis} {small} to {large} the rule of {scheme}'s plan moves the rate by "
        f"{moved:+.2f} octaves, and a drift is what the rule leaves."
    ]


def _unlike_at_base(sweep: Sweep, found: Measurement, axis: Axis, scheme: str, control: str | None) -> list[str]:
    """That the recipe is not deterministic, where a plan that changes nothing at the base changed something there."""
    base = sweep.trainer.recipe.base
    size = getattr(base, axis)
    if control != CONTROL or size not in sizes_of(found.grid, axis):
        return []
    plan = sweep.trainer.prepare(scheme, base)
    if plan is None or not plan.is_identity or sweep.trainer.prepare(control, base) is not None:
        return []  # as no factor tells the two schemes apart
    note = nondeterminism(found.runs, scheme=scheme, control=control, axis=axis, base=size)
    return [note] if note else []


EXAMPLES: Mapping[Axis, str] = {
    **{"width": "64,128,256", "depth": "2,4,8", "batch": "16,64,256", "tokens": "10000,40000"},
    **{"experts": "4,8,16", "active": "1,2,4", "expert_width": "32,64,128"},
}


def _refuse_no_range(grid: Grid, axis: Axis, tolerance: float, search: Search) -> None:
    if len(sizes := sizes_of(grid, axis)) < 2:
        example = EXAMPLES[axis]
        name = PLURALS[axis]
        raise UsageError(f"{name}={sizes}: a transfer needs at least two {name}, for example {example}.")
    if len(grid.lrs) < 3:
        raise UsageError(f"lrs={list(grid.lrs)}: an optimum needs at least three learning rates, a factor 2 apart.")
    if not tolerance > 0:
        raise UsageError(f"tolerance={tolerance!r}: must be a positive number of octaves.")
    if search.precision is not None and not search.precision > 0:
        raise UsageError(f"precision={search.precision!r}: must be a positive number of octaves.")
    if not 0 <= search.extend <= 20:
        raise UsageError(f"extend={search.extend!r}: must be a number of octaves from 0 (never extend the grid) to 20.")


def _result(
    sweep: Sweep,
    found: Measurement,
    axis: Axis,
    control: str | None,
    tolerance: float,
    command: str,
    notes: tuple[str, ...],
) -> TransferResult:
    """The comparisons, the verdict on them, and the record of how they were made."""
    recipe, grid, scheme = sweep.trainer.recipe, found.grid, found.grid.schemes[0]
    fits = {name: found.of(name) for name in grid.schemes}
    base = getattr(recipe.base, axis)
    said = judged(fits, scheme=scheme, control=control, tolerance=tolerance, base=base)
    largest = max(grid.scales, key=lambda scale: getattr(scale, axis) or 0)
    plan = sweep.trainer.prepare(scheme, largest, grid.held.text)
    return TransferResult(
        recipe=recipe.name,
        scheme=scheme,
        rule=judge.rule_text(scheme, control, tolerance, axis=axis, what=grid.setting.words),
        axis=axis,
        sizes=tuple(fit.curve.size for fit in fits[scheme]),
        lrs=found.lrs,
        seeds=found.grid.seeds,
        steps=grid.steps,
        base_size=base,
        **vars(said),
        runs=tuple(found.runs),
        plan=plan.to_json() if plan is not None else {},
        environment=environment(sweep.trainer.device),
        command=masked(command),
        against=control,
        tolerance=tolerance,
        fingerprint=sweep.fingerprint,
        notes=notes,
        tally=Tally.of(found.runs),
        measures=measures_of(fits, found.runs),
        also=tuple(name for name in grid.schemes if name not in (scheme, control)),
        setting=str(grid.setting),
        tuned=grid.held.values,
    )
