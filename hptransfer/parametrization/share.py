"""How much of a base's residual stream its branches make: the limit of many layers is near where they make little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from hptransfer.core.errors import UsageError
from hptransfer.graph.evaluate import Evaluation, program
from hptransfer.graph.readings.streams import Branch, residual_streams


def share_notes(base: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """A note for every stream to which the branches add more than it started with, at the start of training.

    A branch multiplied by 1/L (2505.01618) stands for a step of an equation in depth, which few large steps do not
    follow: there the best rate still moves with depth. base: real, or nothing can be measured and nothing is said.
    """
    if any(tensor.device.type == "meta" for tensor in (*base.parameters(), *base.buffers())):
        return []
    try:
        measured = program(base, inputs)
    except UsageError:  # what torch.export cannot trace is not measured
        return []
    streams = residual_streams(measured.graph)
    passed = Evaluation(measured)
    for _ in passed.run(lambda node, values: {}):
        pass
    groups = [[b for b in streams.branches if b.stream == stream] for stream in streams.depths]
    shares = [_share(group, passed.values) for group in groups]
    return [
        f"at the base the {len(group)} residual branches of a stream add {share:.2g} times what it starts with, so "
        f"that few layers are not yet in the limit of many and the best learning rate may still move with depth: let "
        f"the branches' last weights start smaller, or at zero, and check with --depths"
        for group, share in zip(groups, shares, strict=True)
        if share > 1
    ]


def _share(branches: Sequence[Branch], values: Mapping[fx.Node, Any]) -> float:
    """rms of all that the branches add over rms of the stream before the first of them."""
    first = branches[0]
    stream = next((n for n in first.add.all_input_nodes if n is not first.end), None)
    start = values.get(stream) if stream is not None else None
    added = [a for branch in branches if isinstance(a := values.get(branch.end), Tensor)]
    if not isinstance(start, Tensor) or len(added) < len(branches) or any(a.shape != start.shape for a in added):
        return 0.0
    before = float(start.double().pow(2).mean().sqrt())
    return float(torch.stack([a.double() for a in added]).sum(0).pow(2).mean().sqrt()) / before if before else 0.0
