"""RUN.jsonl: one line that says what run it is, then a line for every reading."""

# pyright: strict
from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document, drop_cut_off_line


@dataclass(frozen=True)
class Header(Document):
    """What is monitored. steps: optimizer steps of the whole run, None where not said; parameters: trainable scalars.

    limit: the stable value of lr x preconditioned sharpness, None where the optimizer's is not known; budget: share of
    the training time; ranks: processes; measured: what is measured.
    """

    TITLE = "a monitored run's first line"
    REMEDY = "Give a file that hptransfer.Monitor wrote."

    run: str
    steps: int | None
    parameters: int
    optimizer: str
    limit: float | None
    budget: float
    ranks: int
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Spectrum:
    """A matrix as (rows, columns): root mean square, largest singular value, and |W|_F^2 over its square.

    natural: norm / sqrt(fan_out / fan_in), of order 1 for an update where the spectral condition holds (2310.17813).
    values: singular values at equal steps of their order, largest first; () where only the largest was computed.
    """

    rms: float
    norm: float
    stable_rank: float
    natural: float
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reading(Document):
    """What was read after `step` optimizer steps.

    seconds: since the start; loss: mean over the steps since the last reading, None without one; lr: the largest
    group's. numbers: name -> value, of the whole model. weights, updates: parameter -> spectrum of it and of its last
    change. outputs: module -> root mean square of its output; alignment, update_alignment: module -> exponent.
    alarms: what began to be wrong here; dropped: measurement -> why it is made no more.
    """

    TITLE = "a monitor's reading"
    REMEDY = "Remove that line."

    step: int
    seconds: float
    loss: float | None
    lr: float
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    weights: Mapping[str, Spectrum] = field(default_factory=dict[str, Spectrum])
    updates: Mapping[str, Spectrum] = field(default_factory=dict[str, Spectrum])
    outputs: Mapping[str, float] = field(default_factory=dict[str, float])
    alignment: Mapping[str, float] = field(default_factory=dict[str, float])
    update_alignment: Mapping[str, float] = field(default_factory=dict[str, float])
    alarms: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data without what was not read."""
        return {key: value for key, value in super().to_json().items() if value not in ({}, [])}


@dataclass(frozen=True)
class Monitored:
    """A run's file: its header and its readings by step."""

    header: Header
    readings: tuple[Reading, ...]

    @property
    def steps(self) -> int:
        """The run's length: as planned, else as far as it got."""
        return self.header.steps or max((r.step for r in self.readings), default=0)

    def number(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one of the whole model's numbers."""
        rows = [(r.step, r.numbers[name]) for r in self.readings if name in r.numbers]
        return [step for step, _ in rows], [value for _, value in rows]


def read_run(path: str | os.PathLike[str]) -> Monitored:
    """The file of a monitored run; a line that was cut off is left out, and of a run taken up again the later readings
    count. Raises UsageError where it is missing or something else."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}. {Header.REMEDY}") from error
    if not lines:
        raise UsageError(f"{path} is empty. {Header.REMEDY}")
    header, readings = Header.from_line(lines[0]), list[Reading]()
    for number, line in enumerate(lines[1:], start=1):
        try:
            reading = Reading.from_line(line)
        except UsageError:
            if number == len(lines) - 1:
                break
            raise
        while readings and readings[-1].step >= reading.step:
            readings.pop()
        readings.append(reading)
    return Monitored(header, tuple(readings))


class Recorder:
    """The file of a run, open for appending.

    resume: go on in a file that is there; without it such a file is refused. Raises UsageError where it cannot be
    written.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header, *, resume: bool) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            begun = self.path.is_file() and self.path.stat().st_size > 0
            if begun and not resume:
                raise UsageError(f"{path} holds a run already. Give another file, or resume=True to go on in it.")
            if begun:
                read_run(self.path)
            self._file = self.path.open("a", encoding="utf-8")
            self._flushed = time.monotonic()
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}. Give a writable path.") from error
        if begun:
            drop_cut_off_line(self.path)
        else:
            self.write(header)

    def write(self, document: Document) -> None:
        """Add one line; lines reach the disk every second."""
        self._file.write(document.to_line() + "\n")
        if time.monotonic() - self._flushed > 1:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
