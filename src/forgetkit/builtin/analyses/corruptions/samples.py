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
"""Values of images that are corrupted together, some ten megabytes of floats."""

_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


class Source(Protocol):
    """Where corrupted samples come from."""

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """The same samples at each corruption and severity, in the same order."""
        ...


@dataclass(frozen=True, eq=False)
class GeneratedCorruptions:
    """Corrupted on the fly, from the test samples; ``count`` of them, or all."""

    evidence: Evidence
    corrupters: Mapping[str, Corrupter]
    count: int | None

    @classmethod
    def of(cls, evidence: Evidence, count: int | None, frost: Path | None = None) -> GeneratedCorruptions:
        """``InapplicableError`` where the samples are no images of one or three channels."""
        shape = shape_of(evidence)
        if shape[0] not in (1, 3):
            raise InapplicableError(
                f"the images have {shape[0]} channels, and corruptions are of grey images (1) and of colours (3)"
            )
        corrupters = dict(TABLE)
        if frost is not None:
            painted = TABLE["frost"]
            with_photographs = partial(painted.function, photographs=photographs(frost, shape))
            corrupters["frost"] = replace(painted, function=with_photographs)
        return cls(evidence, corrupters, count)

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """Nothing is computed before the batches are read."""
        clean = self.evidence.samples("test", self.count)
        seeds = self.evidence.seeds.within(corruption, severity)
        return _CorruptedRows(clean, self.evidence.device, self.corrupters[corruption], severity, seeds)


@dataclass(frozen=True, eq=False)
class _CorruptedRows:
    """Samples, corrupted each time that they are read, in the same way each time."""

    clean: LabelledSamples
    device: torch.device
    corrupter: Corrupter
    severity: int
    seeds: Seeds

    @property
    def labels(self) -> Tensor:
        """Those of the samples as they were."""
        return self.clean.labels

    def __len__(self) -> int:
        return len(self.clean)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels are multiples of 1/255."""
        begun = 0
        for inputs, labels in self.clean.batches(size):
            few = max(_AT_ONCE // inputs[0].numel(), 1)
            places = range(begun, begun + len(inputs))
            worse = [
                self._worse(inputs[start : start + few], places[start : start + few])
                for start in range(0, len(inputs), few)
            ]
            yield torch.cat(worse).to(self.device), labels
            begun += len(inputs)

    def _worse(self, inputs: Tensor, places: range) -> Tensor:
        grey = inputs.shape[1] == 1
        values = inputs.cpu().mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        pixels = np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy())
        worse = as_inputs(self.corrupter(pixels, self.severity, CorruptionDraws(self.seeds, places)))
        return (worse * _LUMA).sum(1, keepdim=True).mul(255).round().div(255) if grey else worse


@dataclass(frozen=True, eq=False)
class StoredCorruptions:
    """Rows of the benchmark's arrays, drawn once by the seed; ``count`` of them, or all."""

    evidence: Evidence
    arrays: Arrays
    rows: Tensor

    @classmethod
    def of(cls, evidence: Evidence, count: int | None, arrays: Arrays) -> StoredCorruptions:
        """``InapplicableError`` where the arrays are of other images or classes than the model's."""
        arrays.require_fit(shape_of(evidence), len(evidence.classes))
        there = arrays.per_severity
        drawn = torch.randperm(there, generator=evidence.seeds.torch("rows"))
        return cls(evidence, arrays, drawn[: there if count is None else count].sort().values)

    def samples(self, corruption: str, severity: int) -> LabelledSamples:
        """Read when the batches are."""
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
    """``(channels, height, width)`` of a sample; ``InapplicableError`` where it is no image."""
    why = "what corrupts images is made for pixels in [0, 1]"
    require_images(evidence, why, "the samples are features, not images: nothing of a camera can happen to them")
    inputs, _ = next(iter(evidence.samples("test", 1).batches(1)))
    return tuple(inputs.shape[1:])
