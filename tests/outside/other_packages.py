"""Single models of smaller packages: tabular, audio, state space, latent and segmentation."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from outside.family import CLASSES, Build, Outside, images, indices, normal, text
from torch import Tensor, nn


def _made(package: str, name: str, *args: Any, **options: Any) -> nn.Module:
    return getattr(import_module(package), name)(*args, **options)


def _ft_transformer(width: int, depth: int) -> nn.Module:
    sizes = {
        "n_blocks": depth,
        "d_block": width,
        "attention_n_heads": 4,
        "ffn_d_hidden": 2 * width,
        "ffn_d_hidden_multiplier": None,
    }
    rates = dict.fromkeys(("attention_dropout", "ffn_dropout", "residual_dropout"), 0.0)
    columns = {"n_cont_features": 5, "cat_cardinalities": [4, 7], "d_out": CLASSES}
    return _made("rtdl_revisiting_models", "FTTransformer", **columns, **sizes, **rates)


def _rtdl_resnet(width: int, depth: int) -> nn.Module:
    sizes = {"n_blocks": depth, "d_block": width, "d_hidden_multiplier": 2.0, "dropout1": 0.0, "dropout2": 0.0}
    return _made("rtdl_revisiting_models", "ResNet", d_in=9, d_out=CLASSES, **sizes)


def _rtdl_mlp(width: int, depth: int) -> nn.Module:
    return _made("rtdl_revisiting_models", "MLP", d_in=9, d_out=CLASSES, n_blocks=depth, d_block=width, dropout=0.0)


def _kan(width: int, depth: int) -> nn.Module:
    model = _made("kan", "KAN", width=[6, width, 3], grid=3, k=3, seed=0, auto_save=False, symbolic_enabled=False)
    model.speed()
    return model


def _mamba(width: int, depth: int) -> nn.Module:
    module = import_module("mambapy.mamba")
    config = module.MambaConfig(d_model=width, n_layers=depth, d_state=8, dt_rank=width // 8, pscan=False)
    return nn.Sequential(nn.Embedding(40, width), module.Mamba(config), module.RMSNorm(width), nn.Linear(width, 40))


class _Minimal(nn.Module):
    """Token and position embeddings, a core that keeps [batch, length, width], a norm and a readout."""

    def __init__(self, width: int, core: nn.Module, length: int = 12) -> None:
        super().__init__()
        self.embed, self.core = nn.Embedding(40, width), core
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.norm(self.core(self.embed(tokens))))


def _core(package: str, name: str, **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        sizes = {key: value(width) if callable(value) else value for key, value in options.items()}
        return _Minimal(width, _made(package, name, dim=width, depth=depth, **sizes))

    return build


def _linear_attention(width: int, depth: int) -> nn.Module:
    sizes = {"num_tokens": 40, "dim": width, "depth": depth, "max_seq_len": 12, "heads": 4, "dim_head": width // 4}
    return _made("linear_attention_transformer", "LinearAttentionTransformerLM", causal=False, **sizes)


def _perceiver(width: int, depth: int) -> nn.Module:
    sizes = {"num_freq_bands": 4, "max_freq": 8.0, "depth": depth, "num_latents": 8, "latent_dim": width}
    heads = {"cross_heads": 2, "latent_heads": 4, "cross_dim_head": width // 2, "latent_dim_head": width // 4}
    return _made("perceiver_pytorch", "Perceiver", input_axis=1, num_classes=CLASSES, **sizes, **heads)


def _smp(name: str) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        model = _made(
            "segmentation_models_pytorch", name, "tu-resnet10t", encoder_depth=3, encoder_weights=None, classes=4,
            decoder_channels=(width, width, width),
        )  # fmt: skip
        return model

    return build


def _table() -> tuple[Tensor, Tensor]:
    return normal(5), torch.stack([indices(4), indices(7, seed=2)], 1)


def _family(name: str, kind: str, package: str, build: Build, inputs: Any, **flags: bool) -> Outside:
    return Outside(name, kind, package, build, inputs, **flags)


_HEAD = {"heads": 4, "dim_head": lambda width: width // 4}

OTHERS = (
    _family("rtdl-ft-transformer", "tabular", "rtdl_revisiting_models", _ft_transformer, _table, deepens=True),
    _family("rtdl-resnet", "tabular", "rtdl_revisiting_models", _rtdl_resnet, lambda: (normal(9),), deepens=True),
    _family("rtdl-mlp", "tabular", "rtdl_revisiting_models", _rtdl_mlp, lambda: (normal(9),)),
    _family("pykan", "tabular", "kan", _kan, lambda: (normal(6),), unused=True, frozen=True),
    _family("mambapy", "language", "mambapy", _mamba, text(), deepens=True),
    _family("conformer", "audio", "conformer", _core("conformer", "Conformer", **_HEAD, conv_kernel_size=5, ff_mult=2),
            text(), deepens=True),
    _family("nystromformer", "language", "nystrom_attention",
            _core("nystrom_attention", "Nystromformer", **_HEAD, num_landmarks=4, attn_values_residual_conv_kernel=3),
            text(), deepens=True),
    _family("g-mlp", "language", "g_mlp_pytorch", lambda w, d: _made("g_mlp_pytorch", "gMLP", num_tokens=40, dim=w,
            depth=d, seq_len=12, ff_mult=4, circulant_matrix=True, heads=4, causal=True), text(), deepens=True),
    _family("linear-attention", "language", "linear_attention_transformer", _linear_attention, text(), deepens=True),
    _family("perceiver", "vision", "perceiver_pytorch", _perceiver, lambda: (normal(10, 3),), deepens=True),
    _family("smp-unet", "vision", "segmentation_models_pytorch", _smp("Unet"), images(32)),
)  # fmt: skip
