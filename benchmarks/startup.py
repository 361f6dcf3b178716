"""Time ``forgetkit --help`` beside ``python -c pass``, without plugins and with many.

Medians over interleaved repetitions. The plugins are small distributions in a temporary folder on the path, each with
an entry point. Those of the environment itself count on both sides.
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

COMMANDS = (("--help",), ("--version",), ("run", "--help"), ("plugins", "list"))
SOURCE = '''
import torch
from dataclasses import dataclass
import forgetkit

@dataclass(frozen=True)
class Criterion:
    """A criterion."""

    def score(self, probe):
        return probe.zeros()

@forgetkit.hookimpl
def forgetkit_importance():
    return {"criterion": Criterion}
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), args.plugins)
        rows = [measure(command, folder, args.repetitions) for command in COMMANDS]
    if args.json:
        print(json.dumps({"plugins": args.plugins, "repetitions": args.repetitions, "commands": rows}))
        return
    for row in rows:
        print(
            f"forgetkit {row['command']:12} {row['without']:6.3f} s (python -c pass {row['python']:5.3f} s), "
            f"with {args.plugins} plugins {row['with']:6.3f} s, ratio {row['ratio']:5.2f}"
        )


def install(site: Path, count: int) -> None:
    """Write distributions as an installer does."""
    for number in range(count):
        (site / f"startup_{number}.py").write_text(SOURCE)
        info = site / f"startup_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: startup-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[forgetkit]\nstartup-{number} = startup_{number}\n")


def measure(command: tuple[str, ...], site: str, repetitions: int) -> dict[str, object]:
    """Time Python alone, without plugins and with them, in turn, after a warm-up."""
    forgetkit = ("-m", "forgetkit", *command)
    calls = {"python": (("-c", "pass"), ""), "without": (forgetkit, ""), "with": (forgetkit, site)}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for repetition in range(repetitions + 1):
        for key, (words, path) in calls.items():
            seconds = timed(words, path)
            if repetition:
                times[key].append(seconds)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {"command": " ".join(command), **medians, "ratio": medians["with"] / medians["without"]}


def timed(words: tuple[str, ...], path: str) -> float:
    environment = {**os.environ, "PYTHONPATH": path}
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
