"""Fourier mixing, complex weights, sines, splines."""

from __future__ import annotations

import torch
from outside.family import CLASSES, Outside, normal, text
from torch import Tensor, nn

VOCAB = 40


class _Fnet(nn.Module):
    """FNet (2105.03824): the real part of a Fourier transform over tokens, or over tokens and width."""

    def __init__(self, width: int, depth: int, *, over: tuple[int, ...], norm: str | None) -> None:
        super().__init__()
        self.over, self.norm = over, norm
        self.embed, self.readout = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB)
        self.first, self.second = (nn.ModuleList(nn.LayerNorm(width) for _ in range(depth)) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for first, second, mlp in zip(self.first, self.second, self.mlps, strict=True):
            x = first(x + torch.fft.fftn(x, dim=self.over, norm=self.norm).real)
            x = second(x + mlp(x))
        return self.readout(x)


class _Fno(nn.Module):
    """A Fourier neural operator in one dimension (2010.08895): complex weights as a complex parameter."""

    def __init__(self, width: int, depth: int, modes: int = 5) -> None:
        super().__init__()
        self.modes = modes
        self.embed, self.readout = nn.Linear(2, width), nn.Linear(width, 1)
        scale = width**-0.5
        self.spectral = nn.ParameterList(
            nn.Parameter(scale * torch.randn(width, width, modes, dtype=torch.cfloat)) for _ in range(depth)
        )
        self.local = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).mT
        for weight, local in zip(self.spectral, self.local, strict=True):
            bins = torch.fft.rfft(h, norm="ortho")[..., : self.modes]
            mixed = torch.einsum("bim,iom->bom", bins, weight)
            h = torch.nn.functional.gelu(torch.fft.irfft(mixed, n=h.shape[-1], norm="ortho") + local(h))
        return self.readout(h.mT)


class _ComplexPair(nn.Module):
    """A complex layer whose weight is a real pair seen by view_as_complex (as in GFNet and AFNO)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(2 * width, CLASSES)
        self.pair = nn.Parameter(torch.randn(width, width, 2) * (2 * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.embed(x)).to(torch.cfloat) @ torch.view_as_complex(self.pair)
        return self.readout(torch.relu(torch.view_as_real(h).flatten(-2)))


class _ComplexParts(nn.Module):
    """A complex layer whose weight is torch.complex of two real ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(8, width), nn.Linear(width, CLASSES)
        self.real, self.imaginary = (nn.Parameter(torch.randn(width, width) * (2 * width) ** -0.5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.embed(x)).to(torch.cfloat) @ torch.complex(self.real, self.imaginary)
        return self.readout(torch.relu(h.real + h.imag))


class _GlobalFilter(nn.Module):
    """GFNet (2107.00645): a learned complex filter per frequency and channel."""

    def __init__(self, width: int, depth: int, length: int = 12) -> None:
        super().__init__()
        self.embed, self.readout = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB)
        bins = length // 2 + 1
        self.filters = nn.ParameterList(nn.Parameter(torch.randn(bins, width, 2)) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for weight, norm, mlp in zip(self.filters, self.norms, self.mlps, strict=True):
            bins = torch.fft.rfft(norm(x), dim=1, norm="ortho") * torch.view_as_complex(weight)
            x = x + mlp(torch.fft.irfft(bins, n=x.shape[1], dim=1, norm="ortho"))
        return self.readout(x)


class _Siren(nn.Module):
    """SIREN (2006.09661): sines with omega 30 and its uniform initialisation."""

    def __init__(self, width: int, depth: int, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        self.layers = nn.ModuleList([nn.Linear(2, width), *(nn.Linear(width, width) for _ in range(depth))])
        self.readout = nn.Linear(width, 3)
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1 / 2, 1 / 2)
            for layer in (*self.layers[1:], self.readout):
                layer.weight.uniform_(-((6 / width) ** 0.5) / omega, (6 / width) ** 0.5 / omega)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.readout(x)


class _RandomFeatures(nn.Module):
    """Fourier features of a fixed frequency matrix, as NeRF-like fields use (2006.10739)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, width // 2, generator=torch.Generator().manual_seed(0)))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.readout = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        phases = 2 * torch.pi * x @ self.frequencies
        return self.readout(self.mlp(torch.cat([phases.sin(), phases.cos()], -1)))


class _Spline(nn.Module):
    """A Kolmogorov-Arnold layer in the way of efficient-kan: SiLU base plus a Gaussian-bump basis per input."""

    def __init__(self, fan_in: int, fan_out: int, bumps: int = 6) -> None:
        super().__init__()
        self.base = nn.Linear(fan_in, fan_out, bias=False)
        self.spline = nn.Parameter(torch.randn(fan_out, fan_in, bumps) * (fan_in * bumps) ** -0.5)
        self.register_buffer("grid", torch.linspace(-2, 2, bumps))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.grid) ** 2))
        spline = bumps.flatten(-2) @ self.spline.flatten(1).mT
        return self.base(torch.nn.functional.silu(x)) + spline


def _kan(width: int, depth: int) -> nn.Module:
    return nn.Sequential(
        _Spline(6, width), nn.LayerNorm(width), _Spline(width, width), nn.LayerNorm(width), _Spline(width, 3)
    )


def _flat(size: int) -> tuple[Tensor]:
    return (normal(size),)


SPECTRAL = (
    Outside("hand-fnet-tokens", "handwritten", "torch", lambda w, d: _Fnet(w, d, over=(1,), norm="ortho"), text()),
    Outside("hand-fnet", "handwritten", "torch", lambda w, d: _Fnet(w, d, over=(1, 2), norm=None), text()),
    Outside("hand-fno", "handwritten", "torch", _Fno, lambda: (normal(16, 2),)),
    Outside("hand-view-as-complex", "handwritten", "torch", lambda w, d: _ComplexPair(w), lambda: _flat(8)),
    Outside("hand-torch-complex", "handwritten", "torch", lambda w, d: _ComplexParts(w), lambda: _flat(8)),
    Outside("hand-gfnet", "handwritten", "torch", _GlobalFilter, text(), True),
    Outside("hand-siren", "handwritten", "torch", _Siren, lambda: _flat(2)),
    Outside("hand-fourier-features", "handwritten", "torch", lambda w, d: _RandomFeatures(w), lambda: _flat(2)),
    Outside("hand-kan", "handwritten", "torch", _kan, lambda: _flat(6)),
)
