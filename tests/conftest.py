"""One thread per test process, and torch.optim.Muon only where torch has it.

On a shared machine, oversubscribed threads cost more than they give.
"""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

if not hasattr(torch.optim, "Muon"):

    class Muon(torch.optim.Optimizer):
        """Stands for torch.optim.Muon, which came with torch 2.9: plans know it by name, and steps are skipped."""

        def __init__(self, *args: object, **options: object) -> None:
            pytest.skip("torch.optim.Muon came with torch 2.9")

    torch.optim.Muon = Muon  # pyright: ignore[reportAttributeAccessIssue]
