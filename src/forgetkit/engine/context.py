"""A run's surroundings: the data, the partition, the seeds and the listeners. They stay the same throughout."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from forgetkit import contracts, training
from forgetkit._version import __version__
from forgetkit.config import AUTO_OPTIONS, Plan, RunConfig
from forgetkit.contracts import MOST_THREADS, Data, Event, LoadProgress
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
from forgetkit.errors import ConfigError, DataError, OptionError, RunDirectoryError
from forgetkit.seeding import Seeds
from forgetkit.storage import Recorder
from forgetkit.system import peak_memory
from forgetkit.system.interrupts import StopRequest
from forgetkit.system.torch_settings import settings_restored, torch_settings
from forgetkit.training.determinism import deterministic_only

_log = logging.getLogger("forgetkit")


class EventDispatcher:
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
                with settings_restored(f"the observer {contracts.component_name(observer)}"):
                    observer.notify(event)
            except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
                self._observers.remove(observer)
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                _log.warning("observer %s is detached: %s", contracts.component_name(observer), reason)


@dataclass(eq=False)
class RunContext:
    """A plan with its data loaded: what stays the same throughout a run."""

    plan: Plan
    bus: EventDispatcher
    data: Data
    mega_batches: tuple[MegaBatch, ...]
    sizes: list[int]
    noisy_labels: int
    seeds: Seeds
    device: torch.device
    peak_memory: peak_memory.Peak
    """The most memory in use since the data was loaded, in bytes, where that can be known."""
    cache: Path
    """Where what was found out about this machine is noted down."""
    halt: StopRequest = field(default_factory=StopRequest)
    """Asked now and then whether to stop."""
    clean: Data | None = None
    """The data as its source gave it, without noise on labels."""
    findings: list[str] = field(default_factory=list)
    """What the audit before the first step found: a line each."""

    @classmethod
    def prepare(
        cls, plan: Plan, bus: EventDispatcher, cache: Path, halt: StopRequest | None = None, *, data: Data | None = None
    ) -> RunContext:
        """Load the data, unless it is there already, and cut the stream; nothing is written yet."""
        context = cls.with_data(plan, bus, cache, halt, data=data)
        context.sizes, first_stays = _mega_batch_sizes(context.data, context.mega_batches, plan, context.seeds)
        context._refuse_what_cannot_act(first_stays=first_stays)
        return context

    @classmethod
    def with_data(
        cls, plan: Plan, bus: EventDispatcher, cache: Path, halt: StopRequest | None = None, *, data: Data | None = None
    ) -> RunContext:
        """Load the data and cut the stream, to look at a finished run: what cannot act was refused when it began.

        Of the plan's components the data set alone is asked.
        """
        config, seeds = plan.config, Seeds(plan.config.seed)
        device = torch.device(config.device)
        memory = peak_memory.track_peak(device)

        def progress(what: str, done: int, total: int) -> None:
            bus.emit(LoadProgress(what, done, total))

        source, load_context = config.dataset, contracts.LoadContext(cache, progress, plan.offline)
        with settings_restored(f"the data set {source}"):
            clean = data or load_data(plan.dataset, source, load_context)
        data = clean
        if config.augment not in ("auto", "none") and data.train.inputs.ndim != 4:
            raise DataError(f"--augment {config.augment}: {source} holds features, not images; use --augment none")
        ids = few_shots(data.train.labels, data.classes, config.shots, seeds)
        mega_batches = partition(ids, config.mega_batches, config.val_fraction, config.split, seeds)
        data, noisy_labels = _add_label_noise(data, config, mega_batches, seeds)
        return cls(
            plan,
            bus,
            data,
            mega_batches,
            [],
            noisy_labels,
            seeds,
            device,
            memory,
            cache,
            halt or StopRequest(),
            clean,
        )

    def with_resolved(self, recorded: Mapping[str, Any]) -> RunContext:
        """The same, with what was left open as a run's configuration has it recorded."""
        choices = {option: recorded[option] for option in AUTO_OPTIONS if option in recorded}
        return replace(self, plan=self.plan.with_resolved(**choices))

    def epochs(self, mega_batch: int) -> training.EpochSizes:
        """How many samples each epoch of a mega-batch (from 1) trains on; with patience, some may not be begun."""
        config = self.plan.config
        return training.epoch_sizes(self.sizes[mega_batch - 1], config.epochs, config.samples)

    def _refuse_what_cannot_act(self, *, first_stays: bool) -> None:
        """Options that contradict the data, or would be ignored on it."""
        config, overrides = self.plan.config, self.plan.overrides
        check = getattr(self.plan.replay, "check", None)
        if check is not None:
            with settings_restored(f"the replay strategy {contracts.component_name(self.plan.replay)}"):
                check([len(mega_batch.train) for mega_batch in self.mega_batches])
        if not first_stays:
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

    @property
    def augment(self) -> contracts.Augmentation:
        """What is done to training images."""
        chosen = self.plan.config.augment
        return self.data.augment if chosen == "auto" else chosen

    def manifest(self) -> dict[str, Any]:
        """What is known before the first step."""
        return {
            "method": self.plan.method,
            "preset": self.plan.config.preset,
            "overrides": self.plan.overrides,
            "config": self.plan.config.model_dump(mode="json"),
            "digest": self.plan.digest,
            "partition": digest(self.mega_batches),
            "data": self._data_facts(),
            "provenance": dict(self.data.provenance),
            "audit": list(self.findings),
            "noisy_labels": self.noisy_labels,
            "init_sha256": self.init_sha256,
            "versions": versions(self.plan),
            "distributions": {kind: dict(makers) for kind, makers in self.plan.distributions.items()},
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def warn_of_remarks(self) -> None:
        """Log what the source of the data remarks on it."""
        for remark in self.data.remarks:
            _log.warning("%s: %s", self._source, remark)

    def audit(self) -> tuple[str, ...]:
        """What is strange about the data and its classes, as the source gave them; the test part is looked at too."""
        return (*self.audit_classes(), *audit_samples(self._given))

    def audit_classes(self) -> tuple[str, ...]:
        """The same of the classes alone, which takes no time."""
        return audit_classes(self._given, self.mega_batches, self.plan.config.split)

    def note(self, findings: Iterable[str], *, about: str | None = None, warn: bool = True) -> None:
        """Keep findings for the manifest; with ``warn``, log each. They are about the data unless ``about`` says."""
        for finding in findings:
            self.findings.append(finding)
            if warn:
                _log.warning("%s: %s", about or self._source, finding)

    @property
    def _given(self) -> Data:
        return self.clean or self.data

    @property
    def _source(self) -> str:
        return self.plan.config.dataset.partition(":")[0]

    def require_same(self, manifest: Mapping[str, Any]) -> None:
        """Refuse to go on with another configuration or with files that changed."""
        self.require_same_init(manifest)
        if manifest.get("digest") != self.plan.digest:
            raise RunDirectoryError(
                "the manifest belongs to another configuration, so the run cannot be resumed with this one"
            )
        self.require_same_data(manifest, "so it cannot be resumed")
        now = versions(self.plan)
        recorded = manifest.get("versions")
        if not isinstance(recorded, Mapping):
            raise RunDirectoryError("the manifest says of no version what began the run; it is damaged: begin it anew")
        for what, begun in recorded.items():
            if what != "plugins" and begun != now.get(what):
                _log.warning(
                    "this run was begun with %s %s, not %s: its numbers may differ", what, begun, now.get(what)
                )
        for change in dict.fromkeys(self._changed_plugins(manifest)):
            _log.warning("%s: its numbers may differ", change)

    def _changed_plugins(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """In a line each, the plugins that the run uses and that are others than when it was begun."""
        begun, makers = manifest["versions"].get("plugins"), manifest.get("distributions")
        if not isinstance(begun, Mapping) or not isinstance(makers, Mapping):
            return
        for kind, named in self.plan.distributions.items():
            own = makers.get(kind)
            for name, now in named.items() if kind != "observers" else ():
                then = own.get(name, now) if isinstance(own, Mapping) else now
                if then != now:
                    yield f"this run was begun with '{name}' of {then} {begun.get(then)}, not of {now}"
                elif begun.get(now) != (version := self.plan.plugins.get(now)):
                    if str(version).startswith("file "):
                        yield f"the plugin file {now}.py has changed since this run was begun ({begun.get(now)})"
                    else:
                        yield f"this run was begun with {now} {begun.get(now)}, not {version}"

    @property
    def init_sha256(self) -> str | None:
        """The digest of the file with the weights that the network begins with, if there is one."""
        return None if self.plan.init is None else self.plan.init.sha256

    def require_same_init(self, manifest: Mapping[str, Any]) -> None:
        """``RunDirectoryError`` if the file of ``--init`` holds other bytes than those on record."""
        if self.plan.init is not None and manifest.get("init_sha256") != self.init_sha256:
            raise RunDirectoryError(
                f"{self.plan.init.path} holds other weights than those that the run began with: put that file back"
            )

    def require_same_data(self, manifest: Mapping[str, Any], consequence: str = "", *, known: bool = False) -> None:
        """``RunDirectoryError`` where the samples, their labels or the partition are others than those on record.

        ``known``: of the samples that was found out before.
        """
        same = known or manifest.get("data") == self._data_facts()
        if not same or manifest.get("partition") != digest(self.mega_batches):
            said = f"{self.plan.config.dataset} is not what the run began with (other samples or labels)"
            raise RunDirectoryError(f"{said}, {consequence}" if consequence else said)

    def _data_facts(self) -> dict[str, Any]:
        return {
            "train": len(self.data.train),
            "test": len(self.data.test),
            "shape": list(self.data.train.inputs.shape[1:]),
            "classes": list(self.data.classes),
            "augment": self.augment,
            "content": content_digest(self.data),
        }


def _mega_batch_sizes(
    data: Data, mega_batches: Sequence[MegaBatch], plan: Plan, seeds: Seeds
) -> tuple[list[int], bool]:
    """How many samples each mega-batch will train on, and whether the first one's stay among them while scored on."""
    sizes, first_stays = [], True
    for mega_batch, ids in zip(
        mega_batches, simulate_replay(data.train.labels, mega_batches, plan.replay, seeds), strict=True
    ):
        sizes.append(len(ids))
        if plan.config.score_on == "first" and mega_batch is not mega_batches[-1]:
            first_stays = first_stays and bool(np.isin(mega_batches[0].train, ids).all())
    return sizes, first_stays


def _add_label_noise(
    data: Data, config: RunConfig, mega_batches: Sequence[MegaBatch], seeds: Seeds
) -> tuple[Data, int]:
    """The data with noise on the labels of its training part, and how many of those in the stream are now others."""
    clean = [mega_batch.val for mega_batch in mega_batches] if config.label_noise_val == "clean" else []
    spared = np.concatenate([np.empty(0, dtype=np.int64), *clean])
    old = data.train.labels
    new = add_label_noise(old, len(data.classes), config.label_noise, config.label_noise_draw, spared, seeds)
    used = np.concatenate([ids for mega_batch in mega_batches for ids in (mega_batch.train, mega_batch.val)])
    return replace(data, train=replace(data.train, labels=new)), int((new != old)[used].sum())


def use_threads(threads: int | Literal["auto"] | None) -> None:
    """Computes with so many threads on the CPU from here on; without a number, with as many as before."""
    if isinstance(threads, int):
        if not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"threads {threads}: a number from 1 to {MOST_THREADS} is wanted")
        torch.set_num_threads(threads)


@contextmanager
def compute_settings(
    threads: int | Literal["auto"] | None, device: str = "cpu", *, deterministic: bool = False
) -> Iterator[None]:
    """:func:`torch_settings`, with ``threads`` on the CPU if that is a number.

    ``deterministic``: all of it on ``device``, or a ``ConfigError`` that names the operation that cannot.
    """
    with torch_settings(), deterministic_only(torch.device(device)) if deterministic else nullcontext():
        use_threads(threads)
        yield


def versions(plan: Plan) -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "forgetkit": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "plugins": dict(plan.plugins),
    }
