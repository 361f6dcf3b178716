"""The memory that this process can still take, and the error if it runs out."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from forgetkit.errors import InsufficientMemoryError

if TYPE_CHECKING:
    import torch

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_LINE = re.compile(r"^(\w+):\s*(\d+) kB$", re.MULTILINE)
_KEPT_FILES = re.compile(r"^(total_)?(?:in)?active_file (\d+)$", re.MULTILINE)
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "CUDA out of memory",
    "std::bad_alloc",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
    "Overflow when unpacking long",
    "too large to convert to C",
    "array is too big",
    "Maximum allowed ",
)
"""Parts of the messages of torch, numpy and C++ libraries if memory runs out, or if no memory could suffice."""


def available(device: torch.device | None = None) -> int | None:
    """The bytes that can still be taken on ``device`` (default: the CPU); None if the system does not tell.

    On the CPU it is the least of what the machine, the control groups of this process (versions 1 and 2, with those
    around them) and its limits on address space and data (``ulimit -v`` and ``-d``) leave. Cached files count as free.
    """
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    bounds = [
        bound for bound in (_machine_available(), *_cgroup_available(), *_rlimit_available()) if bound is not None
    ]
    return max(0, min(bounds)) if bounds else None


def _machine_available() -> int | None:
    found = _table(_PROC / "meminfo").get("MemAvailable")
    if found is None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not Linux, or not even POSIX
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found


def _cgroup_available() -> Iterator[int]:
    """The bytes left in each control group that has a limit. A container may see its own group as the uppermost."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, most, now = _GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, most, now = _GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *list(group.parents)[: len(group.parts) - len(top.parts)]):
            limit, used = _text(folder / most).strip(), _text(folder / now).strip()
            if limit.isdigit() and used.isdigit():
                yield int(limit) - max(0, int(used) - _cached_files(folder))


def _cached_files(group: Path) -> int:
    """The bytes of cached files of a group and those inside it, which are freed if memory is short."""
    found = _KEPT_FILES.findall(_text(group / "memory.stat"))
    inside = any(total for total, _ in found)  # version 1 counts the group alone as well
    return sum(int(number) for total, number in found if bool(total) == inside)


def _rlimit_available() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    taken = _table(_PROC / "self" / "status")
    for number, what in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(number)
        if limit != resource.RLIM_INFINITY:
            yield limit - taken.get(what, 0)


def _table(path: Path) -> dict[str, int]:
    """The entries of a file with lines such as ``Name: 12 kB``, in bytes."""
    return {name: int(number) * 1024 for name, number in _LINE.findall(_text(path))}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def shortage(error: Exception) -> str | None:
    """The message of an error about memory that ran out or a size that no memory has; None for other errors."""
    mapping = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (isinstance(error, MemoryError) or mapping or any(words in str(error) for words in _WORDS)):
        return None
    return str(error).strip().partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2] or type(error).__name__


@contextlib.contextmanager
def translate_oom() -> Iterator[None]:
    """Turn the errors of memory that runs out into ``InsufficientMemoryError``, which names the remedy."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        reason = shortage(error)
        if reason is None:
            raise
        where = "the device" if type(error).__name__ == "OutOfMemoryError" else "this process"  # torch's own
        raise InsufficientMemoryError(
            f"{where} has no memory left ({reason}): give it more, or start a new run with a smaller --batch-size or "
            "--score-batch, or a smaller network"
        ) from error
