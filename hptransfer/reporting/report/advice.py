"""What to do with a transfer result: the learning rate to use, in a sentence, and the code that uses it."""

# pyright: strict
from __future__ import annotations

import math
from typing import NamedTuple

import torch

from hptransfer.reporting.words import LARGER, short_name, vector_text
from hptransfer.validation.records.results import Optimum, TransferResult


class Advice(NamedTuple):
    """lead: the rate in words. more: its interval, and how far the evidence goes. code: to copy, "" for none."""

    lead: str
    more: str
    code: str


def advice(result: TransferResult) -> Advice:
    """The rate that was carried over and judged, on a PASS; otherwise what is known, and what would tell."""
    what = result.swept.words
    measured = sorted((o for o in result.optima if o.scheme == result.scheme and math.isfinite(o.log2_lr)), key=_size)
    if not measured:
        return Advice(f"No {what} to use: none of these runs gave an optimum.", "", "")
    if result.verdict == "PASS":
        return _to_use(result, measured[0])
    small, large = measured[0], measured[-1]
    seen = f"The best was {_rate(small, result)} at {result.axis} {small.size}"
    seen += f" and {_rate(large, result)} at {result.axis} {large.size}" if large is not small else ""
    if result.verdict == "FAIL":
        tune = f"Tune at the {result.axis} that you will train, or mend what the reasons below name and check again."
        return Advice(f"No {what} to carry over: it does not transfer.", f"{seen}. {tune}", "")
    tune = "The reasons below say what is missing; the runs that are there are not made again."
    return Advice(f"No {what} to rely on yet.", f"{seen}, as far as these runs can tell. {tune}", "")


def _size(optimum: Optimum) -> int:
    return optimum.size


def _rate(optimum: Optimum, result: TransferResult) -> str:
    return f"{result.swept.of_base}{2.0**optimum.log2_lr:.3g} (2^{optimum.log2_lr:.2f})"


def _to_use(result: TransferResult, tuned: Optimum) -> Advice:
    lr = next((r.lr for r in result.regrets if r.scheme == result.scheme and r.lr), 2.0**tuned.log2_lr)
    where = f"under {short_name(result.scheme)}, at every {result.axis}."
    lead = f"Use {result.swept.words} {result.swept.of_base}{lr:.3g} {where}"
    more = f"Tuned at {result.axis} {tuned.size}"
    if math.isfinite(tuned.low) and math.isfinite(tuned.high):
        more += f" (90% interval {2.0**tuned.low:.3g} to {2.0**tuned.high:.3g})"
    if result.tuned:
        more += f", among the tuned settings {vector_text(result)},"
    farthest = max(result.sizes)
    more += f" and judged up to {result.axis} {farthest}; what is {LARGER[result.axis]} was not measured."
    return Advice(lead, more, code_of(result, lr if result.swept.is_rate else result.tuned["lr"]))


def code_of(result: TransferResult, lr: float) -> str:
    """Lines of Python that train a model at the rate: with the plan's groups, or plain where there is no plan."""
    optimizers = [str(o["name"]) for o in result.plan.get("optimizers", ())]
    if not optimizers:
        return f"lr = {lr:.3g}\n"
    scheme = "" if result.scheme == "mup" else f", scheme={result.scheme!r}"
    base = f"base: your model at {result.axis} {result.base_size}; " if result.base_size else ""
    head = ["import torch", "import hptransfer as hpt", "", f"# {base}x: one input batch of training"]
    names = [_class(name) for name in optimizers]
    kind = names[0] if len(names) == 1 else _pair(result, names)
    factors = {name: float(f"{value:.4g}") for name, value in result.tuned.items() if name != "lr"}
    tuned = f", tuned=hpt.tuned_factors(model, {factors})" if factors else ""
    plan = f"plan = hpt.make_plan(model, base=base, example_inputs=(x,), optimizer={kind}{scheme}{tuned})"
    decay = ", weight_decay=weight_decay" if "weight_decay" in tuned else ""  # a factor on what the user has
    last = f"optimizer = {names[0]}(hpt.param_groups(model, plan, lr={lr:.3g}{decay}))"
    if len(names) > 1:
        head[-1] += "; the two rates keep the ratio they have in your recipe"
        settings = ", ".join(f'{name}: {{"lr": {lr:.3g}}}' for name in names)
        last = f"optimizer = hpt.build_optimizers(model, plan, {{{settings}}})"
    return "\n".join([*head, plan, "hpt.parametrize_(model, plan)", last, ""])


def _pair(result: TransferResult, names: list[str]) -> str:
    """The two optimizers as make_plan takes them: which one trains the hidden matrices is read off the plan's rows."""
    hidden = {_class(str(row["optimizer"])) for row in result.plan.get("rows", ()) if row["role"] == "hidden"}
    first, second = names if names[0] in hidden else names[::-1]
    return f'{{"hidden": {first}, "rest": {second}}}'


def _class(name: str) -> str:
    return f"torch.optim.{name}" if name in vars(torch.optim) else name
