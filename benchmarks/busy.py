"""Time the quick start beside busy processes, and find the batch size from which a second thread pays.

``start`` times ``forgetkit run --importance snip --reinit masked`` alone with ``--threads 1`` and with the threads that
``auto`` chooses beside two processes that never rest, in turn; wanted is a ratio of at most 2, of which the fair share
of two cores is 1.5. ``border`` times training steps with one thread and with two, in turn, over networks and batches.
Both print the load of the machine, since other work on it tells in either.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

QUICK_START = ("run", "--importance", "snip", "--reinit", "masked", "--quiet")
DIGITS, CIFAR = (1, 8, 8), (3, 32, 32)
STEPS = (
    *(("mlp", DIGITS, 64), ("mlp", CIFAR, 64), ("mlp:width=1024", CIFAR, 64)),
    *(("convnet:width=4", DIGITS, 64), ("convnet", DIGITS, 64), ("convnet", DIGITS, 256), ("convnet", CIFAR, 16)),
    *(("convnet:width=8", CIFAR, 64), ("convnet", CIFAR, 64), ("convnet:width=128", CIFAR, 64)),
    *(("resnet18:width=8", DIGITS, 64), ("resnet18:width=8", CIFAR, 16), ("resnet18:width=16", CIFAR, 64)),
)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many busy processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def quick_start(epochs: int, *words: str) -> dict[str, float]:
    """Time the quick start; returns seconds of the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "forgetkit", *QUICK_START, "--epochs", str(epochs), "--out", folder, *words]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime}


def start(repetitions: int, epochs: int) -> dict[str, Any]:
    """Time it alone and beside busy processes, in turn."""
    alone, beside = [], []
    for _ in range(repetitions):
        alone.append(quick_start(epochs, "--threads", "1"))
        with busy(2):
            beside.append(quick_start(epochs))
    median = {
        name: {what: statistics.median(run[what] for run in runs) for what in runs[0]}
        for name, runs in (("alone, --threads 1", alone), ("two busy processes", beside))
    }
    first, second = median.values()
    return {**median, "ratio": second["seconds"] / first["seconds"], "load": os.getloadavg()[0]}


def border(seconds: float) -> list[dict[str, Any]]:
    """For each network and batch: operations, and the time of a step with one thread divided by that with two."""
    import torch

    from forgetkit import training
    from forgetkit.contracts import Inputs
    from forgetkit.registry import registry
    from forgetkit.seeding import Seeds

    components, device, rows = registry.load(), torch.device("cpu"), []
    for spec, shape, batch in STEPS:
        inputs = Inputs(shape, 10, (0.0,) * shape[0], (1.0,) * shape[0])
        model = training.build_network(components.make("models", spec)[1], inputs, Seeds(0))
        model = training.to_device(model, training.choose_memory_format("auto", model, inputs, device), device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, foreach=True)
        images, labels = torch.rand(batch, *shape), torch.randint(10, (batch,))
        taken: dict[int, list[float]] = {1: [], 2: []}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken[2]) < 5:
            for threads, times in taken.items():
                torch.set_num_threads(threads)
                turn = time.perf_counter() + 0.1
                while time.perf_counter() < turn:
                    began = time.perf_counter()
                    torch.nn.functional.cross_entropy(model(images), labels).backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    times.append(time.perf_counter() - began)
        # A tenth of the steps was not disturbed by other work even on a busy machine.
        fast = {threads: sorted(times)[len(times) // 10] for threads, times in taken.items()}
        rows.append(
            {
                "model": spec,
                "image": "x".join(map(str, shape)),
                "batch": batch,
                "operations": training.count_operations(model, inputs, batch, device),
                "one_ms": fast[1] * 1e3,
                "two_ms": fast[2] * 1e3,
                "times as fast": fast[1] / fast[2],
                "median": statistics.median(taken[1]) / statistics.median(taken[2]),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: row["operations"])


def main() -> None:
    """Print the measurements as an object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "border"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row of border")
    args = parser.parse_args()
    if args.what == "start":
        print(json.dumps(start(args.repetitions, args.epochs), indent=1))
    else:
        print(json.dumps({"rows": border(args.seconds), "load": os.getloadavg()[0]}, indent=1))


if __name__ == "__main__":
    main()
