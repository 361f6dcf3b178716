"""Time a grid of 108 cells on the digits: one worker with two threads against two workers with one.

Each repetition runs the grid in both ways, in new folders and in turn, then repeats the command, which finds every cell
finished. Prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRID = [
    *("--over", "importance=snip,fisher,magnitude,random"),
    *("--over", "reinit=masked:0.1,masked:0.3,masked:which=highest"),
    *("--over", "replay=full,buffer:size=100,none"),
    *("--seeds", "0-2", "--baseline", "importance=random,reinit=masked:0.1,replay=none"),
]
SIDES = {"jobs=1, threads=2": "local:jobs=1,threads=2", "jobs=2, threads=1": "local:jobs=2,threads=1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--mega-batches", type=int, default=4)
    parser.add_argument("--model", default="convnet")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    shared = ["--epochs", args.epochs, "--mega-batches", args.mega_batches, "--model", args.model]
    seconds: dict[str, list[float]] = {side: [] for side in (*SIDES, "again")}
    for _ in range(args.repetitions):
        for side, executor in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                words = [*GRID, *map(str, shared), "--executor", executor, "--out", folder]
                seconds[side].append(timed(words))
                tables = [Path(folder) / name for name in ("first", "again")]
                if side == "jobs=2, threads=1":
                    table(folder, tables[0])
                    seconds["again"].append(timed(words))
                    table(folder, tables[1])
                    if tables[0].read_bytes() != tables[1].read_bytes():
                        raise SystemExit("the same command again gave another table")
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = medians["jobs=1, threads=2"] / medians["jobs=2, threads=1"]
    if args.json:
        print(json.dumps({"seconds": seconds, "medians": medians, "ratio": ratio}))
        return
    for side, median in medians.items():
        print(f"{side:18} {median:7.1f} s   of {', '.join(f'{value:.1f}' for value in seconds[side])}")
    print(f"two cells at once end {ratio:.2f} times sooner")


def timed(words: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "forgetkit", "ablate", *words, "--quiet"],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"forgetkit ablate left with status {done.returncode}")
    return time.perf_counter() - began


def table(folder: str, file: Path) -> None:
    with file.open("wb") as out:
        command = [sys.executable, "-m", "forgetkit", "table", folder, "--format", "json"]
        subprocess.run(command, stdout=out, check=True)


if __name__ == "__main__":
    main()
