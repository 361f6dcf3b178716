"""Small networks, batches for them, and what the tests of forgetting ask of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import kstest, uniform
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit import unlearning
from forgetkit.contracts import Change, Layer, ReinitContext
from forgetkit.seeding import Seeds
from forgetkit.unlearning import ModelHistory, Scoring, UnlearnReport
from forgetkit.unlearning.model_view import ModelView

CLASSES = 4
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Batch = tuple[Tensor, Tensor]


def images(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Batches of 2 x 5 x 5 images, of the given sizes."""
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 2, 5, 5, generator=rng).to(dtype), torch.randint(CLASSES, (n,), generator=rng)) for n in sizes
    ]


def vectors(*sizes: int, seed: int = 0, width: int = 5) -> list[Batch]:
    """Batches of vectors."""
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, width, generator=rng), torch.randint(CLASSES, (n,), generator=rng)) for n in sizes]


def concatenate(batches: Iterable[Batch]) -> Batch:
    """All samples in one batch."""
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def scrambled(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` with every float of its state moved off what it was born with; a variance stays positive."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(torch.empty(tensor.shape).uniform_(0.5, 1.5, generator=rng).to(tensor.dtype))
                tensor.add_(torch.empty(tensor.shape).uniform_(0, 0.3, generator=rng).to(tensor.dtype))
    return model


def convnet(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Convolution, batch normalisation, linear: 79 parameters."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, CLASSES)
    )
    return scrambled(model, seed).to(dtype)


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers of 5, ``widths`` and 4 units, with ReLU between them."""
    torch.manual_seed(seed)
    sizes = (5, *widths, CLASSES)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Net(nn.Module):
    """A network of named ``parts``, registered in their order; ``run(net, inputs)`` is its forward pass."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Any:
        return self._run(self, inputs)


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def bits(tensor: Tensor) -> Tensor:
    """The bit patterns, as integers, in the order of the entries."""
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def changed(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where the bits differ from ``before``; only the tensors where some do."""
    now = values(model)
    differ = {name: bits(now[name]) != bits(old) for name, old in before.items()}
    return {name: where for name, where in differ.items() if bool(where.any())}


def check_uniform(value: Tensor, bound: float) -> None:
    """Of U(-bound, bound): within the bounds, and shaped so (Kolmogorov and Smirnov)."""
    assert float(value.abs().max()) <= bound
    assert kstest(value.flatten().numpy(), uniform(-bound, 2 * bound).cdf).pvalue > 1e-6


def train_step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """One step of training; returns the loss before it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss.detach()

    return float(optimizer.step(closure))


def layers_of(model: nn.Module, batches: Iterable[Batch]) -> list[Layer]:
    """The layers as a way of forgetting sees them."""
    layers = ModelView.of(model, batches, cross_entropy, Seeds(0), Scoring(), ModelHistory()).layers
    assert layers is not None
    return list(layers)


@contextmanager
def refused(
    error: type[Exception], match: str | None = None, unchanged: nn.Module | None = None
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of one line, and a model that is as before."""
    before = {} if unchanged is None else values(unchanged)
    with pytest.raises(error, match=match) as caught:
        yield caught
    assert "\n" not in str(caught.value)
    if unchanged is not None:
        assert changed(unchanged, before) == {}


class Proposing:
    """A way of forgetting made of a function."""

    def __init__(self, propose: Callable[[ReinitContext], Any], needs_scores: bool = False) -> None:
        self.propose = propose
        self.needs_scores = needs_scores


def unlearn_with(
    propose: Callable[[ReinitContext], Any], model: nn.Module, batches: Iterable[Batch] | None = None, **given: Any
) -> UnlearnReport:
    """Forget what ``propose`` says, without scores."""
    return unlearning.unlearn(model, batches, importance=None, reinit=Proposing(propose), seeds=Seeds(0), **given)


def all_fresh(context: ReinitContext) -> Iterable[Change]:
    """A fresh value for every trainable parameter."""
    return (Change(name, None, context.fresh(name)) for name in context.targets)
