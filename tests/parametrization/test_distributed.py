"""DDP, FSDP2 and tensor parallelism on two processes train as one process does, planned before or after wrapping."""

import dist_worker_runtimes as worker
import pytest
import torch


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("dist")
    torch.multiprocessing.spawn(worker.main, args=(str(folder),), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.fixture(scope="module")
def reference() -> worker.Result:
    return worker.single()


@pytest.mark.parametrize("case", worker.CASES)
def test_global_weights_and_training_equal_the_single_process(results, reference, case):
    (start, end), (own_start, own_end) = results[case], reference
    assert start.keys() == own_start.keys()
    for name in own_start:
        assert torch.equal(start[name], own_start[name]), f"{name}: parametrize_ gave other values"
        # the sums over the batch or the features are split between two processes: float32 rounding, over 3 Adam steps
        torch.testing.assert_close(end[name], own_end[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_sharded_checkpoint_resumes_and_refuses_another_plan(results):
    same, error = results["resume"]
    assert same
    assert "going on would change learning rates silently" in error
