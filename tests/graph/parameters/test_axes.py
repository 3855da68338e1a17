"""Parameter axes travel through reshapes as tagged entries do: brute force over random shapes and ops."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.graph.parameters.axes import broadcast, regroup
from hptransfer.graph.parameters.uses import Use, parameter_uses
from hptransfer.graph.trace import trace


def moved(axis: int, shape: tuple[int, ...], view) -> set[int]:
    """Dimensions of view(W) along which the coordinate `axis` of W varies: brute force with an index tensor."""
    index = torch.arange(shape[axis]).view([-1 if k == axis else 1 for k in range(len(shape))]).expand(shape)
    seen = view(index)
    return {
        d
        for d in range(seen.dim())
        if seen.shape[d] > 1 and not torch.equal(seen, seen.narrow(d, 0, 1).expand_as(seen))
    }


@pytest.mark.parametrize("seed", range(40))
def test_reshapes_move_axes_as_they_move_entries(seed: int) -> None:
    """A dimension holds at least the axes that vary along it; it may name one more where a group cannot be split."""
    draw = random.Random(seed)
    old = tuple(draw.choice([2, 3, 4, 6]) for _ in range(draw.randint(1, 3)))
    size, new = int(torch.tensor(old).prod()), []
    while size > 1:
        part = draw.choice([d for d in range(2, size + 1) if size % d == 0])
        new.append(part)
        size //= part
    dims = regroup(old, new, tuple(frozenset({k}) for k in range(len(old))))
    for axis in range(len(old)):
        assert moved(axis, old, lambda w: w.reshape(new)) <= {d for d, held in enumerate(dims) if axis in held}


def test_broadcasting_aligns_to_the_right() -> None:
    assert broadcast((frozenset({0}),), 3) == (frozenset(), frozenset(), frozenset({0}))


VIEWS = {
    "transpose": lambda w: w.t(),
    "permute": lambda w: w.unsqueeze(0).permute(2, 1, 0).squeeze(-1),
    "split heads and back": lambda w: w.view(2, 3, 4).transpose(0, 1).transpose(0, 1).reshape(6, 4).T,
    "movedim": lambda w: w.movedim(0, -1),
    "swapaxes": lambda w: w.swapaxes(0, 1),
    "slices put together": lambda w: torch.cat([w[:2], w[2:]]).mT,
    "chunks": lambda w: torch.cat(w.chunk(3)).T,
    "unbind and stack": lambda w: torch.stack(w.unbind(0)).T,
    "select": lambda w: torch.stack([w, w])[1].T,
    "cast and copy": lambda w: w.double().float().contiguous().clone().T,
    "flip": lambda w: w.flip(0).T,
    "scaled": lambda w: (w * 2.0 + 1.0).T,
    "of a function": lambda w: torch.exp(w).T,
}


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_a_weight_behind_views_is_still_contracted_over_its_own_axis(view: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, VIEWS[view](self.w))

    uses = parameter_uses(trace(Net(), (torch.randn(2, 6),)))["w"]
    assert uses and all(isinstance(use, Use) and use.axes == ("contracted", "produced") for use in uses)
