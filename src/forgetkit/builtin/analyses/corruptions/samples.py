"""Corrupted test samples: generated, or read from the benchmark's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from forgetkit.builtin.analyses._pixels import require_images
from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Pixels
from forgetkit.builtin.analyses.corruptions.files import Arrays, photographs
from forgetkit.builtin.analyses.corruptions.table import TABLE, Corrupter
from forgetkit.contracts import Evidence, LabelledSamples
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds

_AT_ONCE = 2**20
"""Values that are corrupted together, some ten megabytes of floats."""

_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


class Source(Protocol):
    """A source of corrupted samples."""

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """The samples with a corruption and severity: always the same samples in the same order."""
        ...


@dataclass(frozen=True, eq=False)
class GeneratedCorruptions:
    """Corruptions of the test samples, computed when they are read; of ``count`` samples, or all."""

    evidence: Evidence
    corrupters: Mapping[str, Corrupter]
    count: int | None

    @classmethod
    def of(cls, evidence: Evidence, count: int | None, frost: Path | None = None) -> GeneratedCorruptions:
        """Raise ``InapplicableError`` if the samples are no images of one or three channels."""
        shape = shape_of(evidence)
        if shape[0] not in (1, 3):
            raise InapplicableError(
                f"the images have {shape[0]} channels, and corruptions need one (grey) or three (colour)"
            )
        corrupters = dict(TABLE)
        if frost is not None:
            painted = TABLE["frost"]
            with_photographs = partial(painted.function, photographs=photographs(frost, shape))
            corrupters["frost"] = replace(painted, function=with_photographs)
        return cls(evidence, corrupters, count)

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """Samples that are corrupted when their batches are read."""
        clean = self.evidence.samples("test", self.count)
        seeds = self.evidence.seeds.within(corruption, severity)
        return _CorruptedRows(clean, self.evidence.device, self.corrupters[corruption], severity, seeds)


@dataclass(frozen=True, eq=False)
class _CorruptedRows:
    """Samples that are corrupted each time they are read, always in the same way."""

    clean: LabelledSamples
    device: torch.device
    corrupter: Corrupter
    severity: int
    seeds: Seeds

    @property
    def labels(self) -> Tensor:
        """The labels of the clean samples."""
        return self.clean.labels

    def __len__(self) -> int:
        return len(self.clean)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches whose pixels are multiples of 1/255."""
        first = 0
        for inputs, labels in self.clean.batches(size):
            few = max(_AT_ONCE // inputs[0].numel(), 1)
            places = range(first, first + len(inputs))
            worse = [
                self._worse(inputs[start : start + few], places[start : start + few])
                for start in range(0, len(inputs), few)
            ]
            yield torch.cat(worse).to(self.device), labels
            first += len(inputs)

    def _worse(self, inputs: Tensor, places: range) -> Tensor:
        grey = inputs.shape[1] == 1
        values = inputs.cpu().mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        pixels = np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy())
        worse = as_inputs(self.corrupter(pixels, self.severity, CorruptionDraws(self.seeds, places)))
        return (worse * _LUMA).sum(1, keepdim=True).mul(255).round().div(255) if grey else worse


@dataclass(frozen=True, eq=False)
class StoredCorruptions:
    """Rows of the benchmark's arrays, drawn by the seed: ``count`` rows, or all."""

    evidence: Evidence
    arrays: Arrays
    rows: Tensor

    @classmethod
    def of(cls, evidence: Evidence, count: int | None, arrays: Arrays) -> StoredCorruptions:
        """Raise ``InapplicableError`` if images or classes are not those of the model."""
        arrays.require_fit(shape_of(evidence), len(evidence.classes))
        available = arrays.per_severity
        drawn = torch.randperm(available, generator=evidence.seeds.torch("rows"))
        return cls(evidence, arrays, drawn[: available if count is None else count].sort().values)

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """Samples that are read with their batches."""
        rows = self.rows + (severity - 1) * self.arrays.per_severity
        return _Rows(self.arrays.images(corruption), self.arrays.labels[rows], rows, self.evidence.device)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of an array."""

    images: Pixels
    labels: Tensor
    rows: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """In the order of the rows."""
        for rows, labels in zip(self.rows.split(size), self.labels.split(size), strict=True):
            yield as_inputs(self.images[rows.numpy()]).to(self.device), labels.to(self.device)


def as_inputs(pixels: Pixels) -> Tensor:
    """Images ``(n, height, width, channels)`` as a model takes them: float32 ``(n, channels, height, width)``."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)


def shape_of(evidence: Evidence) -> tuple[int, ...]:
    """``(channels, height, width)`` of a sample; raise ``InapplicableError`` if it is no image."""
    why = "corruptions need pixels in [0, 1]"
    require_images(evidence, why, "the samples are features, not images, and corruptions need images")
    inputs, _ = next(iter(evidence.samples("test", 1).batches(1)))
    return tuple(inputs.shape[1:])
