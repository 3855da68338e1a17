"""Facts about the meter: it sees what an explicit per-microbatch loop sees, disturbing nothing, also under DDP."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.noise.noise_meter import NoiseScaleMeter
from hptransfer.prediction.noise.noise_scale import microbatch_estimate


class Tied(nn.Module):
    """One weight used twice, so that its gradient is a sum over uses."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))


def batches(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, 4, generator=generator)
    return list(zip(x, x.sum(-1, keepdim=True) + torch.randn(count, size, 1, generator=generator), strict=True))


def mse(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def accumulate(model, micro, averaged=True, scale=1.0):
    for batch in micro:
        (scale * mse(model, batch) / (len(micro) if averaged else 1)).backward()


def explicit(model, micro, micro_batch):
    """The same estimate per parameter name from separate backward passes."""
    each = []
    for batch in micro:
        grads = torch.autograd.grad(mse(model, batch), list(model.parameters()))
        each.append([g.double() for g in grads])
    found = {}
    for i, (name, _) in enumerate(model.named_parameters()):
        stack = torch.stack([g[i] for g in each]).flatten(1)
        squares = stack.square().sum(1).tolist()
        found[name] = microbatch_estimate(squares, float(stack.mean(0).square().sum()), micro_batch=micro_batch)
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


@pytest.mark.parametrize("averaged", [True, False])
def test_readings_equal_separate_backward_passes(model, averaged):
    micro = batches(3, 5)
    expected = explicit(model, micro, 5)
    meter = NoiseScaleMeter(model, micro_batch=5, averaged=averaged)
    accumulate(model, micro, averaged)
    meter.step()
    for name in meter.groups:
        assert meter.reading(name).signal == pytest.approx(expected[name].signal, rel=1e-4, abs=1e-7)
        assert meter.reading(name).noise == pytest.approx(expected[name].noise, rel=1e-4, abs=1e-7)
    assert meter.reading().noise == pytest.approx(sum(e.noise for e in expected.values()), rel=1e-4)
    assert meter.reading().signal == pytest.approx(sum(e.signal for e in expected.values()), rel=1e-4)


def test_groups_gather_parameters_and_a_loss_scale_is_taken_out(model):
    micro = batches(4, 5)
    plain = NoiseScaleMeter(model, micro_batch=5, groups=lambda name: name.split(".")[0])
    accumulate(model, micro)
    plain.step()
    plain.close()
    model.zero_grad()
    scaled = NoiseScaleMeter(model, micro_batch=5, groups=lambda name: name.split(".")[0])
    accumulate(model, micro, scale=1024.0)
    scaled.step(grad_scale=1024.0)
    assert plain.groups == ("first", "last")
    for group in ("first", "last", "total"):
        assert scaled.reading(group).noise == pytest.approx(plain.reading(group).noise, rel=1e-5)


def test_gradients_are_the_same_with_and_without_a_meter(model):
    twin = copy.deepcopy(model)
    with NoiseScaleMeter(model, micro_batch=5) as meter:
        accumulate(model, batches(2, 5))
        meter.step()
    accumulate(twin, batches(2, 5))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    accumulate(model, batches(2, 5))  # closed: hooks are gone
    with pytest.raises(UsageError, match="no backward"):
        meter.step()


def test_the_average_converges_to_the_known_noise_scale():
    # linear model, x ~ N(0, I), y = w.x + noise, loss (v.x - y)^2: g = 2 (e.x - noise) x with e = v - w, so
    # G = 2e and tr S = 4 [(d + 1)|e|^2 + d sigma^2] by Isserlis
    torch.manual_seed(3)
    d, sigma = 4, 0.5
    model = nn.Linear(d, 1, bias=False)
    error = model.weight.detach()[0] - 1.0
    e2 = float(error.square().sum())
    truth = ((d + 1) * e2 + d * sigma**2) / e2
    meter = NoiseScaleMeter(model, micro_batch=4, decay=0.999)
    for _ in range(600):
        x = torch.randn(4, 4, d)
        y = x.sum(-1, keepdim=True) + sigma * torch.randn(4, 4, 1)
        accumulate(model, list(zip(x, y, strict=True)))
        meter.step()
        model.zero_grad()
    predicted = meter.prediction()
    assert predicted.value == pytest.approx(truth, rel=0.1)
    assert predicted.contains(truth)


def test_a_step_with_non_finite_gradients_is_skipped_and_counted(model):
    meter = NoiseScaleMeter(model, micro_batch=5)
    micro = batches(2, 5)
    micro[1][0][0, 0] = float("inf")
    accumulate(model, micro)
    meter.step()
    assert meter.skipped == 1
    with pytest.raises(UsageError, match="at least one step"):
        meter.reading()


def test_a_checkpoint_restores_the_averages(model):
    meter = NoiseScaleMeter(model, micro_batch=5)
    for seed in range(3):
        accumulate(model, batches(2, 5, seed))
        meter.step()
        model.zero_grad()
    fresh = NoiseScaleMeter(model, micro_batch=5)
    fresh.load_state_dict(meter.state_dict())
    assert fresh.reading() == meter.reading()
    with pytest.raises(UsageError, match="groups differ"):
        NoiseScaleMeter(model, micro_batch=5, groups=lambda _: "all").load_state_dict(meter.state_dict())


def test_wrong_use_is_refused(model):
    with pytest.raises(UsageError, match="micro_batch"):
        NoiseScaleMeter(model, micro_batch=0)
    with pytest.raises(UsageError, match="no trainable"):
        NoiseScaleMeter(nn.Flatten(), micro_batch=1)
    with pytest.raises(UsageError, match="taken"):
        NoiseScaleMeter(model, micro_batch=1, groups=lambda _: "total")
    meter = NoiseScaleMeter(model, micro_batch=5)
    accumulate(model, batches(1, 5))
    with pytest.raises(UsageError, match="one microbatch on one rank"):
        meter.step()
    with pytest.raises(UsageError, match="Unknown group"):
        meter.reading("middle")


def ddp_worker(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/init", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Tied())
    meter = NoiseScaleMeter(model, micro_batch=5)
    mine = batches(4, 5)[2 * rank : 2 * rank + 2]
    with model.no_sync():
        (mse(model, mine[0]) / 2).backward()
    (mse(model, mine[1]) / 2).backward()
    meter.step()
    results[rank] = {name: (meter.reading(name).signal, meter.reading(name).noise) for name in meter.groups}
    dist.destroy_process_group()


def test_two_ranks_with_two_microbatches_each_read_as_four_microbatches(model, tmp_path):
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(ddp_worker, args=(str(tmp_path), results), nprocs=2)
        found = dict(results)
    expected = explicit(model, batches(4, 5), 5)
    assert found[0] == found[1]
    for name, (signal, noise) in found[0].items():
        np.testing.assert_allclose((signal, noise), (expected[name].signal, expected[name].noise), rtol=1e-4, atol=1e-7)
