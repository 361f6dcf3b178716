"""What a plugin may offer: one hook, one docstring each.

Every hook takes nothing and returns a mapping from names to component classes. pluggy finds
them once, when the registry is built; the run itself calls the components, never a hook.
What each class must do is written in :mod:`forgetkit.contracts`.
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


@hookspec
def forgetkit_importance() -> Mapping[str, type[contracts.Importance]]:  # type: ignore[empty-body]
    """Offer criteria that say how much each parameter entry matters (higher = keep)."""


@hookspec
def forgetkit_reinit() -> Mapping[str, type[contracts.Reinit]]:  # type: ignore[empty-body]
    """Offer ways of forgetting: which entries get a new value between two mega-batches, and which value."""


@hookspec
def forgetkit_replay() -> Mapping[str, type[contracts.Replay]]:  # type: ignore[empty-body]
    """Offer strategies that say which seen samples may be trained on again."""


@hookspec
def forgetkit_interventions() -> Mapping[str, type[contracts.Intervention]]:  # type: ignore[empty-body]
    """Offer what acts while training: each step, each epoch, or as a term of the loss."""


@hookspec
def forgetkit_datasets() -> Mapping[str, type[contracts.DatasetSource]]:  # type: ignore[empty-body]
    """Offer sources of training and test samples."""


@hookspec
def forgetkit_models() -> Mapping[str, type[contracts.ModelBuilder]]:  # type: ignore[empty-body]
    """Offer networks."""


@hookspec
def forgetkit_metrics() -> Mapping[str, type[contracts.Metric]]:  # type: ignore[empty-body]
    """Offer numbers computed from the finished mega-batches of a run."""


@hookspec
def forgetkit_observers() -> Mapping[str, type[contracts.Observer]]:  # type: ignore[empty-body]
    """Offer listeners to the events of a run: loggers, screens."""


@hookspec
def forgetkit_analyses() -> Mapping[str, type[contracts.Analysis]]:  # type: ignore[empty-body]
    """Offer questions to put to a trained model."""


@hookspec
def forgetkit_executors() -> Mapping[str, type[contracts.Executor]]:  # type: ignore[empty-body]
    """Offer ways to do many tasks: in other processes, on other machines."""


@hookspec
def forgetkit_commands() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Offer commands: ``{name: typer.Typer}``, shown as ``forgetkit NAME``."""
