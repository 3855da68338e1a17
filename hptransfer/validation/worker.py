"""A worker: joins the studies of a recipe that another process has started in a storage, and helps to finish them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.validation.queue.jobs import ABOUT, BASE, JobWork
from hptransfer.validation.queue.storage import open_storage, release
from hptransfer.validation.queue.team import Work, drain_of, lost_database
from hptransfer.validation.search.study import tuning_fingerprint
from hptransfer.validation.search.tune import TRIALS, Proxy, Space, TuneWork
from hptransfer.validation.sweep import Sweep


def work(
    recipe: Recipe | str,
    *,
    storage: str,
    name: str | None = None,
    space: Space | None = None,
    device: str = "auto",
    plan_options: Mapping[str, Any] | None = None,
    patience: float = 30.0,
    limit: int | None = None,
    threads: int | None = 1,
) -> int:
    """Take trials of this recipe's checks and studies until none has come for `patience` seconds; returns how many.

    name: only the study of that name. space, plan_options: as given to the study that is to be helped. limit: stop
    after so many trials. threads: torch threads of this process, None to leave them. May be killed at any time: its
    trial is asked for again.
    Raises UsageError where the storage cannot be used or holds nothing of this recipe.
    """
    sweep = Sweep.of(recipe, device=device, workers=1, plan_options=plan_options)
    if threads is not None:
        torch.set_num_threads(threads)
    if not _works(sweep, storage, name, space):
        raise UsageError(
            f"The storage holds no study of recipe {sweep.trainer.given.name!r} as it is now"
            f"{f' named {name!r}' if name else ''}. Start `hptransfer check ... --storage` first, with the same recipe."
        )
    done, last = 0, time.monotonic()
    with lost_database(storage):
        while limit is None or done < limit:
            before = done
            for found in _works(sweep, storage, name, space, wait=True):
                left = math.inf if limit is None else limit - done
                queue = found.open(storage, wait=True)
                done += drain_of(queue, found, limit=left).all()
                queue.disconnect()
            if done > before:
                last = time.monotonic()
            elif time.monotonic() - last >= patience:
                break
            else:
                time.sleep(min(0.5, patience))
    return done


def _same(sweep: Sweep, about: Mapping[str, Any], base: Mapping[str, Any] | None) -> Sweep | None:
    """The sweep that a study's jobs are of, where that is one of this recipe; else None.

    A check over batch or tokens says what a step and a run of the base see, where the recipe does not.
    """
    if about["fingerprint"] == sweep.fingerprint:
        return sweep
    if about["recipe"] != sweep.trainer.given.name or base is None:
        return None
    scale = Scale(**base)
    if scale.with_(batch=None, tokens=None) != sweep.trainer.given.base.with_(batch=None, tokens=None):
        return None
    return sweep.with_base(scale) if sweep.with_base(scale).fingerprint == about["fingerprint"] else None


def _works(sweep: Sweep, url: str, name: str | None, space: Space | None, *, wait: bool = False) -> list[Work]:
    """The work of every study of this recipe in the storage. wait: see open_storage."""
    trainer, works = sweep.trainer, []
    storage = open_storage(url, wait=wait)
    studies = storage.get_all_studies()
    release(storage)
    for study in studies:
        about = study.user_attrs.get(ABOUT)
        if about is None or (name is not None and study.study_name != name):
            continue
        if about["kind"] == "grid" and (same := _same(sweep, about, study.user_attrs.get(BASE))) is not None:
            works.append(JobWork(same.trainer, same.fingerprint, same.lanes.at, timeout=same.timeout))
        elif about["kind"] == "tune" and about["fingerprint"] == tuning_fingerprint(sweep, space):
            settings = {k: v for k, v in about.items() if k not in ("kind", "recipe")}
            proxy = Proxy(**{**settings, "seeds": tuple(settings["seeds"])})
            works.append(TuneWork(trainer, proxy, study.study_name, int(study.user_attrs.get(TRIALS, 0)), space))
    return works
