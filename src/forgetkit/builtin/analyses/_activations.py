"""What the layers of a network read, and how its loss slopes: one pass over samples, forward and backward."""

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
"""Samples at a time: the activations of a ResNet-18 and the way back take some ten megabytes for each."""


@dataclass(frozen=True, eq=False)
class ActivationRecord:
    """What was seen of a model.

    ``activity``: E|h| of each unit, float64 ``(units,)``, by the name of the layer that reads it. ``features``: what
    the head reads, float32 ``(samples, width)``; None where there is no head, or nothing before it.
    ``gradients``: those of the mean loss, by the names of the parameters that are trained. All on the CPU.
    """

    activity: Mapping[str, Tensor]
    features: Tensor | None
    gradients: Mapping[str, Tensor]


def record_activations(evidence: Evidence, samples: LabelledSamples) -> ActivationRecord:
    """Run the samples through a twin of the model. ``InapplicableError`` where its outputs are not finite."""
    model = evidence.copy_model()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()  # so that what depends on no parameter, the input, is known from what does
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    seen = _LayerActivity()
    quiet = torch.autocast(evidence.device.type, enabled=False)
    with seen.watching(model), seeded_rng(evidence.seeds.number("noise")), torch.enable_grad(), quiet:
        for inputs, labels in samples.batches(_BATCH):
            outputs = model(inputs).float()
            if diverged(outputs) or bool(outputs.gather(1, labels[:, None]).isinf().any()):
                raise InapplicableError("the model's loss is not finite: there are no gradients to speak of")
            loss = nn.functional.cross_entropy(outputs, labels, reduction="sum") / len(samples)
            if trained and loss.grad_fn is not None:
                grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
                for name, grad in zip(trained, grads, strict=True):
                    if grad is not None:
                        total[name] += grad
            seen.close_batch()
    gradients = {name: grad.cpu() for name, grad in total.items()}
    return ActivationRecord(seen.activity(), torch.cat(seen.features) if seen.features else None, gradients)


@dataclass(eq=False)
class _LayerActivity:
    """Gathers the inputs of linear layers and convolutions, which is what the nonlinearities before them gave."""

    features: list[Tensor] = field(default_factory=list)
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _readers: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    """Of the batch at hand, each tensor that was read and its first reader; held, so that identities last."""
    _last: Tensor | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile every layer tells what it is given."""
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)]
        handles = [module.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, module in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def saw(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            value = next(iter((*arguments, *named.values())), None)
            if not isinstance(value, Tensor):
                return
            linear = isinstance(module, nn.Linear)
            if linear:
                self._last = value
            reader, _ = self._readers.setdefault(id(value), (name, value))
            if reader == name and value.requires_grad:
                self._take(name, value, linear)

        return saw

    def _take(self, name: str, value: Tensor, linear: bool) -> None:
        entries = value.detach().abs().float().movedim(-1 if linear else 1, 0).flatten(1)
        mean = entries.mean(1).cpu().double()
        if linear and value.ndim == 2:
            mean = mean.view(_channels(value), -1).mean(1)
        count = entries.shape[1]
        self._sums[name] = self._sums.get(name, 0.0) + mean * count
        self._counts[name] = self._counts.get(name, 0) + count

    def close_batch(self) -> None:
        """Keep what the layer that was executed last read, and let go of the others."""
        if self._last is not None and self._last.requires_grad:
            value = self._last.detach()
            self.features.append(value.flatten(1, -2).mean(1).float().cpu() if value.ndim > 2 else value.float().cpu())
        self._readers.clear()
        self._last = None

    def activity(self) -> dict[str, Tensor]:
        """E|h| of each unit over all batches."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def _channels(value: Tensor) -> int:
    """How many channels there were before a map was flattened into ``value``, ``(batch, width)``; else its width.

    The graph of the gradient is asked: reshaping keeps the shape that there was.
    """
    node, width = value.grad_fn, value.shape[1]
    while node is not None:
        shape: tuple[int, ...] = getattr(node, "_saved_self_sym_sizes", ())
        if len(shape) > 2 and math.prod(shape[1:]) == width:
            return int(shape[1])
        following = node.next_functions
        node = following[0][0] if len(following) == 1 else None
    return width
