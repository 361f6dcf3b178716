"""The hooks that a plugin implements under :data:`hookimpl`: one for each kind of component.

A hook takes no parameters and returns a mapping from names to component classes. A name consists of letters, digits,
``-`` and ``_``. pluggy calls each hook once, when forgetkit builds its registry; a run calls the components, never a
hook. :mod:`forgetkit.contracts` says what each class must do.

Example:
    A plugin is a module with a hook::

        @forgetkit.hookimpl
        def forgetkit_importance():
            return {"gradnorm": GradNorm}

    Its package names the module under the entry-point group ``forgetkit``::

        [project.entry-points.forgetkit]
        gradnorm = "gradnorm"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from forgetkit import contracts

PROJECT = "forgetkit"

hookspec = pluggy.HookspecMarker(PROJECT)

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator that marks a function of a plugin as one of the hooks below."""


@hookspec
def forgetkit_importance() -> Mapping[str, type[contracts.Importance]]:  # type: ignore[empty-body]
    """Provide criteria that score each entry of the parameters; higher = keep.

    Returns:
        Classes with the method ``score``, by name: ``--importance NAME``.
    """


@hookspec
def forgetkit_reinit() -> Mapping[str, type[contracts.Reinit]]:  # type: ignore[empty-body]
    """Provide reinit methods: which entries get a new value between two mega-batches, and which value.

    Returns:
        Classes with the method ``propose``, by name: ``--reinit NAME``.
    """


@hookspec
def forgetkit_replay() -> Mapping[str, type[contracts.Replay]]:  # type: ignore[empty-body]
    """Provide replay strategies: which samples of earlier mega-batches a run trains on again.

    Returns:
        Classes with the method ``retain``, by name: ``--replay NAME``.
    """


@hookspec
def forgetkit_interventions() -> Mapping[str, type[contracts.Intervention]]:  # type: ignore[empty-body]
    """Provide interventions: what acts while a network trains, in a step, after an epoch or in the loss.

    Returns:
        Subclasses of ``Intervention``, by name: ``--intervention NAME``.
    """


@hookspec
def forgetkit_datasets() -> Mapping[str, type[contracts.DatasetSource]]:  # type: ignore[empty-body]
    """Provide data sets.

    Returns:
        Classes with the method ``load``, by name: ``--dataset NAME``.
    """


@hookspec
def forgetkit_models() -> Mapping[str, type[contracts.ModelBuilder]]:  # type: ignore[empty-body]
    """Provide networks.

    Returns:
        Classes with the method ``build``, by name: ``--model NAME``.
    """


@hookspec
def forgetkit_metrics() -> Mapping[str, type[contracts.Metric]]:  # type: ignore[empty-body]
    """Provide metrics: numbers computed from the finished mega-batches of a run.

    Returns:
        Classes with the method ``compute``, by name: ``--metric NAME``.
    """


@hookspec
def forgetkit_observers() -> Mapping[str, type[contracts.Observer]]:  # type: ignore[empty-body]
    """Provide observers: loggers and displays that receive the events of a run.

    Returns:
        Classes with the method ``notify``, by name: ``--observer NAME``.
    """


@hookspec
def forgetkit_analyses() -> Mapping[str, type[contracts.Analysis]]:  # type: ignore[empty-body]
    """Provide analyses of a trained model.

    Returns:
        Classes with the method ``analyze``, by name: ``forgetkit analyze RUN NAME``.
    """


@hookspec
def forgetkit_executors() -> Mapping[str, type[contracts.Executor]]:  # type: ignore[empty-body]
    """Provide executors: they run the tasks of an ablation in other processes or on other machines.

    Returns:
        Classes with the method ``execute``, by name: ``--executor NAME``.
    """


@hookspec
def forgetkit_optimizer_state() -> Mapping[str, type[contracts.OptimizerStateRule]]:  # type: ignore[empty-body]
    """Provide rules for the state of optimizers: what it is for an entry that has not been stepped.

    Returns:
        Classes with the methods ``handles`` and ``fresh``, by name. The first that handles an optimizer is used.
    """


@hookspec
def forgetkit_commands() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Provide commands.

    Returns:
        A ``typer.Typer`` for each name, shown as ``forgetkit NAME``.
    """
