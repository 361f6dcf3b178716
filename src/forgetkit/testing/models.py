"""The promises of model builders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from forgetkit.contracts import Inputs
from forgetkit.errors import UsageError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, row
from forgetkit.training import Normalize

SHAPES = ((1, 8, 8), (3, 16, 16), (3, 32, 32), (12,))
"""Shapes of one sample; a builder is examined with the first that it accepts."""

_MANY = 256
"""The number of entries from which mean and standard deviation of a parameter are compared."""

_SIGMAS = 7.0


class RecordedModel(Normalize):
    """A normalisation that records its inputs and can output zeros."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.seen: list[Tensor] = []
        self.silent = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, or return zeros if ``silent``."""
        self.seen.append(x.detach().clone())
        return torch.zeros_like(x) if self.silent else super().forward(x)


def _inputs(shape: tuple[int, ...], classes: int) -> Inputs:
    return Inputs(shape, classes, tuple([0.4] * shape[0]), tuple([0.3] * shape[0]))


def _samples(inputs: Inputs, count: int) -> Tensor:
    return torch.rand(count, *inputs.shape, generator=torch.Generator().manual_seed(20230101))


@dataclass(frozen=True, eq=False)
class ModelCase(KitCase):
    """A model builder under examination."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The first shape of samples that it accepts."""
        refusals = []
        for shape in SHAPES:
            try:
                self._build(shape, 5, 0)
            except UsageError as refusal:
                refusals.append(str(refusal))
            else:
                return shape
        raise NotApplicable(f"it accepts none of the shapes {', '.join(map(str, SHAPES))}: {refusals[0]}")

    def built(self, classes: int = 5, seed: int = 0) -> tuple[nn.Module, RecordedModel, Inputs]:
        """Return a network, the normalisation in it, and the inputs that it was built for."""
        return self._build(self.shape, classes, seed)

    def _build(self, shape: tuple[int, ...], classes: int, seed: int) -> tuple[nn.Module, RecordedModel, Inputs]:
        inputs = _inputs(shape, classes)
        normalize = RecordedModel(inputs)
        with seeded_rng(seed):
            model = self.another().build(inputs, normalize)
        if not isinstance(model, nn.Module):
            raise Failure(f"build() returned {type(model).__name__}, not a torch.nn.Module")
        with torch.no_grad():
            model.eval()(_samples(inputs, 2))  # completes lazy layers
        normalize.seen.clear()
        return model, normalize, inputs

    @cached_property
    def usual(self) -> tuple[nn.Module, RecordedModel, Inputs]:
        """A network that no check changes."""
        return self.built()

    def act(self) -> None:
        """Build a network and call it."""
        model, _, inputs = self.built()
        model(_samples(inputs, 6))

    @property
    def initialise(self) -> Any:
        """The method that initialises one module."""
        if not hasattr(self.component, "initialise"):
            raise NotApplicable("it has no initialise()")
        return self.component.initialise


def runs(case: ModelCase) -> None:
    """`build(inputs, normalize)` returns a network for one of a few shapes of samples; it accepts two samples."""
    case.built()


def outputs(case: ModelCase) -> None:
    """The outputs are finite, of shape (batch, classes), for any number of classes."""
    for classes in (5, 2):
        model, _, inputs = case.usual if classes == 5 else case.built(classes)
        with torch.no_grad():
            found = model.eval()(_samples(inputs, 3))
        if not isinstance(found, Tensor) or tuple(found.shape) != (3, classes):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Failure(f"for three samples and {classes} classes the outputs are {shape}, not (3, {classes})")
        if bool((found.isnan() | found.isposinf()).any()):  # -infinity is the logit of a masked class
            raise Failure("the outputs of a new network hold NaN or infinity")


def normalizes_first(case: ModelCase) -> None:
    """`normalize` is called once, with the samples unchanged, and the network uses nothing but its output."""
    model, normalize, inputs = case.built()
    samples = _samples(inputs, 3)
    with torch.no_grad():
        model.eval()(samples)
        if len(normalize.seen) != 1 or not comparing.same_bits(normalize.seen[0], samples):
            raise Failure("normalize is not called exactly once with the unchanged samples; make it the first layer")
        normalize.silent = True
        silenced = model(samples)
    if isinstance(silenced, Tensor) and not comparing.nearly(silenced[:1].expand_as(silenced), silenced):
        raise Failure("the outputs depend on the samples beside the output of normalize")


