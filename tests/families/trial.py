"""One trial of one family: plan it, and hold the plan against the role oracle."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from families.family import WIDTHS, Heads
from torch import nn

import hptransfer as hpt
from hptransfer.checks.oracle.verify import verify_plan
from hptransfer.core.errors import UsageError
from hptransfer.parametrization.plan import Plan

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "REFUSED", "UNTRACEABLE", "ERROR"]


class Subject(Protocol):
    """What a trial needs to know of a family; see families.family.Family and outside.family.Outside."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def unused(self) -> bool: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def inputs(self) -> Callable[[], Mapping[str, Any] | tuple[Any, ...]]: ...
    def builder(self, heads: Heads, /) -> Callable[[int], nn.Module]:
        """Width -> model."""
        ...


@dataclass(frozen=True)
class Trial:
    """What came of one family with fixed or growing heads.

    verdict: the oracle's, or REFUSED (make_plan raised UsageError), UNTRACEABLE (torch.export failed) or ERROR (the
    model could not be built, or another exception). reason: the oracle's reasons or the error's text.
    plan_seconds: building, tracing and planning the widest, None where that failed. oracle_seconds: measuring.
    parameters: how many the plan has; fingerprint: the plan's, so that a later plan can be told to be the same.
    """

    family: str
    kind: str
    heads: Heads
    verdict: Verdict
    reason: str
    plan_seconds: float | None = None
    oracle_seconds: float | None = None
    parameters: int | None = None
    fingerprint: str = ""


def attempt(family: Subject, heads: Heads, *, widths: Sequence[int] = WIDTHS, seeds: int = 2) -> Trial:
    """Plan the family at every width against BASE and measure it. Never raises: the exception is the outcome."""
    trial = Trial(family.name, family.kind, heads, "ERROR", "")
    try:
        return _measured(trial, family, heads, widths, seeds)
    except UsageError as error:
        traced = "could not be traced" not in str(error)
        return replace(trial, verdict="REFUSED" if traced else "UNTRACEABLE", reason=str(error))
    except Exception as error:
        return replace(trial, reason=f"{type(error).__name__}: {error}")


def planned(family: Subject, heads: Heads, *, widths: Sequence[int] = WIDTHS) -> Plan:
    """The plan of the widest model against the narrowest, weights seeded. Raises what building or planning raises."""
    build = family.builder(heads)
    models: list[nn.Module] = []
    for width in (min(widths), max(widths)):
        torch.manual_seed(0)
        models.append(build(width))
    return hpt.make_plan(models[1], base=models[0], example_inputs=family.inputs(), options=_options(family, heads))


def _measured(trial: Trial, family: Subject, heads: Heads, widths: Sequence[int], seeds: int) -> Trial:
    options = _options(family, heads)
    subject = {"widths": widths, "base": min(widths), "example_inputs": family.inputs(), "options": options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        plan = planned(family, heads, widths=widths)
        middle = time.perf_counter()
        report = verify_plan(family.builder(heads), seeds=seeds, **subject)
    seconds = {"plan_seconds": middle - started, "oracle_seconds": time.perf_counter() - middle}
    rounded = {key: round(value, 2) for key, value in seconds.items()}
    size = {"parameters": len(plan.rows), "fingerprint": plan.fingerprint}
    return replace(trial, verdict=report.verdict, reason="; ".join(report.reasons), **size, **rounded)


def _options(family: Subject, heads: Heads) -> hpt.Options:
    """The defaults, but for fixed key-value heads: as readouts they start smaller, which the oracle calls a fault."""
    own = {"grouped_heads": "fan-in"} if heads == "fixed kv" else {}
    unused, weights = "keep" if family.unused else "error", "initial" if family.frozen else None
    return hpt.Options(unused=unused, weights=weights, **own)
