"""The machine that figures are of."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from forgetkit.errors import OptionError


@dataclass(frozen=True)
class Machine:
    """Processor, cores that this process may use, torch's threads and instructions, versions, device."""

    processor: str
    cores: int
    threads: int
    instructions: str
    device: str
    python: str
    torch: str
    forgetkit: str

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return asdict(self)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many of torch's threads on the CPU; None leaves them. ``OptionError`` for more than any processor has."""
    import torch

    from forgetkit.contracts import MOST_THREADS

    if count is not None and count > MOST_THREADS:
        raise OptionError(f"--threads {count}: at most {MOST_THREADS}")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: str) -> Machine:
    """This machine, with the ``device`` that cases run on."""
    import torch

    from forgetkit._version import __version__

    return Machine(
        processor=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        python=platform.python_version(),
        torch=torch.__version__,
        forgetkit=__version__,
    )
