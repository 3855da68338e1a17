"""Monitor: hangs itself on the optimizer, measures what its budget allows, and writes one line per reading."""

# pyright: strict
from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hptransfer.core.errors import UsageError, described
from hptransfer.monitoring.budget import Account, Budget
from hptransfer.monitoring.clock import Clock
from hptransfer.monitoring.collapse import LossCurve, Watch, curve_of
from hptransfer.monitoring.edge import NotNow, base_lr, is_preconditioned, stable_limit
from hptransfer.monitoring.measurements import GUESSES, NEED_LOSS, WEIGHTS, Measurements
from hptransfer.monitoring.ranks import Ranks
from hptransfer.monitoring.readings import Header, Monitored, Reading, Recorder, read_run
from hptransfer.prediction.curvature.operators import LossFn

POINTS = 200
"""Points of the loss curve that a run of known length writes."""
STRIDE = 10
"""Steps between two points of a run of unknown length."""


class RunAlarm(UserWarning):
    """A monitored run does what a healthy one does not."""


class Monitor:
    """Watches a training run, within a share of its time, and writes RUN.jsonl (`hptransfer monitor report` reads it).

    model: as it is trained, also compiled or in DDP. optimizer: one, or several that step one after the other.
    out: the file; only the first rank writes. loss_fn: (model, batch) -> mean loss of a microbatch, computed from the
    model it is given; without it only losses and spectra are read. steps: optimizer steps of the whole run, needed for
    the comparison with `reference`: the file of a monitored smaller run of the same recipe, or its LossCurve.
    budget: share of the training time that may be spent. every: measurement -> spacing in steps, whatever it costs
    ("sharpness", "preconditioned sharpness", "noise", "layers", "spectra"). resume: go on in a file that is there.
    on_alarm: called with an alarm's text; default: a RunAlarm warning. process_group: of the data-parallel ranks.

    Call `observe(loss, batch)` once per microbatch, after its backward or before the optimizer's step; the rest happens
    in hooks of the optimizer's step. A measurement that raises is made no more, and the file says why. Raises
    UsageError for a model without trainable parameters or with sharded ones, or options that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        out: str | os.PathLike[str],
        loss_fn: LossFn | None = None,
        steps: int | None = None,
        reference: str | os.PathLike[str] | Monitored | LossCurve | None = None,
        budget: float = 0.03,
        every: Mapping[str, int] | None = None,
        run: str = "",
        resume: bool = False,
        on_alarm: Callable[[str], None] | None = None,
        process_group: Any = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise UsageError(f"steps={steps}: the run's length is a whole number of steps from 1, or None.")
        if reference is not None and steps is None:
            raise UsageError("reference without steps: the curves are compared at equal fractions of the run.")
        self.model, self.optimizers, self.loss_fn, self.steps = bare(model), _several(optimizer), loss_fn, steps
        self._given = model
        _refuse_unfit(self.model)
        self.ranks = Ranks(process_group)
        self.alarms: list[str] = []
        self.dropped: dict[str, str] = {}
        self.step = 0
        names = _measured(self.optimizers, loss_fn)
        weights = {name: WEIGHTS[name] for name in names}
        self._budget = Budget(budget, weights, GUESSES, every or {})
        self._measure = Measurements(self.model, self.optimizers, loss_fn, self.ranks)
        self._on_alarm = on_alarm or _warn
        self._watch = Watch(reference_curve(reference)) if reference is not None else None
        header = Header(
            run=run,
            steps=steps,
            parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            optimizer=" + ".join(type(o).__name__ for o in self.optimizers),
            limit=stable_limit(self.optimizers),
            budget=budget,
            ranks=self.ranks.count,
            measured=tuple(names),
        )
        self._recorder = Recorder(out, header, resume=resume) if self.ranks.first else None
        self._clock = Clock()
        self._loss: Tensor | None = None
        self._count, self._batch = 0, None
        self._stepped: set[int] = set()
        self._due: list[str] = []
        self._handles: list[RemovableHandle] = []
        for each in self.optimizers:
            self._handles.append(each.register_step_pre_hook(self._before))
            self._handles.append(each.register_step_post_hook(self._after))

    def observe(self, loss: Tensor | float, batch: Any = None) -> None:
        """Take in one microbatch: its mean loss, undivided, and the batch as `loss_fn` takes it.

        Raises UsageError for a loss that is not one number.
        """
        with self._clock.bookkeeping():
            if isinstance(loss, Tensor) and loss.numel() != 1:
                raise UsageError(f"observe: the loss has shape {tuple(loss.shape)}; give the microbatch's mean.")
            value = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
            self._loss = value if self._loss is None else self._loss + value
            self._count += 1
            self._batch = batch

    def skip(self) -> None:
        """What passed since the last step, an evaluation or a pause, is no training time; call it before the next."""
        self._clock.skip()

    @property
    def share(self) -> float:
        """The monitor's time over the rest of the training's, so far."""
        return self._clock.share

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs for a run that is taken up again with resume=True: plain numbers."""
        accounts = {n: (a.weight, a.spent, a.runs, a.due) for n, a in self._budget.accounts.items()}
        history = [(e.signal, e.noise) for e in self._measure.noise]
        return {"step": self.step, "clock": self._clock.state(), "accounts": accounts, "noise": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a `state_dict` back."""
        self.step = int(state["step"])
        self._clock.load(state["clock"])
        self._budget.accounts = {n: Account(*values) for n, values in state["accounts"].items()}
        self._measure.load_noise(state["noise"])

    def close(self) -> None:
        """Write what was not written yet, take the hooks off and close the file."""
        for handle in self._handles:
            handle.remove()
        if self._handles and self._count and self._recorder is not None:
            self._write({}, self._mean_loss(None))  # other ranks may have stopped elsewhere: no word to them
        self._handles = []
        if self._recorder is not None:
            self._recorder.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, optimizer: Optimizer, *_: object) -> None:
        if self._stepped:
            return
        with self._clock.bookkeeping():
            self._due = self._budget.due(self.step + 1)
        for name in self._due:
            with self._clock.measuring(name, self._measure.device):
                self._measure.prepare(name)

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        self._stepped.add(id(optimizer))
        if len(self._stepped) < len(self.optimizers):
            return
        self._stepped.clear()
        self.step += 1
        fields: dict[str, Any] = {}
        for name in self._due:
            _merge(fields, self._made(name))
        with self._clock.bookkeeping():
            stride = STRIDE if self.steps is None else max(1, self.steps // POINTS)
            is_point = self.step % stride == 0 or self.step == self.steps
            if self._due or is_point:
                self._write(fields, self._mean_loss(self.ranks))
        self._clock.stepped()

    def _made(self, name: str) -> dict[str, Any]:
        """One measurement's fields of the reading; it is spaced anew, or dropped where it raised."""
        try:
            with self._clock.measuring(name, self._measure.device), _not_called(self._given):
                fields = self._measure(name, self._batch, seed=self.step)
        except NotNow:
            fields = {}
        except Exception as error:  # whatever goes wrong in looking must not end the run that is looked at
            self.dropped[name] = described(error)
            self._budget.drop(name)
            return {"dropped": {name: self.dropped[name]}}
        seconds = self._clock.taken(name)
        shared = {"seconds": seconds, "step": self._clock.step_seconds, "overhead": self._clock.overhead}
        costs = self.ranks.means(shared, self._measure.device)
        self._budget.paid(
            name, self.step, seconds=costs["seconds"], step_seconds=costs["step"], overhead=costs["overhead"]
        )
        return fields

    def _write(self, fields: dict[str, Any], loss: float | None) -> None:
        if self._recorder is None:
            return
        alarms = self._alarms(loss) if loss is not None else ()
        numbers = {**fields.pop("numbers", {}), "monitor share": self.share} if fields else {}
        seconds, lr = self._clock.seconds, base_lr(self.optimizers)
        self._recorder.write(Reading(self.step, seconds, loss, lr, numbers, alarms=alarms, **fields))
        for text in alarms:
            self.alarms.append(text)
            self._on_alarm(text)

    def _mean_loss(self, ranks: Ranks | None) -> float | None:
        """The mean loss since the last reading, over these ranks."""
        if self._loss is None:
            return None
        mean, self._loss, self._count = self._loss.float() / self._count, None, 0
        return float(mean if ranks is None else ranks.mean(mean))

    def _alarms(self, loss: float) -> tuple[str, ...]:
        if not math.isfinite(loss):
            return () if self._told("the loss is") else (f"step {self.step}: the loss is {loss}",)
        if self._watch is None or not self.steps or self._told("collapse"):
            return ()
        said = self._watch(self.step / self.steps, loss)
        return (f"step {self.step}: {said}",) if said else ()

    def _told(self, text: str) -> bool:
        return any(text in alarm for alarm in self.alarms)


def bare(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and DDP."""
    while True:
        inner: Any = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in {"DistributedDataParallel", "DataParallel"}:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def _not_called(model: nn.Module) -> Generator[None, None, None]:
    """Raise UsageError where a DDP model is called inside: its next backward would wait for one that never comes."""

    def refuse(*_: object) -> None:
        raise UsageError("loss_fn calls the DDP model; it must compute the loss from the model that it is given.")

    wrapped = type(model).__name__ == "DistributedDataParallel"
    handle = model.register_forward_pre_hook(refuse) if wrapped else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def reference_curve(reference: str | os.PathLike[str] | Monitored | LossCurve) -> LossCurve:
    """The loss curve of a reference run. Raises UsageError where the file does not say how long the run was to be."""
    if isinstance(reference, LossCurve):
        return reference
    return curve_of(reference if isinstance(reference, Monitored) else read_run(reference))


def _measured(optimizers: Sequence[Optimizer], loss_fn: LossFn | None) -> list[str]:
    """The measurements that this run can have."""
    names = [name for name in WEIGHTS if loss_fn is not None or name not in NEED_LOSS]
    plain = not is_preconditioned(optimizers)
    return [name for name in names if not (plain and name == "preconditioned sharpness")]


def _several(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    several: list[Any] = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    if not several or any(not isinstance(each, Optimizer) for each in several):
        raise UsageError(f"optimizer={optimizer!r}: give a torch optimizer, or a list of them.")
    return several


def _refuse_unfit(model: nn.Module) -> None:
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UsageError("Monitor: the model has no trainable parameter.")
    sharded = [n for n, p in trainable.items() if type(p).__name__ == "DTensor"]
    if sharded:
        raise UsageError(f"Monitor: {sharded[0]} is sharded; FSDP and tensor parallelism are not supported.")


def _merge(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        fields[key] = {**fields.get(key, {}), **value}


def _warn(text: str) -> None:
    warnings.warn(text, RunAlarm, stacklevel=2)
