"""A vision transformer under Muon for its hidden matrices and AdamW for the rest.

One plan holds both optimizers' rules. The step is audited: every update is compared with what the plan says it should
be. Needs torch 2.9, which brought Muon.
"""

import torch
from torch import nn
from torch.nn import functional as F

import hptransfer as hpt


class ViT(nn.Module):
    """Images [batch, 1, 8, 8] -> logits [batch, 10]: patches, two blocks, a mean over the tokens."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


if not hasattr(torch.optim, "Muon"):
    raise SystemExit("torch.optim.Muon came with torch 2.9; this torch is older.")

torch.manual_seed(0)
images, labels = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
model = ViT(128)
plan = hpt.make_plan(
    model,
    base=ViT(32),
    example_inputs=(images,),
    optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW},
)
hpt.parametrize_(model, plan)
optimizer = hpt.build_optimizers(
    model,
    plan,
    {torch.optim.Muon: {"lr": 0.02, "weight_decay": 0.0}, torch.optim.AdamW: {"lr": 3e-3, "weight_decay": 0.0}},
)
F.cross_entropy(model(images), labels).backward()
audit = hpt.audit_step(model, plan, optimizer)

by_optimizer = {name: sum(row.optimizer == name for row in plan.rows.values()) for name in ("Muon", "AdamW")}
print(f"Muon trains {by_optimizer['Muon']} parameters, AdamW {by_optimizer['AdamW']}; the step: {audit.verdict}")
assert by_optimizer["Muon"] == 12  # six matrices a block
assert plan["blocks.0.up.weight"].lr_mult == 1.0  # spectral: (o / i)^1/2 = 1
assert plan["head.weight"].lr_mult == 32 / 128  # AdamW's readout: 1 / m
assert audit.ok
