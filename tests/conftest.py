"""One thread per test process: on a shared machine, oversubscribed threads cost more than they give."""

import torch

torch.set_num_threads(1)
