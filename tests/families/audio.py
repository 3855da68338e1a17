"""Models of speech and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import ENCODER_DROPOUT, LAYERS, VOCAB, Family, normal, tokens, two_sided, waves

_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def _whisper(width: int, heads: int) -> Mapping[str, Any]:
    positions = {"max_source_positions": 8, "max_target_positions": 32, "num_mel_bins": 8}
    return {**two_sided(width, heads), **positions, **_SPECIAL, "d_model": width, "vocab_size": VOCAB, "dropout": 0.0}


def _whisper_inputs() -> Mapping[str, Any]:
    return {"input_features": normal(8, 16), "decoder_input_ids": tokens()}


def _speech2text(width: int, heads: int) -> Mapping[str, Any]:
    convs = {"conv_kernel_sizes": [3, 3], "conv_channels": 2 * width, "input_feat_per_channel": 8, "input_channels": 1}
    positions = {"max_source_positions": 32, "max_target_positions": 32}
    sizes = {**two_sided(width, heads), "d_model": width, "vocab_size": VOCAB}
    return {
        **convs,
        **positions,
        **sizes,
        **_SPECIAL,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }


def _speech2text_inputs() -> Mapping[str, Any]:
    return {"input_features": normal(16, 8), "decoder_input_ids": tokens()}


def _wav2vec2(width: int, heads: int) -> Mapping[str, Any]:
    convs = {"conv_dim": (width, width), "conv_kernel": (4, 4), "conv_stride": (4, 4), "num_feat_extract_layers": 2}
    positional = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    parts = ("hidden", "activation", "attention", "feat_proj", "final", "conformer_conv", "feat_extract")
    dropout = {f"{part}_dropout": 0.0 for part in parts} | {"layerdrop": 0.0, "apply_spec_augment": False}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads}
    return {**convs, **positional, **dropout, **sizes, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}


def _data2vec(width: int, heads: int) -> Mapping[str, Any]:
    return {**_wav2vec2(width, heads), "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}


def _sew(width: int, heads: int) -> Mapping[str, Any]:
    return {**_wav2vec2(width, heads), "squeeze_factor": 2}


def _conformer(width: int, heads: int) -> Mapping[str, Any]:
    return {**_wav2vec2(width, heads), "conv_depthwise_kernel_size": 3, "position_embeddings_type": "relative"}


def _w2v_bert(width: int, heads: int) -> Mapping[str, Any]:
    own = {"feature_projection_input_dim": 8, "conv_depthwise_kernel_size": 3, "left_max_position_embeddings": 4,
           "right_max_position_embeddings": 4, "position_embeddings_type": "relative_key"}  # fmt: skip
    return {**_conformer(width, heads), **own}


def _ast(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads}
    patches = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16}
    return {**sizes, **patches, **ENCODER_DROPOUT, "num_hidden_layers": LAYERS, "num_labels": 10}


def _parakeet(width: int, heads: int) -> Mapping[str, Any]:
    inner = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads, "num_mel_bins": 16,
             "num_hidden_layers": LAYERS, "conv_kernel_size": 3, "subsampling_conv_channels": width, "dropout": 0.0,
             "dropout_positions": 0.0, "layerdrop": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
             "max_position_embeddings": 32}  # fmt: skip
    return {"encoder_config": inner, "vocab_size": VOCAB, "pad_token_id": 0}


def _musicgen(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_size": width, "ffn_dim": 2 * width, "num_attention_heads": heads, "num_hidden_layers": LAYERS}
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
    return {
        **sizes,
        **dropout,
        "vocab_size": VOCAB,
        "num_codebooks": 2,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
    }


def _musicgen_inputs() -> Mapping[str, Any]:
    return {"input_ids": tokens().repeat(2, 1)}


def _waves_of(name: str, stem: str, sizes: Any = _wav2vec2) -> Family:
    return Family(name, "audio", f"{stem}ForCTC", f"{stem}Config", sizes, waves, unused=True)


AUDIO = (
    Family("whisper", "audio", "WhisperForConditionalGeneration", "WhisperConfig", _whisper, _whisper_inputs),
    _waves_of("wav2vec2", "Wav2Vec2"),
    _waves_of("hubert", "Hubert"),
    _waves_of("unispeech", "UniSpeech"),
    _waves_of("unispeech-sat", "UniSpeechSat"),
    _waves_of("wavlm", "WavLM"),
    _waves_of("sew", "SEW", _sew),
    _waves_of("data2vec-audio", "Data2VecAudio", _data2vec),
    _waves_of("wav2vec2-conformer", "Wav2Vec2Conformer", _conformer),
    Family("wav2vec2-bert", "audio", "Wav2Vec2BertForCTC", "Wav2Vec2BertConfig", _w2v_bert,
           lambda: {"input_features": normal(12, 8)}, unused=True),
    Family("speech2text", "audio", "Speech2TextForConditionalGeneration", "Speech2TextConfig", _speech2text,
           _speech2text_inputs),
    Family("ast", "audio", "ASTForAudioClassification", "ASTConfig", _ast, lambda: {"input_values": normal(32, 16)}),
    Family("parakeet", "audio", "ParakeetForCTC", "ParakeetCTCConfig", _parakeet,
           lambda: {"input_features": normal(32, 16)}),
    Family("musicgen", "audio", "MusicgenForCausalLM", "MusicgenDecoderConfig", _musicgen, _musicgen_inputs,
           unused=True),
)  # fmt: skip
