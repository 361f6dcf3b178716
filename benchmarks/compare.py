"""forgetkit beside a reference: medians over interleaved repetitions, printed as ratios."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from forgetkit import forgetting, registry
from forgetkit.contracts import Inputs, LoadContext, Part
from forgetkit.learn import Normalize, Trainer
from forgetkit.seeding import Seeds
from forgetkit.stream import Pool, epoch_batches

Case = tuple[str, Callable[[], object], Callable[[], object]]
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="one case, by name")
    arguments = parser.parse_args()
    rows = []
    for name, ours, reference in cases():
        if arguments.only in (None, name):
            rows.append(measured(name, ours, reference, arguments.repetitions))
            if not arguments.json:
                row = rows[-1]
                print(f"{name:12} {row['seconds']:9.4f} s {row['reference']:9.4f} s  ratio {row['ratio']:6.2f}")
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cases": rows}))


def measured(name: str, ours: Callable[[], object], reference: Callable[[], object], count: int) -> dict[str, object]:
    """Both in turn, after one call each that does not count."""
    ours(), reference()
    times: dict[str, list[float]] = {"seconds": [], "reference": []}
    for _ in range(count):
        for key, call in (("seconds", ours), ("reference", reference)):
            began = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - began)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {"case": name, **medians, "ratio": medians["reference"] / medians["seconds"]}


def cases() -> Iterator[Case]:
    yield training()
    yield augmented()
    yield selection()
    yield forgetting_case()


def digits() -> Pool:
    from pathlib import Path

    source = registry.load().make("datasets", "digits")[1]
    return Pool.of(source.load(LoadContext(Path(), lambda what, done, total: None)).train, CPU)


def convnet(pool: Pool) -> torch.nn.Module:
    shape = tuple(pool.inputs.shape[1:])
    inputs = Inputs(shape, 10, (0.5,) * shape[0], (0.3,) * shape[0])
    torch.manual_seed(0)
    builder = registry.load().make("models", "convnet")[1]
    return builder.build(inputs, Normalize(inputs))


def bare_epoch(model: torch.nn.Module, optimizer: torch.optim.Optimizer, pool: Pool) -> None:
    model.train()
    for ids in torch.randperm(len(pool)).split(64):
        optimizer.zero_grad()
        cross_entropy(model(pool.inputs[ids]), pool.labels[ids]).backward()
        optimizer.step()


def training() -> Case:
    pool = digits()
    model, twin = convnet(pool), convnet(pool)
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1, 0.9), 64, "none", (), ())
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9)
    return "training", lambda: trainer.epoch(pool, 1, 1, 0.1, Seeds(0)), lambda: bare_epoch(twin, optimizer, pool)


def augmented() -> Case:
    from torchvision.transforms import v2

    images = np.random.default_rng(0).integers(0, 256, (2000, 3, 32, 32), dtype=np.uint8)
    pool = Pool.of(Part(images, np.zeros(2000, np.int64)), CPU)
    each = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def reference() -> None:
        for ids in torch.randperm(len(pool)).split(64):
            torch.stack([each(image) for image in pool.inputs[ids]])

    return "augmented", lambda: list(epoch_batches(pool, 64, "crop-flip", Seeds(0))), reference


def selection() -> Case:
    rng = torch.Generator().manual_seed(0)
    sizes = [11_173_962 // 62] * 62
    scores = {str(i): torch.rand(n, generator=rng) for i, n in enumerate(sizes)}
    count = sum(sizes) // 5

    def reference() -> None:
        threshold = torch.cat([s.flatten() for s in scores.values()]).kthvalue(count).values
        for score in scores.values():
            _ = score <= threshold

    return "selection", lambda: forgetting.select(scores, 0.2, Seeds(0)), reference


def forgetting_case() -> Case:
    pool = digits()
    model, twin = convnet(pool), convnet(pool)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9)
    offers = registry.load()
    snip, masked = offers.make("importance", "snip")[1], offers.make("reinit", "masked")[1]
    batches = [(pool.inputs[:256], pool.labels[:256])]

    def forget() -> None:
        forgetting.unlearn(model, batches, importance=snip, reinit=masked, seeds=Seeds(0))

    return "forgetting", forget, lambda: bare_epoch(twin, optimizer, pool)


if __name__ == "__main__":
    main()
