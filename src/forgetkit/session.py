"""A run's surroundings: the data, the partition, the seeds and the listeners. They stay the same throughout."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgetkit import contracts, stream
from forgetkit._version import __version__
from forgetkit.config import Plan
from forgetkit.contracts import Data, Event, Preparing
from forgetkit.errors import DataError, RunDirectoryError
from forgetkit.record import Recorder, ResumePoint
from forgetkit.seeding import Seeds
from forgetkit.stream import MegaBatch

_log = logging.getLogger("forgetkit")


class Bus:
    """Hands each event to every observer. One that raises is detached; the recorder alone may stop a run."""

    def __init__(self, observers: Sequence[contracts.Observer]) -> None:
        self._observers = list(observers)
        self.recorder: Recorder | None = None

    def emit(self, event: Event) -> None:
        """Record it, then tell everybody."""
        if self.recorder is not None:
            self.recorder.notify(event)
        for observer in list(self._observers):
            try:
                observer.notify(event)
            except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
                self._observers.remove(observer)
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                _log.warning("observer %s is detached: %s", type(observer).__name__, reason)


@dataclass(eq=False)
class Session:
    """A plan with its data loaded: what stays the same throughout a run."""

    plan: Plan
    bus: Bus
    data: Data
    mega_batches: tuple[MegaBatch, ...]
    sizes: list[int]
    seeds: Seeds
    device: torch.device

    @classmethod
    def prepare(cls, plan: Plan, bus: Bus, cache: Path) -> Session:
        """Load the data and cut the stream; nothing is written yet."""
        config, seeds = plan.config, Seeds(plan.config.seed)

        def progress(what: str, done: int, total: int) -> None:
            bus.emit(Preparing(what, done, total))

        source = config.dataset
        data = stream.check_data(plan.dataset.load(contracts.LoadContext(cache, progress)), source)
        if config.augment not in ("auto", "none") and data.train.inputs.ndim != 4:
            raise DataError(f"--augment {config.augment}: {source} holds features, not images; use --augment none")
        mega_batches = stream.partition(len(data.train), config.mega_batches, config.val_fraction, seeds)
        sizes = stream.sizes(data.train.labels, mega_batches, plan.replay, seeds)
        return cls(plan, bus, data, mega_batches, sizes, seeds, torch.device(config.device))

    @property
    def augment(self) -> contracts.Augmentation:
        """What is done to training images."""
        chosen = self.plan.config.augment
        return self.data.augment if chosen == "auto" else chosen

    def manifest(self) -> dict[str, Any]:
        """What is known before the first step."""
        return {
            "method": self.plan.method,
            "config": self.plan.config.model_dump(mode="json"),
            "digest": self.plan.digest,
            "partition": stream.digest(self.mega_batches),
            "data": self._data_facts(),
            "versions": versions(self.plan),
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def require_same(self, manifest: Mapping[str, Any], point: ResumePoint | None) -> None:
        """Refuse to go on with another configuration or with data that changed."""
        for what, recorded in (
            ("the manifest", manifest),
            ("the checkpoint", point.state if point else None),
        ):
            if recorded is not None and recorded.get("digest") != self.plan.digest:
                raise RunDirectoryError(
                    f"{what} belongs to another configuration, so the run cannot be resumed with this one"
                )
        if manifest.get("data") != self._data_facts() or manifest.get("partition") != stream.digest(self.mega_batches):
            raise RunDirectoryError(
                f"{self.plan.config.dataset} is not what the run began with (other samples or labels), "
                "so it cannot be resumed"
            )
        now = versions(self.plan)
        for what, begun in dict(manifest.get("versions", {})).items():
            if begun != now.get(what):
                _log.warning(
                    "this run was begun with %s %s, not %s: its numbers may differ", what, begun, now.get(what)
                )

    def _data_facts(self) -> dict[str, Any]:
        return {
            "train": len(self.data.train),
            "test": len(self.data.test),
            "shape": list(self.data.train.inputs.shape[1:]),
            "classes": list(self.data.classes),
            "augment": self.augment,
            "content": stream.content_digest(self.data),
        }


@contextmanager
def computing(threads: int | None) -> Iterator[None]:
    """``threads`` on the CPU; on CUDA the same bits each time, which the CPU gives anyway."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    if threads is not None:
        torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def versions(plan: Plan) -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "forgetkit": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "plugins": dict(plan.plugins),
    }
