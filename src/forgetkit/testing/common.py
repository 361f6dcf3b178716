"""The promises of components of every kind: how a class is written down."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re

from forgetkit.errors import OptionError
from forgetkit.registry.spec import build_component, format_spec, parse_spec, validate_component
from forgetkit.testing.case import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, row


def summary(case: KitCase) -> None:
    """The first line of the class's docstring is a sentence that says what the component is."""
    first = _docstring(type(case.component)).partition("\n")[0]
    if not first:
        raise Failure("the class has no docstring; add one whose first line says what it is")
    if not first.endswith((".", ":", "?")):
        raise Failure(f"the docstring's first line '{first}' is no sentence; end it with a full stop")


def frozen_dataclass(case: KitCase) -> None:
    """The class is a frozen dataclass."""
    kind = type(case.component)
    if not dataclasses.is_dataclass(kind):
        raise Failure(f"{kind.__name__} is no dataclass; write @dataclass(frozen=True) above it")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Failure(f"{kind.__name__} is mutable; write @dataclass(frozen=True) above it")


def described(case: KitCase) -> None:
    """A docstring of more than a summary has a line `option: what it means` for each option."""
    text = "\n".join(_docstring(kind) for kind in type(case.component).__mro__ if dataclasses.is_dataclass(kind))
    if case.options and "\n" not in _docstring(type(case.component)).strip():
        raise NotApplicable("the docstring is a summary alone")
    for option in case.options:
        if not re.search(rf"^\s*`*{option.name}`*:", text, re.MULTILINE):
            raise Failure(f"the docstring does not describe the option '{option.name}'; add a line '{option.name}: …'")


def defaults(case: KitCase) -> None:
    """Each option's value is valid for its annotation, and validation does not change it."""
    case.require_dataclass()
    try:
        checked = validate_component(case.name, case.component)
    except OptionError as error:
        raise Failure(f"an option's value is not valid for its annotation: {error}") from error
    if checked != case.component:
        raise Failure(f"validating its options changes the component to {checked}")


def spelling(case: KitCase) -> None:
    """The SPEC that spells every option out gives an equal component."""
    try:
        defaults(case)
    except Failure as broken:
        raise NotApplicable("the promise 'defaults' is broken") from broken
    text = format_spec(case.name, case.component)
    try:
        again = build_component(case.name, type(case.component), parse_spec(text))
    except OptionError as error:
        raise Failure(f"its own SPEC '{text}' is refused: {error}") from error
    if again != case.component:
        raise Failure(f"its own SPEC '{text}' gives another component, {again}")


def pickles(case: KitCase) -> None:
    """A pickled copy is equal, so that it can be sent to another process."""
    case.require_dataclass()
    if "<locals>" in type(case.component).__qualname__:
        raise NotApplicable("its class is defined inside a function, where no other process can find it")
    try:
        again = pickle.loads(pickle.dumps(case.component))
    except Exception as error:  # the component's __reduce__ may raise anything
        raise Failure(f"it cannot be pickled: {type(error).__name__}: {error}") from error
    if again != case.component:
        raise Failure(f"a pickled copy is another component, {again}")


def _docstring(kind: type) -> str:
    """Return the docstring as its author wrote it; a dataclass without one gets its signature, which does not count."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return "" if text.startswith(f"{kind.__name__}(") else text


PROMISES = tuple(row(check, needs="") for check in (summary, frozen_dataclass, described, defaults, spelling, pickles))
