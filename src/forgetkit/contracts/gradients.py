"""Gradients, and how much they count in a mean over batches or samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Gradients(dict[str, "Tensor"]):
    """The gradient of a batch's mean loss by name, and what that loss averages over.

    Attributes:
        count: The number of samples, or of labels that are not ignored, each with the weight of its class. Weigh by it
            in a mean over batches; a batch that counts 0 has gradients of zeros.

    Example:
        >>> import torch
        >>> Gradients({"weight": torch.ones(3)}, count=8.0).count
        8.0
    """

    def __init__(self, grads: Mapping[str, Tensor], count: float) -> None:
        super().__init__(grads)
        self.count = count


class SampleGradients(dict[str, "Tensor"]):
    """The gradients of samples by name, ``(chunk, *shape)``, and how much each sample counts.

    Attributes:
        counts: ``(chunk,)``, float64: 1, or what the loss of a sample alone averages over, as in :class:`Gradients`.
            A sample that counts 0 has gradients of zeros.

    Example:
        >>> import torch
        >>> chunk = SampleGradients({"weight": torch.tensor([[1.0], [3.0]])}, torch.tensor([1.0, 3.0]))
        >>> chunk.count, chunk.sum(torch.square)["weight"], chunk.mean(torch.square)["weight"]
        (4.0, tensor([28.]), tensor([7.]))
    """

    def __init__(self, grads: Mapping[str, Tensor], counts: Tensor) -> None:
        super().__init__(grads)
        self.counts = counts
        self._plain = bool((counts == 1).all())

    @property
    def count(self) -> float:
        """The sum of the counts."""
        return float(self.counts.sum())

    def sum(self, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Sum a function of the gradients over samples, each as often as it counts.

        Args:
            function: Maps gradients to a tensor of the same shape, entry by entry.

        Returns:
            By name, tensors of the targets' shapes.
        """
        return {name: self._weighted(function(grad)).sum(0) for name, grad in self.items()}

    def mean(self, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Average a function of the gradients over samples, each as often as it counts.

        Args:
            function: Maps gradients to a tensor of the same shape, entry by entry.

        Returns:
            By name, tensors of the targets' shapes; zeros if no sample counts.
        """
        if self._plain:
            return {name: function(grad).mean(0) for name, grad in self.items()}
        return {name: total / (self.count or 1.0) for name, total in self.sum(function).items()}

    def _weighted(self, values: Tensor) -> Tensor:
        if self._plain:
            return values
        return values * self.counts.to(values).view(-1, *[1] * (values.ndim - 1))
