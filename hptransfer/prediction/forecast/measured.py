"""What the proxy itself tells before it is trained: its stability limit through the optimizer, and its noise scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.seeding import seeded
from hptransfer.prediction.curvature.curvature import sharpness
from hptransfer.prediction.curvature.operators import gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init
from hptransfer.prediction.noise.noise_scale import NoiseScale, microbatch_estimate, predict_noise_scale
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.quadratic.stability import limit, rule_for


def stability_limit(recipe: Recipe, scale: Scale, *, batches: int = 4, seed: int = 0) -> Prediction:
    """The largest stable learning rate at initialisation: limit / lambda_max(P^-1 H), by Lanczos.

    A diagnostic, not a cap: on six recipe cases the best rate lay a median of 3.7 octaves from it (docs/limits.md). The
    interval is that of the top eigenvalue over batches.
    """
    with seeded(seed):
        model, data = recipe.build(scale), list(itertools.islice(recipe.batches(scale, seed), batches))
    space = ParameterSpace.of(model)
    rows = gradients(model, recipe.loss, data, space=space, seed=seed)
    preconditioner = preconditioner_at_init(recipe.one_optimizer, recipe.optimizer_options, space, rows)
    top = sharpness(model, recipe.loss, data, preconditioner=preconditioner, seed=seed)
    factor = limit(rule_for(recipe.one_optimizer, recipe.optimizer_options))
    low, high = (factor / end if end > 0 else None for end in reversed(top.interval))
    return Prediction(
        "stability limit",
        factor / top.value,
        low,
        high,
        "1",
        f"{factor:.4g} / lambda_max(P^-1 H), lambda_max = {top.value:.4g}",
        "Cohen et al. 2021, 2103.00065; 2022, 2207.14484; Lanczos on this model",
        (f"{batches} batches at initialisation", "a diagnostic for warm-up: the best rate is not a multiple of it"),
        Kind("derived", "measured"),
    )


def noise_scale(recipe: Recipe, scale: Scale, *, steps: int = 8, parts: int = 4, seed: int = 0) -> Prediction:
    """The gradient noise scale at initialisation, in batches of the recipe (multiply by its batch for examples).

    Raises UsageError where the signal is not resolved (see predict_noise_scale).
    """
    with seeded(seed):
        model, stream = recipe.build(scale), recipe.batches(scale, seed)
        space = ParameterSpace.of(model)
        history = [_estimate(recipe, model, space, list(itertools.islice(stream, parts)), seed) for _ in range(steps)]
    return predict_noise_scale(history, unit="batches", name="noise scale at initialisation")


def _estimate(
    recipe: Recipe, model: torch.nn.Module, space: ParameterSpace, data: Sequence[Any], seed: int
) -> NoiseScale:
    rows = gradients(model, recipe.loss, data, space=space, seed=seed)
    squares = [float(row.square().sum()) for row in rows]
    return microbatch_estimate(squares, float(rows.mean(dim=0).square().sum()), micro_batch=1.0)
