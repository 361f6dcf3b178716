"""Record activations and gradients: one forward and one backward pass over samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from forgetkit.builtin.analyses._outputs import diverged
from forgetkit.contracts import Evidence, LabelledSamples
from forgetkit.errors import InapplicableError
from forgetkit.seeding import seeded_rng

_BATCH = 64
"""Samples at a time: a forward and backward pass of ResNet-18 takes some ten megabytes for each."""


@dataclass(frozen=True, eq=False)
class ActivationRecord:
    """Activations and gradients of a model, on the CPU.

    ``activity``: E|h| of each unit, float64 ``(units,)``, by the name of the layer that reads it. ``features``: what
    the head reads, float32 ``(samples, width)``; None without a head or a layer before it. ``gradients``: those of the
    mean loss, by the names of the trained parameters.
    """

    activity: Mapping[str, Tensor]
    features: Tensor | None
    gradients: Mapping[str, Tensor]


def record_activations(evidence: Evidence, samples: LabelledSamples) -> ActivationRecord:
    """Run the samples through a copy of the model; raise ``InapplicableError`` if its outputs are not finite."""
    model = evidence.copy_model()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()  # so that the input alone depends on no parameter
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    layers = _LayerActivity()
    quiet = torch.autocast(evidence.device.type, enabled=False)
    with layers.recording(model), seeded_rng(evidence.seeds.number("noise")), torch.enable_grad(), quiet:
        for inputs, labels in samples.batches(_BATCH):
            outputs = model(inputs).float()
            if diverged(outputs) or bool(outputs.gather(1, labels[:, None]).isinf().any()):
                raise InapplicableError("the model's loss is not finite, so it has no gradients: train it again")
            loss = nn.functional.cross_entropy(outputs, labels, reduction="sum") / len(samples)
            if trained and loss.grad_fn is not None:
                grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
                for name, grad in zip(trained, grads, strict=True):
                    if grad is not None:
                        total[name] += grad
            layers.close_batch()
    gradients = {name: grad.cpu() for name, grad in total.items()}
    return ActivationRecord(layers.activity(), torch.cat(layers.features) if layers.features else None, gradients)


@dataclass(eq=False)
class _LayerActivity:
    """Sums over the inputs of linear layers and convolutions: the outputs of the nonlinearities before them."""

    features: list[Tensor] = field(default_factory=list)
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _readers: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    """Each tensor that a layer read in this batch, by identity, and its first reader; kept so that ids stay unique."""
    _last: Tensor | None = None

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Hook the layers of a model meanwhile."""
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
        handles = [module.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, module in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def record(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            value = next(iter((*arguments, *named.values())), None)
            if not isinstance(value, Tensor):
                return
            linear = isinstance(module, nn.Linear)
            if linear:
                self._last = value
            reader, _ = self._readers.setdefault(id(value), (name, value))
            if reader == name and value.requires_grad:
                self._add(name, value, linear)

        return record

    def _add(self, name: str, value: Tensor, linear: bool) -> None:
        entries = value.detach().abs().float().movedim(-1 if linear else 1, 0).flatten(1)
        mean = entries.mean(1).cpu().double()
        if linear and value.ndim == 2:
            mean = mean.view(_channels(value), -1).mean(1)
        count = entries.shape[1]
        self._sums[name] = self._sums.get(name, 0.0) + mean * count
        self._counts[name] = self._counts.get(name, 0) + count

    def close_batch(self) -> None:
        """Keep what the last layer read, and forget the other tensors."""
        if self._last is not None and self._last.requires_grad:
            value = self._last.detach()
            self.features.append(value.flatten(1, -2).mean(1).float().cpu() if value.ndim > 2 else value.float().cpu())
        self._readers.clear()
        self._last = None

    def activity(self) -> dict[str, Tensor]:
        """E|h| of each unit over all batches."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def _channels(value: Tensor) -> int:
    """The channels of the map that was flattened into ``value``, ``(batch, width)``; else its width.

    A reshape in the graph of the gradient remembers the shape before it.
    """
    node, width = value.grad_fn, value.shape[1]
    while node is not None:
        shape: tuple[int, ...] = getattr(node, "_saved_self_sym_sizes", ())
        if len(shape) > 2 and math.prod(shape[1:]) == width:
            return int(shape[1])
        following = node.next_functions
        node = following[0][0] if len(following) == 1 else None
    return width
