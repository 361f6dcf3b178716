"""What memory is left to a process, by what the system says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgetkit.errors import InsufficientMemoryError
from forgetkit.system import memory

resource = pytest.importorskip("resource")
CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``system("proc/meminfo", "…")``: a file of the system, as it is to be found; no limits but those."""

    def write(path: str, content: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)

    limits = {}
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, resource.RLIM_INFINITY), 0))
    write.limits = limits
    write("proc/meminfo", "MemTotal: 9999999 kB\nMemFree: 12 kB\nMemAvailable:   512000 kB\n")
    write("proc/self/status", "Name: x\nVmSize:   40960 kB\nVmData:   20480 kB\nThreads: 1\n")
    return write


def group(system, folder: str, limit: object, used: int, files: tuple[int, int], version: int = 1) -> None:
    most, now = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    system(f"groups/{folder}/{most}", f"{limit}\n")
    system(f"groups/{folder}/{now}", f"{used}\n")
    own = "active_file {}\ninactive_file {}\n".format(*files)
    inside = "total_active_file {}\ntotal_inactive_file {}\n".format(*files) if version == 1 else ""
    system(f"groups/{folder}/memory.stat", f"cache 1\nanon 5\n{own}{inside}")


def test_without_limits_it_is_what_the_machine_has(system) -> None:
    assert memory.available(CPU) == 512000 * 1024
    (memory._PROC / "meminfo").unlink()
    assert memory.available(CPU) > 1e6, "all there is, where nothing says how much of it is in use"


@pytest.mark.parametrize(("line", "folder", "version"), [("7:cpu,memory:/a/b", "memory/a/b", 1), ("0::/a/b", "a/b", 2)])
def test_a_control_group_leaves_its_limit_less_what_is_in_use(system, line: str, folder: str, version: int) -> None:
    """Files that are merely kept do not count: a run over a mapped file would seem to fill its group."""
    system("proc/self/cgroup", f"3:cpuset:/elsewhere\n{line}\n")
    group(system, folder, 100 * MIB, 90 * MIB, (30 * MIB, 40 * MIB), version)
    assert memory.available(CPU) == 80 * MIB
    group(system, str(Path(folder).parent), 60 * MIB, 50 * MIB, (MIB, MIB), version)
    assert memory.available(CPU) == 12 * MIB, "a group around it may leave less"
    group(system, folder, "max" if version == 2 else 2**63 - 4096, 90 * MIB, (0, 0), version)
    assert memory.available(CPU) == 12 * MIB


def test_in_a_container_the_uppermost_group_is_its_own(system) -> None:
    system("proc/self/cgroup", "4:memory:/docker/0123\n")
    group(system, "memory", 64 * MIB, 10 * MIB, (0, 0))
    assert memory.available(CPU) == 54 * MIB


def test_the_limits_of_the_shell_count_what_is_held_already(system) -> None:
    system.limits[resource.RLIMIT_AS] = 60 * MIB
    assert memory.available(CPU) == 20 * MIB
    system.limits[resource.RLIMIT_DATA] = 25 * MIB
    assert memory.available(CPU) == 5 * MIB
    system.limits[resource.RLIMIT_DATA] = MIB
    assert memory.available(CPU) == 0


def test_a_device_says_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what torch holds without using it can be used."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    assert memory.available(torch.device("cuda:1")) == 120


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "this process has no memory left (MemoryError): give it more"),
        (MemoryError("Unable to allocate 3 GiB"), "this process has no memory left (Unable to allocate 3 GiB)"),
        (OSError(12, "Cannot allocate memory"), "this process has no memory left"),
        (
            RuntimeError("[enforce fail at x.cpp:1] . DefaultCPUAllocator: can't allocate memory: 5 bytes\n"),
            "left (can't",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "the device has no memory left"),
    ],
)
def test_memory_that_runs_out_is_said(error: Exception, said: str) -> None:
    with pytest.raises(InsufficientMemoryError) as found, memory.translate_oom():
        raise error
    assert said in str(found.value)
    assert "--batch-size" in str(found.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 differ"), OSError(28, "No space left"), ValueError("x")])
def test_what_is_wrong_otherwise_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as found, memory.translate_oom():
        raise error
    assert found.value is error
