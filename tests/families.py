"""Unmodified transformers models at any width, with random weights: what the planner and the role oracle are tried on.

`FAMILIES[name].build(width, heads)` is a two-layer model whose every width axis follows `width`; `.inputs()` is one
batch for it. Fixed heads make the head dimension grow; heads in proportion to the width keep it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH, LENGTH, VOCAB, LAYERS, PIXELS = 4, 12, 40, 2, 32

Sizes = Callable[[int, int], Mapping[str, Any]]
"""(width, heads) -> configuration entries."""


@dataclass(frozen=True)
class Family:
    """One model family: `model` and `config` name its transformers classes; `sizes` sets the configuration's widths.

    kind: decoder, moe, encoder, encoder-decoder, state-space, vision or audio. heads: at the base width.
    """

    name: str
    kind: str
    model: str
    config: str
    sizes: Sizes
    inputs: Callable[[], Mapping[str, Tensor]]
    heads: int = 4
    grows_heads: bool = True

    def build(self, width: int, heads: int | None = None) -> nn.Module:
        """A freshly initialised model. Raises AttributeError where this transformers version lacks the family."""
        import transformers

        config = getattr(transformers, self.config)(**self.sizes(width, self.heads if heads is None else heads))
        config.use_cache = False
        return getattr(transformers, self.model)(config)


def tokens(vocabulary: int = VOCAB, length: int = LENGTH) -> Tensor:
    """[batch, length] int64, the same at every call."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(4, vocabulary, (BATCH, length), generator=draw)


def text_inputs() -> Mapping[str, Tensor]:
    return {"input_ids": tokens()}


def pair_inputs() -> Mapping[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens().flip(0)}


def pixels(size: int = PIXELS, channels: int = 3) -> Mapping[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(BATCH, channels, size, size, generator=draw)}


