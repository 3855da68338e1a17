"""Runs that do not belong together: another plan's, and pairs that should be one training and are not."""

# pyright: strict
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Axis
from hptransfer.parametrization.plan import Plan
from hptransfer.validation.records.runs import Job, Run


def refuse_other_plans(runs: Iterable[Run], plan_of: Callable[[Job], Plan | None]) -> None:
    """Raise UsageError where a finished run was trained under another plan than the one it would get now."""
    for run in runs:
        plan = plan_of(run.job)
        now = plan.fingerprint if plan is not None else ""
        if run.finished and run.plan and run.plan != now:
            raise UsageError(
                f"The run {run.job} was trained under plan {run.plan}, which is now {now or 'none'}: the two cannot be "
                "compared. Give another directory as out, or another storage."
            )


def nondeterminism(runs: Sequence[Run], *, scheme: str, control: str, axis: Axis, base: int | None) -> str:
    """What is to be said where runs of two schemes that are one training at the base differ; "" where none does.

    For a scheme whose plan changes nothing at the base. Pairs of the loop only: lanes equal it up to rounding.
    """
    here = {
        (run.scheme, run.lr, run.settings, run.seed): run
        for run in runs
        if getattr(run, axis) == base and run.finished and run.engine == "loop" and run.state != "pruned"
    }
    pairs = [
        (run, other)
        for (name, lr, settings, seed), run in here.items()
        if name == scheme and (other := here.get((control, lr, settings, seed))) is not None
    ]
    unlike = [(run, other) for run, other in pairs if (run.state, run.val_loss) != (other.state, other.val_loss)]
    if not unlike:
        return ""
    run, other = unlike[0]
    return (
        f"The recipe is not deterministic: at the base {axis} {base} {scheme} and {control} are the same training, but "
        f"{len(unlike)} of {len(pairs)} pairs of runs ended apart (lr {run.lr:.4g} seed {run.seed}: {run.val_loss:.8g} "
        f"against {other.val_loss:.8g}). Draw all randomness from the seed; on a GPU see "
        "torch.use_deterministic_algorithms."
    )
