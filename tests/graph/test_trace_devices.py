"""After a trace a process can fork workers that train, also where torch is built for GPUs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

feigns_devices = torch.backends.cuda.is_built() and not torch.cuda.is_available()
TRACED_THEN_FORKED = """
import os, torch
from torch import nn
from hptransfer.graph.trace import trace

def train():
    x = torch.ones(2, requires_grad=True)
    (x * x).sum().backward()

trace(nn.Linear(3, 3), (torch.ones(2, 3),))
train()
child = os.fork()
if child == 0:
    try:
        train()
    except BaseException:
        os._exit(7)
    os._exit(0)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not feigns_devices, reason="needs torch built with CUDA on a machine without a GPU")
def test_after_a_trace_a_forked_process_can_still_train():
    """Without the first backward pass before it, torch 2.13+cu130 answers "Unable to handle autograd's threading"."""
    command = [sys.executable, "-c", TRACED_THEN_FORKED]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0", done.stderr
