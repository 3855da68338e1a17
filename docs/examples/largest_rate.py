"""The curvature that an optimizer feels gives the rate at which training diverges.

On a quadratic the bound is exact: gradient descent with momentum beta is stable below 2 (1 + beta) / lambda. The
sharpness is measured by Hessian products, the limit comes from the update rule alone, and training on either side of it
agrees.
"""

import torch
from torch import nn

import hptransfer as hpt

curvature, stability = hpt.theory.curvature, hpt.theory.stability

torch.manual_seed(0)
x = torch.randn(256, 10) * torch.linspace(0.3, 2.0, 10)
y = x @ torch.randn(10, 1)
model = nn.Linear(10, 1, bias=False)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


top = curvature.sharpness(model, loss, [(x, y)])
exact = torch.linalg.eigvalsh(2 * x.T @ x / len(x))[-1].item()
print(f"sharpness {top.value:.4f}, from the matrix itself {exact:.4f}")
assert abs(top.value / exact - 1) < 1e-3

for momentum in (0.0, 0.9):
    limit = stability.limit(stability.rule_for(torch.optim.SGD, {"momentum": momentum}))
    assert abs(limit - 2 * (1 + momentum)) < 1e-6
    ends = []
    for factor in (0.97, 1.03):
        nn.init.normal_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=factor * top.max_lr(limit), momentum=momentum)
        start = loss(model, (x, y)).item()
        for _ in range(500):
            optimizer.zero_grad()
            value = loss(model, (x, y))
            value.backward()
            optimizer.step()
        ends.append(loss(model, (x, y)).item() / start)
    print(f"momentum {momentum}: loss x {ends[0]:.1e} just below the limit, x {ends[1]:.1e} just above")
    assert ends[0] < 1e-6
    assert not ends[1] < 1e6  # larger, or no number any more
