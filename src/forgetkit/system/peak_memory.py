"""The peak memory of a part of the program."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # resets the peak, see proc(5)
_HIGHEST = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)

Peak = Callable[[], int | None]


def track_peak(device: torch.device) -> Peak:
    """Return a function that gives the most memory in use from now on, in bytes; None if the system does not tell.

    On CUDA it is what torch allocates on the device, elsewhere what the process holds in memory. If the system cannot
    reset an earlier peak, that one counts.
    """
    if device.type == "cuda":
        torch.cuda.init()  # a device with an index can be reset only then
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    return _process_peak


def _process_peak() -> int | None:
    with contextlib.suppress(OSError):
        found = _HIGHEST.search((_PROCESS / "status").read_text())
        if found is not None:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
