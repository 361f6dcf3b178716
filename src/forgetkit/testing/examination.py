"""Examining a component: every promise of its kind, one after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    observing,
    reinit,
    replay,
)
from forgetkit.testing.analyses import AnalysisCase
from forgetkit.testing.comparing import raised_error
from forgetkit.testing.executors import ExecutorCase
from forgetkit.testing.importance import ImportanceCase, Oracle
from forgetkit.testing.interventions import InterventionCase
from forgetkit.testing.models import ModelCase
from forgetkit.testing.promise import BrokenPromise, Failure, NotApplicable, Promise, Status, Verdict
from forgetkit.testing.reinit import ReinitCase

NONE_EXPECTED: Mapping[str, str] = MappingProxyType({})

_PROMISES: Mapping[str, Callable[[], tuple[Promise, ...]]] = MappingProxyType(
    {
        "importance": importance.promises,
        "reinit": reinit.promises,
        "replay": replay.promises,
        "interventions": interventions.promises,
        "datasets": datasets.promises,
        "models": models.promises,
        "metrics": metrics.promises,
        "observers": observers.promises,
        "analyses": analyses.promises,
        "executors": executors.promises,
    }
)

_WATCHING = ("importance", "reinit")
"""The kinds whose components may be interventions too."""

_CASES: Mapping[str, type[common.KitCase]] = MappingProxyType(
    {
        "reinit": ReinitCase,
        "interventions": InterventionCase,
        "models": ModelCase,
        "analyses": AnalysisCase,
        "executors": ExecutorCase,
    }
)


def promises(kind: str) -> tuple[Promise, ...]:
    """What components of ``kind`` promise, in the order in which it is looked at; nothing is asked of commands."""
    if kind not in registry.KINDS:
        raise OptionError(f"there is no kind '{kind}' of components; {suggest(kind, registry.KINDS)}")
    if kind not in _PROMISES:
        return ()
    beside = observing.promises(kind) if kind in _WATCHING else ()
    return (*_PROMISES[kind](), *beside, *common.promises(kind))


def examine(
    kind: str,
    component: Any,
    *,
    expected_failures: Mapping[str, str] = NONE_EXPECTED,
    oracle: Oracle | None = None,
) -> tuple[Verdict, ...]:
    """A verdict on each promise of ``kind``.

    ``component`` is an object, a class whose options all have defaults, or a SPEC. ``expected_failures`` names
    promises that it is known to break, each with the reason; what the class itself says in ``expected_failures`` is
    added. One that is kept after all counts as broken. ``oracle(model, inputs, targets)`` gives the
    scores of a criterion in closed form for a linear network, a tensor for each name.
    """
    made = _build_component(kind, component)
    expected = _expected(kind, made, expected_failures)
    case = _case(kind, made, oracle)
    return tuple(_verdicts(promises(kind), case, expected))


def check(
    component: Any,
    promise: Promise,
    *,
    expected_failures: Mapping[str, str] = NONE_EXPECTED,
    oracle: Oracle | None = None,
) -> Verdict:
    """The verdict on one promise; raises :class:`BrokenPromise` where it is broken."""
    made = _build_component(promise.kind, component)
    expected = _expected(promise.kind, made, expected_failures)
    case = _case(promise.kind, made, oracle)
    needed = [p for p in promises(promise.kind) if p == promise or p.name == promise.needs]
    verdict = next(v for v in _verdicts(needed, case, expected) if v.promise == promise)
    _require_kept(made, [verdict])
    return verdict


def require(
    kind: str, component: Any, expected_failures: Mapping[str, str], oracle: Oracle | None = None
) -> tuple[Verdict, ...]:
    """As :func:`examine`; raises :class:`BrokenPromise` where one is broken."""
    verdicts = examine(kind, component, expected_failures=expected_failures, oracle=oracle)
    _require_kept(_build_component(kind, component), verdicts)
    return verdicts


def require_known(kind: str, names: Iterable[str]) -> None:
    """``OptionError`` where a name is none of the promises of ``kind``."""
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
        f"what is promised: {promise.text} Mend it, or name it in expected_failures with the reason"
    )


def _build_component(kind: str, component: Any) -> Any:
    """The component as an object. One that is given as an object stays as it is: its faults are told one by one."""
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


def _expected(kind: str, component: Any, given: Mapping[str, str]) -> Mapping[str, str]:
    """Those given and those that the class names itself."""
    expected = {**getattr(component, "expected_failures", {}), **given}
    require_known(kind, expected)
    return expected


def _case(kind: str, component: Any, oracle: Oracle | None) -> common.KitCase:
    if kind == "importance":
        return ImportanceCase(component, oracle)
    if oracle is not None:
        raise OptionError(f"oracle= is about the scores of a criterion; for {kind} leave it out")
    return _CASES.get(kind, common.KitCase)(component)


def _verdicts(wanted: Sequence[Promise], case: common.KitCase, expected: Mapping[str, str]) -> Iterator[Verdict]:
    """One after the other; what a component that does not run promises beside its form is not looked at."""
    idle: dict[str, str] = {}
    for promise in wanted:
        status, reason = _outcome(promise, case, idle.get(promise.needs, ""))
        if status != "kept":
            idle[promise.name] = "it does not run" if status == "broken" else reason
        yield _apply_expectations(promise, status, reason, expected.get(promise.name))


def _outcome(promise: Promise, case: common.KitCase, idle: str) -> tuple[Status, str]:
    if idle:
        return "not applicable", idle
    try:
        with restored([]):  # what it leaves behind breaks the promise about settings, and no other
            promise.verify(case)
    except Failure as broken:
        return "broken", str(broken)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except UsageError as refusal:  # a component may say that it is not for such a network
        return "not applicable", f"it refuses: {refusal}"
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
        return "broken", raised_error(error)
    return "kept", ""


def _apply_expectations(promise: Promise, status: Status, reason: str, excuse: str | None) -> Verdict:
    """With the excuse, if there is one: what was expected to be broken must be."""
    if excuse is None:
        return Verdict(promise, status, reason)
    if status == "broken":
        return Verdict(promise, "expected", f"{excuse} ({reason})")
    return Verdict(promise, "broken", f"it is among the expected failures, but {_but(status)}: take it out of them")


def _but(status: Status) -> str:
    return "is kept" if status == "kept" else "does not apply"
