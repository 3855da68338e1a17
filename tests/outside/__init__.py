"""Models from outside transformers at any width and depth, with random weights: packages that a user has at hand.

`OUTSIDE[name].build(width, depth)` is a model whose every width axis follows `width`; `.inputs()` is one batch for it.
Nothing is downloaded; a package that is not installed is named by `.absent`.
"""

from __future__ import annotations

from collections.abc import Mapping

from outside.diffusion import DIFFUSION
from outside.family import Outside
from outside.graph_networks import GRAPHS
from outside.handwritten import HANDWRITTEN
from outside.other_packages import OTHERS
from outside.timm_models import TIMM
from outside.torch_models import TORCH
from outside.vit_variants import VIT_VARIANTS
from outside.x_options import X_TRANSFORMERS

_KINDS = (TIMM, TORCH, DIFFUSION, X_TRANSFORMERS, VIT_VARIANTS, OTHERS, GRAPHS, HANDWRITTEN)

OUTSIDE: Mapping[str, Outside] = {family.name: family for kind in _KINDS for family in kind}
"""Every family tried, by name."""

__all__ = ["OUTSIDE", "Outside"]
