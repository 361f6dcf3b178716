"""The machine that figures are of."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


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


def described(device: str) -> Machine:
    """This machine, with the ``device`` that cases run on."""
    import torch

    from forgetkit._version import __version__

    return Machine(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        python=platform.python_version(),
        torch=torch.__version__,
        forgetkit=__version__,
    )


def processor() -> str:
    """The processor's name as its maker has it, else the kind of machine."""
    if _CPUINFO.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
        if found is not None:
            return found[1]
    if platform.system() == "Darwin":
        said = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if said:
            return said
    return platform.processor() or platform.machine()
