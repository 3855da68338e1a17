"""What a monitor measures, one measurement a name: what it needs before the step, and what it makes of the step."""

# pyright: strict
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import to_device
from hptransfer.monitoring.edge import EdgeProbe
from hptransfer.monitoring.halves import noise_of
from hptransfer.monitoring.layers import look
from hptransfer.monitoring.ranks import Ranks
from hptransfer.monitoring.spectra import embeddings, matrices, spectrum
from hptransfer.prediction.curvature.operators import LossFn
from hptransfer.prediction.noise.noise_scale import NoiseScale, summarise

WEIGHTS = {"spectra": 0.15, "layers": 0.15, "noise": 0.2, "sharpness": 0.2, "preconditioned sharpness": 0.3}
"""Measurement -> its part of the budget."""
GUESSES = {"spectra": 0.2, "layers": 0.5, "noise": 1.2, "sharpness": 40.0, "preconditioned sharpness": 40.0}
"""Measurement -> what it costs the first time, in training steps; a guess that its own clock replaces."""
NEED_LOSS = frozenset({"layers", "noise", "sharpness", "preconditioned sharpness"})
"""Measurements that need loss_fn and a batch."""
DECAY, HISTORY = 0.95, 135
"""Weight of a noise estimate against the next, and how many are kept: older ones weigh under .001."""
COPIED = 2**24
"""Entries of weights that "layers" copies before a step to have their change, at most; which ones goes round."""


class Measurements:
    """The measurements of one run, with what each keeps between two of it. noise: the estimates so far."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], loss_fn: LossFn | None, ranks: Ranks) -> None:
        self.model, self.optimizers, self.loss_fn, self.ranks = model, optimizers, loss_fn, ranks
        self.device = next(model.parameters()).device
        self.noise: deque[NoiseScale] = deque(maxlen=HISTORY)
        self._matrices, self._embeddings = matrices(model), embeddings(model)
        self._edges = {
            "sharpness": EdgeProbe(preconditioned=False),
            "preconditioned sharpness": EdgeProbe(preconditioned=True),
        }
        self._turn = {"spectra": 0, "layers": 0}
        self._copies: dict[str, dict[str, Tensor]] = {}

    def prepare(self, name: str) -> None:
        """Before the optimizer's step: copy the weights whose change is wanted."""
        if name in self._turn:
            chosen = self._next_matrices(name)
            self._copies[name] = {n: self._matrices[n].detach().clone() for n in chosen}

    def __call__(self, name: str, batch: Any, *, seed: int) -> dict[str, Any]:
        """After the step: the fields of a Reading. seed: of dropout's masks in what is run again."""
        if name == "spectra":
            return self._spectra()
        assert self.loss_fn is not None  # `NEED_LOSS` are not measured without
        if batch is None:
            raise UsageError("observe was given no batch. Call observe(loss, batch).")
        moved = to_device(batch, self.device)
        if name == "layers":
            loss_fn, model = self.loss_fn, self.model
            seen = look(model, lambda: loss_fn(model, moved), self._updates("layers"), seed=seed)
            return dict(vars(seen))
        if name == "noise":
            return {"numbers": self._noise(moved, seed)}
        probe = self._edges[name]
        return {"numbers": probe(self.model, self.optimizers, self.loss_fn, moved, self.ranks, seed=seed)}

    def load_noise(self, rows: Sequence[Sequence[float]]) -> None:
        """Take earlier estimates back."""
        self.noise.clear()
        self.noise.extend(NoiseScale(float(signal), float(noise)) for signal, noise in rows)

    def _spectra(self) -> dict[str, Any]:
        updates = self._updates("spectra")
        marked = {n: n in self._embeddings for n in updates}
        return {
            "weights": {n: spectrum(self._matrices[n], embedding=e) for n, e in marked.items()},
            "updates": {n: spectrum(updates[n], embedding=e) for n, e in marked.items()},
        }

    def _noise(self, batch: Any, seed: int) -> dict[str, float]:
        assert self.loss_fn is not None
        estimate = noise_of(self.model, self.loss_fn, batch, self.ranks, seed=seed * self.ranks.count + self.ranks.rank)
        self.noise.append(estimate)
        mean = summarise(self.noise, decay=DECAY)
        return {"gradient signal": estimate.signal, "gradient noise": estimate.noise, "noise scale": mean.value}

    def _updates(self, name: str) -> dict[str, Tensor]:
        """Parameter -> its change in the step just made, of those that were copied."""
        copies = self._copies.pop(name, {})
        return {n: self._matrices[n].detach() - copy for n, copy in copies.items()}

    def _next_matrices(self, name: str) -> list[str]:
        """The matrices whose turn it is: one for spectra, as many as COPIED allows for layers."""
        names = list(self._matrices)
        chosen: list[str] = []
        entries = 0
        for _ in names:
            candidate = names[self._turn[name] % len(names)]
            size = self._matrices[candidate].numel()
            if chosen and (name == "spectra" or entries + size > COPIED):
                break
            chosen.append(candidate)
            entries += size
            self._turn[name] += 1
        return chosen
