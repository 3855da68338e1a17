"""Encoder-decoder models of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import COMMON, LAYERS, VOCAB, Family, llama_like, pair_inputs, two_sided

_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def _bart_like(name: str, stem: str, model: str = "", *, unused: bool = False, **extra: Any) -> Family:
    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        return {**COMMON, **two_sided(width, heads), **_DROPOUT, "d_model": width, "decoder_start_token_id": 1, **extra}

    model = model or f"{stem}ForConditionalGeneration"
    return Family(name, "encoder-decoder", model, f"{stem}Config", sizes, pair_inputs, unused=unused)


def _t5(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_heads": heads, "num_layers": LAYERS}
    return {**sizes, "vocab_size": VOCAB, "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0}


def _switch(width: int, heads: int) -> Mapping[str, Any]:
    experts = {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 48}
    return {**_t5(width, heads), **experts, "num_decoder_layers": LAYERS}


def _fsmt(width: int, heads: int) -> Mapping[str, Any]:
    vocabularies = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB, "langs": ["en", "de"]}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {**two_sided(width, heads), "d_model": width, "max_position_embeddings": 32}
    return {**vocabularies, **special, **sizes, **_DROPOUT, "tie_word_embeddings": True}


def _prophetnet(width: int, heads: int) -> Mapping[str, Any]:
    sides = {"layers": LAYERS, "attention_heads": heads, "ffn_dim": 2 * width}
    both = {f"num_{side}_{k}": v for side in ("encoder", "decoder") for k, v in sides.items() if k != "ffn_dim"}
    ffn = {"encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width}
    return {**both, **ffn, **_DROPOUT, "hidden_size": width, "vocab_size": VOCAB, "max_position_embeddings": 32}


def _t5gemma(width: int, heads: int) -> Mapping[str, Any]:
    side = {**llama_like(query_pre_attn_scalar=width // heads)(width, heads), "dropout_rate": 0.0}
    return {"encoder": side, "decoder": {**side, "cross_attention_hidden_size": width}, "vocab_size": VOCAB}


ENCODER_DECODERS = (
    Family("t5", "encoder-decoder", "T5ForConditionalGeneration", "T5Config", _t5, pair_inputs),
    _bart_like("bart", "Bart"),
    _bart_like("pegasus", "Pegasus"),
    _bart_like("marian", "Marian", "MarianMTModel"),
    Family("mt5", "encoder-decoder", "MT5ForConditionalGeneration", "MT5Config", _t5, pair_inputs),
    Family("umt5", "encoder-decoder", "UMT5ForConditionalGeneration", "UMT5Config", _t5, pair_inputs),
    Family("switch", "encoder-decoder", "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
           _switch, pair_inputs),
    Family("t5gemma", "encoder-decoder", "T5GemmaForConditionalGeneration", "T5GemmaConfig", _t5gemma, pair_inputs),
    _bart_like("mbart", "MBart"),
    _bart_like("m2m100", "M2M100", encoder_layerdrop=0.0, decoder_layerdrop=0.0),
    _bart_like("blenderbot", "Blenderbot"),
    _bart_like("blenderbot-small", "BlenderbotSmall"),
    _bart_like("plbart", "PLBart"),
    _bart_like("led", "LED", unused=True, attention_window=4,
               max_encoder_position_embeddings=32, max_decoder_position_embeddings=32),
    _bart_like("bigbird-pegasus", "BigBirdPegasus", attention_type="original_full"),
    _bart_like("pegasus-x", "PegasusX", block_size=4, num_global_tokens=4),
    _bart_like("nllb-moe", "NllbMoe", num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2, expert_capacity=48,
               encoder_layerdrop=0.0, decoder_layerdrop=0.0),
    Family("fsmt", "encoder-decoder", "FSMTForConditionalGeneration", "FSMTConfig", _fsmt, pair_inputs),
    Family("prophetnet", "encoder-decoder", "ProphetNetForConditionalGeneration", "ProphetNetConfig", _prophetnet,
           pair_inputs),
)  # fmt: skip
