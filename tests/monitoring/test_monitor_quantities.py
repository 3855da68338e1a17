"""What a monitor measures, against brute force: dense Hessians, explicit gradients, whole SVDs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hptransfer.core.errors import UsageError
from hptransfer.monitoring.edge import EdgeProbe, NotNow, base_lr, is_preconditioned, stable_limit
from hptransfer.monitoring.halves import halved, noise_of
from hptransfer.monitoring.layers import MODULES, alignment, chosen_modules, look
from hptransfer.monitoring.measurements import Measurements
from hptransfer.monitoring.ranks import Ranks
from hptransfer.monitoring.spectra import KEPT, matrices, spectrum


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


@pytest.fixture
def world() -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return model, (torch.randn(10, 3).double(), torch.randn(10, 2).double())


def dense_hessian(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of all parameters, in their order, by differentiating twice."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        weights = {n: part.view_as(p) for (n, p), part in zip(named.items(), parts, strict=True)}
        return F.mse_loss(functional_call(model, weights, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(loss, torch.cat([p.reshape(-1) for p in named.values()]))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        mse(model, batch).backward()
        optimizer.step()


def test_sharpness_is_the_largest_eigenvalue_of_the_hessian_and_its_edge_is_two_over_the_rate(world):
    model, batch = world
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    numbers = EdgeProbe(preconditioned=False)(model, [optimizer], mse, batch, Ranks(), seed=0)
    top = float(torch.linalg.eigvalsh(dense_hessian(model, batch))[-1])
    assert numbers["sharpness"] == pytest.approx(top, rel=1e-3)
    assert numbers["sharpness / edge"] == pytest.approx(0.3 * top / 2, rel=1e-3)
    assert not is_preconditioned([optimizer]) and stable_limit([optimizer]) == pytest.approx(3.8)


def test_preconditioned_sharpness_is_that_of_adams_own_steps_and_its_edge_is_38_over_the_rate(world):
    model, batch = world
    first, last = [*model[0].parameters()], [*model[2].parameters()]
    groups = [{"params": first, "lr": 0.01}, {"params": last, "lr": 0.002}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-6)
    steps(model, optimizer, batch, 5)
    numbers = EdgeProbe(preconditioned=True)(model, [optimizer], mse, batch, Ranks(), seed=0)
    rate = torch.cat([torch.full((p.numel(),), lr).double() for ps, lr in ((first, 0.01), (last, 0.002)) for p in ps])
    moment = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in model.parameters()])
    step = rate / ((moment / (1 - 0.99**5)).sqrt() + 1e-6)  # lr P^-1, so that its product with H is lr lambda
    top = float(torch.linalg.eigvals(step[:, None] * dense_hessian(model, batch)).real.max())
    assert numbers["preconditioned sharpness / edge"] == pytest.approx(top / 38, rel=2e-3)
    assert numbers["preconditioned sharpness"] == pytest.approx(top / 0.01, rel=2e-3)
    assert is_preconditioned([optimizer]) and base_lr([optimizer]) == 0.01


def test_the_last_eigenvector_is_where_lanczos_begins(world):
    model, batch = world
    probe, optimizer = EdgeProbe(preconditioned=False), torch.optim.SGD(model.parameters(), lr=0.1)
    assert probe.vector is None
    first = probe(model, [optimizer], mse, batch, Ranks(), seed=0)
    kept = probe.vector
    again = probe(model, [optimizer], mse, batch, Ranks(), seed=0)
    assert kept is not None and probe.vector is not None and float((kept @ probe.vector).abs()) > 0.99
    assert again["sharpness"] == pytest.approx(first["sharpness"], rel=1e-3)


def test_at_a_rate_of_zero_there_is_no_edge_yet(world):
    model, batch = world
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(NotNow, match="zero"):
        EdgeProbe(preconditioned=False)(model, [optimizer], mse, batch, Ranks(), seed=0)


def test_noise_of_the_halves_is_signal_and_noise_of_their_gradients(world):
    """Two halves of m: |G|^2 estimated without bias is their product, tr S is m |g1 - g2|^2 / 2."""
    model, batch = world
    rows = []
    for part in (slice(0, 5), slice(5, 10)):
        loss = mse(model, (batch[0][part], batch[1][part]))
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, [*model.parameters()])]))
    found = noise_of(model, mse, batch, Ranks(), seed=0)
    assert found.signal == pytest.approx(float(rows[0] @ rows[1]), rel=1e-5)
    assert found.noise == pytest.approx(5 * float((rows[0] - rows[1]).square().sum()) / 2, rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_is_halved_along_the_first_axis_whatever_it_is_made_of():
    first, second, half = halved({"x": torch.arange(7), "weights": [torch.arange(14).view(7, 2)], "name": "a"})
    assert half == 3 and first["x"].tolist() == [0, 1, 2] and second["x"].tolist() == [3, 4, 5]
    assert second["weights"][0].tolist() == [[6, 7], [8, 9], [10, 11]] and second["name"] == "a"
    for wrong in ((torch.zeros(4), torch.zeros(5)), torch.zeros(1), "text"):
        with pytest.raises(UsageError, match="first axes"):
            halved(wrong)


def test_alignment_is_a_half_for_random_and_one_for_equal_entries():
    torch.manual_seed(0)
    n = 400
    assert alignment(torch.randn(300, n), torch.randn(200, n)) == pytest.approx(0.5, abs=0.01)
    assert alignment(torch.ones(3, n), torch.ones(5, n)) == pytest.approx(1.0, abs=1e-5)
    assert alignment(torch.zeros(3, n), torch.ones(5, n)) is None
    assert alignment(torch.ones(3, 1), torch.ones(5, 1)) is None


def test_a_look_at_the_layers_is_what_hooks_and_products_by_hand_say(world):
    model, batch = world
    update = torch.randn(2, 6).double()
    seen = look(model, lambda: mse(model, batch), {"2.weight": update}, seed=0)
    hidden = torch.tanh(batch[0] @ model[0].weight.T + model[0].bias).detach()
    made = hidden @ model[2].weight.detach().T + model[2].bias.detach()

    def size(x: Tensor) -> float:
        return math.sqrt(float(x.square().mean()))

    assert seen.outputs["2"] == pytest.approx(size(made), rel=1e-6)
    for exponents, weight in ((seen.alignment, model[2].weight.detach()), (seen.update_alignment, update)):
        expected = math.log(size(hidden @ weight.T) / (size(weight) * size(hidden))) / math.log(6)
        assert exponents["2"] == pytest.approx(expected, rel=1e-4)
    assert set(seen.alignment) == {"0", "2"} and set(seen.update_alignment) == {"2"}
    assert not any(m._forward_hooks for m in model.modules())


def test_many_modules_are_thinned_evenly_and_the_ends_stay():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3 * MODULES)))
    names = list(chosen_modules(model))
    assert len(names) == MODULES and names[0] == "0" and names[-1] == "(output)"


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (5, 3, 2, 2)])
def test_a_spectrum_is_the_singular_values_of_the_flattened_weight(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    values = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)
    found = spectrum(weight)
    assert found.norm == pytest.approx(values[0], rel=1e-5)
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-5)
    assert found.rms == pytest.approx(math.sqrt((values**2).sum() / weight.numel()), rel=1e-5)
    assert found.natural == pytest.approx(values[0] / math.sqrt(shape[0] / weight[0].numel()), rel=1e-5)
    np.testing.assert_allclose(found.values, values, rtol=1e-4)


def test_a_spectrum_keeps_both_ends_of_many_values_and_embeddings_turn_round():
    torch.manual_seed(0)
    weight = torch.randn(200, 100)
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    found = spectrum(weight, embedding=True)
    assert len(found.values) == KEPT and found.values[0] == pytest.approx(values[0], rel=1e-4)
    assert found.values[-1] == pytest.approx(values[-1], rel=1e-3)
    assert found.natural == pytest.approx(values[0] / math.sqrt(100 / 200), rel=1e-5)
    assert spectrum(torch.zeros(4, 3)).stable_rank == 0.0


def test_a_large_matrix_has_its_norm_by_a_randomised_svd(monkeypatch):
    monkeypatch.setattr("hptransfer.monitoring.spectra.LARGE", 8)
    torch.manual_seed(0)
    weight, state = torch.randn(60, 50) + 1, torch.get_rng_state()
    found = spectrum(weight)
    assert found.norm == pytest.approx(float(torch.linalg.svdvals(weight)[0]), rel=1e-4) and found.values == ()
    assert torch.equal(state, torch.get_rng_state())


def test_the_update_is_the_weight_after_the_step_less_before(world):
    model, batch = world
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    measured = Measurements(model, [optimizer], mse, Ranks())
    before = model[0].weight.detach().clone()
    measured.prepare("spectra")
    steps(model, optimizer, batch, 1)
    fields = measured("spectra", None, seed=0)
    assert list(fields["updates"]) == ["0.weight"]
    expected = float(torch.linalg.svdvals(model[0].weight.detach() - before)[0])
    assert fields["updates"]["0.weight"].norm == pytest.approx(expected, rel=1e-5)
    measured.prepare("spectra")
    assert list(measured("spectra", None, seed=0)["updates"]) == ["2.weight"]
    assert set(matrices(model)) == {"0.weight", "2.weight"}