_COMMON = {
    "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "max_position_embeddings": 32, "attention_dropout": 0.0,
    "hidden_dropout": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_ENCODER_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _llama_like(**extra: Any) -> Sizes:
    """Sizes under the names that most decoders share, grouped-query heads included; `extra` may hold callables."""

    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        own = {k: v(width, heads) if callable(v) else v for k, v in extra.items()}
        names = {
            **_COMMON, "hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads,
            "num_key_value_heads": heads // 2, "head_dim": width // heads,
        }  # fmt: skip
        return {k: v for k, v in {**names, **own}.items() if v is not None}

    return sizes


def _encoder(**extra: Any) -> Sizes:
    own = {**_ENCODER_DROPOUT, "num_key_value_heads": None, "head_dim": None, "attention_dropout": None, **extra}
    return _llama_like(**own, type_vocab_size=2)


def _decoder(name: str, stem: str, kind: str = "decoder", *, config: str = "", **extra: Any) -> Family:
    return Family(name, kind, f"{stem}ForCausalLM", config or f"{stem}Config", _llama_like(**extra), text_inputs)


def _masked(name: str, stem: str, **extra: Any) -> Family:
    return Family(name, "encoder", f"{stem}ForMaskedLM", f"{stem}Config", _encoder(**extra), text_inputs)


def _bart_like(name: str, stem: str) -> Family:
    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        both = {
            f"{side}_{key}": value
            for side in ("encoder", "decoder")
            for key, value in {"layers": LAYERS, "attention_heads": heads, "ffn_dim": 2 * width}.items()
        }
        dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        return {**_COMMON, **both, **dropout, "d_model": width, "decoder_start_token_id": 1}

    return Family(name, "encoder-decoder", f"{stem}ForConditionalGeneration" if stem != "Marian" else "MarianMTModel",
                  f"{stem}Config", sizes, pair_inputs)  # fmt: skip


def _vision(name: str, stem: str, **extra: Any) -> Family:
    dropout = {**_ENCODER_DROPOUT, "image_size": PIXELS, "patch_size": 8, "num_labels": 10, "drop_path_rate": 0.0}
    cleared = dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size"))
    model = f"{stem}ForImageClassification"
    return Family(name, "vision", model, f"{stem}Config", _llama_like(**cleared, **{**dropout, **extra}), pixels)


def _stages(name: str, stem: str, sizes: Sizes, **extra: Any) -> Family:
    return Family(name, "vision", f"{stem}ForImageClassification", f"{stem}Config", sizes, pixels, **extra)


def _gpt2(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {**dropout, "vocab_size": VOCAB, "n_embd": width, "n_layer": LAYERS, "n_head": heads, "n_positions": 32}


def _bloom(width: int, heads: int) -> Mapping[str, Any]:
    return {"vocab_size": VOCAB, "hidden_size": width, "n_layer": LAYERS, "n_head": heads}


def _distilbert(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"dropout": 0.0, "attention_dropout": 0.0}
    sizes = {"dim": width, "hidden_dim": 2 * width, "n_layers": LAYERS, "n_heads": heads}
    return {**dropout, **sizes, "vocab_size": VOCAB, "max_position_embeddings": 32}


def _t5(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_heads": heads, "num_layers": LAYERS}
    return {**sizes, "vocab_size": VOCAB, "dropout_rate": 0.0, "decoder_start_token_id": 0}


def _whisper(width: int, heads: int) -> Mapping[str, Any]:
    both = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": LAYERS, "attention_heads": heads, "ffn_dim": 2 * width}.items()
    }
    positions = {"max_source_positions": 8, "max_target_positions": 32, "num_mel_bins": 8}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return {**both, **positions, **special, "d_model": width, "vocab_size": VOCAB, "dropout": 0.0}


def _whisper_inputs() -> Mapping[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {"input_features": torch.randn(BATCH, 8, 16, generator=draw), "decoder_input_ids": tokens()}


def _wav2vec2(width: int, heads: int) -> Mapping[str, Any]:
    convs = {"conv_dim": (width, width), "conv_kernel": (4, 4), "conv_stride": (4, 4), "num_feat_extract_layers": 2}
    positional = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    dropout = dict.fromkeys(
        (
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
        ),
        0.0,
    )
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads, "num_hidden_layers": 2}
    return {**convs, **positional, **dropout, **sizes, "vocab_size": VOCAB, "apply_spec_augment": False}


def _waves() -> Mapping[str, Tensor]:
    return {"input_values": torch.randn(BATCH, 320, generator=torch.Generator().manual_seed(1))}


def _clip(width: int, heads: int) -> Mapping[str, Any]:
    tower = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
    }
    text = {**tower, "vocab_size": VOCAB, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    return {
        "text_config": text,
        "vision_config": {**tower, "image_size": PIXELS, "patch_size": 8},
        "projection_dim": width,
    }


def _clip_inputs() -> Mapping[str, Tensor]:
    return {**text_inputs(), **pixels()}


def _swin(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {**_ENCODER_DROPOUT, "drop_path_rate": 0.0, "num_labels": 10}
    sizes = {"embed_dim": width, "depths": [1, 1], "num_heads": [heads, heads], "window_size": 4}
    return {**dropout, **sizes, "image_size": PIXELS, "patch_size": 4, "mlp_ratio": 2.0}


def _convnext(width: int, heads: int) -> Mapping[str, Any]:
    return {"hidden_sizes": [width, 2 * width], "depths": [1, 1], "num_stages": 2, "num_labels": 10, "patch_size": 4}


def _resnet(layer_type: str) -> Sizes:
    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        stages = {"embedding_size": width, "hidden_sizes": [width, 2 * width], "depths": [1, 1], "num_labels": 10}
        return {**stages, "layer_type": layer_type}

    return sizes


def _segformer(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [width, 2 * width]}
    kernels = {"patch_sizes": [4, 3], "strides": [4, 2], "num_attention_heads": [heads, heads], "mlp_ratios": [2, 2]}
    dropout = {**_ENCODER_DROPOUT, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    return {**stages, **kernels, **dropout, "decoder_hidden_size": width, "num_labels": 10}


def _mamba(width: int, heads: int) -> Mapping[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": width,
        "state_size": 4,
        "num_hidden_layers": LAYERS,
        "time_step_rank": width // 8,
    }


def _mamba2(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"num_heads": heads, "head_dim": 2 * width // heads, "n_groups": 1, "chunk_size": 4}
    return {**sizes, "vocab_size": VOCAB, "hidden_size": width, "state_size": 4, "num_hidden_layers": LAYERS}


def _rwkv(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "attention_hidden_size": width, "intermediate_size": 2 * width}
    return {**sizes, "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "context_length": 32}


def _deepseek(width: int, heads: int) -> Mapping[str, Any]:
    latent = {"q_lora_rank": width // 2, "kv_lora_rank": width // 4, "qk_rope_head_dim": 4, "head_dim": 4,
              "qk_nope_head_dim": width // heads, "v_head_dim": width // heads}  # fmt: skip
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
               "moe_intermediate_size": width, "first_k_dense_replace": 1}  # fmt: skip
    return {**_llama_like()(width, heads), **latent, **experts, "num_key_value_heads": heads}


_QWEN_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": lambda w, h: w,
    "norm_topk_prob": True,
}
_JAMBA = {
    "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 4,
    "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": lambda w, h: w // 8, "use_mamba_kernels": False,
}  # fmt: skip

_ALL = (
    _decoder("llama", "Llama"),
    _decoder("mistral", "Mistral"),
    _decoder("qwen2", "Qwen2"),
    _decoder("qwen3", "Qwen3"),
    _decoder("gemma", "Gemma"),
    _decoder("gemma2", "Gemma2", query_pre_attn_scalar=lambda w, h: w // h),
    _decoder("gemma3", "Gemma3", config="Gemma3TextConfig", query_pre_attn_scalar=lambda w, h: w // h),
    _decoder("phi", "Phi", resid_pdrop=0.0, embd_pdrop=0.0),
    _decoder("phi3", "Phi3"),
    _decoder("stablelm", "StableLm"),
    _decoder("cohere", "Cohere"),
    _decoder("olmo", "Olmo"),
    _decoder("olmo2", "Olmo2"),
    _decoder("starcoder2", "Starcoder2", residual_dropout=0.0, embedding_dropout=0.0),
    _decoder("granite", "Granite"),
    _decoder("smollm3", "SmolLM3"),
    _decoder("gpt-neox", "GPTNeoX", num_key_value_heads=None, head_dim=None),
    _decoder("opt", "OPT", word_embed_proj_dim=lambda w, h: w, ffn_dim=lambda w, h: 2 * w, dropout=0.0),
    _decoder("falcon", "Falcon", num_key_value_heads=None, head_dim=None, ffn_hidden_size=lambda w, h: 2 * w),
    Family("gpt2", "decoder", "GPT2LMHeadModel", "GPT2Config", _gpt2, text_inputs),
    Family("bloom", "decoder", "BloomForCausalLM", "BloomConfig", _bloom, text_inputs),
    _decoder("mixtral", "Mixtral", "moe", num_local_experts=4),
    _decoder("qwen2-moe", "Qwen2Moe", "moe", **_QWEN_MOE, shared_expert_intermediate_size=lambda w, h: w),
    _decoder("qwen3-moe", "Qwen3Moe", "moe", **_QWEN_MOE),
    _decoder("olmoe", "Olmoe", "moe", num_experts=4, num_experts_per_tok=2),
    _decoder("gpt-oss", "GptOss", "moe", num_local_experts=4, num_experts_per_tok=2),
    Family("deepseek-v2", "moe", "DeepseekV2ForCausalLM", "DeepseekV2Config", _deepseek, text_inputs),
    Family("deepseek-v3", "moe", "DeepseekV3ForCausalLM", "DeepseekV3Config", _deepseek, text_inputs),
    _masked("bert", "Bert"),
    _masked("roberta", "Roberta", max_position_embeddings=34),
    _masked("deberta-v2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4),
    _masked("albert", "Albert", embedding_size=lambda w, h: w // 2, num_hidden_groups=1),
    _masked("albert-bottleneck", "Albert", embedding_size=16, num_hidden_groups=1),
    _masked("electra", "Electra", embedding_size=lambda w, h: w),
    _masked("modernbert", "ModernBert", num_key_value_heads=None),
    Family("distilbert", "encoder", "DistilBertForMaskedLM", "DistilBertConfig", _distilbert, text_inputs),
    Family("t5", "encoder-decoder", "T5ForConditionalGeneration", "T5Config", _t5, pair_inputs),
    _bart_like("bart", "Bart"),
    _bart_like("pegasus", "Pegasus"),
    _bart_like("marian", "Marian"),
    Family("whisper", "audio", "WhisperForConditionalGeneration", "WhisperConfig", _whisper, _whisper_inputs),
    Family("wav2vec2", "audio", "Wav2Vec2ForCTC", "Wav2Vec2Config", _wav2vec2, _waves),
    _vision("vit", "ViT"),
    _vision("deit", "DeiT"),
    _vision("beit", "Beit", use_relative_position_bias=True),
    _vision("dinov2", "Dinov2", mlp_ratio=2),
    _stages("swin", "Swin", _swin),
    _stages("convnext", "ConvNext", _convnext, grows_heads=False),
    _stages("resnet-basic", "ResNet", _resnet("basic"), grows_heads=False),
    _stages("resnet-bottleneck", "ResNet", _resnet("bottleneck"), grows_heads=False),
    _stages("segformer", "Segformer", _segformer),
    Family("clip", "vision", "CLIPModel", "CLIPConfig", _clip, _clip_inputs),
    Family("mamba", "state-space", "MambaForCausalLM", "MambaConfig", _mamba, text_inputs, grows_heads=False),
    Family("mamba2", "state-space", "Mamba2ForCausalLM", "Mamba2Config", _mamba2, text_inputs),
    Family("rwkv", "state-space", "RwkvForCausalLM", "RwkvConfig", _rwkv, text_inputs, grows_heads=False),
    _decoder("recurrent-gemma", "RecurrentGemma", "state-space", num_hidden_layers=3, lru_width=lambda w, h: w,
             attention_window_size=8, attention_dropout=0.0),
    _decoder("jamba", "Jamba", "state-space", **_JAMBA),
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}
"""Every family tried, by name."""
