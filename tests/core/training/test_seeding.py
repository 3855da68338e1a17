"""Seeds: the same draws from the same seed, from all three generators, and the caller's draws go on undisturbed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.seeding import numpy_generator, seeded, seeded_model, torch_generator


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_the_same_seed_draws_the_same_from_torch_numpy_and_python() -> None:
    seen = []
    for seed in (3, 3, 4):
        with seeded(seed):
            seen.append(draws())
    assert seen[0] == seen[1] and all(a != b for a, b in zip(seen[0], seen[2], strict=True))


@pytest.mark.parametrize("seed", [7, None, -1, 2**40])
def test_the_callers_draws_go_on_as_if_nothing_had_been_drawn_also_after_an_error(seed: int | None) -> None:
    def then(raises: bool) -> tuple[float, float, float]:
        with seeded(1):
            with pytest.raises(KeyError) if raises else seeded(None), seeded(seed):
                draws()
                if raises:
                    raise KeyError
            return draws()

    with seeded(1):
        undisturbed = draws()
    assert then(False) == then(True) == undisturbed


def test_weights_are_drawn_as_after_manual_seed_and_training_from_another_stream() -> None:
    """Recorded runs depend on both numbers."""
    for purpose, number in (("weights", 5), ("training", 5 + 0x5EED)):
        expected = torch.rand(3, generator=torch.Generator().manual_seed(number))
        with seeded(5, purpose):  # type: ignore[arg-type]
            assert torch.equal(torch.rand(3), expected)


def test_generators_are_their_own() -> None:
    before = torch.get_rng_state()
    assert torch.rand(2, generator=torch_generator(1)).tolist() == torch.rand(2, generator=torch_generator(1)).tolist()
    assert numpy_generator(1).random() == np.random.default_rng(1).random()
    assert torch.equal(torch.get_rng_state(), before)


def recipe(build) -> Recipe:
    nothing = {"batches": lambda scale, seed: iter(()), "loss": lambda model, batch: model, "validation": lambda: ()}
    return Recipe(build, example_inputs=lambda: (), base=Scale(2), name="mine", **nothing)


def test_a_model_is_drawn_from_its_seed_and_a_failed_build_says_where() -> None:
    mine = recipe(lambda scale: nn.Linear(scale.width, 1))
    first, second = (seeded_model(mine, Scale(3), 0).weight for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(first, second) and torch.equal(first, nn.Linear(3, 1).weight)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Recipe 'mine' cannot be built at width=3: ZeroDivisionError.*test_seeding"):
        seeded_model(recipe(lambda scale: 1 / 0), Scale(3), 0)
