"""Unmodified transformers models at any width, with random weights: what the planner and the role oracle are tried on.

`FAMILIES[name].build(width, heads)` is a model of few layers whose every width axis follows `width`; `.inputs()` is one
batch for it. Fixed heads make the head dimension grow; heads in proportion to the width keep it, and key-value heads
may then stay fixed. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from families.audio import AUDIO
from families.decoders import DECODERS
from families.encoder_decoders import ENCODER_DECODERS
from families.encoders import ENCODERS
from families.family import BASE, WIDTHS, Family, Heads
from families.moe import MOE
from families.other import OTHER
from families.state_space import STATE_SPACE
from families.vision import VISION

_KINDS = (DECODERS, MOE, ENCODERS, ENCODER_DECODERS, AUDIO, VISION, STATE_SPACE, OTHER)

FAMILIES: Mapping[str, Family] = {family.name: family for kind in _KINDS for family in kind}
"""Every family tried, by name."""

__all__ = ["BASE", "FAMILIES", "WIDTHS", "Family", "Heads"]
