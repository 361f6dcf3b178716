"""How many bytes several processes exchange while they forget together: python benchmarks/processes.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import forgetkit

SIZE, SAMPLES, BATCH, FEATURES = 3, 64, 32, 256


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


@contextmanager
def counted() -> Iterator[list[int]]:
    """Collect the bytes that this process gives to forgetkit's own exchanges."""
    given, kept = list[int](), {name: getattr(distributed, name) for name in ("all_reduce", "all_gather", "broadcast")}

    def counting(function: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensor: Tensor = args[position]
            given.append(tensor.numel() * tensor.element_size())
            return function(*args, **kwargs)

        return call

    for name, function in kept.items():
        setattr(distributed, name, counting(function, 1 if name == "all_gather" else 0))
    try:
        yield given
    finally:
        for name, function in kept.items():
            setattr(distributed, name, function)


def measure(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=SIZE)
    mesh = init_device_mesh("cpu", (SIZE,))
    rng = torch.Generator().manual_seed(rank)
    batches = [
        (torch.randn(BATCH, FEATURES, generator=rng), torch.randint(0, 10, (BATCH,), generator=rng))
        for _ in range(SAMPLES // BATCH)
    ]
    for width in (64, 1024):
        for holding in ("replicas", "parts"):
            for importance in ("magnitude", "snip"):
                whole = network(width)
                entries = sum(p.numel() for p in whole.parameters())
                model = DistributedDataParallel(whole) if holding == "replicas" else fully_shard(whole, mesh=mesh)
                needed = None if importance == "magnitude" else batches
                with counted() as given:
                    forgetkit.unlearn(model, needed, importance=importance, seed=1)
                if not rank:
                    print(f"| {holding} | {importance} | {entries:,} | {sum(given) / 1024:,.1f} | {len(given)} |")
    distributed.destroy_process_group()


def main() -> None:
    data = SAMPLES * (FEATURES * 4 + 8) / 1024
    print(f"{SIZE} processes, gloo, torch {torch.__version__}; {SAMPLES} samples in each, {data:,.0f} KiB of tensors\n")
    print("| holds | criterion | entries | KiB given by process 0 | exchanges |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, (str(Path(folder) / "store"),), nprocs=SIZE)


if __name__ == "__main__":
    main()
