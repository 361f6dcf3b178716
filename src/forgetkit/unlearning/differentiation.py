"""Gradients of a loss, and of the losses of single samples: with vmap if the network allows, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import CheckpointFunction

from forgetkit.errors import InsufficientMemoryError, OptionError
from forgetkit.unlearning.batches import TreeBatch
from forgetkit.unlearning.integrity import first_line
from forgetkit.unlearning.loss_counts import CountedLoss
from forgetkit.unlearning.objective import Loss, mixes_samples
from forgetkit.unlearning.tensor_parts import stack_parts

_REENTRANT = CheckpointFunction._backward_cls
_REASON = 90
_FAR, _NOISE = 1e-2, 1e-5
"""Two gradients differ if an entry is off by this much of its tensor's largest, and of the largest of all tensors."""


def gradients_of(
    value: Tensor, leaves: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor | None]:
    """Differentiate ``value``; None for each leaf that it does not depend on.

    Reentrant checkpoints give gradients to ``backward()`` only: it writes to ``.grad`` of the leaves and of other
    tensors in the graph, which get theirs back.
    """
    nodes = _nodes_of(value)
    if not any(isinstance(node, _REENTRANT) for node in nodes):
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, allow_unused=True)
        dense = (grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in grads)  # embeddings'
        return dict(zip(leaves, dense, strict=True))
    if create_graph:
        raise OptionError(
            "reentrant checkpoints have no second derivative: call torch.utils.checkpoint with use_reentrant=False"
        )
    reached = (getattr(node, "variable", None) for node in nodes)
    others = [(tensor, tensor.grad) for tensor in reached if isinstance(tensor, Tensor)]
    for leaf in leaves.values():
        leaf.grad = None
    try:
        value.backward()
        return {name: leaf.grad for name, leaf in leaves.items()}
    finally:
        for tensor, grad in others:
            tensor.grad = grad


def _nodes_of(value: Tensor) -> set[Any]:
    """Return the nodes of the graph that computes ``value``."""
    seen, waiting = set[Any](), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen


def require_separable(model: nn.Module) -> None:
    """Raise ``OptionError`` if batch normalisation makes a sample's loss depend on the others in its batch."""
    if mixes_samples(model):
        raise OptionError(
            "gradients of single samples need score-mode=eval: in training mode batch normalisation mixes a batch"
        )
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise OptionError(
                f"gradients of single samples: '{name}' normalises by the statistics of the batch in every mode, so a "
                "sample has no gradient of its own: use a criterion of whole batches, such as snip"
            )


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """A chunk of samples, each of which has a loss: its mean loss alone, times its weight."""

    inputs: Any
    targets: Any
    weights: Tensor
    loss: Loss | None

    def __len__(self) -> int:
        return len(self.weights)

    def one(self, number: int) -> SampleLosses:
        """Return a single sample."""
        part = slice(number, number + 1)
        inputs = self.inputs[part]
        targets = inputs if self.inputs is self.targets else self.targets[part]
        return SampleLosses(inputs, targets, self.weights[part], self.loss)

    def first_counted(self, counts: Tensor) -> int | None:
        """Return the first sample that counts."""
        found = ((counts != 0) & (self.weights != 0)).nonzero()
        return int(found[0]) if len(found) else None

    @property
    def tensors(self) -> list[Tensor] | None:
        """The tensors of the chunk whose first dimension counts samples; None if samples lie in sequences."""
        found: list[Tensor] = []
        for part in (self.inputs,) if self.inputs is self.targets else (self.inputs, self.targets):
            tensors = part.sample_tensors if isinstance(part, TreeBatch) else [part]
            if tensors is None:
                return None
            found.extend(tensors)
        return found

    def with_sample(self, tensors: Sequence[Tensor], weight: Tensor) -> SampleLosses:
        """Return a single sample of these tensors, each without its first dimension."""
        rest = [tensor.unsqueeze(0) for tensor in tensors]

        def taken(part: Any) -> Any:
            if not isinstance(part, TreeBatch):
                return rest.pop(0)
            own = len(part.sample_tensors or ())
            now = [rest.pop(0) for _ in range(own)]
            return part.with_tensors(now, 1)

        inputs = taken(self.inputs)
        targets = inputs if self.inputs is self.targets else taken(self.targets)
        return SampleLosses(inputs, targets, weight.unsqueeze(0), self.loss)


