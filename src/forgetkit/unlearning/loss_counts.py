"""What a loss averages over, read from its calls of cross-entropy, those inside the network included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_COUNTING = (F.cross_entropy, F.nll_loss)


@dataclass(frozen=True)
class CountedLoss:
    """The mean loss of a batch, and how much it counts in a mean over batches."""

    value: Tensor
    count: Tensor | float
    exact: Tensor | bool = True
    """False if terms of the loss average over different numbers of labels, so that samples are counted instead."""


@dataclass(frozen=True)
class _Reduced:
    """A loss function's result, what it was reduced over (None: samples) and by which reduction."""

    result: Tensor
    count: Tensor | None
    reduction: str


class LossObserver(TorchFunctionMode):
    """Sees every loss function of ``torch.nn.functional`` that runs inside, and what it reduces over.

    Cross-entropy and the negative log-likelihood of class numbers average over labels that are not ignored, each with
    the weight of its class. All others average over samples.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[_Reduced] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if kwargs and "reduction" in kwargs and isinstance(result, Tensor):
            self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        reduction = kwargs["reduction"]
        if kwargs.get("size_average") is not None or kwargs.get("reduce") is not None:
            reduction = _reduction.legacy_get_string(kwargs.get("size_average"), kwargs.get("reduce"), False)
        if reduction not in ("mean", "sum"):
            return
        targets = args[1] if func in _COUNTING else None
        if targets is None or targets.is_floating_point():  # probabilities average over samples
            self._seen.append(_Reduced(result, None, reduction))
            return
        count = _count(targets, kwargs.get("weight"), kwargs.get("ignore_index", -100))
        self._seen.append(_Reduced(result, count, reduction))

    def counted(self, value: Tensor, samples: int) -> CountedLoss:
        """Return the mean loss and what it averages over.

        A loss that is itself a sum is divided. One that is computed from several terms counts as they do, if they
        agree, and by samples if they do not.
        """
        for seen in self._seen:
            if seen.result is value:
                count = float(samples) if seen.count is None else seen.count
                return CountedLoss(value if seen.reduction == "mean" else value / count, count)
        means = [seen.count for seen in self._seen if seen.reduction == "mean"]
        counts = [count for count in means if count is not None]
        if not counts:
            return CountedLoss(value, float(samples))
        others = [counts[0] == samples for count in means if count is None]
        equal = torch.stack([*(count == counts[0] for count in counts), *others]).all()
        return CountedLoss(value, torch.where(equal, counts[0], float(samples)), equal)


def _count(targets: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    kept = targets != ignored
    if weight is None:
        return kept.sum().to(torch.float64)
    return torch.where(kept, weight.detach()[torch.where(kept, targets, 0)], 0).sum().to(torch.float64)
