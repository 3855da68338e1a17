"""A recipe for a model of Hugging Face's transformers. Written by `hptransfer init --model hf`; it runs as it is.

    pip install 'hptransfer[hf]'
    hptransfer check FILE.py --quick      does the learning rate transfer over width? A few minutes on two cores
    hptransfer plan FILE.py --width 1024  what changes at another width, and why

Put your own configuration and text where it says CHANGE. For the Trainer, see docs/runtimes.md.
"""

import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import hptransfer as hpt

# The base: the size at which your learning rate, weight decay and initialisation keep their meaning. Tune there.
BASE = hpt.Scale(width=32, depth=2, batch=16)
CONTEXT = 64


def build(scale: hpt.Scale) -> nn.Module:
    """CHANGE: your configuration, with what grows written by the width. Heads are fixed here, so that they grow."""
    width = scale.width or 32
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=scale.depth or 2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


@cache
def text() -> Tensor:
    """CHANGE: your tokens, one long sequence. Here: the bytes of Python's own library, which needs no download."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8).long()


def windows(starts: Tensor) -> Tensor:
    """CONTEXT tokens from each start on: [batch, CONTEXT]."""
    return text()[starts[:, None] + torch.arange(CONTEXT)]


def batches(scale: hpt.Scale, seed: int) -> Iterator[Tensor]:
    """An endless iterator of training batches, from the first nine tenths of the text; the seed draws them."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield windows(torch.randint(len(text()) * 9 // 10, (int(scale.batch or 16),), generator=draw))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """transformers shifts the labels itself."""
    return model(input_ids=batch, labels=batch).loss


def validation() -> list[Tensor]:
    """A fixed list of batches from the last tenth."""
    starts = torch.linspace(len(text()) * 9 // 10 + CONTEXT, len(text()) - CONTEXT - 1, 128).long()
    return list(windows(starts).split(64))


recipe = hpt.Recipe(
    name="FILE",
    build=build,
    batches=batches,
    loss=loss,
    validation=validation,
    example_inputs=lambda: (torch.zeros(2, CONTEXT, dtype=torch.long),),
    base=BASE,
    unit="sequences",
    tokens_per_example=CONTEXT,
    optimizer=torch.optim.AdamW,
    optimizer_options={"betas": (0.9, 0.95), "weight_decay": 0.0},
    steps=200,  # of one run
    widths=(16, 32, 64, 128),  # what a check trains
    lrs=tuple(2.0**k for k in range(-9, -3)),  # where it looks first; it goes on where the best lies at an end
    seeds=3,
    quick={"widths": (16, 32, 64), "steps": 100},  # what --quick makes smaller
)
