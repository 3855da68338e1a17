"""Denoisers and autoencoders of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from outside.family import BATCH, Build, Outside, indices, normal
from torch import nn

Inputs = Mapping[str, Any]


def _model(name: str, **options: Any) -> nn.Module:
    return getattr(import_module("diffusers"), name)(**options)


def _times(name: str = "timestep") -> Inputs:
    return {name: torch.tensor([1, 20, 300, 900])}


def _latents(name: str = "hidden_states", channels: int = 4, size: int = 8) -> Inputs:
    return {name: normal(channels, size, size), "return_dict": False}


def _transformer(width: int, depth: int) -> dict[str, Any]:
    return {"num_attention_heads": 4, "attention_head_dim": width // 4, "num_layers": depth}


def _unet(width: int, depth: int) -> nn.Module:
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"block_out_channels": (width, 2 * width), "attention_head_dim": width // 4, "norm_num_groups": 4}
    return _model("UNet2DModel", sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, **blocks, **sizes)


def _unet_condition(width: int, depth: int) -> nn.Module:
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    sizes = {"block_out_channels": (width, 2 * width), "attention_head_dim": 4, "norm_num_groups": 4}
    return _model("UNet2DConditionModel", sample_size=8, layers_per_block=1, cross_attention_dim=32, **blocks, **sizes)


def _vae(name: str, **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        sizes = {"block_out_channels": (width, 2 * width), "norm_num_groups": 4, "sample_size": 16}
        return _model(name, **blocks, **sizes, **options)

    return build


def _dit(width: int, depth: int) -> nn.Module:
    return _model("DiTTransformer2DModel", in_channels=4, sample_size=8, **_transformer(width, depth))


def _pixart(width: int, depth: int) -> nn.Module:
    text = {"cross_attention_dim": width, "caption_channels": 32, "use_additional_conditions": False}
    return _model("PixArtTransformer2DModel", out_channels=4, sample_size=8, **text, **_transformer(width, depth))


def _sd3(**options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        text = {"joint_attention_dim": 32, "caption_projection_dim": width, "pooled_projection_dim": 24}
        image = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8}
        return _model("SD3Transformer2DModel", **text, **image, **_transformer(width, depth), **options)

    return build


def _flux(width: int, depth: int) -> nn.Module:
    text = {"joint_attention_dim": 32, "pooled_projection_dim": 24, "num_single_layers": depth}
    rope = (width // 16, width // 16, width // 8)
    return _model("FluxTransformer2DModel", in_channels=4, axes_dims_rope=rope, **text, **_transformer(width, depth))


def _aura(width: int, depth: int) -> nn.Module:
    text = {"joint_attention_dim": 32, "caption_projection_dim": width, "num_mmdit_layers": depth}
    sizes = {"num_attention_heads": 4, "attention_head_dim": width // 4, "num_single_dit_layers": depth}
    return _model("AuraFlowTransformer2DModel", sample_size=8, pos_embed_max_size=16, **text, **sizes)


def _sana(width: int, depth: int) -> nn.Module:
    cross = {"num_cross_attention_heads": 4, "cross_attention_head_dim": width // 4, "cross_attention_dim": width}
    image = {"in_channels": 4, "out_channels": 4, "sample_size": 8, "caption_channels": 32}
    return _model("SanaTransformer2DModel", **cross, **image, **_transformer(width, depth))


def _lumina(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_layers": depth, "num_attention_heads": 4, "multiple_of": width // 2}
    return _model("LuminaNextDiT2DModel", sample_size=8, cross_attention_dim=32, learn_sigma=False, **sizes)


def _prior(width: int, depth: int) -> nn.Module:
    return _model("PriorTransformer", embedding_dim=24, num_embeddings=6, **_transformer(width, depth))


def _words() -> Inputs:
    return {"encoder_hidden_states": normal(6, 32, seed=2)}


def _sd3_inputs() -> Inputs:
    return {**_latents(), **_words(), **_times(), "pooled_projections": normal(24, seed=3)}


def _flux_inputs() -> Inputs:
    places = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(6, 3)}
    image = {"hidden_states": normal(16, 4), "pooled_projections": normal(24, seed=3), "return_dict": False}
    return {**image, **_words(), **places, "timestep": torch.rand(BATCH, generator=torch.Generator().manual_seed(4))}


def _pixart_inputs() -> Inputs:
    return {**_latents(), **_words(), **_times(), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _lumina_inputs() -> Inputs:
    angles = torch.zeros(BATCH, 1)
    return {**_latents(), **_words(), "timestep": angles[:, 0] + 0.5, "encoder_mask": torch.ones(BATCH, 6),
            "image_rotary_emb": angles, "cross_attention_kwargs": {}}  # fmt: skip


def _prior_inputs() -> Inputs:
    given = {"hidden_states": normal(24), "proj_embedding": normal(24, seed=2), "return_dict": False}
    return {**given, **_times(), "encoder_hidden_states": normal(6, 24, seed=3)}


def _family(name: str, build: Build, inputs: Any, *, deepens: bool = False, unused: bool = False) -> Outside:
    return Outside(f"diffusers-{name}", "diffusion", "diffusers", build, inputs, deepens, unused)


DIFFUSION = (
    _family("unet-2d", _unet, lambda: {**_latents("sample"), **_times()}),
    _family("unet-2d-condition", _unet_condition, lambda: {**_latents("sample"), **_times(), **_words()}),
    _family("autoencoder-kl", _vae("AutoencoderKL"), lambda: _latents("sample", 3, 16)),
    _family("dit", _dit, lambda: {**_latents(), **_times(), "class_labels": indices(10)}, deepens=True),
    _family("pixart", _pixart, _pixart_inputs, deepens=True),
    _family("sd3", _sd3(), _sd3_inputs, deepens=True),
    _family("sd3.5-qknorm-dual", _sd3(qk_norm="rms_norm", dual_attention_layers=(0,)), _sd3_inputs, deepens=True),
    _family("flux", _flux, _flux_inputs, deepens=True),
    _family("auraflow", _aura, lambda: {**_latents(), **_words(), **_times()}, deepens=True),
    _family("sana", _sana, lambda: {**_latents(), **_words(), **_times()}, deepens=True),
    _family("prior-transformer", _prior, _prior_inputs, deepens=True),
)
