"""What components of every kind promise: how they are written down."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from dataclasses import dataclass
from typing import Any

from forgetkit.errors import OptionError, suggest
from forgetkit.registry.spec import Option, build_component, format_spec, options_of, parse_spec, validate_component
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise


@dataclass(frozen=True, eq=False)
class KitCase:
    """A component under examination."""

    component: Any

    @property
    def name(self) -> str:
        """What it is called in a SPEC here."""
        return type(self.component).__name__.lower()

    @property
    def options(self) -> tuple[Option, ...]:
        """The options of its class."""
        self.require_dataclass()
        return options_of(type(self.component))

    def require_dataclass(self) -> None:
        """:class:`NotApplicable` where the class is none: then it has no options, and copies cannot be told equal."""
        if not dataclasses.is_dataclass(self.component):
            raise NotApplicable("the promise 'frozen-dataclass' is broken")

    def another(self) -> Any:
        """A copy that nobody has asked anything, with the options that its class wants to be examined with."""
        fresh = copy.deepcopy(self.component)
        wanted = getattr(self.component, "test_options", None)
        if not wanted:
            return fresh
        standard = {option.name: option.default for option in self.options}
        for name in wanted:
            if name not in standard:
                raise OptionError(f"test_options names '{name}'; {suggest(name, standard)}")
        # Whoever gave an option another value than the usual one means that value.
        untouched = {name: value for name, value in wanted.items() if getattr(fresh, name) == standard[name]}
        return dataclasses.replace(fresh, **untouched)

    def with_options(self, **values: Any) -> Any:
        """A copy with other values for some options."""
        return dataclasses.replace(self.another(), **values)


def summary(case: KitCase) -> None:
    """The first line of the class's docstring says what it is, as a sentence."""
    first = _docstring(type(case.component)).partition("\n")[0]
    if not first:
        raise Failure("the class has no docstring; give it one whose first line says what it is")
    if not first.endswith((".", ":", "?")):
        raise Failure(f"the docstring's first line '{first}' is no sentence: it ends without a full stop")


def frozen_dataclass(case: KitCase) -> None:
    """The class is a frozen dataclass."""
    kind = type(case.component)
    if not dataclasses.is_dataclass(kind):
        raise Failure(f"{kind.__name__} is no dataclass; write @dataclass(frozen=True) above it")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Failure(f"{kind.__name__} can be changed after it was made; write @dataclass(frozen=True) above it")


def described(case: KitCase) -> None:
    """A docstring that goes past its summary has a line `option: what it means` for each option."""
    text = "\n".join(_docstring(kind) for kind in type(case.component).__mro__ if dataclasses.is_dataclass(kind))
    if case.options and "\n" not in _docstring(type(case.component)).strip():
        raise NotApplicable("the docstring is a summary alone")
    for option in case.options:
        if not re.search(rf"^\s*`*{option.name}`*:", text, re.MULTILINE):
            raise Failure(
                f"the docstring does not describe the option '{option.name}': write a line '{option.name}: …'"
            )


def defaults(case: KitCase) -> None:
    """Each option's value is one that its own annotation allows, and stays as it is when it is checked."""
    case.require_dataclass()
    try:
        checked = validate_component(case.name, case.component)
    except OptionError as error:
        raise Failure(f"an option has a value that its own annotation refuses: {error}") from error
    if checked != case.component:
        raise Failure(f"checked against the annotations of its options, it becomes another component, {checked}")


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
    except Exception as error:  # a stranger's __reduce__ may raise anything
        raise Failure(f"it cannot be pickled: {type(error).__name__}: {error}") from error
    if again != case.component:
        raise Failure(f"a pickled copy is another component, {again}")


def _docstring(kind: type) -> str:
    """What its author wrote: a dataclass without a docstring is given its signature for one."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return "" if text.startswith(f"{kind.__name__}(") else text


def promises(kind: str) -> tuple[Promise, ...]:
    """Those of every kind, for ``kind``."""
    return promise(kind, summary, frozen_dataclass, described, defaults, spelling, pickles, needs="")
