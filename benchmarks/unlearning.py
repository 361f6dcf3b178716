"""Measure one unlearning: its time beside a forward and backward pass, its memory beside the model's.

``snip``, ``magnitude`` and ``fisher``: `unlearn` on ResNet-18 for images of 32×32, contiguous and channels_last, and
one forward and backward pass over the same samples, in turn; medians. ``memory``: ``unlearn(magnitude, masked)`` on
linear layers in bfloat16, in a process of its own; the most memory it held above what it held before the model was
made.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LAYOUTS = ("contiguous", "channels_last")
TIMED = ("snip", "magnitude", "fisher")
SAMPLES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join((*TIMED, 'memory'))}; all if none")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--fisher-samples", type=int, default=SAMPLES)
    parser.add_argument("--layers", type=int, default=60, help="of 4096 × 4096 in the case memory")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.cases) - {*TIMED, "memory"}:
        parser.error(f"there is no case {min(unknown)}")
    if args.alone:
        print(json.dumps(held(args.layers, args.width)))
        return
    rows = []
    for case in args.cases or (*TIMED, "memory"):
        if case == "memory":
            rows.append({"case": case, **in_a_process_of_its_own(args.layers, args.width)})
            continue
        samples = args.fisher_samples if case == "fisher" else SAMPLES
        rows.extend({"case": case, **timed(case, layout, samples, args.repetitions)} for layout in LAYOUTS)
    if args.json:
        import torch

        threads = torch.get_num_threads()
        print(json.dumps({"threads": threads, "repetitions": args.repetitions, "rows": rows}))
    else:
        print("\n".join(told(row) for row in rows))


def timed(criterion: str, layout: str, samples: int, repetitions: int) -> dict[str, Any]:
    """Time unlearning, a selection and a pass; ``ratio`` excludes the selection."""
    import torch
    from torch.nn.functional import cross_entropy

    import forgetkit
    from forgetkit.builtin.models.resnet import ResNet18
    from forgetkit.contracts import Inputs

    torch.manual_seed(0)
    shapes = Inputs((3, 32, 32), 10, (0.0,) * 3, (1.0,) * 3)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = ResNet18().build(shapes, torch.nn.Identity()).to(memory_format=memory).eval()
    inputs = torch.randn(samples, 3, 32, 32).to(memory_format=memory)
    targets = torch.randint(10, (samples,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def passes() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()

    passes()
    optimizer.step()
    importance = criterion if criterion == "magnitude" else f"{criterion}:samples={samples}"
    scores = forgetkit.score(model, [(inputs, targets)], importance="magnitude")
    sides: dict[str, Callable[[], object]] = {
        "passes": passes,
        "unlearn": lambda: forgetkit.unlearn(model, [(inputs, targets)], importance=importance, optimizer=optimizer),
        "selection": lambda: forgetkit.select(scores, fraction=0.2),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for repetition in range(repetitions + 1):
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            if repetition:
                times[side].append(time.perf_counter() - began)
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = (medians["unlearn"] - medians["selection"]) / medians["passes"]
    return {"layout": layout, "samples": samples, **medians, "ratio": ratio}


def in_a_process_of_its_own(layers: int, width: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--alone", "--layers", str(layers), "--width", str(width)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def held(layers: int, width: int) -> dict[str, Any]:
    """Measure the bytes of the model, the peak memory while unlearning, and the memory before."""
    import torch
    from torch import nn

    import forgetkit
    from forgetkit.system.peak_memory import track_peak

    def small() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64, bias=False, dtype=torch.bfloat16))

    forgetkit.unlearn(small(), importance="magnitude")  # all code is loaded
    before = track_peak(torch.device("cpu"))() or 0
    model = nn.Sequential(*(nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(layers)))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    peak = track_peak(torch.device("cpu"))
    began = time.perf_counter()
    report = forgetkit.unlearn(model, importance="magnitude")
    seconds = time.perf_counter() - began
    most = peak() or 0
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "reset": report.reset,
        "model": size,
        "before": before,
        "peak": most,
        "seconds": seconds,
        "ratio": (most - before) / size,
    }


def told(row: dict[str, Any]) -> str:
    if row["case"] == "memory":
        return (
            f"memory     {row['parameters']:,} parameters of {row['model'] / 1e9:.2f} GB: the most held is "
            f"{row['peak'] / 1e9:.2f} GB, {row['ratio']:.2f} times the model above what was held before; "
            f"{row['seconds']:.1f} s"
        )
    return (
        f"{row['case']:10} {row['layout']:13} {row['samples']} samples: unlearn {row['unlearn']:7.3f} s, selection "
        f"{row['selection']:6.3f} s, passes {row['passes']:7.3f} s, ratio without the selection {row['ratio']:5.2f}"
    )


if __name__ == "__main__":
    main()
