"""transformers.Trainer with a plan: few groups, its scheduler and checkpoints, model_init, DDP and FSDP2."""

import logging

import pytest
import torch

import hptransfer as hpt
from hptransfer.parametrization.ecosystem import PlanTrainer

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
pytest.importorskip("accelerate", reason="accelerate is not installed; transformers.Trainer needs it")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
logging.getLogger("transformers").setLevel(logging.ERROR)


def llama(width: int, layers: int = 2):
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


IDS = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]


@pytest.fixture(scope="module")
def plan() -> hpt.Plan:
    return hpt.make_plan(llama(64), base=llama(32), example_inputs={"input_ids": IDS[:2]})


class Trainer(PlanTrainer, transformers.Trainer):
    pass


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "weight_decay": 0.1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "logging_strategy": "no", "lr_scheduler_type": "linear", "seed": 0,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**settings, **changes})


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
    other = hpt.make_plan(llama(64), base=llama(32), example_inputs={"input_ids": IDS[:2]}, scheme="ntp")
    mine = Trainer(model=llama(64), args=args, train_dataset=DATA, plan=other)
    with pytest.raises(hpt.UsageError, match=f"under plan {plan.fingerprint}, but the plan in hand is"):
        mine.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_another_optimizer_than_the_plans_is_refused(plan, tmp_path):
    trainer = Trainer(model=llama(64), args=arguments(tmp_path, optim="sgd"), train_dataset=DATA, plan=plan)
    with pytest.raises(hpt.UsageError, match=r"trains with SGD \(args.optim\), but the plan was made for AdamW"):
        trainer.train()