def deterministic(case: ModelCase) -> None:
    """Two builds under one global random state give the same values to the bit."""
    one, other = (comparing.tensors_of(case.built()[0]) for _ in range(2))
    if comparing.differing(one, other):
        raise Failure("two builds under the same seed differ; draw from torch's global random state")


def follows_seed(case: ModelCase) -> None:
    """Two builds under different global random states give different values."""
    one, other = (comparing.tensors_of(case.built(seed=seed)[0]) for seed in (1, 2))
    if not comparing.differing(one, other):
        raise Failure("builds under different seeds are equal; do not seed, and draw from the global random state")


def trains(case: ModelCase) -> None:
    """In training mode the loss has a gradient for every parameter."""
    model, _, inputs = case.built()
    model.train()
    found = model(_samples(inputs, 6))
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise NotApplicable("the promise 'outputs' is broken")
    cross_entropy(found, torch.arange(6) % min(2, found.shape[1])).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise Failure(f"the loss does not depend on '{name}'")


def batch_independent(case: ModelCase) -> None:
    """In eval mode the outputs for a sample do not depend on the other samples of the batch."""
    model, _, inputs = case.usual
    samples = _samples(inputs, 4)
    model.eval()
    with torch.no_grad():
        together = model(samples)
        if not isinstance(together, Tensor) or not len(together) == 4:
            raise NotApplicable("the promise 'outputs' is broken")
        alone = torch.cat([model(sample[None]) for sample in samples])
    if not comparing.nearly(alone, together):
        raise Failure("in eval mode a sample by itself gets other outputs than in a batch")


def quiet_eval(case: ModelCase) -> None:
    """In eval mode the network draws nothing: the global random state is not changed."""
    model, _, inputs = case.usual
    samples = _samples(inputs, 2)
    model.eval()
    with torch.no_grad(), comparing.watch_random_state():
        model(samples)


def keeps_eval(case: ModelCase) -> None:
    """In eval mode a forward pass writes to no buffer."""
    model, _, inputs = case.built()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model.eval()(_samples(inputs, 4))
    comparing.require_same(before, dict(model.named_buffers()), "in eval mode, the buffer")


def initialises_one(case: ModelCase) -> None:
    """`initialise(module)` draws all parameters of that module in place, and writes to no other."""
    initialise = case.initialise
    model, _, _ = case.built()
    for name, module in _leaves(model):
        own = {id(t) for t in (*module.parameters(), *module.buffers())}
        others = {n: (t, t._version) for n, t in comparing.tensors_of(model).items() if id(t) not in own}
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.fill_(torch.nan)
        with seeded_rng(0):
            initialise(module)
        for local, parameter in module.named_parameters():
            if parameter is not parameters.get(local):
                raise Failure(f"initialise() replaces the tensor '{name}.{local}'; write in place")
            if bool(parameter.isnan().any()):
                raise Failure(f"initialise() does not draw '{name}.{local}'")
        now = comparing.tensors_of(model)
        for other, (tensor, version) in others.items():
            if now.get(other) is not tensor or tensor._version != version:
                raise Failure(f"initialise() of '{name}' writes to '{other}'")


def initialises_alike(case: ModelCase) -> None:
    """`initialise(module)` draws from the distribution that `build` draws from."""
    initialise = case.initialise
    model, _, _ = case.built()
    for name, module in _leaves(model):
        before = {local: p.detach().clone() for local, p in module.named_parameters()}
        with seeded_rng(1):
            initialise(module)
        for local, parameter in module.named_parameters():
            if not _alike(before[local], parameter.detach()):
                raise Failure(f"initialise() draws '{name}.{local}' from another distribution than build()")


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether mean and standard deviation agree within the error of so many entries; constants must be equal."""
    if one.numel() < 2 or float(one.std()) == 0 or float(other.std()) == 0:
        return bool((one == other).all()) if one.numel() > 1 else True
    if one.numel() < _MANY:
        return True
    root, spread = math.sqrt(one.numel()), float(one.std())
    means_agree = abs(float(one.mean() - other.mean())) < _SIGMAS * math.sqrt(2) * spread / root
    return means_agree and abs(math.log(float(other.std()) / spread)) < _SIGMAS * math.sqrt(2) / root


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that have parameters and no submodules."""
    for name, module in model.named_modules():
        if not any(module.children()) and any(True for _ in module.parameters()):
            yield name, module


PROMISES = (
    *map(row, (runs, outputs, normalizes_first, deterministic, follows_seed, trains, batch_independent, quiet_eval)),
    rows.LEAVES_SETTINGS,
    *map(row, (keeps_eval, initialises_one, initialises_alike)),
)
