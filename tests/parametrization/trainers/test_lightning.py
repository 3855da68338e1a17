"""Lightning: configure_optimizers returns the plan's groups; schedules and checkpoints leave the multipliers alone."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hptransfer as hpt
from hptransfer.parametrization.apply.checkpoint import plan_of, plan_state
from hptransfer.parametrization.apply.optimizers import build_optimizers
from tests.support.docs_blocks import run_block

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning", reason="lightning is not installed (pip install lightning)")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice on workers, loggers and devices

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].sin()


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


class Module(lightning.LightningModule):
    def __init__(self, width: int, plan: hpt.Plan) -> None:
        super().__init__()
        self.net, self.plan = network(width), plan
        hpt.parametrize_(self.net, plan)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return (self.net(x) - y).square().mean()

    def configure_optimizers(self):
        opt = build_optimizers(self.net, self.plan, {torch.optim.AdamW: {"lr": 1e-2}})
        return {"optimizer": opt, "lr_scheduler": {"scheduler": _decay(opt), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint |= plan_state(self.plan)

    def on_load_checkpoint(self, checkpoint) -> None:
        plan_of(checkpoint, expected=self.plan)


def _decay(opt: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)


def trainer(steps: int, folder) -> "lightning.Trainer":
    return lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder),
    )  # fmt: skip


@pytest.fixture
def plan() -> hpt.Plan:
    return hpt.make_plan(network(64), base=network(16), example_inputs=(X,))


def loader() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=32)


def test_three_steps_equal_a_plain_loop(plan, tmp_path):
    module = Module(64, plan)
    trainer(3, tmp_path).fit(module, loader())
    net = network(64)
    hpt.parametrize_(net, plan)
    opt = build_optimizers(net, plan, {torch.optim.AdamW: {"lr": 1e-2}})
    schedule = _decay(opt)
    for _ in range(3):
        opt.zero_grad()
        (net(X) - Y).square().mean().backward()
        opt.step()
        schedule.step()
    for own, reference in zip(module.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(own, reference)


def test_a_checkpoint_resumes_and_refuses_another_plan(plan, tmp_path):
    module, path = Module(64, plan), tmp_path / "c.ckpt"
    first = trainer(2, tmp_path)
    first.fit(module, loader())
    first.save_checkpoint(path)
    whole = Module(64, plan)
    trainer(4, tmp_path).fit(whole, loader())
    resumed = Module(64, plan)
    trainer(4, tmp_path).fit(resumed, loader(), ckpt_path=str(path), weights_only=False)
    for own, reference in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(own, reference)
    other = hpt.make_plan(network(64), base=network(16), example_inputs=(X,), scheme="ntp")
    with pytest.raises(hpt.UsageError, match=f"{plan.fingerprint}, but the plan in hand is {other.fingerprint}"):
        trainer(4, tmp_path).fit(Module(64, other), loader(), ckpt_path=str(path), weights_only=False)


def test_the_documented_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block("howto/lightning.md", "lightning")
