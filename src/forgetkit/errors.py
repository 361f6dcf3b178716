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
    """An option has no effect in this run; ``option`` is its name."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class InapplicableError(UsageError):
    """An analysis cannot be applied to this run or model; the message says why."""


class DataError(UsageError):
    """A data set is missing, empty, corrupt or inconsistent."""


class RunDirectoryError(UsageError):
    """The directory of a run cannot be created, read or resumed."""


class RunInUseError(RunDirectoryError):
    """Another process has this run in use."""


class RecordError(ForgetkitError):
    """The files of a run cannot be written: the disk is full or the folder missing."""


class InsufficientMemoryError(ForgetkitError):
    """Memory ran out, in the process or on the device."""


class ComponentError(ForgetkitError):
    """A component broke a promise of its contract."""


class NoMatchError(UsageError, ComponentError):
    """A policy matches no parameter of this model."""


class LeakError(ForgetkitError):
    """A sample was requested that has not arrived, was given up, or belongs to another part."""


class DivergedError(ForgetkitError):
    """The loss is no longer finite."""


def suggest(name: str, known: Iterable[str]) -> str:
    """List the known names in a sentence, with a suggestion if one is similar to ``name``."""
    names = sorted(known)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listing = ", ".join(names)
    return f"did you mean '{near[0]}'? There are: {listing}" if near else f"there are: {listing}"
