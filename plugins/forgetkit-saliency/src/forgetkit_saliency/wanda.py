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
    """The size of a weight times that of the input it reads; needs no gradient.

    Formula: s = |W_ij| · ‖X_j‖, with ‖X_j‖ the Euclidean length of the layer's input j (a feature, or a channel at all
    its positions) over all scoring samples. Whatever is no matrix of a fully connected layer or kernel of a convolution
    (biases, normalisation) reads an input that is one, wherever the layer looks.

    compare: what the scores are comparable with.
        row: s becomes the share of its output row that scores lower, so that one threshold takes the same share of
            each row; a tensor of one dimension is one row;
        raw: s as it is, between all layers.
    samples: scoring samples at most, out of those offered: a count, a share of them, or none for all.

    Cost: one forward pass over the samples.

    Source: Sun et al., 2024, who compare within rows.
    """

    compare: Literal["row", "raw"] = "row"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """|W| ‖X‖, perhaps as a rank within the row."""
        lengths = {name: square.sqrt() for name, square in self._squares(probe).items()}
        scores = {name: target.abs() * lengths[name].to(target) for name, target in probe.targets.items()}
        return scores if self.compare == "raw" else {name: _ranks(score) for name, score in scores.items()}

    def _squares(self, probe: Probe) -> dict[str, Tensor]:
        """The squared length of what each entry reads, summed over the samples; it can be multiplied with the entry."""
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
    """Of ``value``, the layer's input, the squared length of what each entry of one of its parameters reads."""
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
    """The squared length of an input that is one at so many places."""
    return like.new_full((), float(places))


def _ranks(score: Tensor) -> Tensor:
    """The share of an entry's row that scores lower; NaN stays NaN, which has no place in an order."""
    rows = score.reshape(len(score) if score.ndim > 1 else 1, -1)
    ascending = rows.sort(1).values
    ranks = (torch.searchsorted(ascending, rows) / rows.shape[1]).view(score.shape).to(score)
    return torch.where(score.isfinite(), ranks, torch.nan)
