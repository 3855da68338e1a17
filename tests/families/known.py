"""Outcomes other than PASS: which trials of which families fail or are refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from families.family import Heads


@dataclass(frozen=True)
class Known:
    """verdict: as in a Trial; why: what in the model, in the plan or in the oracle brings it about."""

    verdict: str
    why: str


_BOTH: tuple[Heads, ...] = ("fixed", "growing")
_ALL: tuple[Heads, ...] = ("fixed", "growing", "fixed kv")
_FIXED: tuple[Heads, ...] = ("fixed",)
_GROWING: tuple[Heads, ...] = ("growing",)
_KV: tuple[Heads, ...] = ("fixed kv",)
_CONSTANT = "linear attention scales its queries by d^-1/2 behind a SiLU and their own norm, so nothing can hold it"
_FUSED = "q, k and v are made by one weight and v meets a nonlinearity, so attention's factor cannot go into it"
_TAPS = "a weight norm per tap of a kernel loses the initial scale"
_EXPERTS = "experts see few tokens, and which ones changes from width to width and seed to seed"
_SINUSOIDS = "as xlnet: the projection of relative positions reads constant sinusoids"
_SHARED_NORM = "keys behind a norm over all heads' features: with two heads kept, attention's own change is n^-.3"

_LISTED: tuple[tuple[str, tuple[Heads, ...], str, str], ...] = (
    (
        "olmo2",
        _KV,
        "FAIL",
        _SHARED_NORM,
    ),
    (
        "exaone4",
        _KV,
        "FAIL",
        _SHARED_NORM,
    ),
    (
        "olmo3",
        _KV,
        "FAIL",
        _SHARED_NORM,
    ),
    ("diffllama", _ALL, "REFUSED", "a number made of two trained vectors multiplies the second attention map"),
    ("nanochat", _KV, "FAIL", "as olmo2, but the norm on keys sees n^.36; not understood"),
    ("gemma3n", _ALL, "REFUSED", "a router called twice reads its input times 1/n: two constants, one weight"),
    ("doge", _KV, "FAIL", "not understood: model.layers.*.self_attn.o_proj.weight: init +0.07 against t"),
    (
        "qwen3-moe",
        _KV,
        "INCONCLUSIVE",
        _EXPERTS,
    ),
    (
        "dots1",
        _KV,
        "INCONCLUSIVE",
        "two key-value heads of a few features leave noise behind the norm on keys",
    ),
    ("minimax", _FIXED, "FAIL", "q.k over growing heads under a norm: m^1/2 at the start, m once trained; noted"),
    ("jetmoe", _KV, "FAIL", "not understood: attention 4: change +0.51 where +0.00 is promised"),
    ("llama4", _FIXED, "REFUSED", "queries and keys leave norms without gains, in a module that is called twice"),
    (
        "doge-moe",
        _KV,
        "FAIL",
        "experts are looked-up rows contracted with the activation: noted, no rule scales it",
    ),
    ("dbrx", _FIXED, "REFUSED", "queries and keys are clamped, so attention's factor cannot pass to their weights"),
    (
        "deberta",
        _FIXED,
        "REFUSED",
        "q, k and v are made by one weight and v has a bias of its own, so attention's factor cannot go into it",
    ),
    ("albert-bottleneck", _BOTH, "FAIL", "a norm behind a fixed-size readout undoes its 1/n: noted"),
    ("xlnet", _GROWING, "FAIL", "a weight reads constant sinusoids of positions, no data to the oracle"),
    ("funnel", _GROWING, "FAIL", "as xlnet, and one bias of the position logits at n^.6, not understood"),
    ("switch", _FIXED, "INCONCLUSIVE", "experts see few tokens, and which ones changes from width to width"),
    (
        "switch",
        _GROWING,
        "INCONCLUSIVE",
        _EXPERTS,
    ),
    (
        "nllb-moe",
        _GROWING,
        "FAIL",
        _EXPERTS,
    ),
    ("prophetnet", _FIXED, "REFUSED", "the main and the predicted streams' queries are pieces of one projection"),
    ("prophetnet", _GROWING, "REFUSED", "the plan's hook cannot be applied: the decoder returns two tensors"),
    ("wav2vec2", _BOTH, "REFUSED", _TAPS),
    ("hubert", _BOTH, "REFUSED", _TAPS),
    ("unispeech", _BOTH, "REFUSED", _TAPS),
    ("unispeech-sat", _BOTH, "REFUSED", _TAPS),
    ("wavlm", _BOTH, "REFUSED", _TAPS),
    ("sew", _BOTH, "REFUSED", _TAPS),
    ("wav2vec2-conformer", _GROWING, "FAIL", _SINUSOIDS),
    ("wav2vec2-bert", _FIXED, "FAIL", "the oracle takes a table of keys for a readout: it is contracted with queries"),
    ("parakeet", _GROWING, "FAIL", _SINUSOIDS),
    ("swinv2", _FIXED, "FAIL", "cosines of random vectors fade as d^-1/2 at the start; the norm behind amplifies it"),
    (
        "levit",
        _FIXED,
        "REFUSED",
        _FUSED,
    ),
    ("efficientnet", _FIXED, "INCONCLUSIVE", "noise of a squeeze to eight channels"),
    ("falcon-mamba", _FIXED, "INCONCLUSIVE", "norms over a few features of a state's projections leave noise"),
    ("jamba", _BOTH, "INCONCLUSIVE", "norms over a few features of a state's projections leave noise"),
    ("zamba2", _BOTH, "FAIL", "behind an adapter's down-projection of init 1/n the branch fades at the start"),
    (
        "qwen3-next",
        _FIXED,
        "REFUSED",
        _CONSTANT,
    ),
    ("qwen3-next", _GROWING, "INCONCLUSIVE", "decays drawn between 0 and 16 for few heads leave noise"),
    (
        "qwen3-5",
        _FIXED,
        "REFUSED",
        _CONSTANT,
    ),
    ("qwen3-5", _GROWING, "FAIL", "decays drawn between 0 and 16 for few heads; not understood further"),
    (
        "olmo-hybrid",
        _FIXED,
        "REFUSED",
        _CONSTANT,
    ),
    ("nemotron-h", _GROWING, "INCONCLUSIVE", "one gain per head, of four heads at the base, leaves noise"),
    ("xlstm", _FIXED, "REFUSED", "keys are scaled by a constant and read in slices, by a loop over chunks"),
)

KNOWN: Mapping[tuple[str, Heads], Known] = {
    (name, mode): Known(verdict, why) for name, modes, verdict, why in _LISTED for mode in modes
}
"""(family, heads) -> what comes of it."""
