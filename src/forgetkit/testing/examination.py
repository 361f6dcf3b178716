"""Examine a component: check every promise of its kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from forgetkit.errors import OptionError, UsageError, suggest
from forgetkit.registry import registry
from forgetkit.system.torch_settings import restored
from forgetkit.testing import (
    analyses,
    common,
    datasets,
    executors,
    importance,
    interventions,
    metrics,
    models,
    observers,
    reinit,
    replay,
)
from forgetkit.testing.case import KitCase
from forgetkit.testing.comparing import raised_error
from forgetkit.testing.importance import ImportanceCase, Oracle
from forgetkit.testing.promise import BrokenPromise, Failure, NotApplicable, Promise, Row, Status, Verdict

NONE_EXPECTED: Mapping[str, str] = MappingProxyType({})

_KINDS: Mapping[str, tuple[type[KitCase], tuple[Row, ...]]] = MappingProxyType(
    {
        "importance": (ImportanceCase, importance.PROMISES),
        "reinit": (reinit.ReinitCase, reinit.PROMISES),
        "replay": (replay.ReplayCase, replay.PROMISES),
        "interventions": (interventions.InterventionCase, interventions.PROMISES),
        "datasets": (datasets.DatasetCase, datasets.PROMISES),
        "models": (models.ModelCase, models.PROMISES),
        "metrics": (metrics.MetricCase, metrics.PROMISES),
        "observers": (observers.ObserverCase, observers.PROMISES),
        "analyses": (analyses.AnalysisCase, analyses.PROMISES),
        "executors": (executors.ExecutorCase, executors.PROMISES),
    }
)


def promises(kind: str) -> tuple[Promise, ...]:
    """Return the promises of a kind, in the order in which they are checked.

    Args:
        kind: A kind of component, such as ``importance``. Commands make no promises.

    Returns:
        The promises.

    Raises:
        OptionError: If there is no such kind.

    Example:
        >>> from forgetkit.testing import promises
        >>> promises("replay")[1].text
        'The answer is an int64 array of one dimension.'
    """
    if kind not in registry.KINDS:
        raise OptionError(f"there is no kind '{kind}' of components; {suggest(kind, registry.KINDS)}")
    if kind not in _KINDS:
        return ()
    return tuple(Promise(kind, *row) for row in (*_KINDS[kind][1], *common.PROMISES))


def examine(
    kind: str,
    component: Any,
    *,
    expected_failures: Mapping[str, str] = NONE_EXPECTED,
    oracle: Oracle | None = None,
) -> tuple[Verdict, ...]:
    """Check every promise of a kind.

    Args:
        kind: The kind of the component.
        component: An object, a class whose options all have defaults, or a SPEC.
        expected_failures: The promises that the component is known to break, each with the reason. The
            ``expected_failures`` of its class are added. A promise among them that is not broken counts as broken.
        oracle: For a criterion, a function ``(model, inputs, targets) -> {name: tensor}`` that gives the scores of a
            linear network in closed form.

    Returns:
        A verdict on each promise, in the order of :func:`promises`.

    Raises:
        OptionError: If the kind, a name in ``expected_failures`` or the SPEC is unknown, if the class cannot be made
            without options, or if ``oracle`` is given for another kind.

    Example:
        >>> from forgetkit.testing import examine
        >>> {verdict.status for verdict in examine("metrics", "cer")}
        {'kept'}
    """
    return _examine(kind, _build_component(kind, component), promises(kind), expected_failures, oracle)


def check(
    component: Any,
    promise: Promise,
    *,
    expected_failures: Mapping[str, str] = NONE_EXPECTED,
    oracle: Oracle | None = None,
) -> Verdict:
    """Check one promise.

    Args:
        component: As for :func:`examine`.
        promise: One of :func:`promises`.
        expected_failures: As for :func:`examine`.
        oracle: As for :func:`examine`.

    Returns:
        The verdict.

    Raises:
        BrokenPromise: If the promise is broken.
        OptionError: As for :func:`examine`.

    Example:
        >>> from forgetkit.testing import check, promises
        >>> check("cer", promises("metrics")[0]).status
        'kept'
    """
    built = _build_component(promise.kind, component)
    needed = [p for p in promises(promise.kind) if p == promise or p.name == promise.needs]
    verdicts = _examine(promise.kind, built, needed, expected_failures, oracle)
    verdict = next(v for v in verdicts if v.promise == promise)
    _require_kept(built, [verdict])
    return verdict


def require(
    kind: str, component: Any, expected_failures: Mapping[str, str], oracle: Oracle | None = None
) -> tuple[Verdict, ...]:
    """As :func:`examine`, but raise ``BrokenPromise`` if a promise is broken."""
    built = _build_component(kind, component)
    verdicts = _examine(kind, built, promises(kind), expected_failures, oracle)
    _require_kept(built, verdicts)
    return verdicts


def require_known(kind: str, names: Iterable[str]) -> None:
    """Raise ``OptionError`` if a name is none of the promises of ``kind``."""
    known = [promise.name for promise in promises(kind)]
    for name in names:
        if name not in known:
            raise OptionError(f"expected_failures: {kind} promises no '{name}'; {suggest(name, known)}")


def _require_kept(component: Any, verdicts: Iterable[Verdict]) -> None:
    broken = [verdict for verdict in verdicts if verdict.status == "broken"]
    if not broken:
        return
    promise, reason = broken[0].promise, broken[0].reason
    others = f"; broken as well: {', '.join(v.promise.name for v in broken[1:])}" if broken[1:] else ""
    raise BrokenPromise(
        f"{type(component).__name__} breaks the promise '{promise.name}' of {promise.kind}: {reason}{others}; "
        f"the promise: {promise.text} Mend it, or name it in expected_failures with the reason"
    )


def _build_component(kind: str, component: Any) -> Any:
    """Return the component as an object; one that is an object stays as it is, so that each fault is found."""
    if isinstance(component, str):
        return registry.load().make(kind, component)[1]
    if not inspect.isclass(component):
        return component
    try:
        return component()
    except (TypeError, ValueError, UsageError) as error:
        raise OptionError(
            f"{component.__name__} cannot be made without options ({error}): give an object or a SPEC"
        ) from error


def _examine(
    kind: str, component: Any, checked: Sequence[Promise], expected: Mapping[str, str], oracle: Oracle | None
) -> tuple[Verdict, ...]:
    expected = {**getattr(component, "expected_failures", {}), **expected}
    require_known(kind, expected)
    if oracle is not None and kind != "importance":
        raise OptionError(f"oracle= is about the scores of a criterion; for {kind} leave it out")
    case = ImportanceCase(component, oracle) if kind == "importance" else _KINDS.get(kind, (KitCase,))[0](component)
    return tuple(_verdicts(checked, case, expected))


def _verdicts(checked: Sequence[Promise], case: KitCase, expected: Mapping[str, str]) -> Iterator[Verdict]:
    """Check one promise after the other, and skip those that need a promise that is not kept."""
    skipped: dict[str, str] = {}
    for promise in checked:
        status, reason = _outcome(promise, case, skipped.get(promise.needs, ""))
        if status != "kept":
            skipped[promise.name] = "it does not run" if status == "broken" else reason
        excuse = expected.get(promise.name)
        if excuse is not None and status == "broken":
            status, reason = "expected", f"{excuse} ({reason})"
        elif excuse is not None:
            fact = "is kept" if status == "kept" else "does not apply"
            status, reason = "broken", f"it is among the expected failures, but {fact}: remove it from them"
        yield Verdict(promise, status, reason)


def _outcome(promise: Promise, case: KitCase, skipped: str) -> tuple[Status, str]:
    if skipped:
        return "not applicable", skipped
    try:
        with restored([]):  # a setting that is left changed breaks 'leaves-settings' and no other promise
            promise.verify(case)
    except Failure as broken:
        return "broken", str(broken)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except UsageError as refusal:  # a component may refuse a network
        return "not applicable", f"it refuses: {refusal}"
    except Exception as error:  # noqa: BLE001 - a component may raise anything
        return "broken", raised_error(error)
    return "kept", ""
