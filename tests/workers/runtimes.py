"""Two gloo processes that train one small model under DDP, FSDP2 and tensor parallelism; see test_distributed.py."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers

WIDTH, BASE, STEPS = 64, 16, 3
X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Residual MLP: [batch, 16] -> [batch, 4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for block in self.blocks:
            h = block(h)
        return self.out(h)


class Tied(nn.Module):
    """[batch, 16] -> [batch, 4] by a weight that is read twice: its second multiplier needs a hook on `act`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.act = nn.Linear(16, width), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.act(self.inp(x)), self.inp.weight.t())[:, :4]


def fresh(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(3)
    return kind(WIDTH)


def plan(kind: type[nn.Module] = Net, **options) -> hpt.Plan:
    torch.manual_seed(2)
    return hpt.make_plan(fresh(kind), base=kind(BASE), example_inputs=(X,), **options)


ADAMW = {torch.optim.AdamW: {"lr": 1e-2, "eps": 1e-6, "weight_decay": 0.1}}
MUON = getattr(torch.optim, "Muon", None)  # torch 2.9
MIXED = {"hidden": MUON, "rest": torch.optim.AdamW}


def optimizer(model: nn.Module, made: hpt.Plan) -> torch.optim.Optimizer:
    muon = {MUON: {"lr": 0.02}} if "Muon" in made.optimizers else {}
    return build_optimizers(model, made, {**muon, **ADAMW})


def train(model: nn.Module, opt: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int = STEPS) -> None:
    for _ in range(steps):
        opt.zero_grad()
        (model(x) - y).square().mean().backward()
        opt.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Global values under plain names."""
    found = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        full = getattr(value, "full_tensor", None)
        found[name.removeprefix("module.")] = (full() if full is not None else value).clone()
    return found


def single(kind: type[nn.Module] = Net, **options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The run that all others must equal: weights after parametrize_, and after training."""
    made, model = plan(kind, **options), fresh(kind)
    hpt.parametrize_(model, made)
    before = weights(model)
    train(model, optimizer(model, made), X, Y)
    return before, weights(model)


def shard(model: nn.Module) -> nn.Module:
    for block in getattr(model, "blocks", ()):
        fully_shard(block)
    return fully_shard(model)


def split(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:  # type: ignore[union-attr]
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


Result = tuple[dict[str, Tensor], dict[str, Tensor]]


def run(
    wrap: Callable[[nn.Module], nn.Module], first: str, share: bool, kind: type[nn.Module] = Net, **options
) -> Result:
    """first: "plan" parametrizes and then wraps, "wrap" the reverse. share: each rank takes half of the batch."""
    made, model = plan(kind, **options), fresh(kind)
    if first == "plan":
        hpt.parametrize_(model, made)
    wrapped = wrap(model)
    if first == "wrap":
        hpt.parametrize_(wrapped, made)
    before = weights(wrapped)
    rank = dist.get_rank()
    x, y = (X.chunk(2)[rank], Y.chunk(2)[rank]) if share else (X, Y)
    train(wrapped, optimizer(wrapped, made), x, y)
    return before, weights(wrapped)


def muon_steps(sharded: bool) -> dict[str, Tensor]:
    """The hidden matrices' change in three Muon steps on given gradients of full rank.

    Newton-Schulz runs in bfloat16 and turns what rounding leaves in a gradient's null space into order one, so trained
    weights are not comparable where a small batch gives gradients of low rank.
    """
    made, model = plan(optimizer=MIXED), fresh()
    wrapped = shard(model) if sharded else model
    hpt.parametrize_(wrapped, made)
    before, opt, draw = weights(wrapped), optimizer(wrapped, made), torch.Generator().manual_seed(4)
    for _ in range(STEPS):
        for p in wrapped.parameters():
            grad = torch.randn(p.shape, generator=draw)
            mesh = getattr(p, "device_mesh", None)
            p.grad = grad if mesh is None else distribute_tensor(grad, mesh, p.placements)  # type: ignore[attr-defined]
        opt.step()
    after = weights(wrapped)
    return {n: after[n] - before[n] for n in after if made[n].optimizer == "Muon"}


def meta_then_shard() -> Result:
    """meta -> plan -> shard -> to_empty -> init -> parametrize_, as large models are built."""
    made = plan()
    with torch.device("meta"):
        model = Net(WIDTH)
    shard(model)
    model.to_empty(device="cpu")
    for (_, mine), (_, theirs) in zip(model.named_parameters(), fresh().named_parameters(), strict=True):
        local = distribute_tensor(theirs.detach(), mine.device_mesh, mine.placements)
        mine.data.copy_(local)
    hpt.parametrize_(model, made)
    before = weights(model)
    train(model, optimizer(model, made), X.chunk(2)[dist.get_rank()], Y.chunk(2)[dist.get_rank()])
    return before, weights(model)


def resume(folder: str) -> tuple[bool, str]:
    """(a sharded run resumes to the uninterrupted weights, the error under another plan)."""
    made, half = plan(), dist.get_rank()
    x, y = X.chunk(2)[half], Y.chunk(2)[half]
    model = shard(fresh())
    hpt.parametrize_(model, made)
    opt = optimizer(model, made)
    train(model, opt, x, y, 2)
    dcp.save({"model": model.state_dict(), "opt": get_optimizer_state_dict(model, opt)}, checkpoint_id=folder)
    train(model, opt, x, y, 2)

    def load(made: hpt.Plan) -> dict[str, Tensor]:
        again = shard(fresh())
        opt = optimizer(again, made)
        state = {"model": again.state_dict(), "opt": get_optimizer_state_dict(again, opt)}
        dcp.load(state, checkpoint_id=folder)
        again.load_state_dict(state["model"])
        set_optimizer_state_dict(again, opt, state["opt"])
        train(again, opt, x, y, 2)
        return weights(again)

    through, resumed = weights(model), load(made)
    same = all(torch.equal(through[n], resumed[n]) for n in through)
    try:
        load(plan(scheme="ntp"))
    except hpt.UsageError as error:
        return same, str(error)
    return same, ""


def audited(**options) -> list[str]:
    """What audit_step says of three steps on shards, each of two accumulated micro-batches."""
    made, model = plan(**options), shard(fresh())
    hpt.parametrize_(model, made)
    opt, said = optimizer(model, made), []
    for _ in range(STEPS):
        opt.zero_grad()
        for x, y in zip(X.chunk(2), Y.chunk(2), strict=True):
            (nn.functional.mse_loss(model(x), y) / 2).backward()
        said.append(str(hpt.audit_step(model, made, opt)))
    return said


CASES: dict[str, Callable[[], Result]] = {
    "ddp, plan first": lambda: run(ddp, "plan", True),
    "ddp, wrap first": lambda: run(ddp, "wrap", True),
    "fsdp2, plan first": lambda: run(shard, "plan", True),
    "fsdp2, wrap first": lambda: run(shard, "wrap", True),
    "fsdp2 from meta": meta_then_shard,
    "ddp with a hook, wrap first": lambda: run(ddp, "wrap", True, Tied),
    "fsdp2 with a hook, wrap first": lambda: run(shard, "wrap", True, Tied),
    "tensor parallel, plan first": lambda: run(split, "plan", False),
    "tensor parallel, wrap first": lambda: run(split, "wrap", False),
}


def main(rank: int, folder: str) -> None:
    """Run every case on this rank; rank 0 writes the results."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, object] = {name: case() for name, case in CASES.items()}
    results["muon"] = muon_steps(sharded=True) if MUON is not None else {}
    results["audits"] = audited() + (audited(optimizer=MIXED) if MUON is not None else [])
    results["resume"] = resume(f"{folder}/checkpoint")
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    dist.barrier()
    os._exit(0)  # no teardown: a gloo thread may abort when the other process is gone first
