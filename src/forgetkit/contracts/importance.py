"""What an importance criterion implements, and the probe through which it looks at a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from forgetkit.contracts.gradients import Gradients, SampleGradients
    from forgetkit.contracts.literals import Origin, Reference, Scope
    from forgetkit.contracts.reinit import Layer
    from forgetkit.contracts.units import UnitGroup

    Loss = Callable[[Any, Any], Tensor]


class Probe(Protocol):
    """The view of a model that a criterion gets: parameters, batches, outputs and gradients.

    The model is in eval mode (in train mode with ``--score-mode train``), in float32 and outside autocast. Gradients
    never land in ``.grad``. Batches hold only samples that have arrived.

    A method with ``loss`` takes a function of (outputs, targets) that returns one number, and uses it in place of the
    run's loss. A method with ``at`` takes values that replace parameters or buffers, by name, during the call.

    A batch is a pair ``(inputs, targets)``. If the user's batches are pairs of tensors, so are these. If they are
    mappings, nested, or go to an ``objective``, each part is an object with a length, of which slices are batches
    again; hand it back to the probe's methods. Gradients say how much they count in a mean (``Gradients.count``).
    """

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameters to score, by name: detached float32 tensors. Do not write to them."""
        ...

    @property
    def rng(self) -> torch.Generator:
        """A CPU generator for the draws of this criterion."""
        ...

    def rng_for(self, name: str) -> torch.Generator:
        """Get a generator for one parameter, so that its draws do not depend on other parameters.

        Args:
            name: The name of the parameter, or any other text.

        Returns:
            A CPU generator that is a function of the seed and ``name``.
        """
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch dimension."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution on a batch."""
        ...

    @property
    def units(self) -> Sequence[UnitGroup]:
        """Groups of neurons and channels, found on a traced graph."""
        ...

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """List the targets in a scope.

        Args:
            scope: A ``Scope``, or ``norm`` for the parameters of normalisation layers.

        Returns:
            Names in ``targets``, in their order.
        """
        ...

    def module(self, name: str) -> nn.Module:
        """Get a module, to read its settings or to register a hook, which the host removes afterwards.

        Args:
            name: The module's name, as in ``named_modules()``.

        Returns:
            The module itself. Do not write to it.

        Raises:
            OptionError: The model has no such module.
        """
        ...

    def zeros(self) -> dict[str, Tensor]:
        """Make one float32 tensor of zeros for each target.

        Returns:
            By name, tensors of the targets' shapes on their devices.
        """
        ...

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Any, Any]]:
        """Iterate over the scoring samples.

        Args:
            samples: Samples at most: a count from 1, a share of the samples in (0, 1), or None for all.

        Yields:
            Inputs ``(batch, *input_shape)`` and targets ``(batch,)`` on the model's device, copies of the user's.
            ``len(targets)`` is the number of samples for batches of any shape.

        Raises:
            OptionError: There are no batches.
        """
        ...

    def outputs(self, inputs: Any, *, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the model without a graph.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.
            at: Values that replace parameters or buffers, by name.

        Returns:
            The model's outputs, usually logits ``(batch, classes)``: what the user's ``outputs`` takes from what the
            model returns, or the tensor that it returns, or its ``logits``.
        """
        ...

    def grads(
        self, inputs: Any, targets: Any, *, loss: Loss | None = None, at: Mapping[str, Tensor] | None = None
    ) -> Gradients:
        """Differentiate the mean loss of a batch.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.
            targets: Its labels, ``(batch,)``. Other labels for a batch that is no pair mean cross-entropy with them.
            loss: A function of (outputs, targets) in place of the run's loss.
            at: Values that replace parameters or buffers, by name.

        Returns:
            By name, a float32 gradient of each target's shape.
        """
        ...

    def mean_grads(self, samples: int | float | None = None) -> Gradients:
        """Differentiate the mean loss over the scoring samples; batches count by what their loss averages over.

        Args:
            samples: As in :meth:`batches`.

        Returns:
            By name, a float32 gradient of each target's shape.
        """
        ...

    def sample_grads(
        self, inputs: Any, targets: Any, weights: Tensor | None = None, *, loss: Loss | None = None
    ) -> Iterator[SampleGradients]:
        """Differentiate the loss of each sample, in chunks that fit in memory.

        A network that cannot be mapped over samples sees one sample at a time, which the report says.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.
            targets: Its labels, ``(batch,)``.
            weights: A factor for each sample's loss, ``(batch,)``; None for ones.
            loss: A function of (outputs, targets) in place of the run's loss.

        Yields:
            By name, float32 gradients ``(chunk, *shape)`` of each target, and how much each sample counts.
        """
        ...

    def hvp(self, inputs: Any, targets: Any, vector: Mapping[str, Tensor], *, loss: Loss | None = None) -> Gradients:
        """Multiply the Hessian of a batch's mean loss by a vector.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.
            targets: Its labels, ``(batch,)``.
            vector: A tensor for each target, of its shape.
            loss: A function of (outputs, targets) in place of the run's loss.

        Returns:
            By name, the product, float32, of each target's shape.

        Raises:
            OptionError: ``vector`` lacks a target.
        """
        ...

    def layer_inputs(self, inputs: Any) -> dict[str, Tensor]:
        """Record the input of each layer in a forward pass without a graph.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.

        Returns:
            By the layer's name, in order of execution.
        """
        ...

    def unit_activity(self, inputs: Any) -> dict[str, Tensor]:
        """Record the activity of units, as the layers that read them see it, without a graph.

        Args:
            inputs: A batch, ``(batch, *input_shape)``.

        Returns:
            By the name of the group, ``(batch, size, positions)``.
        """
        ...

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Get earlier weights. A criterion that uses the previous ones sets ``needs_previous = True``.

        Args:
            which: ``initial`` or ``previous``.

        Returns:
            A value for each target, of its shape, dtype and device.

        Raises:
            OptionError: The host does not know these weights.
        """
        ...

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """Draw the fresh value that ``context.fresh(name, origin)`` gives in the reset that follows.

        Args:
            name: A target.
            origin: Where the value comes from.

        Returns:
            A float32 tensor of the target's shape.

        Raises:
            OptionError: ``name`` is no target.
        """
        ...

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the criterion stored in ``moment.state`` while training, if it is an :class:`Intervention` too."""
        ...


@runtime_checkable
class Importance(Protocol):
    """An importance criterion: it scores each entry of the parameters; higher = keep.

    Class attributes that a criterion may set:
        ``needs_data = False``: it uses no batches. Options about scoring samples are then an error.
        ``needs_previous = True``: it uses ``probe.reference("previous")``.
        ``allows_ties = True``: all scores may be equal, as for a control. Otherwise this is an error.

    A criterion that needs to observe training inherits :class:`Intervention` as well; what it stores in
    ``moment.state`` is its ``probe.memory``.

    Example:
        ::

            @dataclass(frozen=True)
            class GradNorm:
                '''Mean absolute gradient of a batch.'''

                samples: int = 128

                def score(self, probe):
                    total = probe.zeros()
                    for inputs, targets in probe.batches(self.samples):
                        grads = probe.grads(inputs, targets)
                        for name, grad in grads.items():
                            total[name] += grads.count * grad.abs()
                    return total

    References:
        Ramkumar et al., "Learn, Unlearn and Relearn", 2023: connection sensitivity, equation 2.
    """

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Score each entry of the targets.

        The scores must be a function of the model, the batches and ``probe.rng``, and the model must stay as it is.

        Args:
            probe: The model.

        Returns:
            For each name in ``probe.targets`` a finite float32 tensor of its shape. The mapping may be lazy.
        """
        ...
