"""What a reinit method implements, and what it may look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from forgetkit.contracts.importance import Probe
    from forgetkit.contracts.literals import Origin, Reference, Rounding, Scope, Ties, Which
    from forgetkit.contracts.units import UnitGroup


@dataclass(frozen=True, eq=False)
class Change:
    """A new value for a parameter or a buffer.

    Attributes:
        name: The full name of the parameter or buffer.
        mask: A bool tensor of its shape, True = the entry gets the value; None for all entries.
        value: A tensor of its shape.

    References:
        Ramkumar et al., "Learn, Unlearn and Relearn", 2023: equation 3. ``mask`` is 1 − M: their M is 1 for retained
        entries.
    """

    name: str
    mask: Tensor | None
    value: Tensor


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, in order of execution.

    Attributes:
        name: The module's name, as in ``named_modules()``.
        kind: ``norm`` for a normalisation layer, ``weight`` for a module with a matrix or kernel, else ``other``.
        linear: Whether it is fully connected.
        parameters: Full names; a shared parameter is in each of its layers.
        buffers: Full names.
    """

    name: str
    kind: Literal["weight", "norm", "other"]
    linear: bool
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class ReinitContext(Protocol):
    """What a reinit method may look at: parameters, layers, masks over scores, fresh values, a probe."""

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The trainable parameters by name, detached. Do not write to them."""
        ...

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The buffers that a module resets together with its parameters: running statistics."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution on a batch."""
        ...

    @property
    def heads(self) -> Sequence[str]:
        """The names of the layers from which the loss is computed with no other weighted layer in between."""
        ...

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """List the targets in a scope.

        Args:
            scope: A ``Scope``, or ``norm`` for the parameters of normalisation layers.

        Returns:
            Names in ``targets``, in their order.
        """
        ...

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Select a fraction of the scored entries by one threshold over all of them.

        The method must set ``needs_scores = True`` and select before it yields its first change.

        Args:
            fraction: The share of entries, in [0, 1].
            which: Whether to select the lowest or the highest scores.
            ties: How to choose among entries that equal the threshold.
            rounding: Whether the number of entries is the floor or the ceiling of ``fraction`` times their number;
                exact unless ``ties`` is ``drop``.

        Returns:
            By the name of each scored parameter, a bool tensor of its shape, True = selected. The mapping is
            read-only, and each access makes a new tensor; for masks to modify, begin with ``dict(masks)``.

        Raises:
            OptionError: The method has no scores, or an argument is out of range.
        """
        ...

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """Draw a fresh value.

        Args:
            name: A parameter of ``targets`` or a buffer of ``buffers``.
            origin: Where the value comes from.

        Returns:
            A tensor of its shape, dtype and device; the same at each call in this reset.

        Raises:
            OptionError: ``name`` is neither.
        """
        ...

    def rng(self, name: str, *, lasting: bool = False) -> torch.Generator:
        """Get a generator for other draws.

        Args:
            name: What the draw is for, such as the name of a parameter.
            lasting: Whether the generator is the same in each reset of a run.

        Returns:
            A CPU generator that is a function of the seed and ``name``.

        Raises:
            OptionError: ``lasting`` is set and the host does not know the seed of the run.
        """
        ...

    @property
    def units(self) -> Sequence[UnitGroup]:
        """Groups of neurons and channels, found on a traced graph."""
        ...

    def reset_units(self, units: Mapping[str, Tensor]) -> Iterator[Change]:
        """Reset and silence units.

        Incoming weights, normalisation and statistics become fresh, biases and outgoing weights zero. Right
        afterwards such a unit has no effect on the output.

        Args:
            units: By the name of a group, a bool tensor ``(size,)``, True = reset the unit.

        Yields:
            One change for each parameter and buffer.
        """
        ...

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Get earlier weights. A method that uses the previous ones sets ``needs_previous = True``.

        Args:
            which: ``initial`` or ``previous``.

        Returns:
            A value for each target, of its shape, dtype and device.

        Raises:
            OptionError: The host does not know these weights.
        """
        ...

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the method stored in ``moment.state`` while training, if it is an :class:`Intervention` too."""
        ...

    def probe(self) -> AbstractContextManager[Probe]:
        """Measure the model on the scoring samples. The method must set ``needs_data = True``.

        Returns:
            A context manager for a :class:`Probe`. Leave it before you yield a change.
        """
        ...


@runtime_checkable
class Reinit(Protocol):
    """A reinit method: what a network forgets between two mega-batches.

    Class attributes that a method may set:
        ``needs_scores = True``: it calls ``context.select`` and so needs an importance criterion.
        ``needs_data = True``: it uses ``context.probe``.
        ``needs_previous = True``: it uses ``context.reference("previous")``.
        ``changes_nothing = True``: it may yield no change. Otherwise this is an error.
        ``touches``: a frozenset of ``Writes``, what it writes to.

    A method that needs to observe training inherits :class:`Intervention` as well.

    Example:
        ::

            @dataclass(frozen=True)
            class ZeroOut:
                '''Set the least important entries to zero.'''

                fraction: float = 0.1
                needs_scores: ClassVar[bool] = True

                def propose(self, context):
                    for name, mask in context.select(self.fraction).items():
                        yield Change(name, mask, torch.zeros_like(context.targets[name]))

    References:
        Ramkumar et al., "Learn, Unlearn and Relearn", 2023: the unlearning step, equation 3 and Algorithm 1.
    """

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose changes, best one parameter at a time.

        Args:
            context: What the method may look at.

        Returns:
            Changes; a generator will do. The host applies each before it asks for the next.
        """
        ...
