"""Unmodified models of transformers that torch.export cannot trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.checks.oracle.verify import verify_plan


def _longformer(width: int) -> nn.Module:
    from transformers import LongformerConfig, LongformerForMaskedLM

    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_hidden_layers": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    own = {"vocab_size": 40, "attention_window": 4, "max_position_embeddings": 34, "pad_token_id": 0}
    return LongformerForMaskedLM(LongformerConfig(**sizes, **dropout, **own))


def _switch(width: int) -> nn.Module:
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width, "num_heads": 4, "num_layers": 2}
    own = {"vocab_size": 40, "dropout_rate": 0.0, "num_experts": 4, "expert_capacity": 48, "router_jitter_noise": 0.0}
    sparse = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2}
    config = SwitchTransformersConfig(**sizes, **own, **sparse, decoder_start_token_id=0, use_cache=False)
    return SwitchTransformersForConditionalGeneration(config)


def _nllb_moe(width: int) -> nn.Module:
    from transformers import NllbMoeConfig, NllbMoeForConditionalGeneration

    both = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 2 * width, "sparse_step": 2}.items()
    }
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "moe_token_dropout": 0.0}
    layerdrop = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    own = {"vocab_size": 40, "d_model": width, "num_experts": 4, "expert_capacity": 48, "max_position_embeddings": 32}
    return NllbMoeForConditionalGeneration(NllbMoeConfig(**both, **dropout, **layerdrop, **own, use_cache=False))


def _text(global_attention: bool = False, pair: bool = False) -> dict[str, Tensor]:
    tokens = torch.randint(4, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    first = torch.zeros_like(tokens)
    first[:, 0] = 1
    more = {"decoder_input_ids": tokens.flip(0)} if pair else {}
    return {"input_ids": tokens, **more, **({"global_attention_mask": first} if global_attention else {})}


UNTRACEABLE: Mapping[str, tuple[Callable[[int], nn.Module], dict[str, Tensor]]] = {
    "longformer": (_longformer, _text(global_attention=True)),
    "switch": (_switch, _text(pair=True)),
    "nllb-moe": (_nllb_moe, _text(pair=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRACEABLE)
def test_untraceable_transformers_are_planned_whole(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    build, inputs = UNTRACEABLE[name]
    torch.manual_seed(0)
    base = build(32)
    plan = hpt.make_plan(build(64), base=base, example_inputs=inputs)
    assert "unused" not in {row.role for row in plan}
    experts = {row.name.split(".")[-2]: set() for row in plan if "expert_" in row.name}
    for row in plan:
        if "expert_" in row.name and row.name.endswith("weight"):
            experts[row.name.split(".")[-2]].add((row.role, row.init_mult, row.lr_mult))
    assert all(len(rows) == 1 for rows in experts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRACEABLE)
def test_the_oracle_agrees_on_untraceable_transformers(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    build, inputs = UNTRACEABLE[name]
    report = verify_plan(build, widths=(64, 128, 256), example_inputs=inputs, base=64)
    assert report.verdict == "PASS", report.reasons
    assert all("expert_" in unseen for unseen in report.unseen)
