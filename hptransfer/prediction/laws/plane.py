"""The loss of one model and horizon over learning rate and batch, interpolated in ln B between the batches tried."""

from __future__ import annotations

import math

import numpy as np

from hptransfer.prediction.laws.cell import Cell

Array = np.ndarray


class Plane:
    """The loss of one block over (rate, batch), to be scored in place of a cell."""

    def __init__(self, block: list[Cell]):
        self.cells = sorted(block, key=lambda c: c.batch)
        self.log_batches = np.log([c.batch for c in self.cells])
        self.winner = min(self.cells, key=lambda c: c.best_loss)
        self.best_loss = self.winner.best_loss
        self.scale = {k: v for k, v in block[0].variables().items() if k != "batch"}
        self.at_edge = self.winner.at_edge
        self.best_lr = self.winner.best_lr

    def regret(self, choice: tuple[float, float]) -> float:
        lr, batch = choice
        return float(self.regrets(np.array([lr]), batch)[0])

    def regrets(self, lrs: Array, batch: float) -> Array:
        x, at = self.log_batches, math.log(batch)
        weights = [float(np.interp(at, x, np.eye(len(x))[i])) for i in range(len(x))]  # linear in ln B, ends held
        curves = np.array([w * c.loss_at(lrs) for w, c in zip(weights, self.cells, strict=True) if w])
        losses = curves.sum(axis=0)
        return np.maximum(0.0, losses - self.best_loss)

    def clamped(self, choice: tuple[float, float]) -> bool:
        lr, batch = choice
        near = self.cells[int(np.argmin(np.abs(self.log_batches - math.log(batch))))]
        outside = not self.cells[0].batch * (1 - 1e-9) <= batch <= self.cells[-1].batch * (1 + 1e-9)
        return outside or near.clamped(lr)

    def diverges(self, choice: tuple[float, float]) -> bool:
        lr, batch = choice
        return self.cells[int(np.argmin(np.abs(self.log_batches - math.log(batch))))].diverges(lr)
