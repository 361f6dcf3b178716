"""Weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from forgetkit.contracts import Probe, SampleLimit


@dataclass(frozen=True)
class Wanda:
    """The magnitude of a weight times the norm of its input; needs no gradient.

    Formula: s = |W_ij| · ‖X_j‖, with ‖X_j‖ the Euclidean length of the layer's input j (a feature, or a channel at all
    its positions) over all scoring samples. Parameters other than matrices and kernels (biases, normalisation) read an
    input of ones at each position.

    compare: where scores compare.
        row: s becomes the fraction of its output row that scores lower, so one threshold takes the same fraction of
            each row; a tensor of one dimension is one row;
        raw: s as it is, over all layers.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward pass over the samples.

    Source: Sun et al., 2024, who compare within rows.
    """

    compare: Literal["row", "raw"] = "row"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |W| ‖X‖, or its rank within the row."""
        lengths = {name: square.sqrt() for name, square in self._squares(probe).items()}
        scores = {name: target.abs() * lengths[name].to(target) for name, target in probe.targets.items()}
        return scores if self.compare == "raw" else {name: _ranks(score) for name, score in scores.items()}

    def _squares(self, probe: Probe) -> dict[str, Tensor]:
        """The squared norm of each entry's input over the samples, in a shape that broadcasts with the entry."""
        total = dict.fromkeys(probe.targets, torch.zeros((), dtype=torch.float64, device=probe.device))
        for inputs, _ in probe.batches(self.samples):
            seen = probe.layer_inputs(inputs)
            alone = set(total)
            for layer in probe.layers:
                for name in total.keys() & set(layer.parameters if layer.name in seen else ()):
                    module, value = probe.module(layer.name), seen[layer.name].double()
                    total[name] = total[name] + _read(module, layer.kind == "norm", probe.targets[name], value)
                    alone.discard(name)
            for name in alone:
                total[name] = total[name] + len(inputs)
        return total


def _read(module: nn.Module, normalises: bool, target: Tensor, value: Tensor) -> Tensor:
    """The squared norm of what each entry of ``target`` reads of ``value``, the layer's input."""
    if normalises:
        return _ones(value.numel() // target.numel(), value)
    convolves = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if not convolves and not isinstance(module, nn.Linear):
        return _ones(len(value), value)
    channels = (value.movedim(1, -1) if convolves else value).flatten(0, -2)
    if target.shape != module.weight.shape:
        return _ones(len(channels), value)
    by_group = channels.square().sum(0).view(-1, target.shape[1])
    by_row = by_group.repeat_interleave(len(target) // len(by_group), 0)
    return by_row.view(*target.shape[:2], *[1] * (target.ndim - 2))


def _ones(places: int, like: Tensor) -> Tensor:
    """The squared norm of an input of ones at ``places`` positions."""
    return like.new_full((), float(places))


def _ranks(score: Tensor) -> Tensor:
    """The fraction of an entry's row that scores lower; NaN stays NaN."""
    rows = score.reshape(len(score) if score.ndim > 1 else 1, -1)
    ascending = rows.sort(1).values
    ranks = (torch.searchsorted(ascending, rows) / rows.shape[1]).view(score.shape).to(score)
    return torch.where(score.isfinite(), ranks, torch.nan)
