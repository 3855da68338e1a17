"""Where and with what a result was made."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

import torch

from hptransfer._version import __version__
from hptransfer.core.secrets import masked_arguments
from hptransfer.validation.engines.process import usable_cores


def environment(device: str) -> dict[str, str | int]:
    """Versions, machine, cores, device and date (UTC), for the record."""
    return {
        "hptransfer": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def command_line() -> str:
    """The command that started this process, as one would type it, without its secrets."""
    return shlex.join([Path(sys.argv[0]).name or "python", *masked_arguments(sys.argv[1:])])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
