"""Measure what a run holds in memory and on the disk.

``larger`` carries the same run out twice over images that decode to more than a limit allows, with full replay: in a
child under that limit, and in one without; then compares what both come to. The limit is a control group's (``cgroup``,
which has to be allowed to whoever asks), or of data (``data``, as ``ulimit -d``) or address space (``address``, as
``ulimit -v``). The latter two count what the libraries hold already and the last one also the mapped file, so it is set
above these. ``flat`` and ``disk`` carry a run of many mega-batches out: how the memory grew from one to the next, and
how many bytes of which kind are left on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GIB = 1 << 30
SIDE = 512
CONTROL_GROUPS = {  # where a group lies, its limit, and the most that was counted
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
}
WATCHED = """
import dataclasses, forgetkit, os
from pathlib import Path

@dataclasses.dataclass(frozen=True)
class Watch:
    "Note what the process holds after each mega-batch."

    def notify(self, event):
        if type(event).__name__ == "MegaBatchEnded":
            process = Path("/proc/self")
            resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            seen = [resident, len(os.listdir(process / "fd")), len(os.listdir(process / "task"))]
            with open(os.environ["WATCHED"], "a") as file:
                print(*seen, file=file)

@forgetkit.hookimpl
def forgetkit_observers():
    return {"watch": Watch}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True)
    larger = cases.add_parser("larger")
    larger.add_argument("--gib", type=float, default=3.0, help="what the images decode to")
    larger.add_argument("--spare", type=float, default=1.2, help="GiB allowed above what the libraries hold")
    larger.add_argument("--limit", choices=["cgroup", "data", "address"], default="cgroup")
    larger.add_argument("--threads", type=int, default=1)
    for name in ("flat", "disk"):
        many = cases.add_parser(name)
        many.add_argument("--mega-batches", type=int, default=100)
        many.add_argument("--model", default="mlp:width=8")
        many.add_argument("--replay", default="none")
    child = cases.add_parser("child")  # of `larger`: sets its limit, then becomes the command
    child.add_argument("limit")
    child.add_argument("bytes", type=int)
    child.add_argument("words", nargs=argparse.REMAINDER)
    args = vars(parser.parse_args())
    case = {"larger": compared, "flat": flat, "disk": disk, "child": limited}[args.pop("case")]
    with tempfile.TemporaryDirectory() as here:
        for key, value in case(Path(here), **args).items():
            print(f"{key:34} {value}")


def compared(here: Path, gib: float, spare: float, limit: str, threads: int) -> dict[str, Any]:
    samples = int(gib * GIB / (3 * SIDE * SIDE))
    images(here / "images", samples)
    words = [
        *("run", "--dataset", f"folder:path={here / 'images'},size={SIDE}", "--model", "mlp:width=4,depth=1", "--json"),
        *("--mega-batches", "2", "--epochs", "1", "--replay", "full", "--batch-size", "8", "--score-batch", "8"),
        *("--threads", str(threads), "--out", str(here / "runs")),
    ]
    os.environ["FORGETKIT_CACHE"] = str(here / "cache")
    own = held_by_the_libraries()
    mapped = samples * 3 * SIDE * SIDE
    allowed = (
        int(spare * GIB) + {"cgroup": own["VmRSS"], "data": own["VmData"], "address": own["VmSize"] + mapped}[limit]
    )
    within, without = carried_out(words, limit, allowed), carried_out(words, "none", 0)
    return {
        "limit": f"{allowed / GIB:.2f} GiB ({limit})",
        "decoded pixels": f"{mapped / GIB:.2f} GiB",
        "most within the limit": within["most"],
        "most without": without["most"],
        "seconds within, decoding included": f"{within['seconds']:.1f}",
        "seconds without, from the cache": f"{without['seconds']:.1f}",
        "the same result": substance(within["result"]) == substance(without["result"]),
        "the same weights": weights(within["result"]) == weights(without["result"]),
    }


