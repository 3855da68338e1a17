"""What counts as an output: what containers hold; a cache beside it does not, nor the model that an object holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.graph.trace import trace

TOKENS = torch.arange(16).view(2, 8) % 17


class Out:
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


class Attention(nn.Module):
    """give: what the forward returns, from itself, the output and the keys."""

    def __init__(self, width: int, give: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.give, self.embed, self.head = give, nn.Embedding(17, width), nn.Linear(width, 17)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.give(self, self.head((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v), k)


def plan(give: Callable[[nn.Module, Tensor, Tensor], Any]) -> hpt.Plan:
    torch.manual_seed(0)
    base = Attention(8, give)
    return hpt.make_plan(Attention(32, give), base=base, example_inputs=(TOKENS,))


def cyclic(model: nn.Module, y: Tensor, keys: Tensor) -> Out:
    out = Out(logits=y)
    out.me = out  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize(
    "give",
    [
        lambda model, y, keys: Out(logits=y),
        lambda model, y, keys: (y, Out(keys=keys)),
        lambda model, y, keys: {"logits": y, "cache": [Out(layers=[Out(keys=keys)])]},
        lambda model, y, keys: Out(logits=y, model=model),
        cyclic,
    ],
    ids=["object", "cache beside", "cache in a dict", "object with the model", "object with itself"],
)
def test_outputs_in_any_form_plan_as_a_tensor(give: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
    made = plan(give)
    expected = plan(lambda model, y, keys: y)
    assert (made.rows, made.hooks) == (expected.rows, expected.hooks)
    assert "(torch.export: " in made.notes[0] and "Out" in made.notes[0]


def _gpt2(width: int, cached: bool) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 17, "n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=cached))


def _llama(width: int, cached: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=17, num_key_value_heads=2, use_cache=cached))


@pytest.mark.parametrize("build", [_gpt2, _llama])
def test_a_cache_that_transformers_return_changes_nothing(build: Callable[[int, bool], nn.Module]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    plans: list[hpt.Plan] = []
    for cached in (True, False):
        torch.manual_seed(0)
        base = build(8, cached)
        plans.append(hpt.make_plan(build(32, cached), base=base, example_inputs={"input_ids": TOKENS}))
    assert plans[0].rows == plans[1].rows and plans[0].hooks == plans[1].hooks
    assert trace(build(8, True), (), {"input_ids": TOKENS}).ran and len(plans[1].notes) == 0
