"""Time series and decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from families.family import BATCH, LAYERS, Family, normal, two_sided

_PAST, _FUTURE, _LAGS = 12, 4, [1, 2]


def _series(width: int, heads: int) -> Mapping[str, Any]:
    own = {"prediction_length": _FUTURE, "context_length": _PAST - 2, "lags_sequence": _LAGS, "num_time_features": 1}
    dropout = {k: 0.0 for k in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop",
                                "decoder_layerdrop")}  # fmt: skip
    return {**two_sided(width, heads), **own, **dropout, "d_model": width}


def _series_inputs() -> Mapping[str, Any]:
    past = {"past_values": normal(_PAST), "past_time_features": normal(_PAST, 1)}
    future = {"future_values": normal(_FUTURE), "future_time_features": normal(_FUTURE, 1)}
    return {**past, **future, "past_observed_mask": torch.ones(BATCH, _PAST)}


def _patchtst(width: int, heads: int) -> Mapping[str, Any]:
    own = {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4}
    dropout = {
        k: 0.0 for k in ("attention_dropout", "positional_dropout", "ff_dropout", "path_dropout", "head_dropout")
    }
    sizes = {"d_model": width, "num_attention_heads": heads, "ffn_dim": 2 * width, "num_hidden_layers": LAYERS}
    return {**own, **dropout, **sizes, "loss": "mse"}


def _patchtsmixer(width: int, heads: int) -> Mapping[str, Any]:
    own = {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4}
    return {**own, "d_model": width, "num_layers": LAYERS, "dropout": 0.0, "head_dropout": 0.0, "loss": "mse"}


def _decision(width: int, heads: int) -> Mapping[str, Any]:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"hidden_size": width, "n_layer": LAYERS, "n_head": heads, "n_positions": 64}
    return {**dropout, **sizes, "state_dim": 3, "act_dim": 2, "max_ep_len": 20}


def _decision_inputs() -> Mapping[str, Any]:
    steps = torch.arange(4).repeat(BATCH, 1)
    values = {"states": normal(4, 3), "actions": normal(4, 2), "rewards": normal(4, 1), "returns_to_go": normal(4, 1)}
    return {**values, "timesteps": steps, "attention_mask": torch.ones(BATCH, 4)}


def _past_only() -> Mapping[str, Any]:
    return {"past_values": normal(16, 2)}


OTHER = (
    Family("time-series", "other", "TimeSeriesTransformerForPrediction", "TimeSeriesTransformerConfig", _series,
           _series_inputs),
    Family("patchtst", "other", "PatchTSTForPrediction", "PatchTSTConfig", _patchtst, _past_only),
    Family("patchtsmixer", "other", "PatchTSMixerForPrediction", "PatchTSMixerConfig", _patchtsmixer, _past_only,
           grows_heads=False),
    Family("decision", "other", "DecisionTransformerModel", "DecisionTransformerConfig", _decision, _decision_inputs,
           unused=True),
)  # fmt: skip
