"""DDP, FSDP2 and tensor parallelism on two processes train as one process does, planned before or after wrapping."""

from functools import cache

import pytest
import torch

from tests.support.versions import shards_on_cpu
from tests.workers import runtimes as worker

pytestmark = shards_on_cpu


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("dist")
    torch.multiprocessing.spawn(worker.main, args=(str(folder),), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


@cache
def reference(case: str) -> worker.Result:
    if "hook" in case:
        assert worker.plan(worker.Tied).hooks
        return worker.single(worker.Tied)
    return worker.single()


@pytest.mark.parametrize("case", worker.CASES)
def test_global_weights_and_training_equal_the_single_process(results, case):
    (start, end), (own_start, own_end) = results[case], reference(case)
    assert start.keys() == own_start.keys()
    for name in own_start:
        assert torch.equal(start[name], own_start[name]), f"{name}: parametrize_ gave other values"
        # the sums over the batch or the features are split between two processes: float32 rounding, over 3 Adam steps
        torch.testing.assert_close(end[name], own_end[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.skipif(worker.MUON is None, reason="torch.optim.Muon came with torch 2.9")
def test_muon_takes_the_same_steps_on_shards(results):
    alone = worker.muon_steps(sharded=False)
    assert alone.keys() == results["muon"].keys() and len(alone) == 4
    for name, step in alone.items():
        difference = torch.linalg.vector_norm(results["muon"][name] - step) / torch.linalg.vector_norm(step)
        # five iterations of three bfloat16 products, each rounded to 2^-9 on both sides
        assert difference < 15 * 2 * 2**-9, f"{name}: {difference}"


def test_a_sharded_checkpoint_resumes_and_refuses_another_plan(results):
    same, error = results["resume"]
    assert same
    assert "going on would change learning rates silently" in error


def test_steps_on_shards_with_accumulated_gradients_pass_the_audit(results):
    assert len(results["audits"]) >= worker.STEPS
    assert all(said.startswith("PASS") for said in results["audits"]), results["audits"]
