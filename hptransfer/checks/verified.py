"""make_plan for a model or for the function that builds it; with the latter, a numeric check runs with the plan."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hptransfer.checks.checked import checked_widths
from hptransfer.checks.oracle.report import OracleReport
from hptransfer.checks.oracle.subject import Inputs, Subject, subject_of
from hptransfer.checks.oracle.verify import verify_plan
from hptransfer.checks.planned import inputs_for, sketched
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.parametrization import make
from hptransfer.parametrization.interop.mup import BaseShapes
from hptransfer.parametrization.matching.compare import HEADS
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.verification import Verification

SECONDS = 10.0
"""After this no more seeds are added; two are always run."""
MOST = 12_000_000
"""Parameters of the widest model that is built to check a plan."""
Size = int | Scale
Verify = bool | Sequence[int]


def make_plan(
    model: nn.Module | Callable[[Any], nn.Module],
    *,
    base: nn.Module | BaseShapes | Size,
    target: Size | None = None,
    example_inputs: Inputs = (),
    verify: Verify = True,
    **choices: Any,
) -> Plan:
    """Work out how every hyperparameter of a model must differ from the base's.

    model: the target, beside a base model; or a function that builds the model at any width (or hptransfer.Scale),
    beside base and target widths (or Scales). With a function the target is built without memory for its weights, and
    some seconds of numeric check at small widths, and depths where the scheme has a depth rule and the Scales a depth,
    run with the plan: the first line of print(plan) says what came of it, and plan.verification keeps it.
    verify: False leaves the check out; a sequence of three or more widths is what to build for it.
    example_inputs: arguments of one forward call, as long as in training. choices: all further options, see
    hptransfer.parametrization.make.make_plan (scheme, optimizer, optimizer_options, roles, options, tuned, ...).
    Raises UsageError where the model cannot be planned. A check that cannot be made raises nothing: the plan says why.
    """
    if isinstance(model, nn.Module):
        if target is not None or isinstance(base, (int, Scale)):
            raise UsageError(
                "make_plan: a model goes with base=model; base and target sizes go with a function that builds the "
                "model, make_plan(build, base=64, target=512, ...)."
            )
        return make.make_plan(model, base=base, example_inputs=example_inputs, **choices)
    build, small, large = _builder(model, base, target)
    sized = {"scale": large, "base_scale": small} if large.batch or large.tokens else {}
    plan = _planned(build, small, large, example_inputs, **sized, **choices)
    if verify is False:
        return _with(plan, Verification(why="verify=False"))
    return _with(
        plan, _verification(plan, lambda: _subject(build, small, example_inputs, model, choices), verify, choices)
    )


def recipe_plan(recipe: Recipe, target: Scale, *, verify: Verify = True, **choices: Any) -> Plan:
    """The plan of a recipe's model at another scale, checked on the recipe's own batches and loss.

    verify, choices: as in make_plan; optimizer and its options default to the recipe's.
    Raises UsageError where the model cannot be planned.
    """
    if "optimizer" not in choices:
        choices = {"optimizer_options": recipe.optimizer_options, **choices, "optimizer": recipe.optimizer}
    inputs = inputs_for(recipe, choices.get("options"))
    plan = _planned(recipe.build, recipe.base, target, inputs, **choices)
    if verify is False:
        return _with(plan, Verification(why="left out, as asked"))
    return _with(plan, _verification(plan, lambda: subject_of(recipe, (), choices.get("options")), verify, choices))


def _with(plan: Plan, verification: Verification) -> Plan:
    return dataclasses.replace(plan, verification=verification)


def _builder(
    build: Callable[[Any], nn.Module], base: object, target: Size | None
) -> tuple[Callable[[Scale], nn.Module], Scale, Scale]:
    """Scale -> module, and both scales. A builder is called with what it was given: a width or a Scale."""
    if not callable(build):
        raise UsageError(f"make_plan takes a model or a function that builds one, but got {type(build).__name__}.")
    sizes = [size for size in (base, target) if isinstance(size, (int, Scale)) and not isinstance(size, bool)]
    if len(sizes) < 2 or type(sizes[0]) is not type(sizes[1]):
        raise UsageError(
            f"make_plan(build, base={base!r}, target={target!r}): with a function that builds the model give two "
            f"widths, base=64, target=512, or two Scales, base=Scale(64, 2), target=Scale(512, 8)."
        )
    by_scale = isinstance(sizes[0], Scale)
    small, large = (size if isinstance(size, Scale) else Scale(size) for size in sizes)
    if small.width is None or large.width is None or (small.depth is None) != (large.depth is None):
        raise UsageError(
            f"make_plan: base {small} and target {large} must both have a width, and both a depth or none."
        )
    return (build if by_scale else lambda scale: build(scale.width)), small, large


def _planned(build: Callable[[Scale], nn.Module], base: Scale, target: Scale, inputs: Inputs, **choices: Any) -> Plan:
    """The plan of the target, built without memory for its weights where the builder allows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = build(base)
    return make.make_plan(_sketched(build, target), base=small, example_inputs=inputs, **choices)


def _sketched(build: Callable[[Scale], nn.Module], scale: Scale) -> nn.Module:
    """A model of one scale without memory for its weights where the builder allows; no draw is seen outside."""
    with torch.random.fork_rng(devices=[]):
        return sketched(lambda: build(scale))


