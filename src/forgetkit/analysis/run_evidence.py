"""The evidence of a finished run: its models, masks and result, and its training and test samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forgetkit import config, contracts, training
from forgetkit.analysis import masks
from forgetkit.analysis.evidence import BaseEvidence, are_pixels
from forgetkit.contracts import Data, DataPart, Inputs, Role
from forgetkit.data import LazySubset, SamplePool, simulate_replay
from forgetkit.data.ledger import take
from forgetkit.engine.checkpoint_validation import require_alike
from forgetkit.engine.context import require_same_init
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import InapplicableError, RunDirectoryError
from forgetkit.registry.registry import Registry
from forgetkit.seeding import Seeds
from forgetkit.storage import InitialWeights, RunDirectory, resume_command
from forgetkit.system.torch_settings import under_torch_settings

_log = logging.getLogger("forgetkit")


@dataclass(frozen=True, eq=False)
class AnalysisEnv:
    """What an analysis of runs needs beside them: components, options in place of recorded ones, caches, observers."""

    components: Registry
    cache: Path
    given: Mapping[str, Any] = field(default_factory=dict)
    """Options that replace recorded ones, as the path of the data or the device: ``config.OVERRIDABLE``."""
    observers: tuple[contracts.Observer, ...] = ()
    threads: int | None = None
    """CPU threads of torch; None: as many as each run had."""
    loaded: dict[str, Data] = field(default_factory=dict)
    """Data sets by SPEC, so that the runs of an ablation read each once."""
    tests: dict[str, SamplePool] = field(default_factory=dict)
    """Their test parts, on the device."""
    verified: set[tuple[str, str]] = field(default_factory=set)
    """Data sets whose digest equals that of a run, so that no digest is computed twice."""


class FinishedRun:
    """A finished run; its data is loaded once, on first use."""

    def __init__(self, directory: RunDirectory, env: AnalysisEnv) -> None:
        self.directory = directory
        self.env = env
        self.pools: dict[tuple[DataPart, int], SamplePool] = {}

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        if not any((self.directory.path / name).exists() for name in ("manifest.json", "result.json")):
            raise RunDirectoryError(f"{self.directory.path} is not the directory of a run: there is no manifest.json")
        if not (self.directory.path / "result.json").exists():
            path = self.directory.path
            raise RunDirectoryError(f"{path} is not finished: resume it with {resume_command(path)}")
        return self.directory.result

    @property
    def threads(self) -> int | None:
        """The torch threads of an analysis; None if neither the caller nor the run gives a number."""
        recorded = self.result["config"].get("threads")
        return recorded if self.env.threads is None and isinstance(recorded, int) else self.env.threads

    @cached_property
    def context(self) -> RunData:
        """The data of the run; raises ``RunDirectoryError`` if it has changed."""
        manifest = self.directory.manifest
        plan = config.finished_plan(manifest, self.env.given, self.env.components)
        loaded, source = self.env.loaded, plan.config.dataset
        run_data = RunData.load(plan, EventDispatcher(self.env.observers), self.env.cache, data=loaded.get(source))
        noisy = plan.config.label_noise > 0
        content = None if noisy else (source, str(manifest.get("data")))
        run_data.require_same(manifest, already_checked=content in self.env.verified)
        if content is not None:
            self.env.verified.add(content)
        loaded[source] = run_data.clean
        return run_data

    @cached_property
    def inputs(self) -> Inputs:
        """The inputs that the network was built for."""
        data, ids = self.context.data, self.context.mega_batches[0].train
        excerpt = LazySubset.of(data.train, ids, data.train.labels[ids], lambda some: take(data.train, some))
        return training.measure_normalization(SamplePool.fitting(excerpt, torch.device("cpu")), len(data.classes))

    def network(self) -> nn.Module:
        """The untrained network of the run, in eval mode, on the device."""
        require_same_init(self.context.plan, self.directory.manifest)
        return self._network(self.context.plan.init)

    def _network(self, init: InitialWeights | None) -> nn.Module:
        context = self.context
        model = training.build_network(context.plan.model, self.inputs, context.seeds, init)
        # Not channels last: in that layout the backward pass of torch 2.15 crashes on odd batches of few channels.
        return training.to_device(model, "contiguous", context.device).eval()

    def kept(self, mega_batch: int) -> nn.Module:
        """The model that was evaluated after a mega-batch."""
        state, model = self.directory.model(mega_batch), self._network(None)
        file = f"the model of mega-batch {mega_batch} in {self.directory.path}"
        try:
            require_alike(file, state, model.state_dict())
        except ValueError as error:
            spec = self.context.plan.config.model
            raise RunDirectoryError(
                f"{error}: the network {spec} is not that of the run, give that with --model, or the file is damaged, "
                "and the same run again makes it"
            ) from error
        model.load_state_dict(state)
        return model

    def pool(self, part: DataPart, mega_batch: int) -> SamplePool:
        """The samples that a mega-batch was trained, validated or tested on; each part is read once."""
        if part == "test":
            tests, source = self.env.tests, self.context.plan.config.dataset
            if source not in tests:
                tests[source] = SamplePool.fitting(LazySubset.whole(self.context.data.test), self.context.device)
            return tests[source]
        if (part, mega_batch) not in self.pools:
            self.pools.clear()  # keep the last mega-batch alone
            self.pools[part, mega_batch] = SamplePool.fitting(self._excerpt(part, mega_batch), self.context.device)
        return self.pools[part, mega_batch]

    def _excerpt(self, part: Role, mega_batch: int) -> LazySubset:
        data, ids = self.context.data, self._ids(part, mega_batch)
        if not len(ids):
            raise InapplicableError(
                f"{self.directory.path} has no {part} samples in mega-batch {mega_batch}: "
                "a run with a larger --val-fraction has"
            )
        return LazySubset.of(data.train, ids, data.train.labels[ids], lambda some: take(data.train, some))

    def _ids(self, role: Role, mega_batch: int) -> NDArray[np.int64]:
        """The ids that a mega-batch trained or validated on, by the replay strategy."""
        context, labels = self.context, self.context.data.train.labels
        played = simulate_replay(labels, context.mega_batches[:mega_batch], context.plan.replay, context.seeds, role)
        ids: NDArray[np.int64] = next(islice(played, mega_batch - 1, None))
        return ids

    @cached_property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """The record of each epoch, in order; if a resumed run repeated an epoch, the last record."""
        ended = {
            (event["mega_batch"], event["epoch"]): {key: event[key] for key in event if key not in ("event", "run_id")}
            for event in self.directory.events()
            if event.get("event") == "epoch_ended"
        }
        return tuple(ended[key] for key in sorted(ended))


class RunEvidence(BaseEvidence):
    """A finished run after one of its mega-batches. The model is loaded on first use.

    ``lasting`` False: it is loaded at each use, so that the models of many runs need not fit in memory.
    """

    def __init__(self, finished: FinishedRun, mega_batch: int, seeds: Seeds, *, lasting: bool = True) -> None:
        self.finished = finished
        self._mega_batch, self._lasting = mega_batch, lasting
        self._loaded: nn.Module | None = None
        super().__init__(seeds, finished.env.components)
        self._caches = lasting

    @classmethod
    def of(cls, finished: FinishedRun, mega_batch: int | None, seeds: Seeds, *, lasting: bool = True) -> RunEvidence:
        """The run after ``mega_batch``, None: the last; raises ``RunDirectoryError`` if it does not exist."""
        count = int(finished.result["config"]["mega_batches"])
        index = count if mega_batch is None else mega_batch
        if not isinstance(index, int) or not 1 <= index <= count:
            raise RunDirectoryError(f"{finished.directory.path} has {count} mega-batches, and no mega-batch {index}")
        return cls(finished, index, seeds, lasting=lasting)

    @property
    @under_torch_settings
    def model(self) -> nn.Module:
        """The recorded model; raises ``InapplicableError`` if the run did not keep it."""
        if self._loaded is not None:
            return self._loaded
        model = self._checkpoint()
        if self._lasting:
            self._loaded = model
        return model

    def _checkpoint(self) -> nn.Module:
        directory = self.finished.directory
        if self._mega_batch not in directory.models:
            kept = ", ".join(map(str, directory.models))
            have = f"it keeps those of {kept}" if kept else "it keeps none"
            option = "forgetkit ablate --keep all" if (directory.path / "seal.json").exists() else "--keep-models all"
            raise InapplicableError(
                f"{directory.path} has no model of mega-batch {self._mega_batch}: {have}; runs with {option} keep each"
            )
        return self.finished.kept(self._mega_batch)

    @property
    @under_torch_settings
    def device(self) -> torch.device:
        """The device of the run, or the one given in its place."""
        return self.finished.context.device

    @property
    @under_torch_settings
    def classes(self) -> tuple[str, ...]:
        """The classes of the data set."""
        return tuple(self.finished.context.data.classes)

    @property
    @under_torch_settings
    def images(self) -> bool:
        """Whether inputs have four dimensions, and are pixels or floats between 0 and 1."""
        inputs = self.finished.context.data.test.inputs
        return inputs.ndim == 4 and (inputs.dtype == np.uint8 or are_pixels(float(inputs.min()), float(inputs.max())))

    def pool(self, part: DataPart) -> SamplePool:
        """The samples of a part in this mega-batch."""
        return self.finished.pool(part, self._mega_batch)

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """The masks that the run kept; raises ``InapplicableError``, with the reason, if it kept none."""
        directory = self.finished.directory
        if not directory.masks:
            result = self.finished.result
            if result["config"].get("keep_masks", "none") == "none":
                why = "it was run with --keep-masks none, or by a forgetkit that kept none"
            elif result["config"]["mega_batches"] == 1:
                why = "it has a single mega-batch, after which nothing is forgotten"
            else:
                why = f"its method ({result['method']}) resets nothing between mega-batches"
            raise InapplicableError(f"{directory.path} has no masks: {why}")
        return _LazyMasks(directory)

    @property
    def mega_batch(self) -> int:
        """The mega-batch of this evidence."""
        return self._mega_batch

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """The mega-batches whose models were kept."""
        return self.finished.directory.models

    def at(self, mega_batch: int) -> RunEvidence:
        """The evidence after another mega-batch."""
        return RunEvidence.of(self.finished, mega_batch, self.seeds, lasting=self._lasting)

    @under_torch_settings
    def initial(self) -> nn.Module:
        """The untrained network, drawn again from the run's seed."""
        return self.finished.network()

    def history(self) -> tuple[Mapping[str, Any], ...]:
        """The records of all epochs so far."""
        return tuple(event for event in self.finished.history if event["mega_batch"] <= self._mega_batch)

    @property
    def apart(self) -> tuple[str | int, ...]:
        """The digest of the run, and the mega-batch."""
        return str(self.finished.directory.manifest.get("digest")), self._mega_batch

    @property
    def result(self) -> Mapping[str, Any]:
        """The result of the whole run."""
        return self.finished.result


class _LazyMasks(Mapping[int, Mapping[str, Tensor]]):
    """The masks of a run, read on first use and kept packed."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._read: dict[int, Mapping[str, Tensor]] = {}

    @under_torch_settings
    def __getitem__(self, mega_batch: int) -> Mapping[str, Tensor]:
        if mega_batch not in self._directory.masks:
            raise KeyError(mega_batch)
        if mega_batch not in self._read:
            self._read[mega_batch] = masks.read_masks(self._directory, mega_batch)
        return self._read[mega_batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self._directory.masks)

    def __len__(self) -> int:
        return len(self._directory.masks)
