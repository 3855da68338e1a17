"""One model family of transformers at any width, with random weights, and the parts that configurations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

BATCH, LENGTH, VOCAB, LAYERS, PIXELS = 4, 12, 40, 2, 32
BASE, WIDTHS = 64, (64, 128, 256)

Heads = Literal["fixed", "growing", "fixed kv"]
Sizes = Callable[[int, int], Mapping[str, Any]]
"""(width, heads) -> configuration entries."""


@dataclass(frozen=True)
class Family:
    """One model family: `model` and `config` name its transformers classes; `sizes` sets the configuration's widths.

    kind: decoder, moe, encoder, encoder-decoder, state-space, vision, audio or other. heads: at the base width.
    unused: some parameters have no part in this forward pass (mask tokens).
    frozen: some are frozen, although nothing is pretrained.
    """

    name: str
    kind: str
    model: str
    config: str
    sizes: Sizes
    inputs: Callable[[], Mapping[str, Any]]
    heads: int = 4
    grows_heads: bool = True
    unused: bool = False
    frozen: bool = False

    @property
    def modes(self) -> tuple[Heads, ...]:
        """Fixed heads make the head dimension grow; heads in proportion to the width keep it.

        Fixed kv: query heads in proportion to the width, and the base's key-value heads, where a language model has
        fewer of them.
        """
        if not self.grows_heads:
            return ("fixed",)
        return ("fixed", "growing", "fixed kv") if self.kv_heads is not None else ("fixed", "growing")

    @property
    def kv_heads(self) -> int | None:
        """Key-value heads at the base, None but for a decoder that has fewer of them than query heads."""
        heads = self.sizes(BASE, self.heads).get("num_key_value_heads") if self.kind in {"decoder", "moe"} else None
        return heads if heads is not None and heads < self.heads else None

    def build(self, width: int, heads: int | None = None, kv_heads: int | None = None) -> nn.Module:
        """A freshly initialised model. Raises AttributeError where this transformers version lacks the family."""
        import transformers

        own = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
        sizes = {**self.sizes(width, self.heads if heads is None else heads), **own}
        config = getattr(transformers, self.config)(**sizes)
        config.use_cache = config.get_text_config().use_cache = False
        return getattr(transformers, self.model)(config)

    def builder(self, heads: Heads) -> Callable[[int], nn.Module]:
        """Width -> model, with the base's number of heads or one in proportion to the width; see modes."""
        kv_heads = self.kv_heads if heads == "fixed kv" else None
        return lambda width: self.build(width, self.heads if heads == "fixed" else self.heads * width // BASE, kv_heads)


def tokens(vocabulary: int = VOCAB, length: int = LENGTH) -> Tensor:
    """[batch, length] int64, the same at every call."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(4, vocabulary, (BATCH, length), generator=draw)


def normal(*shape: int) -> Tensor:
    """[batch, *shape] standard normal entries, the same at every call."""
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1))


def text_inputs() -> Mapping[str, Tensor]:
    return {"input_ids": tokens()}


def pair_inputs() -> Mapping[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens().flip(0)}


def pixels(size: int = PIXELS, channels: int = 3) -> Mapping[str, Tensor]:
    return {"pixel_values": normal(channels, size, size)}


def waves(length: int = 320) -> Mapping[str, Tensor]:
    return {"input_values": normal(length)}


COMMON = {
    "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "max_position_embeddings": 32, "attention_dropout": 0.0,
    "hidden_dropout": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ENCODER_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def llama_like(**extra: Any) -> Sizes:
    """Sizes under the names that most decoders share, grouped-query heads included.

    extra: further entries; one may be a function of width and heads, or None to leave a name out.
    """

    def sizes(width: int, heads: int) -> Mapping[str, Any]:
        own = {k: v(width, heads) if callable(v) else v for k, v in extra.items()}
        names = {
            **COMMON, "hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads,
            "num_key_value_heads": heads // 2, "head_dim": width // heads,
        }  # fmt: skip
        return {k: v for k, v in {**names, **own}.items() if v is not None}

    return sizes


def two_sided(width: int, heads: int) -> Mapping[str, Any]:
    """Encoder and decoder sizes under the names of BART."""
    sides = {"layers": LAYERS, "attention_heads": heads, "ffn_dim": 2 * width}
    return {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sides.items()}


def encoder(**extra: Any) -> Sizes:
    """llama_like without what encoders lack."""
    own = {**ENCODER_DROPOUT, "num_key_value_heads": None, "head_dim": None, "attention_dropout": None, **extra}
    return llama_like(type_vocab_size=2, **own) if "type_vocab_size" not in own else llama_like(**own)


def decoder(
    name: str,
    stem: str,
    kind: str = "decoder",
    *,
    config: str = "",
    **extra: Any,
) -> Family:
    sizes = llama_like(**extra)
    return Family(name, kind, f"{stem}ForCausalLM", config or f"{stem}Config", sizes, text_inputs)
