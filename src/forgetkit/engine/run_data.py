"""The data of a run: loaded, cut into mega-batches, checked against the options and the record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgetkit.config import Plan, RunConfig
from forgetkit.contracts import Augmentation, Data, LoadContext, LoadProgress, component_name
from forgetkit.data import (
    MegaBatch,
    add_label_noise,
    audit_classes,
    audit_samples,
    content_digest,
    digest,
    few_shots,
    load_data,
    partition,
    simulate_replay,
)
from forgetkit.engine.events import EventDispatcher
from forgetkit.errors import ConfigError, DataError, RunDirectoryError
from forgetkit.seeding import Seeds
from forgetkit.system.torch_settings import settings_restored

_log = logging.getLogger("forgetkit")


@dataclass(frozen=True, eq=False)
class RunData:
    """The data that a plan names, cut into mega-batches.

    ``clean`` is the data as its source gives it, ``data`` the same with label noise on its training part;
    ``noisy_labels`` counts the labels of the stream that differ.
    """

    plan: Plan
    clean: Data
    data: Data
    mega_batches: tuple[MegaBatch, ...]
    noisy_labels: int

    @classmethod
    def prepare(cls, plan: Plan, events: EventDispatcher, cache: Path, *, data: Data | None = None) -> RunData:
        """Load and cut the data, and refuse options that cannot act on it. Nothing is written to a run directory.

        Raises:
            ConfigError, DataError: The options contradict the data, or the data is missing or damaged.
        """
        run_data = cls.load(plan, events, cache, data=data)
        run_data._refuse_unusable_options()
        return run_data

    @classmethod
    def load(cls, plan: Plan, events: EventDispatcher, cache: Path, *, data: Data | None = None) -> RunData:
        """Load and cut the data without calling any other component of the plan. ``data`` is used if it is given."""
        config, seeds = plan.config, Seeds(plan.config.seed)

        def progress(what: str, done: int, total: int) -> None:
            events.emit(LoadProgress(what, done, total))

        with settings_restored(f"the data set {config.dataset}"):
            clean = data or load_data(plan.dataset, config.dataset, LoadContext(cache, progress, plan.offline))
        if config.augment not in ("auto", "none") and clean.train.inputs.ndim != 4:
            raise DataError(
                f"--augment {config.augment}: {config.dataset} holds features, not images; use --augment none"
            )
        ids = few_shots(clean.train.labels, clean.classes, config.shots, seeds)
        mega_batches = partition(ids, config.mega_batches, config.val_fraction, config.split, seeds)
        noisy, count = _add_label_noise(clean, config, mega_batches, seeds)
        return cls(plan, clean, noisy, mega_batches, count)

    @property
    def seeds(self) -> Seeds:
        """The random streams of the plan."""
        return Seeds(self.plan.config.seed)

    @property
    def device(self) -> torch.device:
        """The device that the plan names."""
        return torch.device(self.plan.config.device)

    @property
    def augment(self) -> Augmentation:
        """The augmentation of training images."""
        chosen = self.plan.config.augment
        return self.data.augment if chosen == "auto" else chosen

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many samples each mega-batch trains on."""
        return self._simulation[0]

    @cached_property
    def _simulation(self) -> tuple[tuple[int, ...], bool]:
        """The sizes, and whether the first mega-batch's samples stay while the network is scored on them."""
        sizes, first_stays = [], True
        replayed = simulate_replay(self.data.train.labels, self.mega_batches, self.plan.replay, self.seeds)
        for mega_batch, ids in zip(self.mega_batches, replayed, strict=True):
            sizes.append(len(ids))
            if self.plan.config.score_on == "first" and mega_batch is not self.mega_batches[-1]:
                first_stays = first_stays and bool(np.isin(self.mega_batches[0].train, ids).all())
        return tuple(sizes), first_stays

    def _refuse_unusable_options(self) -> None:
        """Raise ``ConfigError`` for options that contradict the data or have no effect on it."""
        config, overrides = self.plan.config, self.plan.overrides
        check = getattr(self.plan.replay, "check", None)
        if check is not None:
            with settings_restored(f"the replay strategy {component_name(self.plan.replay)}"):
                check([len(mega_batch.train) for mega_batch in self.mega_batches])
        if not self._simulation[1]:
            raise ConfigError(
                f"--score-on first: --replay {config.replay} gives the first mega-batch up; use --replay full, or "
                "score on another"
            )
        validated = simulate_replay(self.data.train.labels, self.mega_batches, self.plan.replay, self.seeds, "val")
        empty = next((index for index, ids in enumerate(validated, 1) if not len(ids)), None)
        if (config.carry == "best-val" or config.patience) and empty is not None:
            raise ConfigError(
                f"--val-fraction {config.val_fraction} leaves none to validate on in mega-batch {empty}, and --carry "
                "best-val and --patience need one: use fewer mega-batches or a larger share"
            )
        for option in ("score-transform", "val-transform"):
            if self.augment == "none" and overrides.get(option, {}).get("value") == "train":
                raise ConfigError(
                    f"--{option} train would be ignored, since training images are not augmented: leave it "
                    "out, or give --augment"
                )

    def warn_of_remarks(self) -> None:
        """Log the remarks that the source makes about its data."""
        self.warn(self.data.remarks)

    def warn(self, findings: Iterable[str]) -> None:
        """Log each finding, with the name of the data set."""
        for finding in findings:
            _log.warning("%s: %s", self.plan.config.dataset.partition(":")[0], finding)

    def findings(self, *, log: bool) -> list[str]:
        """The findings of the audit. With ``log``, log them and the remarks of the source."""
        if log:
            self.warn_of_remarks()
        findings = list(self.audit())
        if log:
            self.warn(findings)
        return findings

    def audit(self) -> tuple[str, ...]:
        """Audit the clean data and its classes, the test part included; one sentence for each finding."""
        return (*self.audit_classes(), *audit_samples(self.clean))

    def audit_classes(self) -> tuple[str, ...]:
        """Audit the classes alone, which takes no time."""
        return audit_classes(self.clean, self.mega_batches, self.plan.config.split)

    def require_same(
        self, manifest: Mapping[str, Any], consequence: str = "", *, already_checked: bool = False
    ) -> None:
        """Raise ``RunDirectoryError`` if the samples, their labels or the partition differ from the manifest's.

        With ``already_checked``, the samples were compared before.
        """
        same = already_checked or manifest.get("data") == self.facts()
        if not same or manifest.get("partition") != self.partition_digest:
            message = f"{self.plan.config.dataset} is not what the run began with (other samples or labels)"
            raise RunDirectoryError(f"{message}, {consequence}" if consequence else message)

    @property
    def partition_digest(self) -> str:
        """The digest of the ids in each mega-batch."""
        return digest(self.mega_batches)

    def facts(self) -> dict[str, Any]:
        """What the manifest records about the data."""
        return {
            "train": len(self.data.train),
            "test": len(self.data.test),
            "shape": list(self.data.train.inputs.shape[1:]),
            "classes": list(self.data.classes),
            "augment": self.augment,
            "content": content_digest(self.data),
        }


def _add_label_noise(
    data: Data, config: RunConfig, mega_batches: Sequence[MegaBatch], seeds: Seeds
) -> tuple[Data, int]:
    """The data with label noise on its training part, and the number of labels in the stream that changed."""
    clean = [mega_batch.val for mega_batch in mega_batches] if config.label_noise_val == "clean" else []
    spared = np.concatenate([np.empty(0, dtype=np.int64), *clean])
    old = data.train.labels
    new = add_label_noise(old, len(data.classes), config.label_noise, config.label_noise_draw, spared, seeds)
    used = np.concatenate([ids for mega_batch in mega_batches for ids in (mega_batch.train, mega_batch.val)])
    return replace(data, train=replace(data.train, labels=new)), int((new != old)[used].sum())
