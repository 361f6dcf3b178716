"""What stands in the way of the cases ``augmented`` and ``auto`` of ``forgetkit bench``: their parts, each by itself.

For both sides of a case the milliseconds of a part for a batch of 64, in turn, medians, and how many times as fast
ours is. A case cannot gain more than its largest part does. A step of ``augmented`` is timed twice: in the same
precision on both sides, which shows what channels-last brings, and as a run does it by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

from forgetkit.bench import BenchmarkOptions
from forgetkit.bench.loading import TransformedSamples
from forgetkit.bench.training import BATCH, Work, chosen_precision, framework, network, sgd, step
from forgetkit.data.batches import epoch_batches
from forgetkit.seeding import Seeds

Call = Callable[[], object]
CPU = BenchmarkOptions("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    for case, part, reference, ours in (*augmented(), *auto()):
        rows.append({"case": case, "part": part, **measured(reference, ours, asked.repetitions)})
        if not asked.json:
            print("  ".join(f"{key} {value:.4g}" if key[0] in "ort" else value for key, value in rows[-1].items()))
    if asked.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cases": rows}))


def measured(reference: Call, ours: Call, repetitions: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"reference_ms": [], "ours_ms": []}
    for repetition in range(repetitions + 1):
        for side, call in zip(times, (reference, ours), strict=True):
            began = time.perf_counter()
            call()
            if repetition:
                times[side].append(1e3 * (time.perf_counter() - began))
    theirs, mine = (statistics.median(each) for each in times.values())
    return {"reference_ms": theirs, "ours_ms": mine, "times as fast": theirs / mine}


def augmented() -> Iterator[tuple[str, str, Call, Call]]:
    """One worker's time stands for the reference's batches: its two share the cores with the training."""
    work = replace(Work.images("convnet", BATCH, CPU), augment="crop-flip")
    dataset = TransformedSamples(work.pool.inputs, work.pool.labels)
    yield (
        "augmented",
        "crop and flip, in one process",
        lambda: default_collate([dataset[place] for place in range(BATCH)]),
        lambda: next(epoch_batches(work.pool, BATCH, "crop-flip", Seeds(0))),
    )
    yield "augmented", "a step, both in fp32", stepping(work), stepping(work, ours=True)
    chosen = replace(work, bf16=chosen_precision(work) == "bf16")
    yield "augmented", "a step, ours as a run does it", stepping(work), stepping(chosen, ours=True)


def auto() -> Iterator[tuple[str, str, Call, Call]]:
    work = Work.images("resnet18", BATCH, CPU)
    work = replace(work, bf16=chosen_precision(work) == "bf16")
    yield "auto", "its convolutions alone", convolving(replace(work, bf16=False)), convolving(work, ours=True)
    yield "auto", "a step", stepping(replace(work, bf16=False)), stepping(work, ours=True)


def made(work: Work, ours: bool) -> nn.Module:
    return (framework(work).model if ours else network(work)).train()


def batch(work: Work) -> Tensor:
    return work.pool.inputs.float() / 255


def stepping(work: Work, ours: bool = False) -> Call:
    model, inputs = made(work, ours), batch(work)
    optimizer = sgd(model)
    return lambda: step(model, optimizer, inputs, work.pool.labels, bf16=work.bf16)


def convolving(work: Work, ours: bool = False) -> Call:
    """Each convolution of a step by itself, forward and backward, on what it is given in that step."""
    model, seen = made(work, ours), []

    def remember(module: nn.Module, given: tuple[Tensor, ...], outputs: Tensor) -> None:
        seen.append((module, given[0].detach().requires_grad_(bool(seen)), torch.randn_like(outputs)))

    hooks = [m.register_forward_hook(remember) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
        cross_entropy(model(batch(work)), work.pool.labels)
    for hook in hooks:
        hook.remove()

    def all_of_them() -> None:
        for module, inputs, wanted in seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
                outputs = module(inputs)
            outputs.backward(wanted)
        model.zero_grad(set_to_none=True)
        for _, inputs, _ in seen:
            inputs.grad = None

    return all_of_them


if __name__ == "__main__":
    main()
