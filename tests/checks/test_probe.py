"""The probe sees what modules put out, splits changes exactly, and leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hptransfer.checks.coord.logits import LogitWatch
from hptransfer.checks.coord.probe import OUTPUT, Probe, difference, rms
from hptransfer.checks.coord.update_size import spectral_norm
from hptransfer.core.training.recipe import Scale
from hptransfer.parametrization.row import Row
from tests.cases.coord import ConvNet, Transformer, build_mlp, labelled, sentences, token_loss

X = labelled(1, 32)[0]


def probe_of(model: nn.Module, x=X, seed: int = 0) -> Probe:
    return Probe(model.train(), lambda: model(x), seed=seed)


def step(model: nn.Module, loss, lr: float = 0.1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    loss().backward()
    optimizer.step()


def state(model: nn.Module):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    return {k: v.clone() for k, v in model.state_dict().items()}, hooks, modes, torch.get_rng_state()


@pytest.mark.parametrize("unmoved", [False, True])
def test_leaves_parameters_buffers_hooks_mode_and_random_state_as_they_were(unmoved):
    """BatchNorm's running statistics and step count too, though the probe runs in training mode."""
    model = ConvNet(8)
    probe = probe_of(model)
    before = state(model)
    probe(unmoved=unmoved)
    after = state(model)
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1:3] == after[1:3] and torch.equal(before[3], after[3])
    assert all(p.grad is None for p in model.parameters())


def test_hooks_go_even_when_the_forward_raises():
    model = build_mlp(Scale(width=8))
    probe = Probe(model, lambda: model(X[:, :3]))
    with pytest.raises(RuntimeError):
        probe()
    assert not any(m._forward_hooks for m in model.modules())


def test_update_and_carried_are_dW_x_and_W0_dx_for_linear_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4, bias=False)).double()
    x = X.double()
    probe = probe_of(model, x)
    first, w0 = probe(), model[2].weight.detach().clone()
    h0 = torch.tanh(model[0](x)).detach()
    step(model, lambda: model(x).square().mean())
    now = probe(unmoved=True)
    h1, w1 = torch.tanh(model[0](x)).detach(), model[2].weight.detach()
    torch.testing.assert_close(now.outputs["2"][0] - now.unmoved["2"][0], h1 @ (w1 - w0).T)
    torch.testing.assert_close(now.unmoved["2"][0] - first.outputs["2"][0], (h1 - h0) @ w0.T)
    assert set(now.unmoved) == {"0", "2"}  # Tanh has nothing to move


def test_an_unmoved_model_changes_nothing_despite_dropout_and_batch_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(24, 16),
        nn.BatchNorm1d(16),
        nn.Dropout(0.5),
        nn.MultiheadAttention(16, 2, dropout=0.3, batch_first=True),
    )

    def forward() -> None:
        h = model[2](model[1](model[0](X))).unsqueeze(0)
        model[3](h, h, h)

    probe = Probe(model.train(), forward, seed=3)
    first, again = probe(), probe(unmoved=True)
    assert "3" in first.outputs  # nn.MultiheadAttention owns its projections and never calls its child
    for name in first.outputs:
        assert difference(again.outputs[name], first.outputs[name]) == 0
        assert difference(again.unmoved.get(name, first.outputs[name]), first.outputs[name]) == 0


def test_records_tuples_mappings_repeated_calls_and_what_in_place_modules_overwrite():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.act, self.rnn = nn.Linear(24, 24), nn.ReLU(inplace=True), nn.GRU(24, 5)

        def forward(self, x):
            out, _ = self.rnn(self.act(self.shared(self.shared(x))))
            return {"logits": out * 2}

    torch.manual_seed(0)
    model = Odd()
    seen = probe_of(model)()
    assert {n: len(v) for n, v in seen.outputs.items()} == {"shared": 2, "act": 1, "rnn": 1, OUTPUT: 1}
    assert (seen.outputs["shared"][1] < 0).any() and not (seen.outputs["act"][0] < 0).any()
    torch.testing.assert_close(seen.outputs[OUTPUT][0], 2 * seen.outputs["rnn"][0])
    assert seen.source == {"act": "shared"}


