"""Avalanche's Naive strategy beside a warm start of forgetkit, on the digits in eight parts: medians, in turn.

Both train the same network on the same samples in the same parts; batches, epochs and optimizer are the same too, there
is no replay and nothing is logged. What is timed is the training: of Avalanche ``strategy.train`` of each experience,
of forgetkit's run all from a mega-batch's arrival to its last epoch. The whole of that run, judged after each
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
from forgetkit import learn, registry
from forgetkit.contracts import EpochEnded, Event, LoadContext, MegaBatchRevealed, Part
from forgetkit.seeding import Seeds
from forgetkit.stream import Pool

TARGET = 1.4
PARTS, BATCH, LR, MOMENTUM, DECAY = 8, 64, 0.1, 0.9, 1e-4


class Watch:
    """An observer: the seconds from each arrival to the last epoch, and the samples trained on."""

    def __init__(self) -> None:
        self.seconds, self.samples, self._since = 0.0, 0, 0.0

    def notify(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, EpochEnded):
            self.seconds += now - self._since
            self.samples += event.samples
        if isinstance(event, EpochEnded | MegaBatchRevealed):
            self._since = now


def ours(epochs: int) -> tuple[float, int, float]:
    """Seconds of training, samples, seconds of the whole run."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        what = {"method": "warm", "replay": "none", "dataset": "digits", "model": "convnet"}
        parts = {"mega_batches": PARTS, "split": "contiguous", "val_fraction": 0.0}
        how = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
        forgetkit.run(
            {**what, **parts, **how, "schedule": "constant", "device": "cpu", "out": folder}, observers=[watch]
        )
        return watch.seconds, watch.samples, time.perf_counter() - began


def theirs(train: Part, epochs: int) -> tuple[float, int]:
    """Seconds of training, samples."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training import Naive
    from torch.utils.data import TensorDataset

    ids = np.array_split(np.arange(len(train)), PARTS)  # as --split contiguous cuts them
    parts = [(torch.from_numpy(train.inputs[i]), torch.from_numpy(train.labels[i])) for i in ids]
    experiences = [as_classification_dataset(labelled(TensorDataset(*part), part[1])) for part in parts]
    stream = benchmark_from_datasets(train=experiences).train_stream
    model = network(Pool(*parts[0]))
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
    """Avalanche looks for the labels there."""
    dataset.targets = labels.tolist()
    return dataset


def network(first: Pool) -> torch.nn.Module:
    builder = registry.load(entry_points=False).make("models", "convnet")[1]
    return learn.network(builder, learn.measured(first, 10), Seeds(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    logging.disable()
    warnings.simplefilter("ignore")
    source = registry.load(entry_points=False).make("datasets", "digits")[1]
    train = source.load(LoadContext(Path(), lambda what, done, total: None)).train
    seconds: dict[str, list[float]] = {"forgetkit": [], "avalanche": [], "forgetkit, the whole run": []}
    for repetition in range(asked.repetitions + 1):
        for side in ("forgetkit", "avalanche")[:: 1 if repetition % 2 else -1]:
            if side == "forgetkit":
                trained, samples, whole = ours(asked.epochs)
            else:
                trained, samples = theirs(train, asked.epochs)
            if samples != asked.epochs * len(train):
                raise SystemExit(f"{side} trained on {samples} samples, not on {asked.epochs * len(train)}")
            if repetition:  # the first of each does not count
                seconds[side].append(trained)
                if side == "forgetkit":
                    seconds["forgetkit, the whole run"].append(whole)
    samples, medians = asked.epochs * len(train), {side: statistics.median(times) for side, times in seconds.items()}
    ratio = medians["avalanche"] / medians["forgetkit"]
    if asked.json:
        versions = {name: version(name) for name in ("forgetkit", "avalanche-lib", "torch")}
        about = {"versions": versions, "threads": torch.get_num_threads(), "samples": samples, "target": TARGET}
        rows = [{"side": side, "seconds": m, "samples a second": samples / m} for side, m in medians.items()]
        print(json.dumps({**about, "ratio": ratio, "cases": rows, "seconds": seconds}))
        return
    for side, median in medians.items():
        print(f"{side:25} {median:7.2f} s  {samples / median:9,.0f} samples/s")
    print(f"forgetkit trains {ratio:.2f} times as many samples a second; target at least {TARGET}")


if __name__ == "__main__":
    main()
