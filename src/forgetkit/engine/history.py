"""The history of a run's network, as components may ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

from torch import Tensor

from forgetkit import training, unlearning
from forgetkit.contracts import Inputs
from forgetkit.engine.context import RunContext

FindRepeatedValues = Callable[[], unlearning.RepeatedValues]
"""Finds the values that two builds of the network have in common."""

_REPEATED_REMEDY = "let the builder draw from the global random state, and give weights apart from it with --init FILE"


def repeated_values(context: RunContext, inputs: Inputs) -> FindRepeatedValues:
    """A function that finds, once, the values that two builds of the network have in common.

    It holds no reference to the samples.
    """
    build = partial(training.build_model, context.plan.model, inputs)
    return cache(partial(unlearning.RepeatedValues.of, build, _REPEATED_REMEDY))


def model_history(
    context: RunContext,
    inputs: Inputs,
    previous: Mapping[str, Tensor],
    memory: Callable[[object], Mapping[str, Tensor]],
    repeats: FindRepeatedValues,
) -> unlearning.ModelHistory:
    """The history of the network; its initial weights are drawn again if a component asks for them.

    It holds no reference to the state of the training, through which a component could reach samples.

    Args:
        context: The context of the run.
        inputs: What the network was built for.
        previous: The weights after the mega-batch before; empty in the first one.
        memory: Gives the tensors that a component keeps while training.
        repeats: See :func:`repeated_values`.
    """
    builder, seeds, init = context.plan.model, context.seeds, context.plan.init
    initialise = getattr(builder, "initialise", None)
    build = None if initialise is not None else partial(training.build_model, builder, inputs)

    @cache
    def initial() -> Mapping[str, Tensor]:
        network = training.build_network(builder, inputs, seeds, init)
        return {**dict(network.named_parameters()), **dict(network.named_buffers())}

    def before(name: str) -> Tensor:
        return previous[name] if previous else initial()[name]

    return unlearning.ModelHistory(
        build=build,
        repeats=None if build is None else repeats,
        initialise=initialise,
        initial=lambda name: initial()[name],
        previous=before if needs_previous_weights(context) else None,
        memory=memory,
        seeds=seeds,
    )


def needs_previous_weights(context: RunContext) -> bool:
    """Whether a component of the run needs the weights after the mega-batch before."""
    plan = context.plan
    components = (plan.importance, plan.reinit, *plan.interventions)
    return any(getattr(component, "needs_previous", False) for component in components)
