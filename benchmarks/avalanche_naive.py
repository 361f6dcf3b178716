"""Avalanche's Naive strategy beside a warm start of forgetkit, on the digits in eight parts: medians, in turn.

Both train the same network on the same samples in the same parts; batches, epochs and optimizer are the same too, there
is no replay and nothing is logged. What is timed is the training and what each prepares for it: of Avalanche
``strategy.train`` of each experience, of forgetkit's run all from the state saved after the mega-batch before (or the
start) to the last epoch, so revealing and reading the samples as well. Ours is timed in the layout and precision that
a run chooses by itself, and in those that Avalanche trains in. The whole of the first of these runs, judged after each
mega-batch and recorded, is timed as well. Needs avalanche-lib and forgetkit in one environment.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import forgetkit
from forgetkit import training
from forgetkit.contracts import Checkpointed, DataSplit, EpochEnded, Event, LoadContext, RunStarted
from forgetkit.data import SamplePool
from forgetkit.registry import registry
from forgetkit.seeding import Seeds

TARGET = 1.4
OURS = {"forgetkit": {}, "forgetkit, contiguous fp32": {"memory_format": "contiguous", "precision": "fp32"}}
"""Our sides: a run's own choice of layout and precision, and Avalanche's."""
WHOLE = "forgetkit, the whole run"
PARTS, BATCH, LR, MOMENTUM, DECAY = 8, 64, 0.1, 0.9, 1e-4


class Watch:
    """An observer: counts samples and the seconds from each mega-batch's end to the last epoch of the next."""

    def __init__(self) -> None:
        self.seconds, self.samples, self._since = 0.0, 0, 0.0

    def notify(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, EpochEnded):
            self.seconds += now - self._since
            self.samples += event.samples
        if isinstance(event, RunStarted | Checkpointed | EpochEnded):
            self._since = now


def ours(epochs: int, told: dict[str, str]) -> tuple[float, int, float]:
    """Run ours; returns seconds of training, samples, seconds of the whole run."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        what = {"method": "warm", "replay": "none", "dataset": "digits", "model": "convnet"}
        parts = {"mega_batches": PARTS, "split": "contiguous", "val_fraction": 0.0}
        how = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
        forgetkit.run(
            {**what, **parts, **how, **told, "schedule": "constant", "device": "cpu", "out": folder}, observers=[watch]
        )
        return watch.seconds, watch.samples, time.perf_counter() - began


def theirs(train: DataSplit, epochs: int) -> tuple[float, int]:
    """Run Avalanche; returns seconds of training and samples."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training import Naive
    from torch.utils.data import TensorDataset

    ids = np.array_split(np.arange(len(train)), PARTS)  # as --split contiguous cuts them
    parts = [(torch.from_numpy(train.inputs[i]), torch.from_numpy(train.labels[i])) for i in ids]
    experiences = [as_classification_dataset(labelled(TensorDataset(*part), part[1])) for part in parts]
    stream = benchmark_from_datasets(train=experiences).train_stream
    model = network(SamplePool(*parts[0]))
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    strategy = Naive(model=model, optimizer=optimizer, train_mb_size=BATCH, train_epochs=epochs, evaluator=None)
    before = [p.detach().clone() for p in model.parameters()]
    began = time.perf_counter()
    for experience in stream:
        strategy.train(experience)
    seconds = time.perf_counter() - began
    if strategy.clock.train_iterations != epochs * sum(-(-len(i) // BATCH) for i in ids):
        raise SystemExit(f"Avalanche made {strategy.clock.train_iterations} steps")
    if any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)):
        raise SystemExit("Avalanche trained nothing")
    return seconds, epochs * len(train)


def labelled(dataset: Any, labels: torch.Tensor) -> Any:
    """Set ``targets``, where Avalanche expects the labels."""
    dataset.targets = labels.tolist()
    return dataset


def network(first: SamplePool) -> torch.nn.Module:
    builder = registry.load(entry_points=False).make("models", "convnet")[1]
    return training.build_network(builder, training.measure_normalization(first, 10), Seeds(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable()
    warnings.simplefilter("ignore")
    source = registry.load(entry_points=False).make("datasets", "digits")[1]
    train = source.load(LoadContext(Path(), lambda what, done, total: None)).train
    seconds = measure(train, args.epochs, args.repetitions)
    samples, medians = (
        args.epochs * len(train),
        {side: statistics.median(times) for side, times in seconds.items()},
    )
    rows = [
        {"side": side, "seconds": m, "samples a second": samples / m, "times as fast": medians["avalanche"] / m}
        for side, m in medians.items()
    ]
    ratios = {side: medians["avalanche"] / medians[side] for side in OURS}
    met = ratios["forgetkit"] >= TARGET
    if args.json:
        versions = {name: version(name) for name in ("forgetkit", "avalanche-lib", "torch")}
        about = {"versions": versions, "threads": torch.get_num_threads(), "samples": samples}
        verdict = {"target": TARGET, "ratio": ratios["forgetkit"], "met": met, "ratios": ratios}
        print(json.dumps({**about, **verdict, "cases": rows, "seconds": seconds}))
        return
    for row in rows:
        print("{side:26} {seconds:7.2f} s  {samples a second:9,.0f} samples/s  {times as fast:5.2f} ×".format(**row))
    print(f"wanted are at least {TARGET} × of forgetkit as a run does it: {'met' if met else 'missed'}")


def measure(train: DataSplit, epochs: int, repetitions: int) -> dict[str, list[float]]:
    """Time each side in turn: ours in both layouts, its whole run, and Avalanche."""
    seconds: dict[str, list[float]] = {**{side: [] for side in OURS}, "avalanche": [], WHOLE: []}
    order = [*OURS, "avalanche"]
    for repetition in range(repetitions + 1):
        for side in order[:: 1 if repetition % 2 else -1]:
            if side == "avalanche":
                (trained, samples), whole = theirs(train, epochs), None
            else:
                trained, samples, whole = ours(epochs, OURS[side])
            if samples != epochs * len(train):
                raise SystemExit(f"{side} trained on {samples} samples, not on {epochs * len(train)}")
            if repetition:  # the first of each does not count
                seconds[side].append(trained)
                if side == "forgetkit" and whole is not None:
                    seconds[WHOLE].append(whole)
    return seconds


if __name__ == "__main__":
    main()
