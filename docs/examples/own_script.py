"""A GPT script with tied weights and decay groups, five lines changed.

What the factors are for: after one step at the same base rate the logits of a small and of a large model move about
equally far. Without the plan the large one's move many times as far.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import hptransfer as hpt


class GPT(nn.Module):
    """Tokens [batch, time] -> logits; the readout is the embedding."""

    def __init__(self, width: int, vocabulary: int = 65) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, mask = self.embed(tokens), nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.head(self.norm(x))


def moved(model: GPT, optimizer: torch.optim.Optimizer) -> float:
    """How far the logits move in one step, root mean square."""
    with torch.no_grad():
        before = model(tokens)
    F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten()).backward()
    optimizer.step()
    with torch.no_grad():
        return (model(tokens) - before).square().mean().sqrt().item()


def is_matrix(_: str, parameter: torch.Tensor) -> bool:
    """What decays, as in nanoGPT."""
    return parameter.dim() >= 2


torch.manual_seed(0)
tokens, labels = torch.randint(65, (8, 32)), torch.randint(65, (8, 32))
settings = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
base = GPT(32)
plain, planned = {}, {}
for width in (32, 256):
    model = GPT(width)
    as_it_was = copy.deepcopy(model)
    groups = [
        {"params": [p for p in as_it_was.parameters() if is_matrix("", p) == decayed], "weight_decay": 0.1 * decayed}
        for decayed in (True, False)
    ]
    plain[width] = moved(as_it_was, torch.optim.AdamW(groups, **settings))

    plan = hpt.make_plan(model, base=base, example_inputs=(tokens,), optimizer=torch.optim.AdamW)
    hpt.parametrize_(model, plan)
    optimizer = hpt.build_optimizers(model, plan, {torch.optim.AdamW: settings}, decay=is_matrix)
    planned[width] = moved(model, optimizer)

for name, by_width in (("one rate", plain), ("planned", planned)):
    print(f"{name}: logits move by {by_width[32]:.2f} at width 32, {by_width[256]:.2f} at width 256")
assert plain[32] == planned[32]  # at the base's own size the plan changes nothing, bit for bit
assert plain[256] > 4 * plain[32]
assert 0.5 < planned[256] / planned[32] < 2
