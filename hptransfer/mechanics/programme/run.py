"""All strands by name, and a run of one: simulate its world and hold its theory against it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hptransfer.mechanics.programme.catapult_limits import WORLD as CATAPULT_LIMITS
from hptransfer.mechanics.programme.check import Check, Strand, World
from hptransfer.mechanics.programme.kernel_regression import WORLD as KERNEL_REGRESSION
from hptransfer.mechanics.programme.lazy_and_rich import WORLD as LAZY_AND_RICH
from hptransfer.mechanics.programme.limiting_rate import WORLD as LIMITING_RATE
from hptransfer.mechanics.programme.linear_networks import WORLD as LINEAR_NETWORKS
from hptransfer.mechanics.programme.noisy_quadratic import WORLD as NOISY_QUADRATIC
from hptransfer.mechanics.programme.random_features import WORLD as RANDOM_FEATURES

STRANDS: Mapping[str, World] = {
    world.name: world
    for world in (
        LINEAR_NETWORKS,
        KERNEL_REGRESSION,
        RANDOM_FEATURES,
        NOISY_QUADRATIC,
        CATAPULT_LIMITS,
        LAZY_AND_RICH,
        LIMITING_RATE,
    )
}
"""Every strand by name, in the order in which they are shown."""


def compared(world: World, predicted: Mapping[str, float], measured: Mapping[str, float]) -> tuple[Check, ...]:
    """The checks of a strand from its theory's numbers and its simulation's."""
    return tuple(Check(world.name, q, predicted[q], measured[q], world.tolerance[q]) for q in predicted)


def run_strand(name: str, *, seed: int = 0) -> Strand:
    """Simulate one strand and hold its theory against it."""
    world, began = STRANDS[name], time.perf_counter()
    checks = compared(world, world.theory(), world.simulate(seed=seed))
    curve = world.curve(seed=seed)
    return Strand(name, world.question, world.source, world.reason, checks, curve, time.perf_counter() - began)
