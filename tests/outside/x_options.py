"""x-transformers: one decoder under many of its options, and the variants of its family by the same hand."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from outside.family import Build, Outside, text
from torch import nn

VOCAB, LENGTH = 40, 12


def _decoder(wrapper: dict[str, Any] | None = None, **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        x = import_module("x_transformers")
        layers = x.Decoder(dim=width, depth=depth, heads=4, attn_dim_head=width // 4, ff_mult=2, **options)
        return x.TransformerWrapper(num_tokens=VOCAB, max_seq_len=LENGTH, attn_layers=layers, **(wrapper or {}))

    return build


def _family(name: str, build: Build, *, deepens: bool = True, unused: bool = False) -> Outside:
    return Outside(f"x-{name}", "language", "x_transformers", build, text(VOCAB, LENGTH), deepens, unused)


_ROTARY = {"rotary_pos_emb": True}

X_TRANSFORMERS = (
    _family("plain", _decoder()),
    _family("rotary-rmsnorm-swiglu", _decoder(**_ROTARY, use_rmsnorm=True, ff_glu=True, ff_swish=True)),
    _family("alibi-relu2", _decoder(alibi_pos_bias=True, ff_relu_squared=True)),
    _family("t5-bias", _decoder(rel_pos_bias=True)),
    _family("dynamic-pos-bias", _decoder(dynamic_pos_bias=True)),
    _family("qk-norm", _decoder(**_ROTARY, attn_qk_norm=True)),
    _family("qk-norm-scale", _decoder(**_ROTARY, attn_qk_norm=True, attn_qk_norm_dim_scale=True)),
    _family("qk-rmsnorm-value", _decoder(**_ROTARY, attn_qk_rmsnorm=True, attn_value_rmsnorm=True)),
    _family("gqa", _decoder(**_ROTARY, attn_kv_heads=2)),
    _family("scalenorm", _decoder(**_ROTARY, use_scalenorm=True)),
    _family("simple-rmsnorm", _decoder(**_ROTARY, use_simple_rmsnorm=True)),
    _family("dynamic-tanh", _decoder(**_ROTARY, use_dynamic_tanh=True)),
    _family("derf", _decoder(**_ROTARY, use_derf=True)),
    _family("post-norm", _decoder(**_ROTARY, pre_norm=False)),
    _family("sandwich-norm", _decoder(**_ROTARY, sandwich_norm=True)),
    _family("pre-and-post-norm", _decoder(**_ROTARY, pre_and_post_norm=True)),
    _family("macaron", _decoder(**_ROTARY, macaron=True)),
    _family("sandwich-order", _decoder(**_ROTARY, sandwich_coef=1)),
    _family("gate-residual", _decoder(**_ROTARY, gate_residual=True)),
    _family("scale-residual", _decoder(**_ROTARY, scale_residual=True)),
    _family("orthog-residual", _decoder(**_ROTARY, orthog_residual=True)),
    _family("layerscale", _decoder(**_ROTARY, use_layerscale=True)),
    _family("value-residual", _decoder(**_ROTARY, add_value_residual=True)),
    _family("reinject-input", _decoder(**_ROTARY, reinject_input=True)),
    _family("hyper-connections", _decoder(**_ROTARY, num_residual_streams=2)),
    _family("integrate-layers", _decoder(**_ROTARY, integrate_layers=True)),
    _family("unet-skips", _decoder(**_ROTARY, unet_skips=True)),
    _family("weight-tied", _decoder(**_ROTARY, weight_tie_layers=True)),
    _family("talking-heads", _decoder(**_ROTARY, attn_pre_talking_heads=True, attn_post_talking_heads=True)),
    _family("sigmoid-attention", _decoder(**_ROTARY, attn_sigmoid=True)),
    _family("l2-attention", _decoder(**_ROTARY, attn_l2_distance=True)),
    _family("softclamp", _decoder(**_ROTARY, attn_softclamp_logits=True, softclamp_output=True)),
    _family("gate-values", _decoder(**_ROTARY, attn_gate_values=True)),
    _family("mem-kv-shift", _decoder(**_ROTARY, attn_num_mem_kv=2, shift_tokens=1)),
    _family("latent-kv", _decoder(attn_use_latent_kv=True, attn_dim_latent_kv=16)),
    _family("residual-attention", _decoder(**_ROTARY, residual_attn=True)),
    _family("laser", _decoder(**_ROTARY, attn_laser=True)),
    _family("cope", _decoder(attn_use_cope=True, attn_cope_max_pos=8)),
    _family("tied-embedding", _decoder({"tie_embedding": True}, **_ROTARY)),
    _family("l2norm-embed", _decoder({"l2norm_embed": True}, **_ROTARY)),
    _family("sigsoftmax", _decoder({"sigsoftmax_logits": True}, **_ROTARY)),
    _family("mixture-of-softmax", _decoder({"mixture_of_softmax": True, "mixture_of_softmax_k": 2}, **_ROTARY)),
    _family("ff-post-ln", _decoder(**_ROTARY, ff_post_act_ln=True)),
)
