"""Models of images, and of images with text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from families.family import (
    ENCODER_DROPOUT,
    LAYERS,
    PIXELS,
    VOCAB,
    Family,
    Sizes,
    llama_like,
    pixels,
    text_inputs,
)

_CLEARED = dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size"))
_PATCHES = {**ENCODER_DROPOUT, "image_size": PIXELS, "patch_size": 8, "num_labels": 10, "drop_path_rate": 0.0}


_LOUD = {"initializer_range": 0.2}
"""With the default .02 the eps of 1e-3 in their batch norms swallows the signal within a few layers."""


def _vision(name: str, stem: str, model: str = "", *, unused: bool = False, **extra: Any) -> Family:
    sizes = llama_like(**_CLEARED, **{**_PATCHES, **extra})
    model = model or f"{stem}ForImageClassification"
    return Family(name, "vision", model, f"{stem}Config", sizes, pixels, unused=unused)


def _stages(name: str, stem: str, sizes: Sizes, *, inputs: Callable[[], Any] = pixels, **extra: Any) -> Family:
    return Family(name, "vision", f"{stem}ForImageClassification", f"{stem}Config", sizes, inputs, **extra)


def _tower(width: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads}
    return {**sizes, "num_hidden_layers": LAYERS}


def _clip(width: int, heads: int) -> Mapping[str, Any]:
    text = {"vocab_size": VOCAB, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    sides = {
        "text_config": {**_tower(width, heads), **text},
        "vision_config": {**_tower(width, heads), "image_size": PIXELS, "patch_size": 8},
    }
    return {**sides, "projection_dim": width}


def _siglip(width: int, heads: int) -> Mapping[str, Any]:
    sides = dict(_clip(width, heads))
    return {**sides, "text_config": {**sides["text_config"], "projection_size": width, "max_position_embeddings": 12}}


def _clip_inputs() -> Mapping[str, Any]:
    return {**text_inputs(), **pixels()}


def _llava(width: int, heads: int) -> Mapping[str, Any]:
    vision = {**_tower(width, heads), "model_type": "clip_vision_model", "image_size": PIXELS, "patch_size": 16}
    text = {**llama_like()(width, heads), "model_type": "llama"}
    return {"text_config": text, "vision_config": vision, "image_token_index": 3, "vision_feature_layer": -1}


def _llava_inputs() -> Mapping[str, Any]:
    import torch

    ids = text_inputs()["input_ids"]
    image = torch.full((len(ids), 4), 3)
    return {"input_ids": torch.cat([image, ids], 1), **pixels()}


def _swin(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {**ENCODER_DROPOUT, "drop_path_rate": 0.0, "num_labels": 10}
    sizes = {"embed_dim": width, "depths": [1, 1], "num_heads": [heads, heads], "window_size": 4}
    return {**dropout, **sizes, "image_size": PIXELS, "patch_size": 4, "mlp_ratio": 2.0}


def _convnext(width: int, heads: int) -> Mapping[str, Any]:
    return {"hidden_sizes": [width, 2 * width], "depths": [1, 1], "num_stages": 2, "num_labels": 10, "patch_size": 4}


def _resnet(layer_type: str) -> Sizes:
    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        stages = {"embedding_size": width, "hidden_sizes": [width, 2 * width], "depths": [1, 1], "num_labels": 10}
        return {**stages, "layer_type": layer_type}

    return sizes


def _regnet(width: int, heads: int) -> Mapping[str, Any]:
    return {**_resnet("y")(width, heads), "groups_width": width // 2}


def _bit(width: int, heads: int) -> Mapping[str, Any]:
    return {**_resnet("preactivation")(width, heads), "num_groups": 4, "width_factor": 1}


def _segformer(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [width, 2 * width]}
    kernels = {"patch_sizes": [4, 3], "strides": [4, 2], "num_attention_heads": [heads, heads], "mlp_ratios": [2, 2]}
    dropout = {**ENCODER_DROPOUT, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    return {**stages, **kernels, **dropout, "decoder_hidden_size": width, "num_labels": 10}


def _pvt(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "sequence_reduction_ratios": [2, 1], "image_size": PIXELS,
              "hidden_sizes": [width, 2 * width], "patch_sizes": [4, 2], "strides": [4, 2], "mlp_ratios": [2, 2],
              "num_attention_heads": [heads, heads]}  # fmt: skip
    return {**stages, **ENCODER_DROPOUT, "drop_path_rate": 0.0, "num_labels": 10}


def _pvt_v2(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "image_size": PIXELS,
              "hidden_sizes": [width, 2 * width], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2],
              "num_attention_heads": [heads, heads]}  # fmt: skip
    return {**stages, **ENCODER_DROPOUT, "drop_path_rate": 0.0, "num_labels": 10}


def _poolformer(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [width, 2 * width], "patch_sizes": [7, 3],
              "strides": [4, 2], "padding": [2, 1]}  # fmt: skip
    return {**stages, "mlp_ratio": 2.0, "drop_path_rate": 0.0, "num_labels": 10}


def _cvt(width: int, heads: int) -> Mapping[str, Any]:
    two = {"patch_sizes": [7, 3], "patch_stride": [4, 2], "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0],
           "num_heads": [heads, heads], "depth": [1, 2], "embed_dim": [width, 2 * width], "qkv_bias": [True, True],
           "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0], "drop_path_rate": [0.0, 0.0],
           "cls_token": [False, True], "qkv_projection_method": ["dw_bn", "dw_bn"], "kernel_qkv": [3, 3],
           "padding_kv": [1, 1], "stride_kv": [2, 2], "padding_q": [1, 1], "stride_q": [1, 1]}  # fmt: skip
    return {**two, "num_labels": 10}


def _focalnet(width: int, heads: int) -> Mapping[str, Any]:
    two = {"hidden_sizes": [width, 2 * width], "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]}
    return {**two, "embed_dim": width, "image_size": PIXELS, "mlp_ratio": 2.0, "drop_path_rate": 0.0, "num_labels": 10}


def _hiera(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"depths": [1, 1], "num_heads": [heads, 2 * heads], "num_query_pool": 1, "embed_dim": width}
    patches = {"image_size": [PIXELS, PIXELS], "masked_unit_size": [4, 4], "drop_path_rate": 0.0, "num_labels": 10}
    return {**stages, **patches, "mlp_ratio": 2.0}


def _levit(width: int, heads: int) -> Mapping[str, Any]:
    two = {"hidden_sizes": [width, 2 * width], "depths": [1, 1], "num_attention_heads": [heads, 2 * heads],
           "key_dim": [width // heads, width // heads], "attention_ratio": [2, 2], "mlp_ratio": [2, 2]}  # fmt: skip
    downs = {"down_ops": [["Subsample", width // heads, heads, 4, 2, 2], [""]]}
    return {**two, **downs, "image_size": 64, "patch_size": 16, "drop_path_rate": 0, "num_labels": 10}


def _mobilenet_v1(width: int, heads: int) -> Mapping[str, Any]:
    return {
        **_LOUD,
        "depth_multiplier": width / 256,
        "min_depth": 1,
        "classifier_dropout_prob": 0.0,
        "image_size": PIXELS,
        "num_labels": 10,
    }


def _mobilenet_v2(width: int, heads: int) -> Mapping[str, Any]:
    return {**_LOUD, "depth_multiplier": width / 64, "min_depth": 8, "image_size": PIXELS, "num_labels": 10,
            "finegrained_output": True, "classifier_dropout_prob": 0.0}  # fmt: skip


def _efficientnet(width: int, heads: int) -> Mapping[str, Any]:
    stages = {"in_channels": [32, 16], "out_channels": [16, 24], "kernel_sizes": [3, 5], "strides": [1, 2],
              "num_block_repeats": [1, 2], "expand_ratios": [1, 4]}  # fmt: skip
    sizes = {"width_coefficient": width / 64, "depth_coefficient": 1.0, "hidden_dim": 20 * width, "image_size": PIXELS}
    return {**_LOUD, **stages, **sizes, "num_labels": 10, "drop_connect_rate": 0.0, "dropout_rate": 0.0}


def _mobilevit(width: int, heads: int) -> Mapping[str, Any]:
    sizes = {"hidden_sizes": [width, width, width], "neck_hidden_sizes": [width // 4] * 6 + [4 * width]}
    dropout = {**ENCODER_DROPOUT, "classifier_dropout_prob": 0.0, "num_labels": 10}
    return {**sizes, **dropout, "num_attention_heads": heads, "image_size": PIXELS, "mlp_ratio": 2.0}


def _dpt(width: int, heads: int) -> Mapping[str, Any]:
    own = {"backbone_out_indices": [0, 1, 2, 3], "num_hidden_layers": 4,
           "neck_hidden_sizes": [width // 4, width // 2, width, width],
           "fusion_hidden_size": width, "is_hybrid": False, "image_size": PIXELS, "patch_size": 8}  # fmt: skip
    return {**_tower(width, heads), **ENCODER_DROPOUT, **own}


def _detr_like(width: int, heads: int) -> Mapping[str, Any]:
    backbone = {"model_type": "resnet", "embedding_size": width, "hidden_sizes": [width, 2 * width], "depths": [1, 1],
                "layer_type": "basic", "out_features": ["stage2"]}  # fmt: skip
    sides = {"layers": 1, "attention_heads": heads, "ffn_dim": 2 * width}
    both = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sides.items()}
    own = {"d_model": width, "num_queries": 5, "num_labels": 10, "dropout": 0.0, "use_timm_backbone": False,
           "use_pretrained_backbone": False, "backbone": None, "backbone_config": backbone}  # fmt: skip
    return {**both, **own}


def _mae(width: int, heads: int) -> Mapping[str, Any]:
    decoder = {"decoder_hidden_size": width, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": heads,
               "decoder_intermediate_size": 2 * width}  # fmt: skip
    return {**_tower(width, heads), **decoder, **ENCODER_DROPOUT, "image_size": PIXELS, "patch_size": 8}


VISION = (
    _vision("vit", "ViT"),
    _vision("deit", "DeiT"),
    _vision("beit", "Beit", use_relative_position_bias=True),
    _vision("dinov2", "Dinov2", mlp_ratio=2, unused=True),
    _vision("dinov2-registers", "Dinov2WithRegisters", mlp_ratio=2, num_register_tokens=2, unused=True),
    _vision("dinov3", "DINOv3ViT", "DINOv3ViTModel", num_register_tokens=2, unused=True),
    _vision("vit-msn", "ViTMSN"),
    _vision("ijepa", "IJepa"),
    _vision("data2vec-vision", "Data2VecVision", use_relative_position_bias=True),
    _vision("yolos", "Yolos", "YolosForObjectDetection", num_detection_tokens=5, image_size=[PIXELS, PIXELS]),
    _stages("swin", "Swin", _swin),
    _stages("swinv2", "Swinv2", _swin),
    _stages("convnext", "ConvNext", _convnext, grows_heads=False),
    _stages("convnextv2", "ConvNextV2", _convnext, grows_heads=False),
    _stages("resnet-basic", "ResNet", _resnet("basic"), grows_heads=False),
    _stages("resnet-bottleneck", "ResNet", _resnet("bottleneck"), grows_heads=False),
    _stages("regnet", "RegNet", _regnet, grows_heads=False),
    _stages("bit", "Bit", _bit, grows_heads=False),
    _stages("segformer", "Segformer", _segformer),
    _stages("pvt", "Pvt", _pvt),
    _stages("pvt-v2", "PvtV2", _pvt_v2),
    _stages("poolformer", "PoolFormer", _poolformer, grows_heads=False),
    _stages("cvt", "Cvt", _cvt),
    _stages("focalnet", "FocalNet", _focalnet, grows_heads=False),
    _stages("hiera", "Hiera", _hiera),
    _stages("levit", "Levit", _levit, inputs=lambda: pixels(64)),
    _stages("mobilenet-v1", "MobileNetV1", _mobilenet_v1, grows_heads=False),
    _stages("mobilenet-v2", "MobileNetV2", _mobilenet_v2, grows_heads=False),
    _stages("efficientnet", "EfficientNet", _efficientnet, grows_heads=False),
    _stages("mobilevit", "MobileViT", _mobilevit),
    Family("vit-mae", "vision", "ViTMAEForPreTraining", "ViTMAEConfig", _mae, pixels),
    Family("dpt", "vision", "DPTForDepthEstimation", "DPTConfig", _dpt, pixels, unused=True),
    Family("detr", "vision", "DetrForObjectDetection", "DetrConfig", _detr_like, pixels, frozen=True),
    Family("clip", "vision", "CLIPModel", "CLIPConfig", _clip, _clip_inputs),
    Family("siglip", "vision", "SiglipModel", "SiglipConfig", _siglip, _clip_inputs),
    Family("blip", "vision", "BlipForConditionalGeneration", "BlipConfig", _clip, _clip_inputs),
    Family("llava", "vision", "LlavaForConditionalGeneration", "LlavaConfig", _llava, _llava_inputs),
)  # fmt: skip
