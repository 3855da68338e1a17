"""Image models of timm, built by their classes so that every width follows one number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from outside.family import CLASSES, PIXELS, Build, Outside, images
from torch import nn


def _timm(module: str, name: str) -> Any:
    return getattr(import_module(f"timm.models.{module}"), name)


def _family(name: str, build: Build, *, deepens: bool = False, size: int = PIXELS, unused: bool = False) -> Outside:
    return Outside(f"timm-{name}", "vision", "timm", build, images(size), deepens, unused)


def _vit(**options: Any) -> Build:
    sizes: Mapping[str, Any] = {
        "img_size": PIXELS,
        "patch_size": 4,
        "num_classes": CLASSES,
        "num_heads": 4,
        "mlp_ratio": 2,
    }

    def build(width: int, depth: int) -> nn.Module:
        return _timm("vision_transformer", "VisionTransformer")(embed_dim=width, depth=depth, **{**sizes, **options})

    return build


def _vit_block(block: str, **options: Any) -> Build:
    return lambda width, depth: _vit(block_fn=_timm("vision_transformer", block), **options)(width, depth)


def _eva(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": PIXELS, "patch_size": 4, "num_classes": CLASSES, "num_heads": 4, "mlp_ratio": 2}
    rope = {
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "qkv_fused": False,
    }
    return _timm("eva", "Eva")(embed_dim=width, depth=depth, **sizes, **rope)


def _cait(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": PIXELS, "patch_size": 4, "num_classes": CLASSES, "num_heads": 4}
    return _timm("cait", "Cait")(embed_dim=width, depth=depth, depth_token_only=1, init_values=0.1, **sizes)


def _xcit(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "num_classes": CLASSES, "num_heads": 4, "eta": 1.0, "cls_attn_layers": 1}
    return _timm("xcit", "Xcit")(embed_dim=width, depth=depth, **sizes)


def _mixer(block: str, **options: Any) -> Build:
    sizes = {"img_size": PIXELS, "patch_size": 4, "num_classes": CLASSES}

    def build(width: int, depth: int) -> nn.Module:
        chosen = {"block_layer": _timm("mlp_mixer", block), **options, **sizes}
        return _timm("mlp_mixer", "MlpMixer")(embed_dim=width, num_blocks=depth, **chosen)

    return build


def _gmlp(width: int, depth: int) -> nn.Module:
    return _mixer("SpatialGatingBlock", mlp_ratio=4, mlp_layer=import_module("timm.layers").GatedMlp)(width, depth)


def _convmixer(width: int, depth: int) -> nn.Module:
    return _timm("convmixer", "ConvMixer")(width, depth, kernel_size=3, patch_size=2, num_classes=CLASSES)


def _convnext(**options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        sizes = {"depths": (depth, 1, 1, 1), "dims": (width // 2, width, width, width), "patch_size": 2}
        return _timm("convnext", "ConvNeXt")(kernel_sizes=3, num_classes=CLASSES, **sizes, **options)

    return build


def _bit(width: int, depth: int) -> nn.Module:
    norm = partial(import_module("timm.layers").GroupNormAct, num_groups=4)
    sizes = {"layers": (depth, 1), "channels": (width, 2 * width), "stem_chs": width, "num_classes": CLASSES}
    return _timm("resnetv2", "ResNetV2")(norm_layer=norm, **sizes)


def _nfnet(width: int, depth: int) -> nn.Module:
    cfg = _timm("nfnet", "NfCfg")(depths=(depth, 1), channels=(width, 2 * width), stem_chs=width, stem_type="3x3")
    return _timm("nfnet", "NormFreeNet")(cfg, num_classes=CLASSES)


def _resnet(block: str, **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        kind = _timm("resnest" if "Nest" in block else "resnet", block)
        sizes = {"layers": (depth, 1, 1, 1), "channels": (width, width, width, width), "num_classes": CLASSES}
        return _timm("resnet", "ResNet")(kind, stem_type="deep", stem_width=width // 2, **sizes, **options)

    return build


def _densenet(width: int, depth: int) -> nn.Module:
    return _timm("densenet", "DenseNet")(growth_rate=width // 2, block_config=(2, 2), num_classes=CLASSES)


def _efficientnet(width: int, depth: int) -> nn.Module:
    builder = import_module("timm.models._efficientnet_builder")
    blocks = builder.decode_arch_def([["ds_r1_k3_s1_e1_c32_se0.25"], ["ir_r2_k3_s2_e4_c48_se0.25"]])
    rounded = partial(builder.round_channels, multiplier=width / 64)
    sizes = {"stem_size": 32, "num_features": 4 * width, "num_classes": CLASSES, "round_chs_fn": rounded}
    return _timm("efficientnet", "EfficientNet")(blocks, act_layer=nn.SiLU, **sizes)


def _mobilenet_v3(width: int, depth: int) -> nn.Module:
    builder = import_module("timm.models._efficientnet_builder")
    blocks = builder.decode_arch_def([["ds_r1_k3_s1_e1_c32"], ["ir_r2_k3_s2_e4_c48_se0.25_nre"]])
    rounded = partial(builder.round_channels, multiplier=width / 64)
    sizes = {"stem_size": 32, "num_features": 4 * width, "num_classes": CLASSES, "round_chs_fn": rounded}
    return _timm("mobilenetv3", "MobileNetV3")(blocks, act_layer=nn.Hardswish, fix_stem=False, **sizes)


def _swin(module: str, name: str) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 4, "num_classes": CLASSES, "window_size": 4, "drop_path_rate": 0.0}
        return _timm(module, name)(embed_dim=width, depths=(depth, 1), num_heads=(4, 8), mlp_ratio=2.0, **sizes)

    return build


def _maxxvit(blocks: tuple[Any, ...]) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        conv = _timm("maxxvit", "MaxxVitConvCfg")(init_values=None, expand_ratio=2.0)
        former = _timm("maxxvit", "MaxxVitTransformerCfg")(dim_head=width // 4, window_size=(2, 2), grid_size=(2, 2))
        sizes = {"embed_dim": (width, 2 * width), "depths": (depth, 1), "stem_width": width, "block_type": blocks}
        cfg = _timm("maxxvit", "MaxxVitCfg")(conv_cfg=conv, transformer_cfg=former, **sizes)
        return _timm("maxxvit", "MaxxVit")(cfg, img_size=PIXELS, num_classes=CLASSES)

    return build


def _metaformer(mixer: str, **options: Any) -> Build:
    def build(width: int, depth: int) -> nn.Module:
        sizes = {"depths": (depth, 1), "dims": (width, 2 * width), "num_classes": CLASSES}
        return _timm("metaformer", "MetaFormer")(token_mixers=_timm("metaformer", mixer), **sizes, **options)

    return build


def _focalnet(width: int, depth: int) -> nn.Module:
    sizes = {"embed_dim": width, "depths": (depth, 1), "focal_levels": (2, 2), "focal_windows": (3, 3)}
    return _timm("focalnet", "FocalNet")(num_classes=CLASSES, drop_path_rate=0.0, mlp_ratio=2.0, **sizes)


def _edgenext(width: int, depth: int) -> nn.Module:
    sizes = {"dims": (width // 2, width // 2, width, width), "depths": (depth, 2, 2, 2), "kernel_sizes": (3, 3, 3, 3)}
    heads = {"heads": (4,) * 4, "d2_scales": (2, 2, 3, 4), "global_block_counts": (0, 1, 1, 1), "ls_init_value": 0.1}
    return _timm("edgenext", "EdgeNeXt")(num_classes=CLASSES, **sizes, **heads)


def _davit(width: int, depth: int) -> nn.Module:
    sizes = {"depths": (depth, 1), "embed_dims": (width, 2 * width), "num_heads": (4, 8), "window_size": 2}
    return _timm("davit", "DaVit")(num_classes=CLASSES, mlp_ratio=2, **sizes)


def _hiera(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": (32, 32), "embed_dim": width, "num_heads": 4, "stages": (depth, 1), "q_pool": 1}
    masks = {"mask_unit_size": (4, 4), "mask_unit_attn": (True, False), "head_init_scale": 1.0}
    return _timm("hiera", "Hiera")(num_classes=CLASSES, mlp_ratio=2.0, **sizes, **masks)


def _mambaout(width: int, depth: int) -> nn.Module:
    sizes = {"depths": (depth, 1), "dims": (width, 2 * width), "kernel_size": 3, "expansion_ratio": 2.0}
    return _timm("mambaout", "MambaOut")(num_classes=CLASSES, **sizes)


def _starnet(width: int, depth: int) -> nn.Module:
    return _timm("starnet", "StarNet")(base_dim=width // 2, depths=[1, 1], mlp_ratio=2, num_classes=CLASSES)


def _rdnet(width: int, depth: int) -> nn.Module:
    sizes = {"growth_rates": (width, width), "num_blocks_list": (2, 2), "block_type": ("Block", "BlockESE")}
    downs = {"is_downsample_block": (None, True), "num_init_features": width, "ls_init_value": 0.1, "patch_size": 2}
    return _timm("rdnet", "RDNet")(num_classes=CLASSES, **sizes, **downs)


def _levit(width: int, depth: int) -> nn.Module:
    sizes = {"img_size": 64, "embed_dim": (width, 2 * width), "key_dim": width // 4, "depth": (depth, 1)}
    return _timm("levit", "Levit")(num_classes=CLASSES, num_heads=(4, 8), **sizes)


def _volo(width: int, depth: int) -> nn.Module:
    sizes = {"layers": (depth, 1), "img_size": 32, "patch_size": 8, "stem_hidden_dim": width, "use_aux_head": False}
    stages = {"embed_dims": (width, 2 * width), "num_heads": (4, 8), "downsamples": (True, False)}
    return _timm("volo", "VOLO")(
        num_classes=CLASSES, outlook_attention=(True, False), post_layers=("ca",), **sizes, **stages
    )


TIMM = (
    _family("vit", _vit(), deepens=True),
    _family("vit-layerscale-qknorm", _vit(init_values=0.1, qk_norm=True, reg_tokens=2), deepens=True),
    _family(
        "vit-avgpool-prenorm", _vit(class_token=False, global_pool="avg", pre_norm=True, qkv_bias=False), deepens=True
    ),
    _family("vit-parallel", _vit_block("ParallelScalingBlock", qkv_bias=False), deepens=True),
    _family("vit-parallel-thin", _vit_block("ParallelThingsBlock"), deepens=True),
    _family("vit-res-post-norm", _vit_block("ResPostBlock"), deepens=True),
    _family("eva02", _eva, deepens=True),
    _family("cait", _cait, deepens=True),
    _family("xcit", _xcit, deepens=True, size=32),
    _family("mixer", _mixer("MixerBlock"), deepens=True),
    _family("gmlp", _gmlp, deepens=True),
    _family("resmlp", _mixer("ResBlock", mlp_ratio=4), deepens=True),
    _family("convmixer", _convmixer, deepens=True),
    _family("convnext", _convnext(ls_init_value=0.1), deepens=True, size=32),
    _family("convnextv2-grn", _convnext(ls_init_value=None, use_grn=True), deepens=True, size=32),
    _family("bit", _bit, deepens=True),
    _family("nfnet", _nfnet, deepens=True),
    _family("resnet-basic", _resnet("BasicBlock"), deepens=True, size=32),
    _family("resnet-bottleneck", _resnet("Bottleneck", zero_init_last=False), deepens=True, size=32),
    _family("resnext", _resnet("Bottleneck", cardinality=4, zero_init_last=False), size=32),
    _family("resnest", _resnet("ResNestBottleneck", block_args={"radix": 2}), size=32),
    _family("densenet", _densenet, size=32),
    _family("efficientnet", _efficientnet, size=32),
    _family("mobilenet-v3", _mobilenet_v3, size=32),
    _family("swin", _swin("swin_transformer", "SwinTransformer"), deepens=True, size=32),
    _family("swin-v2", _swin("swin_transformer_v2", "SwinTransformerV2"), deepens=True, size=32),
    _family("maxvit", _maxxvit(("M", "M")), size=PIXELS),
    _family("coatnet", _maxxvit(("C", "T")), size=PIXELS),
    _family("poolformer-v2", _metaformer("Pooling"), deepens=True),
    _family("caformer", _metaformer("SepConv", res_scale_init_values=(1.0, 1.0)), deepens=True),
    _family("focalnet", _focalnet, deepens=True, size=32),
    _family("edgenext", _edgenext, size=32),
    _family("davit", _davit, deepens=True),
    _family("hiera", _hiera, size=32),
    _family("mambaout", _mambaout, deepens=True, size=32),
    _family("starnet", _starnet, size=32),
    _family("rdnet", _rdnet, size=32),
    _family("levit", _levit, size=64),
    _family("volo", _volo, size=32),
)