def test_the_whole_output_is_listed_only_when_no_module_made_it():
    assert OUTPUT not in probe_of(build_mlp(Scale(width=8)))().outputs
    assert list(probe_of(nn.Linear(24, 3))().outputs) == [OUTPUT]


def test_forward_multipliers_on_a_module_are_seen_once():
    model = nn.Sequential(nn.Linear(24, 4, bias=False))
    model[0].register_forward_pre_hook(lambda m, args: (args[0] * 3,))
    model[0].register_forward_hook(lambda m, args, out: out * 5)
    seen = probe_of(model)(unmoved=True)
    torch.testing.assert_close(seen.outputs["0"][0], 15 * F.linear(X, model[0].weight).detach())
    torch.testing.assert_close(seen.unmoved["0"][0], seen.outputs["0"][0])


def test_rms_is_over_all_entries_of_all_calls():
    parts = [torch.full((2, 3), 2.0), torch.zeros(6)]
    assert rms(parts) == pytest.approx(math.sqrt(2)) and rms([]) == 0
    assert difference([torch.zeros(3)], [torch.zeros(4)]) is None


@pytest.mark.parametrize("kind", ["causal", "grouped", "masked", "eager"])
def test_largest_attention_logit_is_the_brute_force_maximum(kind):
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 6, 8, generator=draw), torch.randn(2, 2 if kind == "grouped" else 4, 6, 8, generator=draw)
    heads = k.repeat_interleave(2, 1) if kind == "grouped" else k
    logits = q @ heads.transpose(-1, -2) * (0.5 if kind == "masked" else 8**-0.5)
    keep = torch.rand(6, 6, generator=draw) > 0.4
    keep.fill_diagonal_(True)
    with torch.no_grad(), LogitWatch() as watch:
        if kind == "causal":
            F.scaled_dot_product_attention(q, k, k, is_causal=True)
        elif kind == "grouped":
            F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
        elif kind == "masked":
            F.scaled_dot_product_attention(q, k, k, attn_mask=keep, scale=0.5)
        else:
            (logits.softmax(-1) @ k).sum()
    allowed = {"causal": torch.ones(6, 6).tril().bool(), "masked": keep}.get(kind, torch.ones(6, 6).bool())
    assert list(watch.largest.values()) == pytest.approx([float(logits.masked_fill(~allowed, -math.inf).max())])


def test_logits_of_a_model_are_listed_in_order_and_not_doubled_by_the_second_call():
    model, batch = Transformer(8), sentences(1, 4)
    probe = Probe(model, lambda: token_loss(model, batch))
    assert list(probe(unmoved=True).logits) == ["attention 0"]


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((7, 5), (5, 7)), ((7,), (1, 7)), ((6, 4, 3), (12, 6)), ((3, 4, 5), (4, 5)), ((6, 2, 3, 3), (18, 6))],
)
def test_spectral_norm_is_the_largest_singular_value_of_the_fans_matrix(shape, fans):
    """A kernel's positions belong to the fan-in; of experts (3 x 4 x 5) the largest counts; a gain is a column."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    row = Row("w", shape, "hidden", *fans, "w", None, 1, 1, 1, 1)
    stacked = weight if shape == (3, 4, 5) else weight.reshape(1, shape[0], -1)
    assert spectral_norm(weight, row) == pytest.approx(float(torch.linalg.matrix_norm(stacked, 2).max()), rel=1e-4)
    assert spectral_norm(torch.zeros(shape), row) == 0
    assert math.isnan(spectral_norm(weight * math.nan, row))


def test_large_matrices_take_the_randomised_svd_and_agree(monkeypatch):
    from hptransfer.checks.coord import update_size

    weight = torch.randn(80, 60, generator=torch.Generator().manual_seed(0)) + 0.5
    row, before = Row("w", (80, 60), "hidden", 60, 80, "w", None, 1, 1, 1, 1), torch.get_rng_state()
    exact = spectral_norm(weight, row)
    monkeypatch.setattr(update_size, "LARGE", 10)
    assert spectral_norm(weight, row) == pytest.approx(exact, rel=1e-3)
    assert torch.equal(torch.get_rng_state(), before)
