"""Convolutions: WaveNet, U-Net, PointNet, a temporal network with weight norm, a weight-standardised one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from outside.family import CLASSES, Outside, images, normal, text
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

LEVELS = 16


class _WaveNet(nn.Module):
    """Dilated causal convolutions with gated units, residual and skip paths (1609.03499)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(LEVELS, width)
        self.dilated = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(depth))
        self.out, self.skip = (nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth)) for _ in range(2))
        self.head, self.readout = nn.Conv1d(width, width, 1), nn.Conv1d(width, LEVELS, 1)

    def forward(self, samples: Tensor) -> Tensor:
        x, skips = self.embed(samples).mT, 0.0
        for dilated, out, skip in zip(self.dilated, self.out, self.skip, strict=True):
            value, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, 1)
            h = torch.tanh(value) * torch.sigmoid(gate)
            x, skips = x + out(h), skips + skip(h)
        return self.readout(torch.relu(self.head(torch.relu(skips))))


class _UNet(nn.Module):
    """A U-Net with concatenated skips and transposed convolutions (1505.04597)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.down = self._two(3, width // 2), self._two(width // 2, width)
        self.middle, self.up = self._two(width, 2 * width), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join, self.last = self._two(2 * width, width), nn.ConvTranspose2d(width, width // 2, 2, 2)
        self.leave, self.readout = self._two(width, width // 2), nn.Conv2d(width // 2, CLASSES, 1)

    @staticmethod
    def _two(enters: int, leaves: int) -> nn.Module:
        norm = lambda: nn.BatchNorm2d(leaves)  # noqa: E731
        first, second = nn.Conv2d(enters, leaves, 3, padding=1), nn.Conv2d(leaves, leaves, 3, padding=1)
        return nn.Sequential(first, norm(), nn.ReLU(), second, norm(), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.down(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.join(torch.cat([self.up(c), b], 1))
        return self.readout(self.leave(torch.cat([self.last(b), a], 1)))


class _PointNet(nn.Module):
    """PointNet (1612.00593) with its learned alignment of the features."""

    def __init__(self, width: int, aligned: int = 8) -> None:
        super().__init__()
        self.aligned = aligned
        self.lift, self.scout = nn.Conv1d(3, aligned, 1), nn.Conv1d(aligned, width, 1)
        self.align = nn.Linear(width, aligned * aligned)
        self.points = nn.Sequential(nn.Conv1d(aligned, width, 1), nn.ReLU(), nn.Conv1d(width, 2 * width, 1))
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, cloud: Tensor) -> Tensor:
        h = torch.relu(self.lift(cloud))
        turn = self.align(torch.relu(self.scout(h)).amax(-1)).view(-1, self.aligned, self.aligned)
        h = torch.bmm(turn + torch.eye(self.aligned), h)
        return self.head(self.points(h).amax(-1))


class _Tcn(nn.Module):
    """A temporal convolutional network with weight norm as a parametrization (1803.01271)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(4, width, 1)
        self.layers = nn.ModuleList(weight_norm(nn.Conv1d(width, width, 3, padding=1)) for _ in range(depth))
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for layer in self.layers:
            h = h + torch.relu(layer(h))
        return self.readout(h.mean(-1))


class _Standardized(nn.Conv2d):
    """Weight standardisation as written by hand (1903.10520)."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-10).sqrt()
        return F.conv2d(input, weight, self.bias, padding=1)


class _StandardizedNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Standardized(3, width, 3), nn.GroupNorm(4, width), nn.ReLU(),
            _Standardized(width, width, 3), nn.GroupNorm(4, width), nn.ReLU(),
        )  # fmt: skip
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layers(x).mean((2, 3)))


class _SqueezeExcite(nn.Module):
    """A plain ConvNet whose gates squeeze the width by sixteen (1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.conv = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(width, width // 8), nn.Linear(width // 8, width)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(torch.relu(self.enter(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3))))))
        return self.readout((h * gate[..., None, None]).mean((2, 3)))


CONV = (
    Outside("hand-wavenet", "handwritten", "torch", _WaveNet, text(LEVELS, 16), unused=True),
    Outside("hand-unet", "handwritten", "torch", lambda w, d: _UNet(w), images(16)),
    Outside("hand-pointnet", "handwritten", "torch", lambda w, d: _PointNet(w), lambda: (normal(3, 24),)),
    Outside("hand-tcn-weight-norm", "handwritten", "torch", _Tcn, lambda: (normal(4, 16),), True),
    Outside("hand-weight-standardised", "handwritten", "torch", lambda w, d: _StandardizedNet(w), images(8)),
    Outside("hand-squeeze-excite", "handwritten", "torch", lambda w, d: _SqueezeExcite(w), images(8)),
)
