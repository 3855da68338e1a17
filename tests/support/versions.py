"""What older torch cannot do; the whole suite was run on 2.6.0, 2.9.0 and 2.13.0."""

from __future__ import annotations

import pytest
import torch
from torch.torch_version import TorchVersion

TORCH = TorchVersion(torch.__version__)

traces_writes = pytest.mark.skipif(
    TORCH < "2.9",
    reason="torch 2.6 cannot trace a forward that writes to a parameter or into a buffer's memory; 2.9 can",
)
exports_filled_lists = pytest.mark.skipif(
    TORCH < "2.13", reason="torch 2.9 cannot export a forward that fills a list attribute; 2.13 can"
)
shards_on_cpu = pytest.mark.skipif(TORCH < "2.9", reason="FSDP2 of torch 2.6 does not run on the CPU; that of 2.9 does")
has_muon = pytest.mark.skipif(TORCH < "2.9", reason="torch.optim.Muon came with torch 2.9")
