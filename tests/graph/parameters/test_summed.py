"""A matrix product written out as products and a sum is the matrix product, however it is spelled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt

INPUTS = (torch.randn(8, 16, generator=torch.Generator().manual_seed(0)),)


class Written(nn.Module):
    """Hidden activations [b, i], a matrix [o, i] and a gain of its columns, joined by `form`; then a readout."""

    def __init__(self, width: int, form) -> None:
        super().__init__()
        self.form, self.into, self.out = form, nn.Linear(16, width), nn.Linear(width, 10)
        self.matrix, self.gain = nn.Parameter(torch.randn(width, width) * width**-0.5), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.form(torch.relu(self.into(x)), self.matrix, self.gain)))


FORMS = {
    "product, gain, sum": lambda h, w, g: (h[:, None] * w * g).sum(-1),
    "gain last": lambda h, w, g: (w * h[:, None] * g).sum(2),
    "two gains": lambda h, w, g: (h[:, None] * w * g * (g + 1)).sum(-1),
    "transposed": lambda h, w, g: (h[:, :, None] * w.T * g[:, None]).sum(-2),
    "kept dimension": lambda h, w, g: (h[:, None] * w * g).sum(-1, keepdim=True)[..., 0],
    "negated twice": lambda h, w, g: -(-(h[:, None] * w)).sum(-1) * g,
    "over two": lambda h, w, g: (h[:, None] * w / 2).sum(-1) * g,
    "cast": lambda h, w, g: (h[:, None] * w).double().sum(-1).float() * g,
    "masked": lambda h, w, g: (h[:, None] * w).masked_fill(torch.eye(len(w)).bool(), 0.0).sum(-1) * g,
    "gated by itself": lambda h, w, g: (h[:, None] * w * torch.sigmoid(h)[:, None]).sum(-1) * g,
    "letters, then a sum": lambda h, w, g: torch.einsum("bi,oi->boi", h, w).sum(-1) * g,
    "laid out anew": lambda h, w, g: (h[:, None] * w).permute(0, 2, 1).sum(1) * g,
    "mean times its size": lambda h, w, g: (h[:, None] * w).mean(-1) * w.shape[1] * g,
}


def planned(form) -> hpt.Plan:
    return hpt.make_plan(Written(256, form), base=Written(64, form), example_inputs=INPUTS)


@pytest.mark.parametrize("name", FORMS)
def test_the_matrix_is_hidden_and_the_gain_a_vector(name):
    twin = planned(lambda h, w, g: nn.functional.linear(h * g, w))
    plan = planned(FORMS[name])
    for parameter in ("matrix", "gain", "into.weight", "out.weight"):
        ours, theirs = plan[parameter], twin[parameter]
        assert (ours.init_mult, ours.lr_mult) == pytest.approx((theirs.init_mult, theirs.lr_mult)), parameter
    assert plan["matrix"].role == "hidden" and plan["gain"].role == "vector"


def test_a_mean_brings_its_own_factor():
    plan = planned(lambda h, w, g: (h[:, None] * w).mean(-1) * g)
    assert (plan["matrix"].init_mult, plan["matrix"].lr_mult) == pytest.approx((0.5 * 4, 0.25 * 4))


@pytest.mark.parametrize("name", ["running sum", "one by one"])
def test_a_sum_out_of_sight_is_refused_by_name(name):
    form = {
        "running sum": lambda h, w, g: (h[:, None] * w * g).cumsum(-1)[..., -1],
        "one by one": lambda h, w, g: torch.tanh(h[:, None] * w * g).sum(-1),
    }[name]
    with pytest.raises(hpt.UsageError, match=r"'matrix' cannot be settled.*256 x 256"):
        planned(form)
