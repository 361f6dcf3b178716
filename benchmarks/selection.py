"""Exact selection beside ``torch.kthvalue``: ``python benchmarks/selection.py --entries 1.1e7 1e8 [--json]``.

Each size has a process of its own, with as many threads as torch takes (``OMP_NUM_THREADS``). The reference is one
``kthvalue`` over the concatenation and a comparison per tensor. Both run in turn; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
from torch import Tensor

from forgetkit.seeding import Seeds
from forgetkit.system import peak_memory
from forgetkit.unlearning import select

TENSORS = 62
FRACTION = 0.2
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=float, nargs="+", default=[1.1e7, 1e8], help="how many scores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-reference", action="store_true", help="which takes several times the scores' memory")
    parser.add_argument("--tied", action="store_true", help="only three different scores")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    args = parser.parse_args()
    rows = []
    for entries in args.entries:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            measuring = alone.submit(measure, int(entries), args.repeats, not args.no_reference, args.tied)
            rows.append(measuring.result())
        if not args.json:
            print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))


def measure(entries: int, repeats: int, reference: bool, tied: bool) -> Row:
    """Time one size: seconds, peak memory beside the scores in percent of theirs, and the reference's ratio."""
    select(dict(drawn(10**6, tied)), FRACTION, Seeds(0))  # warm up
    scores = dict(drawn(entries, tied))
    kept, highest = peak_memory.track_peak(torch.device("cpu"))(), peak_memory.track_peak(torch.device("cpu"))
    select(scores, FRACTION, Seeds(0))
    grown, bytes_ = (highest() or 0) - (kept or 0), sum(score.nbytes for score in scores.values())
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: select(scores, FRACTION, Seeds(0))))
        if reference:
            theirs.append(seconds(lambda: by_kthvalue(scores)))
    row = {"entries": float(entries), "seconds": median(ours), "seconds_per_1e8": median(ours) / entries * 1e8}
    row["extra_memory_percent"] = 100 * grown / bytes_
    if reference:
        row |= {"reference_seconds": median(theirs), "ratio": median(theirs) / median(ours)}
    return row


def drawn(entries: int, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Draw scores like those of a network: most of them small, none negative."""
    rng = torch.Generator().manual_seed(0)
    for at in range(TENSORS):
        score = torch.empty(entries // TENSORS + (at < entries % TENSORS))
        yield str(at), score.random_(3, generator=rng) if tied else score.exponential_(generator=rng)


def by_kthvalue(scores: dict[str, Tensor]) -> None:
    everything = torch.cat([score.flatten() for score in scores.values()])
    threshold = everything.kthvalue(int(FRACTION * len(everything))).values
    for score in scores.values():
        _ = score <= threshold


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
