"""The gradient noise scale of one batch: its halves' gradients are two small batches, their mean over all ranks a large
one, and two batch sizes give signal and noise (McCandlish et al. 1812.06162, appendix A.1; prediction/noise)."""

# pyright: strict
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.monitoring.ranks import Ranks
from hptransfer.prediction.curvature.operators import LossFn, gradients
from hptransfer.prediction.noise.noise_scale import NoiseScale, two_batch_estimate
from hptransfer.prediction.typed import norm


def halved(batch: Any) -> tuple[Any, Any, int]:
    """Two halves of a batch along the first axis of its tensors, and the examples in each; an odd one is left out.

    Raises UsageError where the tensors' first axes differ, or hold fewer than two examples.
    """
    flat, spec = pytree.tree_flatten(batch)
    counts = {leaf.shape[0] for leaf in flat if isinstance(leaf, Tensor) and leaf.dim() > 0}
    if len(counts) != 1 or max(counts) < 2:
        raise UsageError(
            f"The batch's tensors have first axes of {sorted(counts)}: the noise scale splits a batch of examples, so "
            "all must have the same, of at least 2."
        )
    half = counts.pop() // 2
    parts = [
        pytree.tree_unflatten([_cut(leaf, slice(k * half, (k + 1) * half)) for leaf in flat], spec) for k in (0, 1)
    ]
    return parts[0], parts[1], half


def noise_of(model: nn.Module, loss_fn: LossFn, batch: Any, ranks: Ranks, *, seed: int) -> NoiseScale:
    """Signal and noise, per example, from this batch on every rank. seed: of dropout's masks; the halves' differ.

    The loss is taken as a mean over examples.
    """
    first, second, half = halved(batch)
    rows = torch.stack(
        [gradients(model, loss_fn, [part], seed=2 * seed + k)[0] for k, part in enumerate((first, second))]
    ).float()
    small = ranks.mean(rows.square().sum() / 2)
    big = norm(ranks.mean(rows.mean(dim=0)))
    return two_batch_estimate(float(small), float(big) ** 2, small=half, big=2 * half * ranks.count)


def _cut(leaf: Any, rows: slice) -> Any:
    return leaf[rows] if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf
