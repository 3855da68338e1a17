"""One thread per test process, and torch.optim.Muon only where torch has it.

On a shared machine, oversubscribed threads cost more than they give.
"""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

if not hasattr(torch.optim, "Muon"):

    class Muon(torch.optim.Optimizer):
        """Stands for torch.optim.Muon, which came with torch 2.9: plans know it, and steps are skipped."""

        __module__ = "torch.optim"  # a class is known by where it comes from

        def __init__(
            self,
            params: object,
            lr: float = 1e-3,
            weight_decay: float = 0.1,
            momentum: float = 0.95,
            nesterov: bool = True,
            ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
            eps: float = 1e-7,
            ns_steps: int = 5,
            adjust_lr_fn: str | None = None,
        ) -> None:
            pytest.skip("torch.optim.Muon came with torch 2.9")

    torch.optim.Muon = Muon  # pyright: ignore[reportAttributeAccessIssue]
