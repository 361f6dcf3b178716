"""What acts while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from forgetkit.contracts.reinit import Change, ReinitContext


@dataclass(frozen=True, eq=False)
class InterventionContext:
    """The point in training at which an intervention acts.

    Attributes:
        model: The network in training.
        optimizer: Its optimizer.
        state: Tensors that belong to this intervention, by name; checkpoints hold them.
        rng: A CPU generator for this intervention at this point.
        mega_batch: The mega-batch, from 1.
        epoch: The epoch in the mega-batch, from 1.
        step: The step in the epoch, from 0.
        inputs: The inputs of the step, ``(batch, *shape)``; the whole batch if it is no pair; None outside a step.
        targets: The labels of the step, ``(batch,)``; None outside a step, or if the batch is no pair.
        make_context: Makes ``context``; for the host.
        compute_activity: Computes ``activity``; for the host.
        apply: Writes changes as those of a reinit method, clears the optimizer's state under their masks, and returns
            the number of parameter entries that changed. Not in ``loss``: it would break the graph.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: dict[str, Tensor]
    rng: torch.Generator
    mega_batch: int
    epoch: int
    step: int
    inputs: Any
    targets: Any
    make_context: Callable[[], ReinitContext]
    compute_activity: Callable[[], Mapping[str, Tensor]]
    apply: Callable[[Iterable[Change]], int]

    @property
    def context(self) -> ReinitContext:
        """What a reinit method may look at, except ``select``. The first use costs a forward pass over two samples."""
        return self.make_context()

    @property
    def activity(self) -> Mapping[str, Tensor]:
        """The activity of units in this step's forward pass, as the layers that read them see it.

        By the name of the group, ``(batch, size, positions)``; empty unless the class sets ``needs_activity = True``.
        """
        return self.compute_activity()


class Intervention:
    """Acts while a network trains. A subclass overrides the methods that it needs; the others cost nothing.

    Class attributes that a subclass may set:
        ``touches``: a frozenset of ``Writes``, what it writes to.
        ``needs_activity = True``: it uses ``moment.activity``.

    A run first tries one step on a copy of the network, with the same object: store what must last in
    ``moment.state``, not in attributes.

    Example:
        ::

            @dataclass(frozen=True)
            class L1(Intervention):
                '''A penalty on the size of every weight.'''

                strength: float = 1e-4
                touches: ClassVar[frozenset] = frozenset({"loss"})

                def loss(self, moment):
                    return self.strength * sum(p.abs().sum() for p in moment.model.parameters())
    """

    def begin(self, moment: InterventionContext) -> None:
        """Act before the first step of each mega-batch.

        A run that resumes within a mega-batch does not call it again.

        Args:
            moment: The point in training.
        """

    def loss(self, moment: InterventionContext) -> Tensor | None:
        """Add a term to the loss of a step.

        Args:
            moment: The point in training.

        Returns:
            A finite tensor with one number and a graph, or None for no term.
        """
        return None

    def before_step(self, moment: InterventionContext) -> None:
        """Act between ``backward()`` and the optimizer's step; gradients are in ``.grad``.

        Args:
            moment: The point in training.
        """

    def after_step(self, moment: InterventionContext) -> None:
        """Act after each step of the optimizer.

        Args:
            moment: The point in training.
        """

    def after_epoch(self, moment: InterventionContext) -> None:
        """Act after each epoch.

        Args:
            moment: The point in training.
        """
