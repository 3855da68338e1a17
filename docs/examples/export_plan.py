"""A plan as regular expressions, applied without the library.

For a trainer in another process or language: the factors of a plan in as few patterns as say them exactly. First match
wins. Read back with `re` alone, they give every parameter's factors again.
"""

import json
import re

import torch
from torch import nn

import hptransfer as hpt


class Net(nn.Module):
    """Tokens -> logits, with four blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(100, width), nn.Linear(width, 100, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(4)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


tokens = torch.zeros(1, 8, dtype=torch.long)
plan = hpt.make_plan(Net(256), base=Net(64), example_inputs=(tokens,), optimizer=torch.optim.AdamW)
text = plan.export("regex")
rules = json.loads(text)["patterns"]
print(f"{len(plan.rows)} parameters in {len(rules)} patterns")
assert len(rules) < len(plan.rows) / 2

for name, _ in Net(256).named_parameters():
    rule = next(rule for rule in rules if re.search(rule["pattern"], name))
    row = plan[name]
    assert (rule["init"], rule["lr"]) == (row.init_mult, row.lr_mult)
    assert (rule["weight_decay"], rule["eps"]) == (row.wd_mult, row.eps_mult)
