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
_CONSTANT = "linear attention scales its queries by d^-1/2 behind a SiLU and their own norm, so nothing can hold it"
_FUSED = "q, k and v are made by one weight and v meets a nonlinearity, so attention's factor cannot go into it"
_TAPS = "a weight norm per tap of a kernel loses the initial scale"

_LISTED: tuple[tuple[str, tuple[Heads, ...], str, str], ...] = (
    ("diffllama", _ALL, "REFUSED", "a number made of two trained vectors multiplies the second attention map"),
    ("gemma3n", _ALL, "REFUSED", "a router called twice reads its input times 1/n: two constants, one weight"),
    ("llama4", _FIXED, "REFUSED", "queries and keys leave norms without gains, in a module that is called twice"),
    ("dbrx", _FIXED, "REFUSED", "queries and keys are clamped, so attention's factor cannot pass to their weights"),
    ("doge-moe", _ALL, "FAIL", "experts are looked-up rows contracted with the activation: noted, no rule scales it"),
    ("deberta", _FIXED, "REFUSED", "a constant on queries that a fused projection makes and two products share"),
    ("albert-bottleneck", _BOTH, "FAIL", "a norm behind a fixed-size readout undoes its 1/n: noted"),
    (
        "pegasus-x",
        _FIXED,
        "REFUSED",
        "a constant on queries whose projection is called twice, for tokens and global ones",
    ),
    (
        "prophetnet",
        _GROWING,
        "REFUSED",
        "the plan's hook cannot be applied: the decoder returns two tensors",
    ),
    ("qwen3-5", _GROWING, "FAIL", "decays drawn between 0 and 16 for few heads; not understood further"),
    ("qwen3-next", _GROWING, "INCONCLUSIVE", "decays drawn between 0 and 16 for few heads leave noise"),
    ("nemotron-h", _GROWING, "INCONCLUSIVE", "one gain per head, of four heads at the base, leaves noise"),
    (
        "xlnet",
        _GROWING,
        "FAIL",
        "a weight reads constant sinusoids of positions, no data to the oracle",
    ),
    ("funnel", _GROWING, "FAIL", "as xlnet, and one bias of the position logits at n^.6, not understood"),
    ("parakeet", _GROWING, "FAIL", "as xlnet: the projection of relative positions reads constant sinusoids"),
    ("switch", _FIXED, "INCONCLUSIVE", "experts see few tokens, and which ones changes from width to width"),
    ("efficientnet", _FIXED, "INCONCLUSIVE", "noise of a squeeze to eight channels"),
    ("prophetnet", _FIXED, "REFUSED", "the main and the predicted streams' queries are pieces of one projection"),
    ("wav2vec2", _BOTH, "REFUSED", _TAPS),
    ("hubert", _BOTH, "REFUSED", _TAPS),
    ("unispeech", _BOTH, "REFUSED", _TAPS),
    ("unispeech-sat", _BOTH, "REFUSED", _TAPS),
    ("wavlm", _BOTH, "REFUSED", _TAPS),
    ("sew", _BOTH, "REFUSED", _TAPS),
    ("wav2vec2-bert", _FIXED, "FAIL", "the oracle takes a table of keys for a readout: it is contracted with queries"),
    ("swinv2", _FIXED, "FAIL", "cosines of random vectors fade as d^-1/2 at the start; the norm behind amplifies it"),
    ("bit", _FIXED, "REFUSED", "weight standardization loses the initial scale"),
    ("levit", _FIXED, "REFUSED", _FUSED),
    ("zamba2", _FIXED, "FAIL", "behind an adapter's down-projection of init 1/n the branch fades at the start"),
    ("qwen3-next", _FIXED, "REFUSED", _CONSTANT),
    ("qwen3-5", _FIXED, "REFUSED", _CONSTANT),
    ("olmo-hybrid", _FIXED, "REFUSED", _CONSTANT),
    ("xlstm", _FIXED, "REFUSED", "keys are scaled by a constant and read in slices, by a loop over chunks"),
    ("patchtsmixer", _FIXED, "FAIL", "gates are a softmax over the features, entries 1/n: noted, no rule scales it"),
)

KNOWN: Mapping[tuple[str, Heads], Known] = {
    (name, mode): Known(verdict, why) for name, modes, verdict, why in _LISTED for mode in modes
}
"""(family, heads) -> what comes of it."""
