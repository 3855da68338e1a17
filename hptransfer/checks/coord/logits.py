"""The largest attention logit, read where the softmax is computed, whatever module computes it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LogitWatch(TorchDispatchMode):
    """While active: the largest logit of every softmax and every fused attention product, in order of execution.

    largest: "attention 0", "softmax 1"... -> the maximum over everything but masked entries; -inf where all are masked.
    A router's softmax counts as one too; cross-entropy's log-softmax does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, float] = {}
        self._paused = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Look away for a while."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if not self._paused and name.startswith("_scaled_dot_product") and "backward" not in name:
            self._note("attention", _largest_product(_named(func, args, kwargs)))
        elif not self._paused and name in {"_softmax", "softmax", "_safe_softmax"}:
            self._note("softmax", _largest(args[0]))
        return func(*args, **kwargs)

    def _note(self, kind: str, value: float) -> None:
        self.largest[f"{kind} {len(self.largest)}"] = value


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _largest(logits: Tensor) -> float:
    finite = logits.float()
    return float(finite.max()) if finite.numel() else -math.inf


def _largest_product(call: dict[str, Any]) -> float:
    """max of q.k x scale (+ bias), causal entries only where the call is causal."""
    query, key = call["query"].float(), call["key"].float()
    if key.shape[-3:-2] != query.shape[-3:-2]:  # grouped queries: several heads share a key
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scale = call.get("scale")
    logits = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    bias = next((call[n] for n in ("attn_mask", "attn_bias") if isinstance(call.get(n), Tensor)), None)
    if bias is not None:
        logits = logits.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else logits + bias
    if call.get("is_causal"):
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -math.inf)
    return _largest(logits)