def _subject(
    build: Callable[[Scale], nn.Module], base: Scale, inputs: Inputs, source: object, choices: Mapping[str, Any]
) -> Subject:
    """What the oracle experiments on: the builder, fed with the example inputs, constant ones replaced by noise."""
    subject = subject_of(lambda width: build(base.with_(width=width)), _noisy(inputs))
    return dataclasses.replace(
        subject,
        name=getattr(source, "__name__", "model"),
        base=base.width,
        optimizer=choices.get("optimizer", torch.optim.AdamW),
        optimizer_options=choices.get("optimizer_options"),
        deepened=None if base.depth is None else lambda depth: build(base.with_(depth=depth)),
        base_depth=base.depth,
    )


def _noisy(inputs: Inputs) -> Inputs:
    """Zeros and other constants trace a model and measure nothing: standard normal entries in their place."""
    draw = torch.Generator().manual_seed(0)

    def lively(tensor: Tensor) -> Tensor:
        still = tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
        return torch.randn(tensor.shape, generator=draw).to(tensor) if still else tensor

    return pytree.tree_map_only(Tensor, lively, inputs)


def _verification(
    plan: Plan, subject: Callable[[], Subject], verify: Verify, choices: Mapping[str, Any]
) -> Verification:
    """Run the check. Whatever keeps it from an answer is the reason that the plan is not verified."""
    if plan.options.get("grouped_heads") == "readout" and any(HEADS in note for note in plan.notes):
        return Verification(
            why="heads of a fixed size start smaller in a wider model, as its note says, and the check would take "
            "that for a fault; Options(grouped_heads='fan-in') is checked"
        )
    if plan.scheme == "sp":
        return Verification(why="the SP control promises nothing that could be checked")
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = _told(plan, subject(), verify, choices)
    except UsageError as error:
        told = Verification(why=str(error))
    except Exception as error:
        told = Verification(why=f"the check raised {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return dataclasses.replace(told, seconds=round(time.perf_counter() - started, 2))


def _told(plan: Plan, subject: Subject, verify: Verify, choices: Mapping[str, Any]) -> Verification:
    assert subject.base is not None
    model = subject.model(subject.base, 0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(parameter.is_meta for parameter in model.parameters()):
        return Verification(why="the builder makes models on meta, which have no values to measure")
    widths = _widths(subject, subject.base) if verify is True else checked_widths(verify)  # type: ignore[arg-type]
    passed: dict[str, Any] = {
        k: choices[k] for k in ("scheme", "optimizer", "optimizer_options", "options") if k in choices
    }
    names = [cls for cls in _classes(choices) if isinstance(cls, str) and not hasattr(torch.optim, cls)]
    if names:
        return Verification(why=f"{names[0]} is known by name only; give its class, so that real steps can be taken")
    if choices.get("roles"):  # their fans are the target's: take its own exponents
        passed = {"plan": plan}
    base = subject.base if subject.base in widths else widths[-1]
    report = verify_plan(subject, widths=widths, base=base, seeds=2, seconds=SECONDS, **passed)
    return _of_report(report, plan, trained)


def _classes(choices: Mapping[str, Any]) -> list[Any]:
    """The optimizers asked for, as classes or names."""
    given = choices.get("optimizer", torch.optim.AdamW)
    return list(given.values()) if isinstance(given, Mapping) else [given]


def _of_report(report: OracleReport, plan: Plan, trained: set[str]) -> Verification:
    sizes: dict[str, Any] = {"widths": report.widths, "depths": report.depths}
    if report.verdict == "FAIL":
        first, *others = report.reasons
        more = f"; and {len(others)} more" if others else ""
        return Verification("failed", first + more, **sizes)
    if report.verdict == "INCONCLUSIVE":
        return Verification(why=report.reasons[0], **sizes)
    blind = [name for name in report.unseen if name in trained and plan.rows[name].role != "unused"]
    if blind:
        return Verification(why=f"nothing reaches {', '.join(blind[:3])} from these example inputs", **sizes)
    return Verification("verified", "", **sizes)


def _widths(subject: Subject, base: int) -> tuple[int, ...]:
    """Three widths an octave apart, the base the smallest, or where that is too large to check in seconds not.

    Raises UsageError where no such models can be built.
    """
    trouble = ""
    for smallest in (base, base // 2, base // 4, base // 8):
        widths = (smallest, 2 * smallest, 4 * smallest)
        try:
            entries = max(_entries(subject, width) for width in widths)
        except Exception as error:
            told = f"the builder raised {type(error).__name__} between widths {widths[0]} and {widths[-1]}: {error}"
            raise UsageError(f"{trouble}{told}") from error
        if entries <= MOST:
            return widths
        trouble = f"at width {widths[-1]} the model has {entries:.2g} parameters, too many to check in seconds; "
    raise UsageError(f"{trouble}give small widths, verify=(32, 64, 128)")


def _entries(subject: Subject, width: int) -> int:
    """Parameters of the model of one width."""
    model = _sketched(lambda scale: subject.build(width), Scale(width))
    return sum(parameter.numel() for parameter in model.parameters())
