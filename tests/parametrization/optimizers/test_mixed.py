"""Mixed setups on whole models: Muon for the matrices, AdamW for the rest, at the base as at the target."""

import pytest
import torch

import hptransfer as hpt
from hptransfer.parametrization.apply.optimizers import build_optimizers

MIXED = {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
SETTINGS = {torch.optim.Muon: {"lr": 0.02, "weight_decay": 0.1}, torch.optim.AdamW: {"lr": 3e-3, "betas": (0.9, 0.95)}}


@pytest.fixture(scope="module")
def worker():
    pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
    return pytest.importorskip("tests.workers.trainer")


def owners(opt: torch.optim.Optimizer) -> dict[str, str]:
    return {n: g["hpt_optimizer"] for g in opt.param_groups for n in g["hpt_names"]}


@pytest.mark.parametrize("width", [32, 64])
def test_a_llamas_matrices_go_to_muon_at_the_base_too(worker, width):
    """The split must not depend on the size, or the base would be tuned with another algorithm than the target's."""
    model = worker.llama(width)
    plan = hpt.make_plan(model, base=worker.llama(32), example_inputs={"input_ids": worker.IDS[:2]}, optimizer=MIXED)
    opt = build_optimizers(model, plan, SETTINGS)
    expected = {
        n: "Muon" if p.dim() == 2 and "layers" in n else "AdamW" for n, p in model.named_parameters()
    }  # not the embedding, not the head, not the gains
    assert owners(opt) == expected
    assert len(opt.param_groups) <= 12


def test_training_a_mixed_llama_decreases_the_loss(worker):
    model = worker.llama(64)
    plan = hpt.make_plan(model, base=worker.llama(32), example_inputs={"input_ids": worker.IDS[:2]}, optimizer=MIXED)
    hpt.parametrize_(model, plan)
    opt = build_optimizers(model, plan, SETTINGS, decay=lambda name, p: p.dim() > 1)
    assert all(g["weight_decay"] == 0 for g in opt.param_groups if "model.norm.weight" in g["hpt_names"])
    losses = []
    for _ in range(12):
        loss = model(input_ids=worker.IDS, labels=worker.IDS).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_two_keys_are_needed():
    net = torch.nn.Linear(4, 4)
    with pytest.raises(hpt.UsageError, match=r"'hidden' .* and 'rest'"):
        hpt.make_plan(net, base=net, example_inputs=(torch.zeros(1, 4),), optimizer={"matrices": torch.optim.Muon})
