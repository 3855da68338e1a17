"""coord_check: do activations and their changes keep their size as the width grows? With a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hptransfer.checks.checked import checked_count, checked_lr, checked_widths
from hptransfer.checks.coord.probe import OUTPUT, Probe, Seen, difference, rms
from hptransfer.checks.coord.report import CoordReport, Health
from hptransfer.checks.coord.rows import (
    TOLERANCE,
    Module,
    Record,
    exponent,
    fit_rows,
    natural_rows,
    rule_text,
    update_rows,
)
from hptransfer.checks.coord.update_size import Moved, initial_weights, moved
from hptransfer.checks.coord.verdict import verdict_of
from hptransfer.checks.proxy import Proxies, Proxy
from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import next_batch, to_device
from hptransfer.core.training.progress import progress
from hptransfer.core.training.recipe import Batch, Recipe
from hptransfer.core.training.seeding import seeded
from hptransfer.parametrization.options import Options


def coord_check(
    recipe: Recipe,
    *,
    widths: Sequence[int],
    steps: int = 3,
    seeds: int = 3,
    max_seeds: int = 8,
    scheme: str = "mup",
    lr: float | None = None,
    device: str | torch.device = "cpu",
    tolerance: float = TOLERANCE,
    options: Options | None = None,
) -> CoordReport:
    """Train every width for a few steps and judge how its activations scale.

    widths: at least 3; steps: of the recipe's optimizer, at the constant learning rate lr (default: the middle of
    recipe.lrs); seeds: runs per width, whose data do not depend on the width; while the verdict is INCONCLUSIVE
    another is added, up to max_seeds. The probe batch is the first of recipe.validation(). scheme, options: of the
    plan against recipe.base. tolerance: on the exponents, see rule_text.
    Returns a CoordReport; progress goes to stderr on a terminal.
    Raises UsageError where an argument is out of range or the model cannot be planned.
    Source: coordinate checking, 2203.03466, appendix D.1; the split of a change after Haas et al. 2025 (2505.22491).
    """
    widths, steps = checked_widths(widths), checked_count("steps", steps, least=1)
    seeds, lr = checked_count("seeds", seeds, least=2), checked_lr(recipe, lr)
    if not (math.isfinite(tolerance) and 0 < tolerance < 0.5):
        raise UsageError(
            f"tolerance={tolerance!r}: must lie between 0 and 1/2, the nearest exponent of another regime."
        )
    most = max(seeds, checked_count("max_seeds", max_seeds, least=2))
    make, found = Proxies(recipe, scheme=scheme, lr=lr, device=device, options=options), _Found()
    probe_batch = to_device(_first(recipe), device)
    settings = {
        "recipe": recipe.name,
        "scheme": scheme,
        "widths": list(widths),
        "base_width": recipe.base.width,
        "seeds": 0,
        "steps": steps,
        "lr": lr,
        "optimizer": recipe.optimizer_name,
        "device": str(device),
        "options": {} if options is None else dict(vars(options)),
    }
    with progress(label=f"coordinate check ({scheme})", total=seeds * len(widths), unit="run") as bar:
        for seed in range(most):
            for width in widths:
                _measure(recipe, make(width, seed), probe_batch, steps, found)
                bar.update()
            if seed + 1 >= seeds:
                report = _report(found, tolerance, {**settings, "seeds": seed + 1})
                if report.verdict != "INCONCLUSIVE" or seed + 1 == most:
                    return report
                bar.total += len(widths)
    raise AssertionError("unreachable: the last seed returns")


def _first(recipe: Recipe) -> Batch:
    for batch in recipe.validation():
        return batch
    raise UsageError(f"Recipe {recipe.name!r}: validation() gave no batches; the first is the probe.")


@dataclass
class _Found:
    """The measurements of all runs."""

    records: list[Record] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    held: dict[str, dict[int, float]] = field(default_factory=dict)
    weights: dict[str, dict[int, float]] = field(default_factory=dict)
    wild: list[str] = field(default_factory=list)


def _measure(recipe: Recipe, proxy: Proxy, probe_batch: Batch, steps: int, found: _Found) -> None:
    """One run: look, step, look... stopping where something is no longer finite."""
    width, seed, loss = proxy.scale.width or 0, proxy.seed, [math.nan]
    device = next(proxy.model.parameters()).device

    def forward() -> None:
        loss[0] = float(recipe.loss(proxy.model, probe_batch))

    probe, before = Probe(proxy.model, forward, seed=seed), initial_weights(proxy.model, proxy.plan)
    batches: Iterator[Batch] = recipe.batches(proxy.scale, seed)
    first = Seen()
    with seeded(seed, "training"):
        for t in range(steps + 1):
            seen = probe(unmoved=t > 0)
            if t == 0:
                first = seen
                _note_modules(proxy, seen, width, found)
            looked = records(first, seen, width=width, seed=seed, t=t)
            found.records += looked
            found.health.append(Health(width, seed, t, loss[0], seen.logits))
            if t in (1, steps):
                found.moved += moved(proxy.model, proxy.plan, before, width=width, seed=seed, t=t)
            bad = _not_finite(looked, loss[0])
            if bad is not None:
                found.wild.append(f"{bad} at width {width} is not finite after {t} steps (seed {seed})")
                return
            if t < steps:
                _step(recipe, proxy, to_device(next_batch(recipe, batches, t), device))


def _step(recipe: Recipe, proxy: Proxy, batch: Batch) -> None:
    proxy.optimizer.zero_grad(set_to_none=True)
    recipe.loss(proxy.model, batch).backward()
    proxy.optimizer.step()


def records(first: Seen, seen: Seen, *, width: int, seed: int, t: int) -> list[Record]:
    """The records of one look. first: of t = 0."""
    found: list[Record] = []
    for name, now in seen.outputs.items():
        before, still = first.outputs.get(name), seen.unmoved.get(name)
        split = (difference(now, still), difference(still, before)) if t and still is not None else (None, None)
        found.append(Record(width, seed, t, name, rms(now), difference(now, before), *split))
    return found


def _not_finite(looked: Sequence[Record], loss: float) -> str | None:
    wild = next((record.module for record in looked if not math.isfinite(record.rms)), None)
    return f"the output of {wild}" if wild else None if math.isfinite(loss) else "the loss"


def _note_modules(proxy: Proxy, seen: Seen, width: int, found: _Found) -> None:
    """Output size of every module at this width, and the multipliers absorbed into it and into every parameter."""
    held = held_multipliers(proxy, seen)
    for name, tensors in seen.outputs.items():
        found.sizes.setdefault(name, {})[width] = sum(t.numel() for t in tensors)
        found.held.setdefault(name, {})[width] = held[name]
    for row in proxy.plan:
        found.weights.setdefault(row.name, {})[width] = row.held


def held_multipliers(proxy: Proxy, seen: Seen) -> dict[str, float]:
    """Module -> the multiplier that the plan put on its output, by absorption or by a hook.

    A module shows it when all its own parameters hold the same one (else it is used up inside); a module without
    parameters passes on that of the module it reads. At base width everything is 1.
    """
    hooked = {hook.module: hook.factor for hook in proxy.plan.hooks if hook.where == "output"}
    named = dict(proxy.model.named_modules())
    shown: dict[str, float] = {}
    for name in seen.outputs:  # in order of execution: a source comes before its readers
        own = set() if name == OUTPUT else {_held(proxy, name, p) for p in _own_parameters(named[name])}
        inherited = shown.get(seen.source.get(name, ""), 1.0)
        shown[name] = (own.pop() if len(own) == 1 else 1.0 if own else inherited) * hooked.get(name, 1.0)
    return shown


def _own_parameters(module: torch.nn.Module) -> list[str]:
    return [n.removeprefix("parametrizations.").removesuffix(".original") for n, _ in module.named_parameters()]


def _held(proxy: Proxy, module: str, parameter: str) -> float:
    return float(f"{proxy.plan[f'{module}.{parameter}'].held:.9g}")


def _report(found: _Found, tolerance: float, settings: Mapping[str, object]) -> CoordReport:
    modules = {
        name: Module("hidden" if len(set(sizes.values())) > 1 else "fixed", exponent(found.held[name]))
        for name, sizes in found.sizes.items()
    }
    matrices = {name: Module("matrix", exponent(held)) for name, held in found.weights.items()}
    rows = fit_rows(found.records, modules, tolerance=tolerance)
    rows += natural_rows(found.moved, matrices, tolerance=tolerance)
    verdict, reasons = verdict_of(rows, found.wild)
    return CoordReport(
        verdict=verdict,
        tolerance=tolerance,
        rule=rule_text(tolerance),
        reasons=reasons,
        rows=tuple(rows),
        updates=tuple(update_rows(found.moved)),
        records=tuple(found.records),
        moved=tuple(found.moved),
        health=tuple(found.health),
        settings=dict(settings),
    )
