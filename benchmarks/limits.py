"""Time the parts of the cases ``augmented`` and ``auto`` of ``bench.py`` separately.

For both sides of a case: the median milliseconds of a part for a batch of 64, in turn, and how many times as fast ours
is. A case cannot gain more than its largest part. A step of ``augmented`` is timed twice: in the same precision on both
sides, which shows the gain from channels-last, and as a run takes it by default.
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
from comparisons.loading import TransformedSamples
from comparisons.training import BATCH, Work, framework, in_chosen_precision, network, sgd, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

from forgetkit.data.batches import epoch_batches
from forgetkit.seeding import Seeds

Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case, part, reference, ours in (*augmented(), *auto()):
        rows.append({"case": case, "part": part, **compare(reference, ours, options.repetitions)})
        if not options.json:
            print("  ".join(f"{key} {value:.4g}" if key[0] in "ort" else value for key, value in rows[-1].items()))
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cases": rows}))


def compare(reference: Call, ours: Call, repetitions: int) -> dict[str, Any]:
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
    """Time one loading worker of the reference: its two workers share the cores with the training."""
    work = replace(Work.images("convnet", BATCH, "cpu"), augment="crop-flip")
    dataset = TransformedSamples(work.pool.inputs, work.pool.labels)
    yield (
        "augmented",
        "crop and flip, in one process",
        lambda: default_collate([dataset[index] for index in range(BATCH)]),
        lambda: next(epoch_batches(work.pool, BATCH, "crop-flip", Seeds(0))),
    )
    yield "augmented", "a step, both in fp32", stepping(work), stepping(work, ours=True)
    yield "augmented", "a step, ours as a run does it", stepping(work), stepping(in_chosen_precision(work), ours=True)


def auto() -> Iterator[tuple[str, str, Call, Call]]:
    work = in_chosen_precision(Work.images("resnet18", BATCH, "cpu"))
    yield "auto", "its convolutions alone", convolving(replace(work, bf16=False)), convolving(work, ours=True)
    yield "auto", "a step", stepping(replace(work, bf16=False)), stepping(work, ours=True)


def build(work: Work, ours: bool) -> nn.Module:
    return (framework(work).model if ours else network(work)).train()


def batch(work: Work) -> Tensor:
    return work.pool.inputs.float() / 255


def stepping(work: Work, ours: bool = False) -> Call:
    model, inputs = build(work, ours), batch(work)
    optimizer = sgd(model)
    return lambda: step(model, optimizer, inputs, work.pool.labels, bf16=work.bf16)


def convolving(work: Work, ours: bool = False) -> Call:
    """Run each convolution of a step alone, forward and backward, on its inputs in that step."""
    model, seen = build(work, ours), []

    def remember(module: nn.Module, given: tuple[Tensor, ...], outputs: Tensor) -> None:
        seen.append((module, given[0].detach().requires_grad_(bool(seen)), torch.randn_like(outputs)))

    hooks = [m.register_forward_hook(remember) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
        cross_entropy(model(batch(work)), work.pool.labels)
    for hook in hooks:
        hook.remove()

    def run_all() -> None:
        for module, inputs, wanted in seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
                outputs = module(inputs)
            outputs.backward(wanted)
        model.zero_grad(set_to_none=True)
        for _, inputs, _ in seen:
            inputs.grad = None

    return run_all


if __name__ == "__main__":
    main()
