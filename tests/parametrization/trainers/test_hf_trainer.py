"""transformers.Trainer with a plan: few groups, its scheduler and checkpoints, model_init, DDP and FSDP2."""

import logging

import pytest
import torch

import hptransfer as hpt
from tests.support.docs_blocks import run_block
from tests.workers import trainer as worker
from tests.workers.trainer import DATA, arguments, llama

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
pytest.importorskip("accelerate", reason="accelerate is not installed; transformers.Trainer needs it")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def plan() -> hpt.Plan:
    return worker.planned()


Trainer = worker.trainer_class()


def test_a_llama_needs_few_groups(plan):
    """Widths that all grow by one factor: input, hidden, readout and gains, each decayed or not."""
    model = llama(64)
    groups = hpt.param_groups(model, plan, lr=1e-2, weight_decay=0.1, decay=lambda n, p: p.dim() > 1)
    assert len(groups) <= 8
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_three_steps_with_the_trainers_schedule(plan, tmp_path):
    model = llama(64)
    hpt.parametrize_(model, plan)
    trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=DATA, plan=plan)
    trainer.train()
    groups = trainer.optimizer.param_groups
    names = {n: g for g in groups for n in g["hpt_names"]}
    assert set(names) == {n for n, _ in model.named_parameters()}
    assert names["model.layers.0.mlp.up_proj.weight"]["lr_mult"] == 0.5
    assert names["model.norm.weight"]["weight_decay"] == 0.0  # spared as the Trainer spares it
    assert names["model.layers.0.mlp.up_proj.weight"]["weight_decay"] == pytest.approx(0.2)
    assert names["lm_head.weight"]["initial_lr"] == pytest.approx(1e-2 * plan["lm_head.weight"].lr_mult)
    assert all(g["lr"] == 0.0 for g in groups)  # linear decay has ended, in every group


def test_model_init_is_parametrized_and_equals_the_given_model(plan, tmp_path):
    ends = []
    for lazily in (False, True):
        model = llama(64)
        if lazily:
            trainer = Trainer(
                model_init=lambda: llama(64), args=arguments(tmp_path), train_dataset=DATA, plan=lambda m: plan
            )
        else:
            hpt.parametrize_(model, plan)
            trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=DATA, plan=plan)
        trainer.train()
        ends.append([p.detach() for p in trainer.model.parameters()])
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)


def test_resuming_verifies_the_plan(plan, tmp_path):
    model = llama(64)
    hpt.parametrize_(model, plan)
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, max_steps=4)
    whole = Trainer(model=model, args=args, train_dataset=DATA, plan=plan)
    whole.train()
    resumed = Trainer(model=llama(64), args=args, train_dataset=DATA, plan=plan)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    other = worker.planned(scheme="ntp")
    mine = Trainer(model=llama(64), args=args, train_dataset=DATA, plan=other)
    with pytest.raises(hpt.UsageError, match=f"under plan {plan.fingerprint}, but the plan in hand is"):
        mine.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_given_model_that_was_not_scaled_is_refused(plan, tmp_path):
    trainer = Trainer(model=llama(64), args=arguments(tmp_path), train_dataset=DATA, plan=plan)
    with pytest.raises(hpt.UsageError, match=r"weights were not scaled: the rms of 'lm_head.weight'.*model_init"):
        trainer.train()


def test_another_optimizer_than_the_plans_is_refused(plan, tmp_path):
    trainer = Trainer(model=llama(64), args=arguments(tmp_path, optim="sgd"), train_dataset=DATA, plan=plan)
    with pytest.raises(hpt.UsageError, match=r"trains with SGD \(args.optim\), but the plan was made for AdamW"):
        trainer.train()


@pytest.mark.slow  # two processes that import transformers
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(plan, tmp_path, kind):
    model = llama(64)
    hpt.parametrize_(model, plan)
    alone = Trainer(model=model, args=arguments(tmp_path), train_dataset=DATA, plan=plan)
    alone.train()
    torch.multiprocessing.spawn(worker.main, args=(kind, worker.free_port(), str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
    assert found["sharded"] == (kind == "fsdp2")
    assert [(g["lr_mult"], g["weight_decay"], len(g["params"])) for g in alone.optimizer.param_groups] == found[
        "groups"
    ]
    for name, p in model.named_parameters():
        # gradients are summed in another order: float32 rounding over three Adam steps
        torch.testing.assert_close(found["weights"][name], p.detach(), rtol=1e-3, atol=1e-4)


def test_the_documented_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block("howto/trainer.md", "transformers")
