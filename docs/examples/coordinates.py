"""The coordinate check passes under muP, fails under SP, and says where.

Do activations keep their size when the width grows, and do they learn equally fast? Some training steps at three widths
answer it, with an exponent and its interval for every module.
"""

from collections.abc import Iterator

import torch
from torch import nn

import hptransfer as hpt
from hptransfer import Recipe, Scale


def build(scale: Scale) -> nn.Module:
    width = scale.width or 32
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def batches(scale: Scale, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    teacher = torch.randn(16, 4, generator=torch.Generator().manual_seed(99))
    while True:
        x = torch.randn(int(scale.batch or 64), 16, generator=draw)
        yield x, (x @ teacher).argmax(1)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


recipe = Recipe(
    name="teacher",
    build=build,
    batches=batches,
    loss=loss,
    validation=lambda: [next(batches(Scale(), 12345))],
    example_inputs=lambda: (torch.zeros(2, 16),),
    base=Scale(width=32),
    optimizer=torch.optim.Adam,
)
reports = {
    s: hpt.coord_check(recipe, widths=[32, 64, 128, 256], steps=1, seeds=3, lr=2**-7, scheme=s) for s in ("mup", "sp")
}
for scheme, report in reports.items():
    print(f"{scheme}: {report.verdict}: {report.reasons[0]}")
assert reports["mup"].verdict == "PASS"
assert reports["sp"].verdict == "FAIL"
assert any("grows with width" in reason for reason in reports["sp"].reasons)
