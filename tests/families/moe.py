"""Language models with mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import LAYERS, VOCAB, Family, decoder, llama_like, text_inputs


def _deepseek(width: int, heads: int) -> Mapping[str, Any]:
    latent = {"q_lora_rank": width // 2, "kv_lora_rank": width // 4, "qk_rope_head_dim": 4, "head_dim": 4,
              "qk_nope_head_dim": width // heads, "v_head_dim": width // heads}  # fmt: skip
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
               "moe_intermediate_size": width, "first_k_dense_replace": 1}  # fmt: skip
    return {**llama_like()(width, heads), **latent, **experts, "num_key_value_heads": heads}


def _dbrx(width: int, heads: int) -> Mapping[str, Any]:
    experts = {"ffn_hidden_size": 2 * width, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": width}
    sizes = {"d_model": width, "n_heads": heads, "n_layers": LAYERS, "max_seq_len": 32, "vocab_size": VOCAB}
    return {
        **sizes,
        "ffn_config": experts,
        "attn_config": {"kv_n_heads": heads // 2, "attn_pdrop": 0.0, "rope_theta": 1e4, "clip_qkv": 8.0},
    }


def _expert_width(width: int, heads: int) -> int:
    return width


_FOUR: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": _expert_width}
_QWEN: dict[str, Any] = {**_FOUR, "norm_topk_prob": True}
_LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": _expert_width, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip

MOE = (
    decoder("mixtral", "Mixtral", "moe", num_local_experts=4),
    decoder("qwen2-moe", "Qwen2Moe", "moe", **_QWEN, shared_expert_intermediate_size=_expert_width),
    decoder("qwen3-moe", "Qwen3Moe", "moe", **_QWEN),
    decoder("olmoe", "Olmoe", "moe", num_experts=4, num_experts_per_tok=2),
    decoder("gpt-oss", "GptOss", "moe", **_LOCAL),
    Family("deepseek-v2", "moe", "DeepseekV2ForCausalLM", "DeepseekV2Config", _deepseek, text_inputs),
    Family("deepseek-v3", "moe", "DeepseekV3ForCausalLM", "DeepseekV3Config", _deepseek, text_inputs),
    decoder("glm4-moe", "Glm4Moe", "moe", **_ROUTED),
    decoder("dots1", "Dots1", "moe", **_ROUTED),
    decoder("ernie4-5-moe", "Ernie4_5_Moe", "moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=_expert_width,
            moe_num_shared_experts=1, moe_layer_start_index=0, moe_layer_end_index=1, moe_layer_interval=1),
    decoder("hunyuan-moe", "HunYuanMoEV1", "moe", num_experts=4, moe_topk=2),
    decoder("phimoe", "Phimoe", "moe", **_LOCAL),
    decoder("minimax", "MiniMax", "moe", **_LOCAL, block_size=4),
    decoder("minimax-m2", "MiniMaxM2", "moe", **_LOCAL),
    decoder("granite-moe", "GraniteMoe", "moe", **_LOCAL),
    decoder("granite-moe-shared", "GraniteMoeShared", "moe", **_LOCAL, shared_intermediate_size=_expert_width),
    decoder("jetmoe", "JetMoe", "moe", **_LOCAL, kv_channels=lambda w, h: w // h, num_attention_heads=None,
            num_key_value_heads=lambda w, h: h // 2, head_dim=None),
    decoder("flex-olmo", "FlexOlmo", "moe", num_experts=4, num_experts_per_tok=2),
    decoder("llama4", "Llama4", "moe", config="Llama4TextConfig", **_LOCAL,
            intermediate_size_mlp=lambda w, h: 2 * w, attn_scale=0.1, moe_layers=[1]),
    decoder("doge-moe", "Doge", "moe", is_moe=True, num_experts=4, num_experts_per_tok=2),
    decoder("afmoe", "Afmoe", "moe", **_FOUR, num_dense_layers=1, num_shared_experts=1),
    decoder("solar-open", "SolarOpen", "moe", **_ROUTED),
    Family("dbrx", "moe", "DbrxForCausalLM", "DbrxConfig", _dbrx, text_inputs),
)  # fmt: skip
