"""Outputs that are larger because a plan says so, and that a norm divides again before anything else reads them.

Weights divided by their own statistic (1903.10520) keep a scale that no init sets, so a plan may let what they make
grow where only norms read it, as the whole residual stream of a net. Whether that is so is tried: the outputs of these
modules are multiplied, and then the model's must stay as it is. The modules whose outputs were multiplied with them
are what the plan said, and their growth is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hptransfer.checks.coord.probe import OUTPUT, rms
from hptransfer.checks.oracle.subject import Subject
from hptransfer.checks.oracle.walk import outputs_of
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.plan import Plan

SAME = 0.01
"""A share of the model's output below which it counts as unchanged: norms have an eps."""


def following(subject: Subject, plan: Plan, held: Mapping[str, float], size: int) -> dict[str, float]:
    """Module -> exponent of the factor on its output, where the modules of `held` have theirs; {} where one matters.

    held: module -> exponent of the factor that the plan leaves on its output. size: of the model that is tried.
    """
    larger = {name: 2.0**exponent for name, exponent in held.items() if exponent > 0}
    if not larger:
        return {}
    model, batch = subject.model(size, 0), subject.batch(0)
    parametrize_(model, plan)
    before = outputs_of(subject, model, batch, 0)
    for name, module in model.named_modules():
        if name in larger:
            module.register_forward_hook(_times(larger[name]))
    after = outputs_of(subject, model, batch, 0)
    ends = zip(before[OUTPUT], after[OUTPUT], strict=True)
    if any(rms([now - then]) > SAME * rms([then]) for then, now in ends):
        return {}
    sizes = {name: (rms(before[name]), rms(now)) for name, now in after.items() if name in before}
    return {name: math.log2(now / then) for name, (then, now) in sizes.items() if then > 0 and now > 0}


def _times(factor: float) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return output * factor if isinstance(output, Tensor) else output

    return hook