def images(folder: Path, samples: int) -> None:
    """Write noise of 16 × 16 pixels, which decoding enlarges: the cheapest file of a large picture."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(samples):
        path = folder / ("test" if number % 10 == 0 else "train") / f"class-{number // 10 % 4}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def held_by_the_libraries() -> dict[str, int]:
    """The bytes of a process that has imported torch and forgetkit, by the system's names."""
    told = subprocess.run(
        [sys.executable, "-c", "import forgetkit.engine.run; print(open('/proc/self/status').read())"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name: int(number) * 1024 for name, number in re.findall(r"^(\w+):\s*(\d+) kB$", told, re.MULTILINE)}


def carried_out(words: Sequence[str], limit: str, allowed: int) -> dict[str, Any]:
    """Run in a child; returns its result, seconds and peak memory."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(control_group(allowed)) if limit == "cgroup" else None
        where = str(group[0]) if group is not None else limit
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "child", where, str(allowed), *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
        result = json.loads(done.stdout)
        most = f"{result['peak_memory_bytes'] / GIB:.2f} GiB resident, mapped files included"
        if group is not None:
            most += f"; {int(group[1].read_text()) / GIB:.2f} GiB counted by the group, cached files included"
        return {"result": result, "seconds": seconds, "most": most}


@contextlib.contextmanager
def control_group(allowed: int) -> Iterator[tuple[Path, Path]]:
    """Make a control group inside this process's; yields it and the file with its peak memory."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {names: path for _, names, path in lines}
    controller = "memory" if "memory" in own else ""
    top, limit, most = CONTROL_GROUPS[controller]
    group = top / own[controller].lstrip("/") / f"forgetkit-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(allowed))
        yield group, group / most
    finally:
        group.rmdir()


def limited(here: Path, limit: str, bytes: int, words: list[str]) -> dict[str, Any]:  # noqa: A002 - its name on the command line
    """Set the limit, then run the command; in the child."""
    import forgetkit.engine.run  # noqa: F401 - what the libraries hold was counted with it
    from forgetkit import cli

    if limit in ("data", "address"):
        which = resource.RLIMIT_DATA if limit == "data" else resource.RLIMIT_AS
        resource.setrlimit(which, (bytes, bytes))
    elif limit != "none":
        (Path(limit) / "cgroup.procs").write_text(str(os.getpid()))
    raise SystemExit(cli.main(words))


def substance(result: dict[str, Any]) -> Any:
    """A result without measurements of the machine and without names."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            apart = ("seconds", "peak_memory_bytes", "run", "directory", "sha256")
            return {key: stripped(held) for key, held in value.items() if key not in apart}
        return [stripped(held) for held in value] if isinstance(value, list) else value

    return stripped(result)


def weights(result: dict[str, Any]) -> list[bytes]:
    return [file.read_bytes() for file in sorted(Path(result["directory"]).glob("checkpoints/mega-batch-*.pt"))]


def long_run(here: Path, mega_batches: int, model: str, replay: str) -> tuple[Path, list[list[int]]]:
    """Run many mega-batches of ten samples; returns the folder and the readings after each."""
    (here / "watch.py").write_text(WATCHED)
    words = [
        *("run", "--dataset", f"synthetic:samples={mega_batches * 10},test=20,classes=3,size=8", "--model", model),
        *("--mega-batches", str(mega_batches), "--epochs", "2", "--replay", replay, "--threads", "1", "--quiet"),
        *("--out", str(here), "--name", "run", "--plugin", str(here / "watch.py"), "--observer", "watch"),
    ]
    told = here / "told"
    subprocess.run([sys.executable, "-m", "forgetkit", *words], check=True, env={**os.environ, "WATCHED": str(told)})
    return here / "run", [[int(word) for word in line.split()] for line in told.read_text().splitlines()]


def flat(here: Path, mega_batches: int, model: str, replay: str) -> dict[str, Any]:
    _, told = long_run(here, mega_batches, model, replay)
    resident, files, threads = np.array(told[len(told) // 2 :]).T
    slope = np.polyfit(np.arange(len(resident)), resident, 1)[0]
    return {
        "resident after the last mega-batch": f"{resident[-1] / 1e6:.1f} MB",
        "growth over the second half": f"{slope:.0f} bytes per mega-batch",
        "open files": f"{files.min()} to {files.max()}",
        "threads": f"{threads.min()} to {threads.max()}",
    }


def disk(here: Path, mega_batches: int, model: str, replay: str) -> dict[str, Any]:
    run, _ = long_run(here, mega_batches, model, replay)
    parameters = json.loads((run / "result.json").read_text())["parameters"]
    kinds = {
        "models": "checkpoints/mega-batch-*",
        "states and their notes": "checkpoints/resume-[0-9]*",
        "rows": "checkpoints/resume-row-*",
        "events": "events.jsonl",
        "manifest and result": "*t*.json",
    }
    sizes = {kind: [file.stat().st_size for file in run.glob(pattern)] for kind, pattern in kinds.items()}
    lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    by_event: dict[str, list[int]] = {}
    for line in lines:
        by_event.setdefault(json.loads(line)["event"], []).append(len(line))
    table = {kind: f"{sum(held):>12,} bytes in {len(held)}" for kind, held in sizes.items()}
    events = {f"  {name}": f"{sum(held):>12,} bytes in {len(held)}" for name, held in by_event.items()}
    return {"parameters": f"{parameters:,}", **table, **events}


if __name__ == "__main__":
    main()
