"""A component under examination: copies of it, what it does on an input, and how two records compare."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from forgetkit.errors import OptionError, UsageError, suggest
from forgetkit.registry.spec import Option, options_of
from forgetkit.testing import comparing
from forgetkit.testing.promise import Failure, NotApplicable, Row


@dataclass(frozen=True, eq=False)
class KitCase:
    """A component under examination; each kind says how to call one."""

    component: Any

    answer: ClassVar[str] = "the answer"
    """The component's result, as a message names it."""
    generator: ClassVar[str] = "a generator with a fixed seed"
    """The source of random numbers that the component may use."""
    form: ClassVar[tuple[Row, ...]] = ()
    """The promises about the form of the result; each check takes a record."""

    def perform(self, component: Any, given: Any, seed: int) -> Any:
        """Call ``component`` on ``given`` under a global random state seeded with ``seed``; return a record."""
        raise NotImplementedError

    def act(self) -> object:
        """Call a fresh copy once, as a host does, without a seed."""
        raise NotImplementedError

    @contextmanager
    def prepared(self) -> Iterator[Callable[[], object]]:
        """Yield a call as :meth:`act`; what the host does before and after it happens outside the call."""
        yield self.act

    def usual_input(self) -> Any:
        """Return what the component is called on unless a promise says otherwise."""
        return None

    def outcome(self, record: Any) -> Any:
        """Return the part of a record that two calls must agree on, to the bit."""
        return record

    def require_comparable(self, one: Any, other: Any) -> None:
        """Raise ``NotApplicable`` if two records may differ because another promise is broken."""

    @property
    def name(self) -> str:
        """The component's name in a SPEC of the kit."""
        return type(self.component).__name__.lower()

    @property
    def options(self) -> tuple[Option, ...]:
        """The options of its class."""
        self.require_dataclass()
        return options_of(type(self.component))

    def option(self, name: str) -> Option | None:
        """Return the option of that name, or None."""
        return next((option for option in self.options if option.name == name), None)

    def require_dataclass(self) -> None:
        """Raise ``NotApplicable`` if the class is no dataclass: it has no options, and copies cannot be compared."""
        if not dataclasses.is_dataclass(self.component):
            raise NotApplicable("the promise 'frozen-dataclass' is broken")

    def another(self) -> Any:
        """Return an unused copy with its class's ``test_options``, except for options that were set explicitly."""
        fresh = copy.deepcopy(self.component)
        wanted = getattr(self.component, "test_options", None)
        if not wanted:
            return fresh
        standard = {option.name: option.default for option in self.options}
        for name in wanted:
            if name not in standard:
                raise OptionError(f"test_options names '{name}'; {suggest(name, standard)}")
        untouched = {name: value for name, value in wanted.items() if getattr(fresh, name) == standard[name]}
        return dataclasses.replace(fresh, **untouched)

    def with_options(self, **values: Any) -> Any:
        """Return an unused copy with other values for some options."""
        return dataclasses.replace(self.another(), **values)

    @cached_property
    def _records(self) -> dict[tuple[Any, int], Any]:
        return {}

    def observe(self, given: Callable[[], Any] | None = None, *, component: Any = None, seed: int = 0) -> Any:
        """Return the record of a call: of ``component``, or of a fresh copy; that record is kept."""
        if component is not None:
            return self.perform(component, (given or self.usual_input)(), seed)
        key = (given, seed)
        if key not in self._records:
            self._records[key] = self.perform(self.another(), (given or self.usual_input)(), seed)
        return self._records[key]

    def borrowed(self, given: Callable[[], Any] | None = None, *, component: Any = None, seed: int = 0) -> Any:
        """As :meth:`observe`, for a promise that is not about whether the component copes with the input."""
        try:
            return self.observe(given, component=component, seed=seed)
        except (UsageError, NotApplicable):
            raise
        except Exception as error:
            raise NotApplicable(f"on this input {comparing.raised_error(error)}") from error

    @property
    def usual(self) -> Any:
        """The record on the usual input."""
        return self.borrowed()

    def faults(self, record: Any) -> Mapping[str, str]:
        """Return the promises about the form of the result that a record breaks, each with the reason."""
        found = {}
        for rule in self.form:
            try:
                rule.verify(record)
            except Failure as broken:
                found[rule.name] = str(broken)
        return found

    def sound(self, given: Callable[[], Any] | None = None, *, component: Any = None) -> Any:
        """As :meth:`borrowed`, for a promise that needs a result in the right form."""
        record = self.borrowed(given, component=component)
        for name in self.faults(record):
            raise NotApplicable(f"the promise '{name}' is broken")
        return record

    def require_as_sound(self, observe: Callable[[], Any], where: str = "") -> None:
        """Raise ``Failure`` if the record of another call has a fault that the usual one does not have."""
        usual = self.faults(self.usual)
        for name, reason in self.faults(observe()).items():
            if name not in usual:
                raise Failure(f"{where}{reason}")

    def difference(self, one: Any, other: Any) -> str:
        """Return what differs between two records, or an empty text."""
        first, second = self.outcome(one), self.outcome(other)
        if comparing.same_bits(first, second):
            return ""
        if not isinstance(first, Mapping):
            return self.answer
        return f"{self.answer} of '{min(map(str, comparing.differing(first, second)), default='?')}'"

    @cached_property
    def repeats(self) -> bool:
        """Whether two copies agree."""
        return not self.difference(self.usual, self.borrowed(component=self.another()))

    def require_repeatable(self) -> None:
        """Raise ``NotApplicable`` if two copies disagree even under one random state."""
        if not self.repeats:
            raise NotApplicable("the promise 'deterministic' is broken")

    def variation(self, given: Callable[[], Any] | None = None) -> str:
        """Return what differs between two global random states, or an empty text."""
        return self.difference(self.borrowed(given), self.borrowed(given, seed=1))

    def require_random_state(self) -> None:
        """Raise ``Failure`` if a call changes the global random state."""
        with self.prepared() as call, comparing.watch_random_state():
            call()

    def require_settings(self) -> None:
        """Raise ``Failure`` if a call changes a process-wide setting."""
        with self.prepared() as call, comparing.watch_settings():
            call()
