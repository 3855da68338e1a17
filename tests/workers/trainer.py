"""Two gloo processes that run transformers.Trainer under DDP and FSDP2; see test_hf_trainer.py."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hptransfer as hpt
from hptransfer.parametrization.apply.trainer import PlanTrainer

IDS = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]


def llama(width: int, layers: int = 2) -> Any:
    """A random Llama; the same weights for the same sizes."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def planned(**options: Any) -> hpt.Plan:
    return hpt.make_plan(llama(64), base=llama(32), example_inputs={"input_ids": IDS[:2]}, **options)


def arguments(folder: Path | str, **changes: Any) -> Any:
    import transformers

    settings = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "weight_decay": 0.1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "logging_strategy": "no", "lr_scheduler_type": "linear", "seed": 0,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**settings, **changes})


def trainer_class() -> Any:
    import transformers

    return type("Trainer", (PlanTrainer, transformers.Trainer), {})


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, p in model.named_parameters():
        full = getattr(p.detach(), "full_tensor", None)
        found[name.removeprefix("module.")] = (full() if full is not None else p.detach()).clone()
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _use_fsdp2(trainer: Any) -> None:
    """What TrainingArguments(fsdp="full_shard") does on an accelerator; accelerate leaves CPU processes on DDP."""
    import accelerate
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"]
    )
    state = trainer.accelerator.state
    state.fsdp_plugin, state._shared_state["distributed_type"] = plugin, DistributedType.FSDP
    accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def main(rank: int, kind: str, port: int, folder: str) -> None:
    """Train a planned Llama for three steps; rank 0 writes the weights and the groups."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    changes = {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    plan = planned()
    trainer = trainer_class()(
        model_init=lambda: llama(64), args=arguments(folder, **changes), train_dataset=DATA, plan=plan
    )
    if kind == "fsdp2":
        _use_fsdp2(trainer)
    trainer.train()
    groups = [(g["lr_mult"], g["weight_decay"], len(g["params"])) for g in trainer.optimizer.param_groups]
    sharded = any(hasattr(p, "full_tensor") for g in trainer.optimizer.param_groups for p in g["params"])
    end = weights(trainer.model_wrapped)
    if rank == 0:
        torch.save({"weights": end, "groups": groups, "sharded": sharded}, Path(folder) / f"{kind}.pt")
    torch.distributed.barrier()
    os._exit(0)  # no teardown: a gloo thread may abort when the other process is gone first
