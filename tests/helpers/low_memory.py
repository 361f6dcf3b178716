"""Done in a child before its command: less memory for it, or the wrong decision of where its samples are to be."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from forgetkit.data import batches
from forgetkit.system import memory


def limited(mib: int, *, held: bool = False) -> None:
    """So much more data than the process has now, as ``ulimit -d`` would; ``held``: every pool is, whatever is left."""
    taken = int(re.findall(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (taken + (mib << 20),) * 2)
    batches._AT_ONCE = 1 << 21
    if held:
        memory.available = lambda device=None: None
