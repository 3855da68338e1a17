"""What predictions rest on: one module an area, each imported when first used.

curvature    sharpness, spectra and preconditioners of a real model
inits        critical initial scales, and how signals travel through depth
kernels      NNGP and NTK at infinite width, tangent kernels of real networks, training in their regime
laws         published and fitted laws for the learning rate, batch, weight decay and loss
mechanics    solvable models: linear networks, eigenlearning, the catapult, power laws, the edge of stability
noise        the gradient noise scale
quadratic    the noisy quadratic: its best learning rate and schedule
schedules    schedules, the convex bound on them, the multi-power law
stability    the largest stable learning rate x curvature of an update rule
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hptransfer.theory import curvature, inits, kernels, laws, mechanics, noise, quadratic, schedules, stability

__all__ = ["curvature", "inits", "kernels", "laws", "mechanics", "noise", "quadratic", "schedules", "stability"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(
            f"module 'hptransfer.theory' has no attribute {name!r}; its areas are {', '.join(__all__)}"
        )
    return import_module(f"hptransfer.theory.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
