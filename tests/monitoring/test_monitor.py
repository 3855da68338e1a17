"""The monitor in a training loop: it changes nothing, keeps its share, and says what it saw or why it did not."""

import copy
import json
import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.monitoring.collapse import LossCurve
from hptransfer.monitoring.measurements import WEIGHTS
from hptransfer.monitoring.monitor import RunAlarm, bare
from hptransfer.monitoring.readings import Reading, read_run

EVERYTHING = dict.fromkeys(WEIGHTS, 3)
EVERYTHING_SGD = {name: 3 for name in WEIGHTS if name != "preconditioned sharpness"}


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def batches(count: int, size: int = 12, seed: int = 1):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(size, 4, generator=draw)
        yield x, x[:, :3].argmax(1)


def train(model, optimizer, monitor=None, *, count=12, accumulate=1, seed=1):
    torch.manual_seed(3)
    for k, batch in enumerate(batches(count * accumulate, seed=seed)):
        loss = loss_fn(model, batch)
        (loss / accumulate).backward()
        if monitor is not None:
            monitor.observe(loss, batch)
        if (k + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=0.01, **options)


def test_a_monitored_run_is_the_same_run_to_the_last_bit(tmp_path):
    """With dropout and batch norm: weights, buffers and the random state are those of a run nobody looked at."""
    plain = network()
    train(plain, adam(plain))
    state = torch.get_rng_state()
    model = network()
    optimizer = adam(model)
    with hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", loss_fn=loss_fn, every=EVERYTHING) as monitor:
        train(model, optimizer, monitor)
    assert monitor.dropped == {}
    assert torch.equal(state, torch.get_rng_state())
    for mine, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_every_measurement_is_in_the_file_and_so_is_every_step_of_the_loss(tmp_path):
    model = network()
    optimizer = adam(model)
    path = tmp_path / "deep" / "run.jsonl"
    with hpt.Monitor(model, optimizer, out=path, loss_fn=loss_fn, every=EVERYTHING, steps=12, run="tiny") as monitor:
        train(model, optimizer, monitor)
    found = read_run(path)
    assert (found.header.run, found.header.steps, found.header.optimizer) == ("tiny", 12, "Adam")
    assert found.header.limit == pytest.approx(38) and found.header.measured == tuple(WEIGHTS)
    assert [r.step for r in found.readings] == list(range(1, 13)) and all(r.loss for r in found.readings)
    assert found.number("sharpness / edge")[0] == [3, 6, 9, 12] == found.number("noise scale")[0]
    assert found.number("preconditioned sharpness / edge")[0] == [3, 6, 9, 12]
    spectra = [list(r.weights) for r in found.readings if r.weights]
    assert spectra == [["0.weight"], ["4.weight"], ["6.weight"], ["0.weight"]]
    last = [r for r in found.readings if r.outputs][-1]
    assert set(last.alignment) == {"0", "4", "6"} == set(last.update_alignment)
    assert all(json.loads(line)["schema"] == 1 for line in path.read_text().splitlines())


def test_accumulated_microbatches_are_one_step_with_their_mean_loss(tmp_path):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", steps=4) as monitor:
        train(model, optimizer, monitor, count=4, accumulate=3)
    losses = [loss_fn(model, batch).item() for batch in batches(12)]
    expected = [sum(losses[3 * k : 3 * k + 3]) / 3 for k in range(4)]
    assert [r.loss for r in read_run(tmp_path / "run.jsonl").readings] == pytest.approx(expected, rel=1e-6)


def test_without_a_loss_function_losses_and_spectra_remain(tmp_path):
    model = network()
    optimizer = adam(model)
    with hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", every={"spectra": 2}) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            loss = loss_fn(model, next(batches(1)))
            loss.backward()
            monitor.observe(loss.item())
            optimizer.step()
    found = read_run(tmp_path / "run.jsonl")
    assert found.header.measured == ("spectra",) and [r.step for r in found.readings] == list(range(2, 21, 2))
    assert sum(bool(r.weights) for r in found.readings) == 10


def test_of_two_optimizers_the_step_ends_with_the_last(tmp_path):
    model = network()
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[1:].parameters(), lr=0.01)]
    with hpt.Monitor(model, both, out=tmp_path / "run.jsonl", loss_fn=loss_fn, every=EVERYTHING) as monitor:
        for batch in batches(6):
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(loss, batch)
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
    assert monitor.step == 6 and monitor.dropped == {}
    assert read_run(tmp_path / "run.jsonl").header.limit == pytest.approx(2.0)


def test_a_compiled_model_is_measured_by_its_own_modules(tmp_path):
    """Hooks put on a compiled module later are not called, so what is looked at is the model within, run eagerly."""
    model = network()
    optimizer = adam(model)
    compiled = torch.compile(model, backend="eager")
    with hpt.Monitor(compiled, optimizer, out=tmp_path / "run.jsonl", loss_fn=loss_fn, every=EVERYTHING) as monitor:
        train(compiled, optimizer, monitor, count=4)
    assert monitor.dropped == {} and bare(compiled) is model
    assert any("4" in r.alignment for r in read_run(tmp_path / "run.jsonl").readings)


