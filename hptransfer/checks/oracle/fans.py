"""Fans by experiment: perturb a weight by random signs and see how large the response of its consumer is.

A weight that sums fan_in independent features answers a random +-1 perturbation with entries of order fan_in^1/2, and
one that scales, shifts or looks up single entries with order 1. The exponent of that response in the width is therefore
half that of fan_in. The consumers are found by running the model and following tensors through a dispatch mode, with
random signs in place of the activations; no graph is traced and no rule of the planner is used. A consumer that is not
linear in the weight (a bias inside a fused attention) has no such exponent and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hptransfer.core.training.seeding import torch_generator

_BENT = 1e-2
"""A response whose two halves differ by more than this fraction is not linear."""
_REPARAMETRIZATIONS = {"_weight_norm_interface", "cat", "stack"}
"""Ops that make one weight out of several, as pointwise ones do."""
MEETING = " with another weight"
"""Of a product of two weights either may be the data (learned positions times a projection)."""
_LOOKS = {"detach", "sym_size", "is_same_size", "_assert_tensor_metadata", "equal", "_local_scalar_dense"}

Responses = dict[str, dict[str, float]]
"""Parameter -> consumer ("mm[1]": the op and where the weight stands in it) -> root mean square of the response.

A consumer that multiplies two weights ends in MEETING."""


def fan_in_responses(named: Mapping[str, nn.Parameter], run: Any, inputs: Any, *, seed: int) -> Responses:
    """Responses of every parameter's consumers in one forward pass.

    named: name -> parameter; run: calls the model once, on `inputs` (a tree whose tensors are the data; the rest of
    what `run` reads are constants).
    """
    follower = _Follower(named, pytree.tree_leaves(inputs), torch_generator(seed))
    with torch.no_grad(), follower:
        run()
    return {name: {k: mean.value for k, mean in uses.items()} for name, uses in follower.found.items()}


@dataclass
class _RootMeanSquare:
    squares: float = 0.0
    count: int = 0

    def add(self, tensor: Tensor) -> None:
        self.squares += float(tensor.double().pow(2).sum())
        self.count += tensor.numel()

    @property
    def value(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count else 0.0


class _Follower(TorchDispatchMode):
    """Knows which tensors are data (computed from the inputs) and which are a weight in another form."""

    def __init__(self, named: Mapping[str, nn.Parameter], inputs: Iterable[Any], draw: torch.Generator) -> None:
        super().__init__()
        self.draw = draw
        self.found: dict[str, dict[str, _RootMeanSquare]] = {}
        self.alive: dict[int, Tensor] = {}  # ids stay valid only while their tensors live
        self.weights: dict[int, frozenset[str]] = {}
        self.data: set[int] = set()
        for name, parameter in named.items():
            self.weights[self._keep(parameter)] = frozenset({name})
        for leaf in inputs:
            if isinstance(leaf, Tensor):
                self.data.add(self._keep(leaf))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        weights = {id(t): self.weights[id(t)] for t in tensors if id(t) in self.weights}
        has_data = any(id(t) in self.data for t in tensors)
        meeting = not has_data and _meet(func, weights)
        consumed = bool(weights) and _name(func) not in _LOOKS and (has_data or meeting)
        if consumed:
            for key in weights:
                self._probe(func, args, kwargs, key, MEETING if meeting else "")
        out = func(*args, **kwargs)
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._mark(self._keep(tensor), self._largest(weights), is_data=has_data or consumed)
        return out

    def _mark(self, key: int, weights: Mapping[int, frozenset[str]], *, is_data: bool) -> None:
        if is_data:
            self.data.add(key)
            self.weights.pop(key, None)
        elif weights:
            self.weights[key] = frozenset().union(*weights.values())

    def _largest(self, weights: Mapping[int, frozenset[str]]) -> dict[int, frozenset[str]]:
        """Of several weights that make a new one, those of its size: a gain on it has no uses of its own."""
        size = max((self.alive[key].numel() for key in weights), default=0)
        return {key: names for key, names in weights.items() if self.alive[key].numel() == size}

    def _keep(self, tensor: Tensor) -> int:
        self.alive[id(tensor)] = tensor
        return id(tensor)

    def _probe(self, func: Any, args: Any, kwargs: Any, key: int, suffix: str) -> None:
        """Half the difference of the op's output between a weight plus and minus random signs."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        where = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and id(leaf) == key)
        weight = leaves[where]
        if not weight.is_floating_point() or weight.numel() == 0:
            return
        signs = self._signs(weight)
        noisy = [self._signs(leaf) if self._is_activation(leaf) else leaf for leaf in leaves]
        outs = [_first(_call(func, spec, noisy, where, weight + side * signs)) for side in (1, 0, -1)]
        response = _linear_response(*outs)
        if response is not None:
            for name in self.weights[key]:
                uses = self.found.setdefault(name, {})
                uses.setdefault(f"{_name(func)}[{where}]{suffix}", _RootMeanSquare()).add(response)

    def _signs(self, like: Tensor) -> Tensor:
        return (torch.randint(0, 2, like.shape, generator=self.draw) * 2 - 1).to(like)

    def _is_activation(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and id(leaf) in self.data and leaf.is_floating_point()


def _linear_response(plus: Tensor | None, middle: Tensor | None, minus: Tensor | None) -> Tensor | None:
    """(plus - minus) / 2, or None where the op could not be called or bends between the three."""
    if plus is None or middle is None or minus is None or plus.shape != minus.shape:
        return None
    response, bend = (plus - minus) / 2, (plus + minus) / 2 - middle
    finite = bool(response.isfinite().all())
    return response if finite and float(bend.norm()) <= _BENT * float(response.norm()) else None


def _call(func: Any, spec: Any, leaves: list[Any], where: int, value: Tensor) -> Any:
    """The op on copies of its arguments (it may write into them), with one of them replaced."""
    copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    copies[where] = value
    args, kwargs = pytree.tree_unflatten(copies, spec)
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        return None


def _first(out: Any) -> Tensor | None:
    return next((t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()), None)


def _name(func: Any) -> str:
    packet = getattr(func, "overloadpacket", func)
    return getattr(packet, "__name__", str(packet)).split(".")[-1]


def _meet(func: Any, weights: Mapping[int, frozenset[str]]) -> bool:
    """Two weights in one op: a product or a norm uses them as it would use data; pointwise ops build a new weight."""
    pointwise = torch.Tag.pointwise in getattr(func, "tags", ()) or _name(func) in _REPARAMETRIZATIONS
    return len(set(weights.values())) > 1 and not pointwise