@dataclass(frozen=True, eq=False)
class ChunkGradients:
    """What differentiating a chunk gives: a gradient, the weighted loss and its count for each sample."""

    grads: dict[str, Tensor]
    values: Tensor
    counts: Tensor
    deterministic: bool = True

    def of(self, number: int) -> dict[str, Tensor]:
        """Return the gradients of one sample."""
        return {name: grad[number] for name, grad in self.grads.items()}

    @classmethod
    def stacked(
        cls, grads: Sequence[Mapping[str, Tensor]], losses: Sequence[CountedLoss], device: torch.device
    ) -> ChunkGradients:
        """Join those of single samples."""
        counts = torch.tensor([float(loss.count) for loss in losses], dtype=torch.float64, device=device)
        joined = {name: stack_parts([grad[name] for grad in grads]) for name in grads[0]}
        return cls(joined, torch.stack([loss.value for loss in losses]), counts)


def map_over_samples(
    evaluate: Callable[[dict[str, Tensor], SampleLosses], CountedLoss], leaves: dict[str, Tensor], chunk: SampleLosses
) -> tuple[ChunkGradients | None, str]:
    """Differentiate all samples of a chunk at once with ``vmap``; None and the reason if that fails.

    Networks that draw random numbers get other numbers for each sample.
    """
    tensors = chunk.tensors
    if tensors is None:
        return None, "samples lie in sequences"
    device = chunk.weights.device

    def sample_loss(leaves: dict[str, Tensor], weight: Tensor, *sample: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found = evaluate(leaves, chunk.with_sample(sample, weight))
        count = torch.as_tensor(found.count, dtype=torch.float64, device=device)
        value = found.value * weight
        return value, (value.detach(), count)

    reason = ""
    for randomness in ("error", "different"):
        each = torch.func.vmap(
            torch.func.grad(sample_loss, has_aux=True), in_dims=(None, *[0] * (1 + len(tensors))), randomness=randomness
        )
        try:
            grads, (values, counts) = each(leaves, chunk.weights, *tensors)
        except InsufficientMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # vmap may raise anything; a sample alone shows whether it matters
            reason = shorten(first_line(error.__cause__ or error), _REASON, placeholder="…")
        else:
            return ChunkGradients(grads, values, counts, deterministic=randomness == "error"), ""
    return None, reason


def same_gradients(mapped: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> bool:
    """Whether a sample's gradients agree but for rounding."""
    largest = max((float(grad.abs().max()) for grad in alone.values() if grad.numel()), default=0.0)
    for name, grad in alone.items():
        if not grad.numel():
            continue
        off = float((mapped[name] - grad).abs().max())
        if not off <= max(_FAR * float(grad.abs().max()), _NOISE * largest):
            return False
    return True


@dataclass
class ScoringNotes:
    """What a report says of how gradients came about."""

    reason: str = ""
    """Why the network cannot be mapped over samples."""
    samples: int = 0
    """How many samples went through the network one at a time, in place of how many chunks."""
    chunks: int = 0
    uneven: bool = False
    """Whether terms of a loss averaged over different numbers of labels."""

    def remarks(self, model: nn.Module) -> list[str]:
        """Return the lines of a report."""
        name, lines = type(model).__name__, list[str]()
        if self.samples:
            lines.append(
                f"gradients of single samples: {name} cannot be mapped over samples ({self.reason}), so it ran "
                f"{self.samples:,} times forward and backward, on one sample each, in place of {self.chunks:,} times; "
                "a criterion of whole batches, such as snip, runs once for each batch"
            )
        if self.uneven:
            lines.append(
                f"the terms of the loss of {name} average over different numbers of labels, so batches count by their "
                "samples: let objective= return (loss, weight) for another weight"
            )
        return lines
