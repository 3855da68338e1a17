"""Vision transformers of vit-pytorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from outside.family import CLASSES, PIXELS, Build, Outside, images
from torch import nn


def _variant(module: str, name: str = "ViT", **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        sizes = {"image_size": PIXELS, "patch_size": 4, "num_classes": CLASSES, "mlp_dim": 2 * width, "heads": 4}
        kind = getattr(import_module(f"vit_pytorch.{module}"), name)
        return kind(dim=width, depth=depth, dim_head=width // 4, **{**sizes, **options})

    return build


def _twins(width: int, depth: int) -> nn.Module:
    stages = {f"s{i}_{key}": value for i in (1, 2, 3, 4) for key, value in _stage(width, i).items()}
    return import_module("vit_pytorch.twins_svt").TwinsSVT(num_classes=CLASSES, **stages)


def _stage(width: int, stage: int) -> dict[str, int]:
    patch = 4 if stage == 1 else 1
    return {"emb_dim": width, "patch_size": patch, "local_patch_size": 2, "global_k": 2, "depth": 1}


def _cvt(width: int, depth: int) -> nn.Module:
    stages = {
        f"s{i}_{key}": value for i in (1, 2, 3) for key, value in (("emb_dim", width), ("depth", 1), ("heads", 1))
    }
    return import_module("vit_pytorch.cvt").CvT(num_classes=CLASSES, **stages)


def _cct(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": PIXELS, "embedding_dim": width, "kernel_size": 3, "num_classes": CLASSES, "num_heads": 4}
    rates = {"attention_dropout": 0.0, "stochastic_depth_rate": 0.0, "mlp_ratio": 2}
    return import_module("vit_pytorch.cct").CCT(num_layers=depth, positional_embedding="learnable", **sizes, **rates)


def _family(name: str, build: Build, *, deepens: bool = True, size: int = PIXELS, unused: bool = False) -> Outside:
    return Outside(f"vit-pytorch-{name}", "vision", "vit_pytorch", build, images(size), deepens, unused)


VIT_VARIANTS = (
    _family("normalized-ngpt", _variant("normalized_vit", "nViT")),
    _family("vit", _variant("vit")),
    _family("simple-vit", _variant("simple_vit", "SimpleViT")),
    _family("deepvit", _variant("deepvit", "DeepViT")),
    _family("parallel", _variant("parallel_vit")),
    _family("hyper-connections", _variant("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=2)),
    _family("value-residual", _variant("simple_vit_with_value_residual", "SimpleViT")),
    _family("fft", _variant("simple_vit_with_fft", "SimpleViT", freq_patch_size=4)),
    _family("keel-post-ln", _variant("vit_with_keel_post_ln")),
    _family("vit-5", _variant("vit_5")),
    _family("u-vit", _variant("simple_uvit", "SimpleUViT")),
    _family("orthogonal-residual", _variant("simple_vit_orthog_residual_update", "SimpleViT")),
    _family("cct", _cct),
    _family("cvt", _cvt, deepens=False, size=64),
    _family("twins-svt", _twins, deepens=False, size=32),
)
