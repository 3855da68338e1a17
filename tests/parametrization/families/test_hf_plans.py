"""Plans of unmodified transformers models at 4x width, against tables by hand: role, init x, lr x, eps x (Adam)."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.graph.graph import template

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install hptransfer[hf])")
transformers.utils.logging.set_verbosity_error()

BASE, WIDTH = 32, 128  # m = 4, four heads: d_head 8 -> 32
TOKENS = {"input_ids": torch.arange(12).view(2, 6)}
IMAGES = {"pixel_values": torch.zeros(2, 3, 16, 16)}

M = 1 / 4  # 1/m
R = M**0.5  # a hidden matrix's std: fan_in^-1/2
Q = M**0.25  # logits x d_base/d relative to 1/sqrt(d): 1/2, half of it in the exponent to q and to k

EMBEDDING = ("input", 1, 1, M)  # looked up: nothing contracted; its gradient is 1/m
HIDDEN = ("hidden", R, M, M)
QUERY = ("hidden", R * Q, M * Q, M / Q)
GAIN = ("vector", 1, 1, M)
READOUT = ("readout", M, M, 1)

LLAMA = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.layers.*.self_attn.q_proj.weight": QUERY,
    "model.layers.*.self_attn.k_proj.weight": QUERY,
    "model.layers.*.self_attn.v_proj.weight": HIDDEN,
    "model.layers.*.self_attn.o_proj.weight": HIDDEN,
    "model.layers.*.mlp.gate_proj.weight": HIDDEN,
    "model.layers.*.mlp.up_proj.weight": HIDDEN,
    "model.layers.*.mlp.down_proj.weight": HIDDEN,
    "model.layers.*.input_layernorm.weight": GAIN,
    "model.layers.*.post_attention_layernorm.weight": GAIN,
    "model.norm.weight": GAIN,
    "lm_head.weight": READOUT,
}

# The fused c_attn (stored x out) holds q, k and v: v's share is taken back by c_proj. The tied head's 1/m is in ln_f.
GPT2 = {
    "transformer.wte.weight": EMBEDDING,
    "transformer.wpe.weight": EMBEDDING,
    "transformer.h.*.ln_1.weight": GAIN,
    "transformer.h.*.ln_1.bias": GAIN,
    "transformer.h.*.attn.c_attn.weight": QUERY,
    "transformer.h.*.attn.c_attn.bias": ("vector", Q, Q, M / Q),
    "transformer.h.*.attn.c_proj.weight": ("hidden", R / Q, M / Q, M * Q),
    "transformer.h.*.attn.c_proj.bias": GAIN,
    "transformer.h.*.ln_2.weight": GAIN,
    "transformer.h.*.ln_2.bias": GAIN,
    "transformer.h.*.mlp.c_fc.weight": HIDDEN,
    "transformer.h.*.mlp.c_fc.bias": GAIN,
    "transformer.h.*.mlp.c_proj.weight": HIDDEN,
    "transformer.h.*.mlp.c_proj.bias": GAIN,
    "transformer.ln_f.weight": ("vector", M, M, 1),
    "transformer.ln_f.bias": ("vector", M, M, 1),
}

VIT = {
    "vit.embeddings.cls_token": GAIN,
    "vit.embeddings.position_embeddings": GAIN,
    "vit.embeddings.patch_embeddings.projection.weight": ("input", 1, 1, M),
    "vit.embeddings.patch_embeddings.projection.bias": GAIN,
    "attention q, k weight": QUERY,
    "attention q, k bias": ("vector", Q, Q, M / Q),
    "attention v, output weight": HIDDEN,
    "attention v, output bias": GAIN,
    "norms": GAIN,
    "mlp weights": HIDDEN,
    "mlp biases": GAIN,
    "classifier.weight": READOUT,
    "classifier.bias": ("scalar", 1, 1, 1),
}


def llama(width: int) -> nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=40, use_cache=False)
    return transformers.LlamaForCausalLM(config)


def gpt2(width: int, **options: Any) -> nn.Module:
    sizes = {"n_embd": width, "n_head": 4, "n_layer": 2, "vocab_size": 40, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, use_cache=False, **options))


def vit(width: int) -> nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=5)
    return transformers.ViTForImageClassification(config)


def gemma(width: int, version: str = "Gemma", **options: Any) -> nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{version}Config")(
        **sizes, head_dim=width // 4, num_hidden_layers=2, vocab_size=40, use_cache=False, **options
    )
    return getattr(transformers, f"{version}ForCausalLM")(config)


def t5(width: int) -> nn.Module:
    sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width, "num_heads": 4, "num_layers": 2, "vocab_size": 40}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, use_cache=False))


def plan_of(build, inputs: Mapping[str, Any], **options: Any) -> hpt.Plan:
    return hpt.make_plan(build(WIDTH), base=build(BASE), example_inputs=inputs, **options)


def table(plan: hpt.Plan) -> dict[str, set[tuple]]:
    found: dict[str, set[tuple]] = {}
    for row in plan:
        numbers = (round(x, 9) for x in (row.init_mult, row.lr_mult, row.eps_mult))
        found.setdefault(template(row.name), set()).add((row.role, *numbers))
    return found


def expected(by_hand: Mapping[str, tuple]) -> dict[str, set[tuple]]:
    return {name: {(role, *(round(x, 9) for x in numbers))} for name, (role, *numbers) in by_hand.items()}


def test_llama() -> None:
    plan = plan_of(llama, TOKENS)
    assert table(plan) == expected(LLAMA) and not plan.hooks and not plan.notes
    assert all(row.wd_mult == pytest.approx(1 / row.lr_mult) for row in plan)
    assert len(hpt.param_groups(llama(WIDTH), plan, lr=1e-3, weight_decay=0.1)) <= 12


def test_gpt2_with_conv1d_layout_and_tied_head() -> None:
    plan = plan_of(gpt2, TOKENS)
    assert table(plan) == expected(GPT2) and not plan.hooks and not plan.notes
    assert plan.aliases == {"lm_head.weight": "transformer.wte.weight"}


def test_vit() -> None:
    """Names of the attention's and the MLP's layers differ between versions of transformers: they are told by place."""
    plan = plan_of(vit, IMAGES)
    for row in plan:
        kind, side = row.name.rpartition(".")[2], row.name
        if ".layers." not in side.replace("encoder.layer.", ".layers."):
            key = side if side in VIT else "norms"
        elif "norm" in side:
            key = "norms"
        elif row.shape[0] == 4 * WIDTH or row.shape[-1] == 4 * WIDTH or ".output.dense" in side or "fc2" in side:
            key = "mlp weights" if kind == "weight" else "mlp biases"
        else:
            from_q_or_k = any(part in side for part in ("q_proj", "k_proj", "query", "key"))
            key = f"attention {'q, k' if from_q_or_k else 'v, output'} {kind}"
        found = {(row.role, *(round(x, 9) for x in (row.init_mult, row.lr_mult, row.eps_mult)))}
        assert found == expected({"x": VIT[key]})["x"], row.name
    assert not plan.hooks and not plan.notes


@pytest.mark.parametrize(("build", "inputs"), [(llama, TOKENS), (gpt2, TOKENS), (vit, IMAGES)])
def test_at_the_base_s_own_size_the_plan_is_the_identity(build, inputs) -> None:
    assert hpt.make_plan(build(BASE), base=build(BASE), example_inputs=inputs).is_identity


def test_gpt2_with_layer_dependent_attention_scale_is_the_identity_at_the_base() -> None:
    options = {"scale_attn_by_inverse_layer_idx": True, "attn_implementation": "eager"}
    base = gpt2(BASE, **options)
    assert hpt.make_plan(gpt2(BASE, **options), base=base, example_inputs=TOKENS).is_identity


@pytest.mark.parametrize(
    ("version", "options"), [("Gemma", {}), ("Gemma2", {"query_pre_attn_scalar": 1}), ("Gemma2", {})]
)
def test_gemma_s_embedding_factor_and_capped_logits(version: str, options: Mapping[str, Any]) -> None:
    """sqrt(width) in a buffer is restored to the base's; the tied table and its 1 + w norm cannot hold it or the 1/m.

    query_pre_attn_scalar = 256 at both sizes, or 1: then the code's own scale does not depend on d, and q and k take
    the whole of d_base/d, as for a model without a scale.
    """
    plan = plan_of(lambda w: gemma(w, version, **options), TOKENS)
    embedding, head = plan.hooks
    assert (embedding.module, embedding.where, embedding.factor) == ("model.embed_tokens", "output", pytest.approx(0.5))
    assert (head.module, head.where) in {("model.norm", "output"), ("lm_head", "input")}  # the same activation
    assert head.factor == pytest.approx(M)
    held = plan["model.layers.0.self_attn.q_proj.weight"].held * plan["model.layers.1.self_attn.k_proj.weight"].held
    assert held == pytest.approx(Q**2 if version == "Gemma" else M)
    assert not plan.notes


def test_a_factor_in_a_buffer_on_meta_is_asked_for() -> None:
    with torch.device("meta"):
        model = gemma(WIDTH)
    given = {"base": gemma(BASE), "example_inputs": TOKENS}
    with pytest.raises(
        hpt.UsageError, match=r"buffer 'model.embed_tokens.embed_scale', which is on the meta.*constants="
    ):
        hpt.make_plan(model, **given)
    plan = hpt.make_plan(model, **given, constants={"*.embed_scale": WIDTH**0.5})
    assert table(plan) == table(plan_of(gemma, TOKENS))
    assert plan.hooks[0].factor == pytest.approx(0.5)
    with torch.device("meta"):
        base = gemma(BASE)
    both = {"*.embed_scale": (WIDTH**0.5, BASE**0.5)}
    plan = hpt.make_plan(model, base=base, example_inputs=TOKENS, constants=both)
    assert plan.hooks[0].factor == pytest.approx(0.5)


def test_t5_without_attention_scale_and_with_its_own_factor_on_the_tied_head() -> None:
    """q and k take all of d_base/d; the head's own width^-1/2 goes back to the base's (x 2) before the 1/m (x 1/4)."""
    plan = plan_of(t5, {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]})
    for part in ("encoder.block.0.layer.0.SelfAttention", "decoder.block.1.layer.1.EncDecAttention"):
        assert plan[f"{part}.q.weight"].held * plan[f"{part}.k.weight"].held == pytest.approx(M)
    assert plan["decoder.final_layer_norm.weight"].held == pytest.approx(2 * M)
    assert not plan.hooks


BENCH_70B = Path(__file__).parents[3] / "scripts" / "bench_70b.py"


@pytest.mark.parametrize(
    ("seconds", "cpu_seconds", "gigabytes", "ok"),
    [(60.0, 7.0, 0.8, True), (21.0, 20.5, 0.8, False), (8.0, 7.0, 2.1, False)],
)
def test_a_busy_machine_does_not_count_against_the_plan(seconds, cpu_seconds, gigabytes, ok) -> None:
    measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gigabytes": gigabytes}
    assert runpy.run_path(str(BENCH_70B))["within_limits"](measured) is ok


@pytest.mark.slow
def test_a_plan_for_70_billion_parameters_takes_seconds_and_little_memory() -> None:
    """In a process of its own: under 20 s of CPU time and 2 GB, from meta tensors alone."""
    done = subprocess.run([sys.executable, str(BENCH_70B)], stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["cpu_seconds"] < 20 and result["peak_gigabytes"] < 2, result
    assert result["parameters"] > 70e9 and result["hooks"] == 0 and result["groups"] <= 12


def test_a_meta_target_gives_the_plan_of_the_real_one() -> None:
    with torch.device("meta"):
        model = llama(WIDTH)
    plan = hpt.make_plan(model, base=llama(BASE), example_inputs=TOKENS)
    assert table(plan) == expected(LLAMA)
    with pytest.raises(hpt.UsageError, match="is on the meta device"):
        hpt.parametrize_(model, plan)
