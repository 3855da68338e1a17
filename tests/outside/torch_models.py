"""What torch and torchvision bring themselves."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from outside.family import CLASSES, Build, Outside, images, normal, text
from torch import Tensor, nn

VOCAB, LENGTH = 40, 12


class _Encoder(nn.Module):
    """Embedding, nn.TransformerEncoder, readout."""

    def __init__(self, width: int, depth: int, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.readout = nn.Linear(width, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.encoder(self.embed(tokens)))


class _Translator(nn.Module):
    """Embedding, nn.Transformer with a causal decoder, readout."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB)
        self.core = nn.Transformer(width, 4, depth, depth, 2 * width, dropout=0.0, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        return self.readout(self.core(h, h.flip(1), tgt_mask=self.mask))


class _Recurrent(nn.Module):
    """A language model over a recurrent layer, as in the word-language-model example."""

    def __init__(self, kind: str, width: int, depth: int, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.core = getattr(nn, kind)(width, width, depth, batch_first=True, **options)
        self.readout = nn.Linear(options.get("proj_size", width), VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.core(self.embed(tokens))[0])


class _Bag(nn.Module):
    """fastText: a bag of embeddings under a linear classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bag, self.readout = nn.EmbeddingBag(VOCAB, width), nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.bag(tokens))


class _Bilinear(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, width), nn.Linear(8, width)
        self.pair, self.readout = nn.Bilinear(width, width, 16), nn.Linear(16, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.readout(torch.relu(self.pair(torch.relu(self.left(left)), torch.relu(self.right(right)))))


def _vision(name: str, **options: Any) -> nn.Module:
    return getattr(import_module("torchvision.models"), name)(num_classes=CLASSES, **options)


def _vgg(width: int, depth: int) -> nn.Module:
    vgg = import_module("torchvision.models.vgg")
    layers = vgg.make_layers([width // 2, "M", width, "M", width, "M"], batch_norm=True)
    model = vgg.VGG(layers, num_classes=CLASSES, dropout=0.0)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    hidden = (nn.Linear(4 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 2 * width), nn.ReLU())
    model.classifier = nn.Sequential(*hidden, nn.Linear(2 * width, CLASSES))
    return model


def _wide_resnet(width: int, depth: int) -> nn.Module:
    resnet = import_module("torchvision.models.resnet")
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, width_per_group=width)


def _torchvision_vit(width: int, depth: int) -> nn.Module:
    kind = import_module("torchvision.models.vision_transformer").VisionTransformer
    return kind(16, 4, depth, 4, width, 2 * width, num_classes=CLASSES)


def _torchvision_swin(width: int, depth: int) -> nn.Module:
    kind = import_module("torchvision.models.swin_transformer").SwinTransformer
    sizes = {"depths": [depth, 1], "num_heads": [4, 8], "window_size": [4, 4], "stochastic_depth_prob": 0.0}
    return kind([4, 4], width, num_classes=CLASSES, mlp_ratio=2.0, **sizes)


def _torchvision_maxvit(width: int, depth: int) -> nn.Module:
    kind = import_module("torchvision.models.maxvit").MaxVit
    sizes = {"block_channels": [width, 2 * width], "block_layers": [depth, 1], "head_dim": width // 4}
    return kind((16, 16), width, 2, **sizes, stochastic_depth_prob=0.0, num_classes=CLASSES)


def _torchvision_convnext(width: int, depth: int) -> nn.Module:
    module = import_module("torchvision.models.convnext")
    blocks = [module.CNBlockConfig(width, 2 * width, depth), module.CNBlockConfig(2 * width, None, 1)]
    return module.ConvNeXt(blocks, layer_scale=0.1, num_classes=CLASSES)


def _regnet(width: int, depth: int) -> nn.Module:
    module = import_module("torchvision.models.regnet")
    stages = {"depths": [depth, 1], "widths": [width, 2 * width], "group_widths": [width // 4] * 2, "strides": [2, 2]}
    blocks = module.BlockParams(**stages, bottleneck_multipliers=[1.0, 1.0], se_ratio=0.25)
    return module.RegNet(blocks, num_classes=CLASSES, stem_width=width)


def _family(
    name: str, package: str, build: Build, inputs: Any, *, deepens: bool = False, unused: bool = False
) -> Outside:
    return Outside(f"{package}-{name}", "torch", package, build, inputs, deepens, unused)


_TEXT = text(VOCAB, LENGTH)

TORCH = (
    _family("encoder-post-norm", "torch", lambda w, d: _Encoder(w, d, norm_first=False), _TEXT, deepens=True),
    _family("encoder-pre-norm", "torch", lambda w, d: _Encoder(w, d, norm_first=True), _TEXT, deepens=True),
    _family("transformer", "torch", _Translator, _TEXT, deepens=True),
    _family("lstm-lm", "torch", lambda w, d: _Recurrent("LSTM", w, d), _TEXT),
    _family("lstm-proj-lm", "torch", lambda w, d: _Recurrent("LSTM", w, d, proj_size=w // 2), _TEXT),
    _family("gru-lm", "torch", lambda w, d: _Recurrent("GRU", w, d), _TEXT),
    _family("rnn-lm", "torch", lambda w, d: _Recurrent("RNN", w, d), _TEXT),
    _family("embedding-bag", "torch", lambda w, d: _Bag(w), _TEXT),
    _family("bilinear", "torch", lambda w, d: _Bilinear(w), lambda: (normal(8), normal(8, seed=2))),
    _family("vgg-bn", "torchvision", _vgg, images(16)),
    _family("wide-resnet", "torchvision", _wide_resnet, images(32)),
    _family("regnet-y", "torchvision", _regnet, images(32), deepens=True),
    _family("vit", "torchvision", _torchvision_vit, images(16), deepens=True),
    _family("swin", "torchvision", _torchvision_swin, images(32), deepens=True),
    _family("maxvit", "torchvision", _torchvision_maxvit, images(16)),
    _family("convnext", "torchvision", _torchvision_convnext, images(32), deepens=True),
)
