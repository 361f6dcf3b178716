"""The contracts: one protocol per hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from forgetkit.contracts.choices import Origin, Rounding, Scope, Ties, Which
    from forgetkit.contracts.data import Data, Inputs, Samples
    from forgetkit.contracts.events import Event, MegaBatchRow


class Probe(Protocol):
    """What a criterion may ask of a model, safely.

    The model is in eval mode, in float32, outside autocast; gradients never land in ``.grad``.
    Only samples that have been revealed come out of :meth:`batches`.
    """

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameters to score, by name, detached, in float32. Not to be written to."""
        ...

    @property
    def rng(self) -> torch.Generator:
        """A CPU generator of the criterion's own."""
        ...

    def rng_for(self, name: str) -> torch.Generator:
        """Another for each ``name``: what is drawn for one parameter then shifts no other's draw."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        ...

    def zeros(self) -> dict[str, Tensor]:
        """One float32 tensor of zeros per target, of its shape and on its device."""
        ...

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (inputs, targets) on the model's device.

        ``samples`` in all at most: a count, a share of what there is (a float between 0 and 1), or None for all.
        """
        ...

    def outputs(self, inputs: Tensor) -> Tensor:
        """The model's outputs, without a graph."""
        ...

    def grads(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The gradient of the batch's loss (its mean) with respect to each target."""
        ...

    def mean_grads(self, samples: int | float | None = None) -> dict[str, Tensor]:
        """The gradient of the mean loss over all batches, ``samples`` as in :meth:`batches`."""
        ...

    def sample_grads(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Gradients of each sample's own loss, ``(chunk, *shape)`` per target, in chunks that fit memory."""
        ...


@runtime_checkable
class Importance(Protocol):
    """Says how much each parameter entry matters.

    A class attribute ``needs_data = False`` says that it asks for no batches, so that options about the scoring
    samples are refused beside it instead of being ignored.
    """

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """A tensor per name in ``probe.targets``: same shape, float32, finite; HIGHER = KEEP.

        The mapping may be lazy (compute a tensor when it is asked for it). It must be the same
        for the same ``probe.rng``, and leave the model as it was.
        """
        ...


@dataclass(frozen=True, eq=False)
class Change:
    """A new value for a parameter or a buffer.

    ``mask`` is a bool tensor of its shape, True = gets the value; ``None`` = every entry does.
    """

    name: str
    mask: Tensor | None
    value: Tensor


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, in its place in the order of execution.

    ``parameters`` and ``buffers`` are full names; a parameter shared with another layer stands in both.
    ``kind`` is ``"norm"`` for a normalisation layer, ``"weight"`` for a module with a matrix or kernel, else
    ``"other"``; ``linear`` is true for a fully connected one.
    """

    name: str
    kind: Literal["weight", "norm", "other"]
    linear: bool
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class ReinitContext(Protocol):
    """What a way of forgetting may look at."""

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The trainable parameters by name, detached. Not to be written to."""
        ...

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """Buffers that a module draws anew together with its parameters (running statistics)."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in the order of execution, seen on a real batch."""
        ...

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """The names in ``targets`` that are in ``scope``; ``norm``: those of normalisation layers."""
        ...

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Masks over ``fraction`` of the scored entries, by one threshold over all of them; True = selected.

        Exactly floor or ceil of fraction times the scored entries, unless ``ties="drop"`` takes all at the threshold.
        """
        ...

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """A fresh value for a parameter or buffer; see ``Origin``."""
        ...

    def rng(self, name: str) -> torch.Generator:
        """A CPU generator for whatever else is drawn for ``name``."""
        ...


@runtime_checkable
class Reinit(Protocol):
    """A way of forgetting between two mega-batches.

    A class attribute ``needs_scores = True`` says that it calls ``context.select`` and therefore
    needs an importance criterion. Another, ``changes_nothing = True``, says that yielding no
    change is what it is for; everywhere else that is an error.
    """

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Yield changes, a parameter at a time; the host applies each before it asks for the next."""
        ...


@runtime_checkable
class Replay(Protocol):
    """Which seen samples may be trained on again, beside those that arrive.

    A class attribute ``may_repeat = True`` says that it keeps a sample more than once on purpose, which then counts
    as often; everywhere else that is an error. A method ``check(arriving)`` is called before a run with the number of
    training samples in each mega-batch, and raises ``OptionError`` where the options could not act on those.
    """

    def retain(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """The ids to keep once a mega-batch is done: unique, a subset of ``kept`` and ``arrived``.

        Called for the training and the validation samples apart; both carry their ``role``.

        A function of its arguments alone, without memory of its own: it is also played through on ids before a
        run, to know its length, and again when a run is resumed. ``kept`` is always its own last answer.
        """
        ...


@dataclass(frozen=True, eq=False)
class Moment:
    """Where training stands when an intervention acts.

    ``state`` belongs to the intervention: tensors it wants to find again, which the host keeps
    and writes into checkpoints. ``mega_batch`` and ``epoch`` count from 1, ``step`` from 0 in the epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: dict[str, Tensor]
    rng: torch.Generator
    mega_batch: int
    epoch: int
    step: int


class Intervention:
    """What acts while training. Override what you need; each method is called at its moment."""

    def begin(self, moment: Moment) -> None:
        """Before the first step of each mega-batch."""

    def loss(self, moment: Moment) -> Tensor | None:
        """A term added to the loss of a step, or None."""
        return None

    def after_step(self, moment: Moment) -> None:
        """After each optimizer step."""

    def after_epoch(self, moment: Moment) -> None:
        """After each epoch."""


@dataclass(frozen=True)
class LoadContext:
    """What a data set is loaded with: a folder for caches, and a way to say how far it has come."""

    cache: Path
    progress: ProgressReport


class ProgressReport(Protocol):
    """Called with what is being done, how much of it is done, and how much there is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note."""
        ...


@runtime_checkable
class DatasetSource(Protocol):
    """A source of samples."""

    def load(self, context: LoadContext) -> Data:
        """Both parts. The same options give the same samples in the same order."""
        ...


@runtime_checkable
class ModelBuilder(Protocol):
    """A network.

    A builder may also have ``initialise(module)``: draw one leaf module's own parameters anew, in
    place, under the global random state. Forgetting then draws a layer at a time; without it the
    whole network is built again beside the old one and its values are taken.
    """

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """The network, drawn from the global random state, with ``normalize`` as its first layer.

        It maps ``(batch, *inputs.shape)`` with pixels in [0, 1] to ``(batch, inputs.classes)`` logits.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """A number computed from the finished mega-batches of a run."""

    def compute(self, rows: Sequence[MegaBatchRow]) -> float | int | None:
        """The number, or None where it is not defined."""
        ...


@runtime_checkable
class Observer(Protocol):
    """A listener. One that raises is detached with a warning; the run goes on."""

    def notify(self, event: Event) -> None:
        """Take note of ``event``."""
        ...


@runtime_checkable
class Analysis(Protocol):
    """A question put to a trained model; it leaves the model as it was."""

    def analyze(self, model: nn.Module, inputs: Tensor, labels: Tensor, rng: torch.Generator) -> Mapping[str, Any]:
        """The answer, as values that JSON can hold."""
        ...


@runtime_checkable
class Executor(Protocol):
    """A way to execute many runs."""

    def execute(self, configs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Run each configuration; yield its position and its result as they finish."""
        ...
