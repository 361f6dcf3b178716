"""Time a stream without its training: everything at each mega-batch except forward, backward and step.

For each replay strategy, streams of 1 up to ``--most`` mega-batches of the same size. The parts are timed apart:
playing the strategy through before the run; revealing, reading, offering and retaining samples at each mega-batch; and
recording (events, and a state to resume from). A part whose cost grows with the data seen costs the same for each
sample trained on, however many mega-batches there are; recording costs the same for each mega-batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgetkit import contracts
from forgetkit.contracts import DataSplit, MegaBatchEnded, MegaBatchResult
from forgetkit.data import MegaBatch, Stream, partition, simulate_replay
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.storage import Checkpoint, Recorder, RunDirectory

COUNTS = (1, 3, 10, 30, 100)
TENSORS = 62
"""The number of parameter tensors of ResNet-18; an unlearning report has an entry for each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="in a mega-batch")
    parser.add_argument("--most", type=int, default=100, help="mega-batches")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--replay", action="append", default=None, help="a SPEC (repeatable)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    counts = [count for count in COUNTS if count <= args.most]
    rows = [
        {"replay": spec, "mega_batches": count, **measure(spec, count, args.samples, args.repetitions)}
        for spec in args.replay or ("none", "full")
        for count in counts
    ]
    if args.json:
        print(json.dumps({"samples": args.samples, "repetitions": args.repetitions, "cases": rows}))
        return
    print("milliseconds for each mega-batch; in brackets microseconds for each sample trained on")
    for row in rows:
        per, each = row["mega_batches"], row["trained_on"]
        parts = "  ".join(
            f"{name} {1e3 * row[name] / per:8.3f} ({1e6 * row[name] / each:6.3f})"
            for name in ("play", "flow", "record")
        )
        print(f"replay {row['replay']:6} {per:4} mega-batches  {parts}")


def measure(spec: str, count: int, samples: int, repetitions: int) -> dict[str, Any]:
    """Time each part over a whole stream; returns median seconds and the number of samples trained on."""
    total = count * samples
    source = DataSplit(np.zeros((total, 1), np.float32), np.arange(total) % 10)
    seeds = Seeds(0)
    cut = partition(np.arange(total), count, 0.1, "random", seeds)
    replay = registry.load(entry_points=False).make("replay", spec)[1]
    trained_on = sum(map(len, simulate_replay(source.labels, cut, replay, seeds)))

    def play() -> None:
        for role in ("train", "val"):
            for _ in simulate_replay(source.labels, cut, replay, seeds, role):
                pass

    parts = {"play": play, "flow": lambda: flow(source, cut, replay, seeds), "record": lambda: record(count)}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repetitions):
        for name, part in parts.items():
            times[name].append(timed(part))
    return {"trained_on": trained_on, **{name: statistics.median(seconds) for name, seconds in times.items()}}


def flow(source: DataSplit, cut: tuple[MegaBatch, ...], replay: contracts.Replay, seeds: Seeds) -> None:
    """Go through a stream as a run does."""
    through = Stream(source, cut, replay, seeds)
    for index in range(1, len(cut) + 1):
        revealed = through.reveal(index)
        revealed.read("train", revealed.train)
        revealed.read("val", revealed.val)
        if index < len(cut):
            revealed.read("train", through.scoring_ids("incoming", index))
        through.retain(index)
        through.state()


def record(count: int) -> None:
    """Write a run's record without models: events, and a checkpoint after each mega-batch."""
    rows: list[MegaBatchResult] = []
    state = {"model": torch.zeros(1), "epochs_done": 0}
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder), "run", {})
        recorder = Recorder(directory)
        for index in range(1, count + 1):
            rows.append(row(index))
            recorder.notify(MegaBatchEnded(rows[-1]))
            directory.save_checkpoint(Checkpoint({**state, "mega_batch": index + 1}, tuple(rows), 1.0))


def row(index: int) -> MegaBatchResult:
    """The result of a mega-batch after LURE."""
    layers = {f"layers.{number}.weight": {"size": 100_000, "reset": 20_000} for number in range(TENSORS)}
    counts = dict.fromkeys(("train_samples", "epochs", "samples_seen", "test_errors", "test_samples"), 1000)
    return MegaBatchResult(
        index=index,
        val_samples=100,
        train_accuracy=0.5,
        val_accuracy=0.5,
        generalization_gap=0.0,
        test_accuracy=0.5,
        forward_passes=1,
        backward_passes=1,
        seconds=1.0,
        carried_epoch=1,
        interventions={},
        unlearn={"scored": 1, "reset": 1, "threshold": 0.5, "layers": layers},
        **counts,
    )


def timed(part: Callable[[], None]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
