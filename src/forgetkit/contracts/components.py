"""The contracts: one protocol per hook."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from forgetkit.contracts.data import Data, Inputs, Samples
    from forgetkit.contracts.events import Event, MegaBatchResult
    from forgetkit.contracts.literals import Origin, Reference, Rounding, Scope, Ties, Which
    from forgetkit.contracts.units import UnitGroup

    Loss = Callable[[Any, Tensor], Tensor]


class Probe(Protocol):
    """What a criterion may ask of a model, safely.

    The model is in eval mode, in float32, outside autocast; gradients never land in ``.grad``.
    Only samples that have been revealed come out of :meth:`batches`.

    Where a method takes ``loss``, it is a function of (outputs, targets) that gives one number, in place of the
    run's own. Where it takes ``at``, that maps names of parameters or buffers to values that stand in for theirs.
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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch; for those that look at no samples."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in the order of execution, seen on a real batch."""
        ...

    @property
    def units(self) -> Sequence[UnitGroup]:
        """Neurons and channels with all that belongs to them, on a traced graph; see ``UnitGroup``."""
        ...

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """The names in ``targets`` that are in ``scope``; ``norm``: those of normalisation layers."""
        ...

    def module(self, name: str) -> nn.Module:
        """A module by its name: to ask for its stride, or to hang a hook on, which is taken off afterwards."""
        ...

    def zeros(self) -> dict[str, Tensor]:
        """One float32 tensor of zeros per target, of its shape and on its device."""
        ...

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (inputs, targets) on the model's device.

        ``samples`` in all at most: a count, a share of what there is (a float between 0 and 1), or None for all.
        """
        ...

    def outputs(self, inputs: Tensor, *, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's outputs, without a graph."""
        ...

    def grads(
        self, inputs: Tensor, targets: Tensor, *, loss: Loss | None = None, at: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The gradient of the batch's loss (its mean) with respect to each target."""
        ...

    def mean_grads(self, samples: int | float | None = None) -> dict[str, Tensor]:
        """The gradient of the mean loss over all batches, ``samples`` as in :meth:`batches`."""
        ...

    def sample_grads(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, *, loss: Loss | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Gradients of each sample's own loss, ``(chunk, *shape)`` per target, in chunks that fit memory."""
        ...

    def hvp(
        self, inputs: Tensor, targets: Tensor, vector: Mapping[str, Tensor], *, loss: Loss | None = None
    ) -> dict[str, Tensor]:
        """The Hessian of the batch's loss with respect to the targets, times ``vector``, which has them all."""
        ...

    def layer_inputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """What each layer that runs was given, by its name, in the order of execution; without a graph."""
        ...

    def unit_activity(self, inputs: Tensor) -> dict[str, Tensor]:
        """What each group's readers see of it, ``(batch, size, positions)``, by the group's name; without a graph."""
        ...

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Weights of the past, for each target, in its dtype; ``OptionError`` where the host does not know them.

        A criterion that asks for the previous ones says so with a class attribute ``needs_previous = True``.
        """
        ...

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """The very value that ``context.fresh(name, origin)`` gives in the forgetting that the scores are for."""
        ...

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the criterion kept in ``moment.state`` while training, where it is an :class:`Intervention` too."""
        ...


@runtime_checkable
class Importance(Protocol):
    """Says how much each parameter entry matters.

    A class attribute ``needs_data = False`` says that it asks for no batches, so that options about the scoring
    samples are refused beside it instead of being ignored. ``allows_ties = True`` says that all scores may be equal, as
    those of a control may; everywhere else that is an error. One that must watch the training is an
    :class:`Intervention` too; what it keeps in ``moment.state`` is then its ``probe.memory``.
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
        Read-only: each asking, ``masks[name]``, makes a new tensor, and changing that changes no mask. For masks of
        your own begin with ``dict(masks)``.
        """
        ...

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """A fresh value for a parameter or buffer; see ``Origin``."""
        ...

    def rng(self, name: str, *, lasting: bool = False) -> torch.Generator:
        """A CPU generator for what else is drawn for ``name``; ``lasting``: the same at each forgetting of a run."""
        ...

    @property
    def units(self) -> Sequence[UnitGroup]:
        """Neurons and channels with all that belongs to them, on a traced graph; see ``UnitGroup``."""
        ...

    def reset_units(self, chosen: Mapping[str, Tensor]) -> Iterator[Change]:
        """Changes that start the ``chosen`` units anew and silence them: a bool ``(size,)`` by the group's name.

        Incoming weights, normalisation and statistics become fresh, biases and outgoing weights zero, one change per
        parameter; right afterwards such a unit has no effect on the output whatever it computes.
        """
        ...

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Weights of the past, as :meth:`Probe.reference`."""
        ...

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the method kept in ``moment.state`` while training, where it is an :class:`Intervention` too."""
        ...

    def probe(self) -> AbstractContextManager[Probe]:
        """The model, lent to be measured: ``with context.probe() as probe``. Leave it before you yield a change."""
        ...


@runtime_checkable
class Reinit(Protocol):
    """A way of forgetting between two mega-batches.

    A class attribute ``needs_scores = True`` says that it calls ``context.select`` and therefore
    needs an importance criterion. Another, ``changes_nothing = True``, says that yielding no
    change is what it is for; everywhere else that is an error. ``needs_data = True`` says that it looks at samples
    through ``context.probe``; ``touches``, a frozenset of ``Writes``, what it writes to. One that must watch the
    training is an :class:`Intervention` too.
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

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """The ids to keep once a mega-batch is done: unique, a subset of ``buffer`` and ``arrivals``.

        Called for the training and the validation samples apart; both carry their ``role``.

        A function of its arguments alone, without memory of its own: it is also played through on ids before a
        run, to know its length, and again when a run is resumed. ``buffer`` is always its own last answer.
        """
        ...


@dataclass(frozen=True, eq=False)
class InterventionContext:
    """Where training stands when an intervention acts.

    ``state`` belongs to the intervention: tensors it wants to find again, which the host keeps
    and writes into checkpoints. ``mega_batch`` and ``epoch`` count from 1, ``step`` from 0 in the epoch.
    ``inputs`` and ``targets`` are the step's batch, None where there is no step. ``activity`` is what the readers of
    each group of units saw of it in the step's own forward pass, ``(batch, size, positions)`` by the group's name,
    for a class with ``needs_activity = True``; empty for others.

    ``context`` is what a reinit method may look at, at this moment, but for ``select``. ``apply`` writes changes as
    those of a reinit method are written, with the optimizer's state cleared under their masks, and returns how many
    parameter entries that were.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: dict[str, Tensor]
    rng: torch.Generator
    mega_batch: int
    epoch: int
    step: int
    inputs: Tensor | None
    targets: Tensor | None
    make_context: Callable[[], ReinitContext]
    compute_activity: Callable[[], Mapping[str, Tensor]]
    apply: Callable[[Iterable[Change]], int]

    @property
    def context(self) -> ReinitContext:
        """What a reinit method may look at; made when it is asked for, since it costs a pass over two samples once."""
        return self.make_context()

    @property
    def activity(self) -> Mapping[str, Tensor]:
        """What the readers of each group of units saw in this step."""
        return self.compute_activity()


class Intervention:
    """What acts while training. Override what you need; each method is called at its moment.

    A class attribute ``touches``, a frozenset of ``Writes``, says what it writes to; ``needs_activity = True`` that it
    looks at ``moment.activity``. When it acts is read off the methods that it overrides.
    """

    def begin(self, moment: InterventionContext) -> None:
        """Before the first step of each mega-batch."""

    def loss(self, moment: InterventionContext) -> Tensor | None:
        """A term added to the loss of a step, or None."""
        return None

    def before_step(self, moment: InterventionContext) -> None:
        """With the gradients in ``.grad``, before the optimizer steps."""

    def after_step(self, moment: InterventionContext) -> None:
        """After each optimizer step."""

    def after_epoch(self, moment: InterventionContext) -> None:
        """After each epoch."""


@dataclass(frozen=True)
class LoadContext:
    """What a data set is loaded with: a folder for caches, and a way to say how far it has come."""

    cache: Path
    progress: ProgressCallback
    offline: bool = False
    """Whether nothing may be downloaded, since a record alone asks for it."""


class ProgressCallback(Protocol):
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

    def compute(self, rows: Sequence[MegaBatchResult]) -> float | int | None:
        """The number, or None where it is not defined. A scalar of NumPy or torch is taken as the number it holds."""
        ...


@runtime_checkable
class Observer(Protocol):
    """A listener. One that raises is detached with a warning; the run goes on."""

    def notify(self, event: Event) -> None:
        """Take note of ``event``."""
        ...


@dataclass(frozen=True)
class WorkerLost:
    """What an executor yields in place of an answer where the worker died over the task; ``reason`` is one line.

    ``status`` is the worker's exit status where the executor knows it, less than zero where a signal killed it. With
    130 the worker was asked to stop and did: the task has not failed, and can be gone on with.
    """

    reason: str
    status: int | None = None


@runtime_checkable
class Executor(Protocol):
    """A way to do many tasks: in this process, in others, on other machines."""

    def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """Yield (position, ``work(tasks[position])``) as they finish, in any order, each position once.

        ``work`` is a function of a module, so that it can be pickled by name; tasks and answers can be pickled too.
        Where the worker of a task dies without an answer, :class:`WorkerLost` stands in its place and the others go on.

        What ``work`` raises is raised here, and no more tasks are done. However this ends, exhausted, with an exception
        or by ``close()``, nothing that it started goes on once it has ended.
        """
        ...
