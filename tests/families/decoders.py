"""Decoder-only language models, dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import LAYERS, VOCAB, Family, decoder, text_inputs


def _gpt2(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {**dropout, "vocab_size": VOCAB, "n_embd": width, "n_layer": LAYERS, "n_head": heads, "n_positions": 32}


def _gptj(width: int, heads: int) -> Mapping[str, Any]:
    return {**_gpt2(width, heads), "rotary_dim": width // heads // 2, "n_ctx": 32}


def _gpt_neo(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}
    types = {"attention_types": [[["global", "local"], 1]], "window_size": 4, "num_layers": LAYERS}
    return {**dropout, **types, "vocab_size": VOCAB, "hidden_size": width, "num_heads": heads}


def _bloom(width: int, heads: int) -> Mapping[str, Any]:
    return {"vocab_size": VOCAB, "hidden_size": width, "n_layer": LAYERS, "n_head": heads}


def _mpt(width: int, heads: int) -> Mapping[str, Any]:
    return {"vocab_size": VOCAB, "d_model": width, "n_layers": LAYERS, "n_heads": heads, "max_seq_len": 32,
            "expansion_ratio": 2}  # fmt: skip


def _xglm(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"d_model": width, "ffn_dim": 2 * width, "num_layers": LAYERS, "attention_heads": heads}
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
    return {**sizes, **dropout, "vocab_size": VOCAB, "max_position_embeddings": 32}


def _ctrl(width: int, heads: int) -> Mapping[str, Any]:
    return {**_gpt2(width, heads), "dff": 2 * width}


def _full_heads(name: str, stem: str, **extra: Any) -> Family:
    return decoder(name, stem, num_key_value_heads=None, head_dim=None, **extra)


DECODERS = (
    decoder("llama", "Llama"),
    decoder("mistral", "Mistral"),
    decoder("qwen2", "Qwen2"),
    decoder("qwen3", "Qwen3"),
    decoder("gemma", "Gemma"),
    decoder("gemma2", "Gemma2", query_pre_attn_scalar=lambda w, h: w // h),
    decoder("gemma3", "Gemma3", config="Gemma3TextConfig", query_pre_attn_scalar=lambda w, h: w // h),
    decoder("phi", "Phi", resid_pdrop=0.0, embd_pdrop=0.0),
    decoder("phi3", "Phi3"),
    decoder("stablelm", "StableLm"),
    decoder("cohere", "Cohere"),
    decoder("olmo", "Olmo"),
    decoder("olmo2", "Olmo2"),
    decoder("starcoder2", "Starcoder2", residual_dropout=0.0, embedding_dropout=0.0),
    decoder("granite", "Granite"),
    decoder("smollm3", "SmolLM3"),
    _full_heads("gpt-neox", "GPTNeoX"),
    decoder("opt", "OPT", num_key_value_heads=None, word_embed_proj_dim=lambda w, h: w, ffn_dim=lambda w, h: 2 * w,
            dropout=0.0),
    _full_heads("falcon", "Falcon", ffn_hidden_size=lambda w, h: 2 * w),
    Family("gpt2", "decoder", "GPT2LMHeadModel", "GPT2Config", _gpt2, text_inputs),
    Family("bloom", "decoder", "BloomForCausalLM", "BloomConfig", _bloom, text_inputs),
    decoder("nemotron", "Nemotron"),
    decoder("exaone4", "Exaone4"),
    decoder("glm", "Glm"),
    decoder("glm4", "Glm4"),
    decoder("ernie4-5", "Ernie4_5"),
    decoder("hunyuan", "HunYuanDenseV1"),
    decoder("cohere2", "Cohere2"),
    decoder("olmo3", "Olmo3"),
    decoder("arcee", "Arcee"),
    decoder("apertus", "Apertus"),
    decoder("diffllama", "DiffLlama"),
    decoder("helium", "Helium"),
    decoder("seed-oss", "SeedOss"),
    decoder("ministral", "Ministral"),
    decoder("bitnet", "BitNet"),
    decoder("nanochat", "NanoChat"),
    decoder("vaultgemma", "VaultGemma", query_pre_attn_scalar=lambda w, h: w // h),
    decoder("gemma3n", "Gemma3n", config="Gemma3nTextConfig", num_kv_shared_layers=0, hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=40, laurel_rank=8, activation_sparsity_pattern=None,
            layer_types=["sliding_attention", "full_attention"], altup_num_inputs=2),
    decoder("doge", "Doge"),
    decoder("minicpm3", "MiniCPM3", q_lora_rank=lambda w, h: w // 2, kv_lora_rank=lambda w, h: w // 4, head_dim=None,
            qk_rope_head_dim=4, qk_nope_head_dim=lambda w, h: w // h, v_head_dim=lambda w, h: w // h,
            num_key_value_heads=lambda w, h: h),
    _full_heads("persimmon", "Persimmon"),
    _full_heads("biogpt", "BioGpt", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    Family("gptj", "decoder", "GPTJForCausalLM", "GPTJConfig", _gptj, text_inputs),
    Family("codegen", "decoder", "CodeGenForCausalLM", "CodeGenConfig", _gptj, text_inputs),
    Family("gpt-bigcode", "decoder", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", _gpt2, text_inputs),
    Family("gpt-neo", "decoder", "GPTNeoForCausalLM", "GPTNeoConfig", _gpt_neo, text_inputs),
    Family("openai-gpt", "decoder", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", _gpt2, text_inputs),
    Family("ctrl", "decoder", "CTRLLMHeadModel", "CTRLConfig", _ctrl, text_inputs),
    Family("mpt", "decoder", "MptForCausalLM", "MptConfig", _mpt, text_inputs),
    Family("xglm", "decoder", "XGLMForCausalLM", "XGLMConfig", _xglm, text_inputs),
)  # fmt: skip
