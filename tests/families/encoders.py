"""Encoders of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families.family import LAYERS, VOCAB, Family, encoder, text_inputs


def _masked(name: str, stem: str, *, unused: bool = False, **extra: Any) -> Family:
    model, own = f"{stem}ForMaskedLM", {"unused": unused}
    return Family(name, "encoder", model, f"{stem}Config", encoder(**extra), text_inputs, **own)


def _distilbert(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"dropout": 0.0, "attention_dropout": 0.0}
    sizes = {"dim": width, "hidden_dim": 2 * width, "n_layers": LAYERS, "n_heads": heads}
    return {**dropout, **sizes, "vocab_size": VOCAB, "max_position_embeddings": 32}


def _xlnet(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"d_model": width, "n_layer": LAYERS, "n_head": heads, "d_inner": 2 * width, "d_head": width // heads}
    return {**sizes, "vocab_size": VOCAB, "dropout": 0.0}


def _xlm(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"emb_dim": width, "n_layers": LAYERS, "n_heads": heads, "max_position_embeddings": 32}
    return {**sizes, "vocab_size": VOCAB, "dropout": 0.0, "attention_dropout": 0.0, "n_langs": 1, "pad_index": 2}


def _funnel(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"d_model": width, "n_head": heads, "d_head": width // heads, "d_inner": 2 * width}
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return {**sizes, **dropout, "vocab_size": VOCAB, "block_sizes": [1, 1], "num_decoder_layers": 1}


ENCODERS = (
    _masked("bert", "Bert"),
    _masked("roberta", "Roberta", max_position_embeddings=34),
    _masked("deberta-v2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4),
    _masked("deberta", "Deberta", relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=8),
    _masked("albert", "Albert", embedding_size=lambda w, h: w // 2, num_hidden_groups=1),
    _masked("albert-bottleneck", "Albert", embedding_size=16, num_hidden_groups=1),
    _masked("electra", "Electra", embedding_size=lambda w, h: w),
    _masked("modernbert", "ModernBert", num_key_value_heads=None),
    Family("distilbert", "encoder", "DistilBertForMaskedLM", "DistilBertConfig", _distilbert, text_inputs),
    _masked("roformer", "RoFormer", embedding_size=lambda w, h: w),
    _masked("big-bird", "BigBird", attention_type="original_full"),
    _masked("big-bird-sparse", "BigBird", attention_type="block_sparse", block_size=2, num_random_blocks=1),
    _masked("longformer", "Longformer", unused=True, attention_window=4, max_position_embeddings=34),
    _masked("mobilebert", "MobileBert", embedding_size=16, true_hidden_size=lambda w, h: w // 2,
            intra_bottleneck_size=lambda w, h: w // 2),
    _masked("fnet", "FNet"),
    _masked("convbert", "ConvBert", embedding_size=lambda w, h: w, conv_kernel_size=3),
    _masked("mpnet", "MPNet", max_position_embeddings=34),
    _masked("ernie", "Ernie"),
    _masked("megatron-bert", "MegatronBert"),
    _masked("rembert", "RemBert", input_embedding_size=16, output_embedding_size=lambda w, h: w),
    _masked("camembert", "Camembert", max_position_embeddings=34),
    _masked("data2vec-text", "Data2VecText", max_position_embeddings=34),
    _masked("xlm-roberta-xl", "XLMRobertaXL", max_position_embeddings=34),
    _masked("roberta-prelayernorm", "RobertaPreLayerNorm", max_position_embeddings=34),
    _masked("squeezebert", "SqueezeBert", embedding_size=lambda w, h: w),
    _masked("ibert", "IBert", max_position_embeddings=34),
    _masked("nystromformer", "Nystromformer", segment_means_seq_len=12, num_landmarks=12),
    _masked("layoutlm", "LayoutLM", max_2d_position_embeddings=32),
    _masked("eurobert", "EuroBert", num_key_value_heads=lambda w, h: h // 2, head_dim=lambda w, h: w // h),
    _masked("esm", "Esm", position_embedding_type="rotary", max_position_embeddings=34, mask_token_id=3, unused=True),
    Family("canine", "encoder", "CanineForSequenceClassification", "CanineConfig",
           encoder(num_hash_buckets=16, local_transformer_stride=4), lambda: {"input_ids": text_inputs()["input_ids"]}),
    Family("xlnet", "encoder", "XLNetLMHeadModel", "XLNetConfig", _xlnet, text_inputs, unused=True),
    Family("xlm", "encoder", "XLMWithLMHeadModel", "XLMConfig", _xlm, text_inputs),
    Family("funnel", "encoder", "FunnelForMaskedLM", "FunnelConfig", _funnel, text_inputs),
)  # fmt: skip
