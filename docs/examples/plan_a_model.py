"""A plan is read off the computation, and changes nothing at the base.

Two modules compute the same with other classes and names; their plans have the same factors. A plan is plain data: it
survives a file, and says for every parameter which rule it follows.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import hptransfer as hpt


class Tidy(nn.Module):
    """An MLP with a residual branch, written the usual way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(16, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.head = nn.Linear(width, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.down(F.relu(self.up(self.norm(x)))))


class Odd(nn.Module):
    """The same with bare parameters and other names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {"a": (width, 16), "b": (width,), "c": (width,), "d": (width,), "e": (4 * width, width)}
        sizes |= {"f": (width, 4 * width), "g": (4, width)}
        self.weights = nn.ParameterDict({k: nn.Parameter(torch.randn(s) / s[-1] ** 0.5) for k, s in sizes.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weights
        x = x @ w["a"].T + w["b"]
        normed = F.layer_norm(x, x.shape[-1:], w["c"], w["d"])
        return (x + (normed @ w["e"].T).relu() @ w["f"].T) @ w["g"].T


x = torch.randn(8, 16)
plans = [hpt.make_plan(kind(256), base=kind(32), example_inputs=(x,)) for kind in (Tidy, Odd)]
tidy, odd = ([(row.role, row.init_mult, row.lr_mult) for row in plan.rows.values()] for plan in plans)
assert sorted(tidy) == sorted(odd)

plan = plans[0]
print(plan.explain("down.weight"))
assert plan["down.weight"].lr_mult == 32 / 256  # a hidden matrix under Adam: 1 / m
assert plan["head.weight"].init_mult == 32 / 256  # a readout: 1 / m

same = hpt.make_plan(Tidy(32), base=Tidy(32), example_inputs=(x,))
assert same.is_identity

with tempfile.TemporaryDirectory() as folder:
    plan.save(Path(folder, "plan.json"))
    assert hpt.Plan.load(Path(folder, "plan.json")) == plan
