"""Recurrent, state-space and linear-attention language models, and hybrids of them with attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import LAYERS, VOCAB, Family, decoder, text_inputs


def _mamba(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "state_size": 4, "num_hidden_layers": LAYERS, "time_step_rank": width // 8}
    return {**sizes, "vocab_size": VOCAB}


def _mamba2(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"num_heads": heads, "head_dim": 2 * width // heads, "n_groups": 1, "chunk_size": 4}
    return {**sizes, "vocab_size": VOCAB, "hidden_size": width, "state_size": 4, "num_hidden_layers": LAYERS}


def _rwkv(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "attention_hidden_size": width, "intermediate_size": 2 * width}
    return {**sizes, "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "context_length": 32}


def _xlstm(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "embedding_dim": width, "num_heads": heads, "num_hidden_layers": LAYERS,
             "num_blocks": LAYERS, "chunk_size": 4, "max_inference_chunksize": 4}  # fmt: skip
    return {**sizes, "vocab_size": VOCAB, "return_last_states": False}


_JAMBA = {
    "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 4,
    "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": lambda w, h: w // 8, "use_mamba_kernels": False,
}  # fmt: skip
_MAMBA2 = {"mamba_n_heads": lambda w, h: h, "mamba_d_head": lambda w, h: 2 * w // h, "mamba_d_state": 4,
           "mamba_n_groups": 1, "mamba_chunk_size": 4, "mamba_expand": 2}  # fmt: skip
_DELTA = {"linear_num_value_heads": lambda w, h: h, "linear_num_key_heads": lambda w, h: h // 2,
          "linear_key_head_dim": lambda w, h: w // h, "linear_value_head_dim": lambda w, h: w // h}  # fmt: skip
_LINEAR_THEN_FULL = {"layer_types": ["linear_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": lambda w, h: w,
            "shared_expert_intermediate_size": lambda w, h: w}  # fmt: skip


def _hybrid(name: str, stem: str, **extra: Any) -> Family:
    return decoder(name, stem, "state-space", **extra)


STATE_SPACE = (
    Family("mamba", "state-space", "MambaForCausalLM", "MambaConfig", _mamba, text_inputs, grows_heads=False),
    Family("falcon-mamba", "state-space", "FalconMambaForCausalLM", "FalconMambaConfig", _mamba, text_inputs,
           grows_heads=False),
    Family("mamba2", "state-space", "Mamba2ForCausalLM", "Mamba2Config", _mamba2, text_inputs),
    Family("rwkv", "state-space", "RwkvForCausalLM", "RwkvConfig", _rwkv, text_inputs, grows_heads=False),
    _hybrid("recurrent-gemma", "RecurrentGemma", num_hidden_layers=3, lru_width=lambda w, h: w,
            attention_window_size=8, attention_dropout=0.0),
    _hybrid("jamba", "Jamba", **_JAMBA),
    _hybrid("bamba", "Bamba", **_MAMBA2, attn_layer_indices=[1]),
    _hybrid("falcon-h1", "FalconH1", **_MAMBA2, mamba_d_ssm=lambda w, h: 2 * w),
    _hybrid("granite-moe-hybrid", "GraniteMoeHybrid", **_MAMBA2, num_local_experts=4, num_experts_per_tok=2,
            shared_intermediate_size=lambda w, h: w, layer_types=["mamba", "attention"]),
    _hybrid("lfm2", "Lfm2", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False,
            conv_L_cache=3),
    _hybrid("zamba", "Zamba", layers_block_type=["mamba", "hybrid", "hybrid"], num_hidden_layers=3,
            mamba_d_state=4, n_mamba_heads=2, mamba_dt_rank=lambda w, h: w // 8, use_mamba_kernels=False, head_dim=None,
            num_key_value_heads=lambda w, h: h),
    _hybrid("zamba2", "Zamba2", layers_block_type=["mamba", "hybrid"], mamba_d_state=4, mamba_ngroups=1,
            n_mamba_heads=lambda w, h: h, mamba_headdim=lambda w, h: 2 * w // h, chunk_size=4, adapter_rank=4,
            num_key_value_heads=lambda w, h: h, head_dim=None, use_mem_eff_path=False),
    _hybrid("qwen3-next", "Qwen3Next", **_DELTA, **_LINEAR_THEN_FULL, **_EXPERTS),
    _hybrid("qwen3-5", "Qwen3_5", config="Qwen3_5TextConfig", **_DELTA, **_LINEAR_THEN_FULL),
    _hybrid("olmo-hybrid", "OlmoHybrid", **_DELTA, **_LINEAR_THEN_FULL),
    _hybrid("nemotron-h", "NemotronH", mamba_num_heads=lambda w, h: h, mamba_head_dim=lambda w, h: 2 * w // h,
            ssm_state_size=4, n_groups=1, chunk_size=4, num_hidden_layers=None, hybrid_override_pattern="M*-"),
    Family("xlstm", "state-space", "xLSTMForCausalLM", "xLSTMConfig", _xlstm, text_inputs),
)  # fmt: skip
