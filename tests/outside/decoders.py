"""Decoder families of transformers at any depth: what the depth rule is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from families import FAMILIES, Family
from families.family import text_inputs
from outside.family import Outside
from torch import nn

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = 4


def _deepened(family: Family, depth: int, width: int, extra: Mapping[str, Any]) -> nn.Module:
    import transformers

    sizes = dict(family.sizes(width, HEADS))
    key = next(name for name in _LAYERS if name in sizes)
    config = getattr(transformers, family.config)(**{**sizes, key: depth, **_listed(sizes, depth), **extra})
    config.use_cache = False
    return getattr(transformers, family.model)(config)


def _listed(sizes: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Entries that name every layer's kind, repeated up to the depth."""
    if "attention_types" in sizes:
        return {"attention_types": [[["global", "local"], depth // 2]]}
    return {}


def _decoder(name: str, family: str = "", **extra: Any) -> Outside:
    subject = FAMILIES[family or name]
    return Outside(
        name, "decoder", "transformers", lambda width, depth: _deepened(subject, depth, width, extra), text_inputs, True
    )


DECODERS = (
    _decoder("llama"),
    _decoder("mistral"),
    _decoder("qwen3"),
    _decoder("gemma2"),
    _decoder("gemma3"),
    _decoder("phi"),
    _decoder("cohere"),
    _decoder("cohere2"),
    _decoder("stablelm"),
    _decoder("stablelm-parallel", "stablelm", use_parallel_residual=True),
    _decoder("stablelm-parallel-qknorm", "stablelm", use_parallel_residual=True, qk_layernorm=True),
    _decoder("gptj"),
    _decoder("gpt-neox"),
    _decoder("gpt-neox-sequential", "gpt-neox", use_parallel_residual=False),
    _decoder("falcon"),
    _decoder("falcon-sequential", "falcon", parallel_attn=False),
    _decoder("olmo2"),
    _decoder("granite"),
    _decoder("granite-multipliers", "granite", residual_multiplier=0.22, embedding_multiplier=12.0, logits_scaling=4.0),
    _decoder("gpt2"),
    _decoder("gpt-neo"),
    _decoder("opt"),
    _decoder("bloom"),
    _decoder("mpt"),
    _decoder("starcoder2"),
    _decoder("glm4"),
    _decoder("smollm3"),
    _decoder("nemotron"),
    _decoder("mixtral"),
    _decoder("mamba"),
    _decoder("rwkv"),
)
"""Decoders by name; with "parallel", attention and MLP read the same norm and are added at once."""
