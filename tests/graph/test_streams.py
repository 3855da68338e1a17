"""Residual branches and streams, their depth and their norms, found from the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.graph.streams import Streams, residual_streams
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, Shape, Transformer, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)


def streams(model: nn.Module, *inputs: Tensor) -> Streams:
    return residual_streams(trace(model, inputs or (TOKENS,)))


@pytest.mark.parametrize(
    ("shape", "per_block"),
    [
        (Shape(8, depth=3), 2),
        (Shape(8, depth=3, parallel=True), 1),
        (Shape(8, depth=3, post_norm=True), 2),
        (Shape(8, depth=3, norm="rms", embed_scale="float"), 2),
    ],
    ids=str,
)
def test_one_stream_with_one_branch_per_sublayer(shape: Shape, per_block: int) -> None:
    found = streams(seeded(Transformer, shape, branch=0.5))
    assert found.depths == {0: 3 * per_block}
    inside = {name for b in found.branches for name in b.parameters}
    expected = {n for n, _ in seeded(Transformer, shape).named_parameters() if n.startswith("blocks")}
    # a post-norm stands on the stream, not in a branch
    assert inside == {n for n in expected if not (shape.post_norm and ".norm_" in n)}


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("norm", ["layer", "layer-plain"])
def test_post_norm_is_told_from_a_pre_norm_stack_with_a_final_norm(depth: int, norm: str) -> None:
    """The final norm follows the last add of every pre-norm stack, even one with a single block."""
    pre = streams(seeded(Transformer, Shape(8, depth=depth, norm=norm)))
    post = streams(seeded(Transformer, Shape(8, depth=depth, norm=norm, post_norm=True)))
    assert [b.post_norm for b in pre.branches] == [False] * 2 * depth and pre.post_norm == set()
    assert all(b.post_norm for b in post.branches[:-1]) and post.post_norm == {0}


def test_a_norm_at_the_branch_s_end_is_not_post_norm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norms = (
                nn.ModuleList(m(8) for _ in range(3)) for m in (lambda n: nn.Linear(n, n), nn.LayerNorm)
            )

        def forward(self, x: Tensor) -> Tensor:
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = x + norm(torch.relu(layer(x)))
            return x

    found = streams(Net(), torch.randn(2, 8)).branches
    assert len(found) == 3 and not any(b.post_norm for b in found)


class Stages(nn.Module):
    """Two stages of residual convolutions with a projection between, as in a ResNet."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.one = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.two = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.one:
            x = torch.relu(x + conv(x))
        x = self.down(x)
        for conv in self.two:
            x = x + conv(torch.relu(x))
        return x


def test_stages_are_streams_of_their_own_depth() -> None:
    assert streams(Stages(2), torch.randn(1, 4, 8, 8)).depths == {0: 2, 1: 4}


def test_sums_that_are_no_residual_branches_are_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x) + torch.relu(x) + 1.0

    assert streams(Net(), torch.randn(2, 4)).branches == ()


def test_depth_ratios_reach_lr_init_and_eps_of_branches_only() -> None:
    """CompleteP, alpha = 1: branch x 1/m_L (in its last matrix), lr of Adam x m_L^0, eps x 1/m_L."""
    deep, base = seeded(Transformer, Shape(8, depth=6)), seeded(Transformer, Shape(8, depth=2))
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,), scheme="completep")
    for name, row in plan.rows.items():
        last = name.endswith(("out.weight", "out.bias", "down.weight", "down.bias"))
        theta = 1 / 3 if last else 1.0
        eps = (1 / 3 if name.startswith("blocks") else 1.0) / theta
        assert (row.init_mult, row.lr_mult, row.eps_mult) == pytest.approx((theta, theta, eps)), name


def test_a_width_scheme_says_that_depth_is_not_its_business_and_leaves_the_code_s_own_factors() -> None:
    """A branch that the code multiplies by (2L)^-1/2 stays so under mup; completep puts the base's factor x 1/m_L."""
    deep = seeded(Transformer, Shape(8, depth=8), branch=8**-0.5)
    base = seeded(Transformer, Shape(8, depth=2), branch=2**-0.5)
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,))
    assert plan.is_identity and plan.notes == ("depth grows 4x; scheme mup has no depth rule (completep has)",)
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,), scheme="completep")
    assert plan["blocks.0.down.weight"].init_mult == pytest.approx(2 / 4)


def test_the_embedding_s_factor_is_no_branch_factor() -> None:
    """sqrt(width) on the embedding stands before the stream: it is restored to the base's under a width scheme."""
    models = [seeded(Transformer, Shape(w, depth=2, embed_scale="float")) for w in (32, 8)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,))
    assert plan["wte.weight"].init_mult == pytest.approx(0.5)


def test_post_norm_is_noted_under_a_depth_scheme() -> None:
    models = [seeded(Transformer, Shape(8, depth=d, post_norm=True)) for d in (4, 2)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,), scheme="completep")
    (note,) = plan.notes
    assert "post-norm" in note
