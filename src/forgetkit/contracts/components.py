"""What replay strategies, data sets, networks, metrics, observers and executors implement."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from forgetkit.contracts.data import Data, Inputs, Samples
    from forgetkit.contracts.events import Event, MegaBatchResult


@runtime_checkable
class Replay(Protocol):
    """A replay strategy: which samples of earlier mega-batches a run trains on again, beside new ones.

    A class attribute ``may_repeat = True`` allows ids that occur more than once; otherwise this is an error. A method
    ``check(sizes)`` may raise ``OptionError`` before a run, if the options do not suit a stream with ``sizes``
    training samples in its mega-batches.

    Example:
        ::

            @dataclass(frozen=True)
            class Newest:
                '''Keep the newest samples.'''

                size: int = 100

                def retain(self, buffer, arrivals, rng):
                    return np.concatenate([buffer.ids, arrivals.ids])[-self.size :]
    """

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the new buffer after a mega-batch; called for training and validation samples separately.

        The answer must be a function of the arguments alone: a run also simulates the stream in advance, to know its
        length, and again when it resumes.

        Args:
            buffer: The last answer; empty at first.
            arrivals: The samples of the mega-batch, with the same ``role``.
            rng: A generator for this call.

        Returns:
            Ids, int64 ``(n,)``, each once, a subset of ``buffer`` and ``arrivals``.
        """
        ...


class ProgressCallback(Protocol):
    """Receives the progress of a slow operation."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report progress.

        Args:
            what: The operation, such as ``decoding images``.
            done: Units done so far.
            total: Units in total.
        """
        ...


@dataclass(frozen=True)
class LoadContext:
    """What a data set gets to load itself.

    Attributes:
        cache: A folder for downloads and decoded data.
        progress: To be called now and then during a slow operation.
        offline: Whether downloads are forbidden, because only a record names the data set.
    """

    cache: Path
    progress: ProgressCallback
    offline: bool = False


@runtime_checkable
class DatasetSource(Protocol):
    """A data set.

    Example:
        ::

            @dataclass(frozen=True)
            class Ramp:
                '''Two classes of one number each.'''

                samples: int = 100

                def load(self, context):
                    inputs = np.linspace(0, 1, self.samples, dtype=np.float32)[:, None]
                    part = DataSplit(inputs, (inputs[:, 0] > 0.5).astype(np.int64))
                    return Data(train=part, test=part, classes=("low", "high"))
    """

    def load(self, context: LoadContext) -> Data:
        """Load both parts; equal options give equal samples in equal order.

        Args:
            context: A folder for caches, and a callback for progress.

        Returns:
            The training and the test part.

        Raises:
            DataError: The data is missing, damaged or inconsistent.
        """
        ...


@runtime_checkable
class ModelBuilder(Protocol):
    """A network.

    A builder may have a method ``initialise(module)`` that draws the parameters of one leaf module anew, in place,
    from the global random state. A reset then draws one layer at a time; without it, the host builds the network again
    and takes the values from there.

    Example:
        ::

            @dataclass(frozen=True)
            class Linear:
                '''One linear layer.'''

                def build(self, inputs, normalize):
                    features = math.prod(inputs.shape)
                    return nn.Sequential(normalize, nn.Flatten(), nn.Linear(features, inputs.classes))
    """

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Build the network; draw its parameters from the global random state.

        Args:
            inputs: The shape of a sample and the number of classes.
            normalize: A module that must be the first layer.

        Returns:
            A module from ``(batch, *inputs.shape)``, images in [0, 1], to logits ``(batch, inputs.classes)``.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """A number computed from the finished mega-batches of a run.

    Example:
        ::

            @dataclass(frozen=True)
            class WorstAccuracy:
                '''The lowest test accuracy.'''

                def compute(self, rows):
                    return min((row.test_accuracy for row in rows), default=None)
    """

    def compute(self, rows: Sequence[MegaBatchResult]) -> float | int | None:
        """Compute the number.

        Args:
            rows: One result for each finished mega-batch, in order.

        Returns:
            A number, or a scalar of NumPy or torch; None if it is undefined.
        """
        ...


@runtime_checkable
class Observer(Protocol):
    """Receives the events of a run. If it raises, the run detaches it with a warning and continues.

    Example:
        ::

            @dataclass(frozen=True)
            class PrintAccuracy:
                '''Print the test accuracy after each mega-batch.'''

                def notify(self, event):
                    if isinstance(event, MegaBatchEnded):
                        print(event.row.index, event.row.test_accuracy)
    """

    def notify(self, event: Event) -> None:
        """Handle an event.

        Args:
            event: A subclass of :class:`Event`; ignore those that you do not know.
        """
        ...


@dataclass(frozen=True)
class WorkerLost:
    """What an executor yields for a task whose worker died without an answer.

    Attributes:
        reason: One line.
        status: The worker's exit status if known, negative for a signal. 130 says that the worker stopped on request:
            the task has not failed and can be resumed.
    """

    reason: str
    status: int | None = None


@runtime_checkable
class OptimizerStateRule(Protocol):
    """A rule for the state of a third party's optimizer: what it holds for an entry that it has not stepped yet.

    Without a rule, a new optimizer of the same class takes one step with zero gradient on a copy of the parameter. Give
    a rule where that does not show the state, or where the class can be neither made nor stepped that way.

    Example:
        ::

            @dataclass(frozen=True)
            class PersonalState:
                '''The averages of Personal start at one.'''

                def handles(self, optimizer):
                    return isinstance(optimizer, Personal)

                def fresh(self, optimizer, parameter):
                    return {"average": torch.ones_like(parameter)}
    """

    def handles(self, optimizer: Any) -> bool:
        """Say whether the rule is about this optimizer.

        Args:
            optimizer: An optimizer, or one that another one wraps.

        Returns:
            True if :meth:`fresh` is to say what its state is.
        """
        ...

    def fresh(self, optimizer: Any, parameter: Tensor) -> Mapping[str, Tensor]:
        """Return the state of entries that have not been stepped.

        Args:
            optimizer: The optimizer, with its state; it stays as it is.
            parameter: The parameter, which holds the fresh values under the mask.

        Returns:
            By the key in ``optimizer.state[parameter]`` a tensor of the same shape and dtype; entries under the mask
            are written. Other keys stay.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """Runs tasks in this process, in others, or on other machines.

    Example:
        ::

            @dataclass(frozen=True)
            class InOrder:
                '''Run one task after another in this process.'''

                def execute(self, work, tasks):
                    for position, task in enumerate(tasks):
                        yield position, work(task)
    """

    def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """Call ``work`` with each task.

        If ``work`` raises, the generator raises the error and ends. Once it ends, by exhaustion, an error or
        ``close()``, nothing that it started may still run.

        Args:
            work: A function of a module, so that it can be pickled by name.
            tasks: Arguments; they and the answers can be pickled.

        Yields:
            The position of a task and its answer, or :class:`WorkerLost`; each position once, as tasks finish.
        """
        ...
