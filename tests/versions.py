"""What older torch cannot do; the suite was run on 2.6.0, 2.9.0 (in part) and 2.13.0."""

from __future__ import annotations

import pytest
import torch
from torch.torch_version import TorchVersion

traces_writes = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.9",
    reason="torch 2.6 cannot trace a forward that writes to a parameter or into a buffer's memory; 2.9 can",
)
