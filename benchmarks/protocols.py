"""Repeat the studies of docs/reproducibility.md: arms, seeds and a table.

python benchmarks/protocols.py presets --dataset npz:path=cifar10.npz,augment=crop-flip --jobs 2 --out results.json
python benchmarks/protocols.py label-noise --jobs 2
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import forgetkit

Arms = Mapping[str, Mapping[str, Any]]

SMALL = {"model": "convnet:width=16", "shots": 300, "mega_batches": 4, "epochs": 10}
METHODS: Arms = {
    "warm": {"method": "warm"},
    "cold": {"method": "cold"},
    "LURE": {"method": "lure"},
    "random mask": {"importance": "random", "reinit": "masked"},
    "highest": {"importance": "snip", "reinit": "masked:which=highest"},
}
OVERRIDES: Arms = {
    "clean": {},
    "score-on first": {"score_on": "first"},
    "100 scoring samples": {"importance": "snip:samples=100"},
    "score-transform train": {"score_transform": "train"},
    "score-params conv-linear": {"score_params": "conv-linear"},
    "fresh uniform": {"reinit": "masked:fresh=uniform"},
    "norm uniform": {"reinit": "masked:norm=uniform"},
    "optimizer-state keep": {"optimizer_state": "keep"},
    "carry best-val": {"carry": "best-val"},
    "val-transform train, carry best-val": {"val_transform": "train", "carry": "best-val"},
    "split contiguous": {"split": "contiguous"},
}
NOISE: Arms = {
    "warm": {"method": "warm"},
    "20 % least salient": {"reinit": "masked:fraction=0.2"},
    "80 % least salient": {"reinit": "masked:fraction=0.8"},
    "20 % at random": {"importance": "random", "reinit": "masked:fraction=0.2"},
    "80 % at random": {"importance": "random", "reinit": "masked:fraction=0.8"},
    "20 % most salient": {"reinit": "masked:fraction=0.2,which=highest"},
    "cold": {"method": "cold"},
}
STUDIES: Mapping[str, tuple[Arms, Mapping[str, Any], int]] = {
    "presets": (
        {
            f"{preset}, {name}": {"preset": preset, **options}
            for preset in ("paper", "lure-code", "clean")
            for name, options in METHODS.items()
        },
        SMALL,
        3,
    ),
    "overrides": (OVERRIDES, {**SMALL, "method": "lure"}, 3),
    "label-noise": (NOISE, {"label_noise": 0.3, "model": "mlp", "lr": 0.01}, 4),
    "label-noise-convnet": (NOISE, {"label_noise": 0.3}, 4),
}
"""By name: arms, shared options, and the number of seeds."""


def run(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run once on one thread, without keeping the record."""
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        result = forgetkit.run({**options, "threads": 1, "out": folder})
    return {key: result[key] for key in ("test_accuracy", "cer", "generalization_gap", "seconds", "versions")}


def baseline(arm: str, arms: Arms) -> str:
    """The warm start under the same preset, else the first arm."""
    warm = f"{arm.partition(', ')[0]}, warm"
    return warm if warm in arms else next(iter(arms))


def table(arms: Arms, results: Mapping[tuple[str, int], Mapping[str, Any]], seeds: int) -> str:
    """A row per arm: mean and standard deviation over the seeds, and the paired difference from its baseline."""
    lines = ["| arm | test accuracy | CER | gap | less its baseline |", "|---|---|---|---|---|"]
    for arm in arms:
        base = baseline(arm, arms)
        mine = [results[arm, seed] for seed in range(seeds)]
        apart = [100 * (results[arm, s]["test_accuracy"] - results[base, s]["test_accuracy"]) for s in range(seeds)]
        accuracy = [100 * one["test_accuracy"] for one in mine]
        gap = [100 * one["generalization_gap"] for one in mine]
        errors = [one["cer"] for one in mine]
        difference = "" if arm == base else f"{fmean(apart):+.2f} ± {stdev(apart):.2f}"
        lines.append(
            f"| {arm} | {fmean(accuracy):.2f} ± {stdev(accuracy):.2f} | {fmean(errors):,.0f} ± {stdev(errors):,.0f} "
            f"| {fmean(gap):.2f} ± {stdev(gap):.2f} | {difference} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--dataset")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    arms, common, seeds = STUDIES[args.study]
    if args.dataset:
        common = {**common, "dataset": args.dataset}
    cells = {(arm, seed): {**common, **options, "seed": seed} for arm, options in arms.items() for seed in range(seeds)}
    began = time.perf_counter()
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(cells, pool.map(run, cells.values()), strict=True))
    print(table(arms, results, seeds))
    versions = next(iter(results.values()))["versions"]
    print(f"\n{len(cells)} runs in {time.perf_counter() - began:.0f} s, {args.jobs} at a time; {versions}")
    if args.out:
        rows = [{"arm": arm, "seed": seed, **result} for (arm, seed), result in results.items()]
        args.out.write_text(json.dumps({"study": args.study, "common": common, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