def test_mixed_precision_with_a_scaler_reads_the_same_noise_and_sharpness(tmp_path):
    """Autocast in the loop and a gradient scaler of 1024 change gradients in memory, not what is measured."""
    read = []
    for scaled in (False, True):
        model = network().eval()
        optimizer = adam(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        path = tmp_path / f"{scaled}.jsonl"
        with hpt.Monitor(model, optimizer, out=path, loss_fn=loss_fn, every={"noise": 1}) as monitor:
            with torch.autocast("cpu", torch.bfloat16, enabled=scaled):
                batch = next(batches(1))
                loss = loss_fn(model, batch)
            scaler.scale(loss).backward()
            monitor.observe(loss, batch)
            scaler.step(optimizer)
            scaler.update()
        read.append(read_run(path).number("gradient noise")[1][0])
    assert read[1] == pytest.approx(read[0], rel=0.02)  # bf16 in the first step's gradient alone


def test_a_measurement_that_raises_is_made_no_more_and_the_run_goes_on(tmp_path):
    class Once(torch.autograd.Function):
        """No double backward."""

        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g

    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.jsonl"
    with hpt.Monitor(
        model, optimizer, out=path, loss_fn=lambda m, b: loss_fn(lambda x: Once.apply(m(x)), b), every=EVERYTHING_SGD
    ) as monitor:
        train(model, optimizer, monitor, count=9)
    assert list(monitor.dropped) == ["sharpness"] and monitor.step == 9
    found = read_run(path)
    assert "once_differentiable" in next(r for r in found.readings if r.dropped).dropped["sharpness"]
    assert len(found.number("noise scale")[0]) == 3


def test_a_loss_without_its_batch_says_so_and_a_vector_is_refused(tmp_path):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", loss_fn=loss_fn, every={"noise": 2}) as monitor:
        for _ in range(3):
            monitor.observe(1.0)
            optimizer.step()
        with pytest.raises(UsageError, match=r"shape \(3,\)"):
            monitor.observe(torch.ones(3))
    assert "given no batch" in monitor.dropped["noise"]


def test_a_loss_that_is_not_finite_is_told_once(tmp_path):
    model, told = nn.Linear(4, 3), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", steps=4, on_alarm=told.append) as monitor:
        for loss in (1.0, math.nan, math.inf, 1.0):
            monitor.observe(loss)
            optimizer.step()
    assert told == ["step 2: the loss is nan"] == monitor.alarms
    assert [r.alarms for r in read_run(tmp_path / "run.jsonl").readings][1] == ("step 2: the loss is nan",)


def test_a_run_above_its_reference_warns_while_it_goes_on(tmp_path):
    reference = LossCurve.of_steps([3 * (k + 1) ** -0.3 for k in range(100)])
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", steps=100, reference=reference)
    with pytest.warns(RunAlarm, match=r"step 30: no collapse .* above the reference"):
        for loss in reference.losses:
            monitor.observe(loss + 0.3)
            optimizer.step()
    monitor.close()
    assert len(monitor.alarms) == 1


def test_the_share_is_kept_and_told(tmp_path):
    """At a budget of .3 a step of a few ms pays for what is cheap; the share told is what was spent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 3))
    optimizer = adam(model)
    path = tmp_path / "run.jsonl"
    data = torch.randn(512, 64)
    with hpt.Monitor(model, optimizer, out=path, loss_fn=loss_fn, steps=150, budget=0.3) as monitor:
        for _ in range(150):
            loss = loss_fn(model, (data, data[:, :3].argmax(1)))
            optimizer.zero_grad()
            loss.backward()
            monitor.observe(loss, (data, data[:, :3].argmax(1)))
            optimizer.step()
    found = read_run(path)
    assert found.number("noise scale")[0] and any(r.outputs for r in found.readings)
    assert monitor.share > 0 and found.number("monitor share")[1][-1] == pytest.approx(monitor.share, rel=0.5)


def test_a_run_is_taken_up_again_from_its_state(tmp_path):
    path, model = tmp_path / "run.jsonl", network()
    optimizer = adam(model)
    with hpt.Monitor(model, optimizer, out=path, loss_fn=loss_fn, steps=12, every={"noise": 4}) as monitor:
        train(model, optimizer, monitor, count=6)
        state = copy.deepcopy(monitor.state_dict())
        train(model, optimizer, monitor, count=2)  # lost: not in the checkpoint
    assert json.loads(json.dumps(state))["step"] == 6
    with pytest.raises(UsageError, match="resume=True"):
        hpt.Monitor(model, optimizer, out=path)
    with hpt.Monitor(model, optimizer, out=path, loss_fn=loss_fn, steps=12, resume=True, every={"noise": 4}) as again:
        again.load_state_dict(state)
        train(model, optimizer, again, count=6, seed=2)
    found = read_run(path)
    assert [r.step for r in found.readings] == list(range(1, 13))
    assert found.number("noise scale")[0] == [4, 8, 12]
    seconds = [r.seconds for r in found.readings]
    assert seconds == sorted(seconds)


def test_a_cut_off_line_is_left_out_and_then_cut(tmp_path):
    path, model = tmp_path / "run.jsonl", nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hpt.Monitor(model, optimizer, out=path, steps=5) as monitor:
        train(model, optimizer, monitor, count=5)
    path.write_text(path.read_text()[:-9])
    assert [r.step for r in read_run(path).readings] == [1, 2, 3, 4]
    with hpt.Monitor(model, optimizer, out=path, steps=8, resume=True) as again:
        again.step = 4
        train(model, optimizer, again, count=2)
    assert [r.step for r in read_run(path).readings] == [1, 2, 3, 4, 5, 6]


def test_closing_takes_every_hook_off(tmp_path):
    model = network()
    optimizer = adam(model)
    hpt.Monitor(model, optimizer, out=tmp_path / "run.jsonl", loss_fn=loss_fn).close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(m._forward_hooks for m in model.modules())


def test_wrong_use_is_refused(tmp_path):
    model, out = nn.Linear(4, 3), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrong, message in (
        ({"steps": 0}, "steps=0"),
        ({"reference": LossCurve((), ())}, "without steps"),
        ({"reference": LossCurve((), ()), "steps": 5}, "0 of 20 parts"),
        ({"reference": tmp_path / "none.jsonl", "steps": 5}, "cannot be read"),
        ({"budget": 0.0}, "share of the training time"),
        ({"every": {"sharpnes": 3}}, "names"),
    ):
        with pytest.raises(UsageError, match=message):
            hpt.Monitor(model, optimizer, out=out, **wrong)
    with pytest.raises(UsageError, match="torch optimizer"):
        hpt.Monitor(model, ["adam"], out=out)
    with pytest.raises(UsageError, match="no trainable"):
        hpt.Monitor(nn.Flatten(), optimizer, out=out)
    with pytest.raises(UsageError, match="cannot be written"):
        hpt.Monitor(model, optimizer, out=tmp_path)
    assert not out.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"schema": 2}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match="Give a file that"):
        read_run(path)


def test_a_reading_keeps_infinities_and_leaves_out_what_was_not_read():
    reading = Reading(3, 1.0, math.inf, 0.1, {"noise scale": math.inf})
    assert Reading.from_line(reading.to_line()) == reading
    assert "weights" not in reading.to_line() and '"inf"' in reading.to_line()


def ddp_worker(rank: int, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/init", rank=rank, world_size=2)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    model = nn.parallel.DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5)).double()
    mine = x[6 * rank : 6 * rank + 6]
    with hpt.Monitor(model, optimizer, out=f"{path}/run.jsonl", loss_fn=loss_fn, every=EVERYTHING_SGD, steps=6) as m:
        for _ in range(6):
            batch = (mine, mine[:, :3].argmax(1))
            loss = loss_fn(model, batch)
            loss.backward()
            m.observe(loss, batch)
            optimizer.step()
            optimizer.zero_grad()
    assert m.dropped == {} and m.step == 6
    wrong = {"every": {"noise": 1}, "loss_fn": lambda _, batch: loss_fn(model, batch)}  # the wrapped one
    with hpt.Monitor(model, optimizer, out=f"{path}/wrong.jsonl", **wrong) as n:
        for _ in range(2):
            loss = loss_fn(model, batch)
            loss.backward()
            n.observe(loss, batch)
            optimizer.step()
    assert "calls the DDP model" in n.dropped["noise"]
    torch.save(inner.state_dict(), f"{path}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_write_one_file_of_what_both_see(tmp_path):
    """Sharpness and loss are those of the whole batch: one process over both halves reads the same."""
    torch.multiprocessing.spawn(ddp_worker, args=(str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5)).double()
    batch = (x, x[:, :3].argmax(1))
    with hpt.Monitor(
        model, optimizer, out=tmp_path / "one.jsonl", loss_fn=loss_fn, every=EVERYTHING_SGD, steps=6
    ) as monitor:
        for _ in range(6):
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(loss, batch)
            optimizer.step()
            optimizer.zero_grad()
    two, one = read_run(tmp_path / "run.jsonl"), read_run(tmp_path / "one.jsonl")
    assert two.header.ranks == 2 and [r.step for r in two.readings] == list(range(1, 7))
    assert [r.loss for r in two.readings] == pytest.approx([r.loss for r in one.readings], rel=1e-5)
    assert two.number("sharpness")[1] == pytest.approx(one.number("sharpness")[1], rel=2e-2)
