"""The context of a run: what is fixed before its first step."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import torch

from forgetkit import training
from forgetkit._version import __version__
from forgetkit.config import Plan
from forgetkit.contracts import MOST_THREADS
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import OptionError, RunDirectoryError
from forgetkit.seeding import Seeds
from forgetkit.system.interrupts import StopRequest
from forgetkit.system.peak_memory import Peak
from forgetkit.system.torch_settings import torch_settings
from forgetkit.training.determinism import deterministic_only

_log = logging.getLogger("forgetkit")


@dataclass(frozen=True, eq=False)
class RunContext:
    """What is fixed before the first step of a run: the plan without ``auto`` values, the data, the observers."""

    plan: Plan
    run_data: RunData
    events: EventDispatcher
    stop: StopRequest
    peak_memory: Peak

    @property
    def seeds(self) -> Seeds:
        """The random streams of the run."""
        return self.run_data.seeds

    @property
    def device(self) -> torch.device:
        """The device that the network is trained on."""
        return self.run_data.device

    def epochs(self, mega_batch: int) -> training.EpochSizes:
        """How many samples each epoch of a mega-batch (from 1) trains on; early stopping may end it before."""
        config = self.plan.config
        return training.epoch_sizes(self.run_data.sizes[mega_batch - 1], config.epochs, config.samples)

    @property
    def samples(self) -> tuple[int, ...]:
        """How many samples each mega-batch trains on, in all its epochs."""
        return tuple(self.epochs(index).samples for index in range(1, self.plan.config.mega_batches + 1))

    @property
    def init_sha256(self) -> str | None:
        """The digest of the file with the initial weights, if there is one."""
        return None if self.plan.init is None else self.plan.init.sha256

    def manifest(self, findings: Sequence[str]) -> dict[str, Any]:
        """The content of ``manifest.json``, with the findings of the audit."""
        return {
            "method": self.plan.method,
            "preset": self.plan.config.preset,
            "overrides": self.plan.overrides,
            "config": self.plan.config.model_dump(mode="json"),
            "digest": self.plan.digest,
            "partition": self.run_data.partition_digest,
            "data": self.run_data.facts(),
            "provenance": dict(self.run_data.data.provenance),
            "audit": list(findings),
            "noisy_labels": self.run_data.noisy_labels,
            "init_sha256": self.init_sha256,
            "versions": versions(self.plan),
            "distributions": {kind: dict(names) for kind, names in self.plan.distributions.items()},
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def require_same(self, manifest: Mapping[str, Any]) -> None:
        """Raise ``RunDirectoryError`` if the configuration or the data differ; warn about other versions."""
        require_same_init(self.plan, manifest)
        if manifest.get("digest") != self.plan.digest:
            raise RunDirectoryError(
                "the manifest belongs to another configuration, so the run cannot be resumed with this one"
            )
        self.run_data.require_same(manifest, "so it cannot be resumed")
        current = versions(self.plan)
        recorded_versions = manifest.get("versions")
        if not isinstance(recorded_versions, Mapping):
            raise RunDirectoryError("the manifest records no versions; it is damaged: start a new run")
        for what, recorded in recorded_versions.items():
            if what != "plugins" and recorded != current.get(what):
                _log.warning(
                    "this run was begun with %s %s, not %s: its numbers may differ", what, recorded, current.get(what)
                )
        for change in dict.fromkeys(self._changed_plugins(manifest)):
            _log.warning("%s: its numbers may differ", change)

    def _changed_plugins(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """One line for each plugin of the run that has changed since the run began."""
        recorded_versions = manifest["versions"].get("plugins")
        recorded_distributions = manifest.get("distributions")
        if not isinstance(recorded_versions, Mapping) or not isinstance(recorded_distributions, Mapping):
            return
        for kind, named in self.plan.distributions.items():
            of_kind = recorded_distributions.get(kind)
            for name, current in named.items() if kind != "observers" else ():
                recorded = of_kind.get(name, current) if isinstance(of_kind, Mapping) else current
                recorded_version, version = recorded_versions.get(recorded), self.plan.plugins.get(current)
                if recorded != current:
                    yield f"this run was begun with '{name}' of {recorded} {recorded_version}, not of {current}"
                elif recorded_version != version:
                    if str(version).startswith("file "):
                        yield f"the plugin file {current}.py has changed since this run was begun ({recorded_version})"
                    else:
                        yield f"this run was begun with {current} {recorded_version}, not {version}"


def require_same_init(plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Raise ``RunDirectoryError`` if the file of ``--init`` holds other bytes than the manifest records."""
    if plan.init is not None and manifest.get("init_sha256") != plan.init.sha256:
        raise RunDirectoryError(
            f"{plan.init.path} holds other weights than those that the run began with: put that file back"
        )


def use_threads(threads: int | Literal["auto"] | None) -> None:
    """Set the number of threads that torch computes with on the CPU; leave it as it is unless ``threads`` is a number.

    Raises:
        OptionError: The number is out of range.
    """
    if isinstance(threads, int):
        if not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"threads {threads}: must be a number from 1 to {MOST_THREADS}")
        torch.set_num_threads(threads)


@contextmanager
def compute_settings(
    threads: int | Literal["auto"] | None, device: str = "cpu", *, deterministic: bool = False
) -> Iterator[None]:
    """Enter :func:`torch_settings`, with ``threads`` on the CPU if that is a number.

    With ``deterministic``, an operation that has no deterministic implementation on ``device`` raises ``ConfigError``.
    """
    with torch_settings(), deterministic_only(torch.device(device)) if deterministic else nullcontext():
        use_threads(threads)
        yield


def versions(plan: Plan) -> dict[str, Any]:
    """The versions of forgetkit, its libraries, Python and the plugins."""
    return {
        "forgetkit": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "plugins": dict(plan.plugins),
    }
