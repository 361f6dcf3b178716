"""One function per kind, for a test of a single line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetkit.testing.examination import NONE_EXPECTED, require
from forgetkit.testing.importance import Oracle
from forgetkit.testing.promise import Verdict


def check_importance(
    component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED, oracle: Oracle | None = None
) -> tuple[Verdict, ...]:
    """Check every promise of a criterion.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.
        oracle: The closed form of the scores of a linear network, as for :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_importance("magnitude")) == len(testing.promises("importance"))
        True
    """
    return require("importance", component, expected_failures, oracle)


def check_reinit(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of a reset method.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_reinit("masked")) == len(testing.promises("reinit"))
        True
    """
    return require("reinit", component, expected_failures)


def check_replay(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of a replay strategy.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_replay("full")) == len(testing.promises("replay"))
        True
    """
    return require("replay", component, expected_failures)


def check_intervention(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of an intervention.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from dataclasses import dataclass
        >>> from forgetkit import testing
        >>> from forgetkit.contracts import Intervention
        >>> @dataclass(frozen=True)
        ... class Clip(Intervention):
        ...     '''Clips each gradient to [-0.001, 0.001].'''
        ...     def before_step(self, moment):
        ...         for parameter in moment.model.parameters():
        ...             if parameter.grad is not None:
        ...                 parameter.grad.clamp_(-0.001, 0.001)
        >>> len(testing.check_intervention(Clip)) == len(testing.promises("interventions"))
        True
    """
    return require("interventions", component, expected_failures)


def check_dataset(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of a data set.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_dataset("digits")) == len(testing.promises("datasets"))
        True
    """
    return require("datasets", component, expected_failures)


def check_model(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of a model builder.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_model("mlp")) == len(testing.promises("models"))
        True
    """
    return require("models", component, expected_failures)


def check_metric(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of a metric.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_metric("cer")) == len(testing.promises("metrics"))
        True
    """
    return require("metrics", component, expected_failures)


def check_observer(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of an observer.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from dataclasses import dataclass
        >>> from forgetkit import testing
        >>> @dataclass(frozen=True)
        ... class Silent:
        ...     '''Ignores every event.'''
        ...     def notify(self, event): ...
        >>> len(testing.check_observer(Silent)) == len(testing.promises("observers"))
        True
    """
    return require("observers", component, expected_failures)


def check_analysis(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of an analysis.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_analysis("calibration")) == len(testing.promises("analyses"))
        True
    """
    return require("analyses", component, expected_failures)


def check_executor(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Check every promise of an executor.

    Args:
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that it is known to break, each with the reason; see :func:`examine`.

    Returns:
        A verdict on each promise; none is ``broken``.

    Raises:
        BrokenPromise: If a promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit import testing
        >>> len(testing.check_executor("local")) == len(testing.promises("executors"))
        True
    """
    return require("executors", component, expected_failures)
