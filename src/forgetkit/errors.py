"""Every error a user can meet: one family, one line each.

A message says what is wrong, where, and what to do. The command line prints it without a
traceback; ``exit_status`` is what it then returns.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ForgetkitError(Exception):
    """Base of the family. Status 1: the run failed."""

    exit_status: ClassVar[int] = 1


class UsageError(ForgetkitError):
    """The command line, a configuration or a file is wrong. Status 2."""

    exit_status: ClassVar[int] = 2


class OptionError(UsageError):
    """A component's name or one of its options is unknown or out of range."""


class ConfigError(UsageError):
    """A run's configuration is wrong or contradicts itself."""


class UnusedOptionError(ConfigError):
    """An option was given that could not act in this run; ``option`` is its name."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class InapplicableError(UsageError):
    """A question makes no sense for what it was put to; the message says why."""


class DataError(UsageError):
    """A data set is missing, empty, corrupt or inconsistent."""


class RunDirectoryError(UsageError):
    """A run's directory cannot be made, read or continued."""


class RunInUseError(RunDirectoryError):
    """Another process works on this run."""


class RecordError(ForgetkitError):
    """A run's record can no longer be written: the disk is full, or the folder gone."""


class InsufficientMemoryError(ForgetkitError):
    """There was no memory left, in the process or on the device."""


class ComponentError(ForgetkitError):
    """A component broke a promise of its contract."""


class NoMatchError(UsageError, ComponentError):
    """A policy matched no parameter of this model: never a silent no-op."""


class LeakError(ForgetkitError):
    """A sample was asked for that was not revealed, was given up, or belongs to another part."""


class DivergedError(ForgetkitError):
    """The loss is no longer finite."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence that lists ``known`` and, where one is near, asks whether it was meant."""
    names = sorted(known)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listing = ", ".join(names)
    return f"did you mean '{near[0]}'? There are: {listing}" if near else f"there are: {listing}"
