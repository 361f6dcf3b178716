"""Time a folder of images: decoding in one process and in several, and loading again.

``python benchmarks/data.py FOLDER`` takes a folder with ``train/CLASS/*`` and ``test/CLASS/*``; without one, noise is
written as JPEG files of 32×32 pixels. Medians over interleaved repetitions. Later reads come from the
system's page cache: the first read of a slow disk takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from forgetkit.builtin.datasets.folder import Folder
from forgetkit.contracts import Data, LoadContext
from forgetkit.data import content_digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=10_000, help="how many are made where no folder is given")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = args.folder or make_images(Path(stack.enter_context(tempfile.TemporaryDirectory())), args.images)
        times = measure(folder, args.processes, args.repetitions)
    if args.json:
        print(json.dumps({"processes": args.processes, "repetitions": args.repetitions, **times}))
        return
    for name, seconds in times.items():
        print(f"{name:10} {seconds:7.3f} s   {times['one'] / seconds:6.2f} times as fast as decoding in one process")


def measure(folder: Path, processes: int, repetitions: int) -> dict[str, float]:
    """Seconds to decode in one process and in several, to load again, to read every file, and to digest the pixels."""
    times: dict[str, list[float]] = {name: [] for name in ("one", "several", "again", "files read", "digest")}
    for _ in range(repetitions):
        for name, count in (("one", 1), ("several", processes)):
            os.environ["OMP_NUM_THREADS"] = str(count)
            with tempfile.TemporaryDirectory() as cache:
                began = time.perf_counter()
                loaded(folder, cache)
                decoded = time.perf_counter()
                data = loaded(folder, cache)
                again = time.perf_counter()
                content_digest(data)
                times[name].append(decoded - began)
                times["again"].append(again - decoded)
                times["digest"].append(time.perf_counter() - again)
        began = time.perf_counter()
        for path in folder.rglob("*.*"):
            if path.is_file():
                path.read_bytes()
        times["files read"].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def loaded(folder: Path, cache: str) -> Data:
    return Folder(folder).load(LoadContext(Path(cache), lambda what, done, total: None))


def make_images(folder: Path, images: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(images):
        path = folder / ("test" if number // 10 % 6 == 0 else "train") / f"class-{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


if __name__ == "__main__":
    main()
