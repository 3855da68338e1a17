"""The parameters of a module as one flat vector, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError


@dataclass(frozen=True)
class ParameterSpace:
    """Some of a module's parameters, in a fixed order; vectors in this space are flat, in their common dtype.

    names: as in named_parameters() (a tied tensor once, under its first name); tensors: the live parameters.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str] | None = None) -> ParameterSpace:
        """The trainable floating-point parameters of `model`, or the named ones among them, in the model's order.

        Raises UsageError where a name is unknown or none is left, or where dtypes or devices are mixed.
        """
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
        wanted = set(trainable) if names is None else set(names)
        if unknown := sorted(wanted - set(trainable)):
            raise UsageError(f"No trainable parameter is named {unknown}. Names: {list(trainable)[:20]}...")
        chosen = {n: p for n, p in trainable.items() if n in wanted}
        if not chosen:
            raise UsageError("No trainable parameter was chosen, so there is no curvature to measure.")
        if len(kinds := {(p.dtype, p.device) for p in chosen.values()}) > 1:
            raise UsageError(f"Parameters of mixed dtypes or devices: {sorted(map(str, kinds))}. Move them to one.")
        return cls(tuple(chosen), tuple(chosen.values()))

    @property
    def size(self) -> int:
        """The number of scalars."""
        return sum(t.numel() for t in self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The common dtype."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """The common device."""
        return self.tensors[0].device

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector (size,) from one tensor per parameter; None counts as zeros. Detached."""
        pairs = zip(self.tensors, tensors, strict=True)
        return torch.cat([(torch.zeros_like(p) if t is None else t).detach().reshape(-1) for p, t in pairs])

    def split(self, vector: Tensor) -> list[Tensor]:
        """One tensor per parameter, in its shape, as views of `vector` (size,)."""
        pieces = torch.split(vector, [t.numel() for t in self.tensors])
        return [piece.view(t.shape) for piece, t in zip(pieces, self.tensors, strict=True)]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """`split`, by name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def assign(self, vector: Tensor) -> None:
        """Write `vector` (size,) into the live parameters."""
        with torch.no_grad():
            for tensor, piece in zip(self.tensors, self.split(vector), strict=True):
                tensor.copy_(piece)

    def fill(self, values: Mapping[str, float], default: float = 1.0) -> Tensor:
        """A vector (size,) that is constant on each parameter. Raises UsageError where a name is unknown."""
        if unknown := sorted(set(values) - set(self.names)):
            raise UsageError(f"Values were given for {unknown}, which are not among these parameters.")
        pairs = zip(self.names, self.tensors, strict=True)
        return torch.cat([t.detach().new_full((t.numel(),), values.get(n, default)) for n, t in pairs])
