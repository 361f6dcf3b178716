"""The presets: named protocols, with a reason and a source for each value.

A preset is a TOML file with options of a run and tables with options of components; ``clean`` fills what it does not
set. ``reasons.toml`` has the reasons. The name of a component's option is ``kind.component.option``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from forgetkit.errors import ConfigError, suggest

NAMES = ("clean", "paper", "lure-code", "alma")
"""The names of the presets; the first is the default."""


@dataclass(frozen=True)
class Reason:
    """Why a preset sets a value: a sentence, and its source."""

    says: str
    source: str


@dataclass(frozen=True)
class PresetDifference:
    """An option with different values in two presets.

    A value is None if neither the preset nor ``clean`` sets it, so that a rule decides (see :func:`rule`); a reason is
    None if the preset does not set the option.
    """

    option: str
    value: Any
    other_value: Any
    reason: Reason | None
    other_reason: Reason | None


def read(name: str) -> dict[str, Any]:
    """The values of a preset: options of a run by name, options of components in tables."""
    if name not in NAMES:
        raise ConfigError(f"no preset is called '{name}'; {suggest(name, NAMES)}")
    return _content(name)


def summary(name: str) -> str:
    """One line on a preset."""
    read(name)
    return str(_content("reasons")["presets"][name])


def rule(option: str) -> str:
    """The rule that decides an option if no preset sets it; empty if there is none."""
    return str(_content("reasons")["rules"].get(option, ""))


def reasons() -> Mapping[str, Mapping[str, Reason]]:
    """The reasons by option, in the order of ``clean``, and then by preset."""
    content = _content("reasons")
    options = {option: by_preset for option, by_preset in content.items() if option not in ("presets", "rules")}
    return {
        option: {preset: Reason(**reason) for preset, reason in by_preset.items()}
        for option, by_preset in options.items()
    }


def all_values(name: str) -> dict[str, Any]:
    """The value of each option: the preset's own, else that of ``clean``."""
    values = {**_flatten(read("clean")), **_flatten(read(name))}
    order = list(reasons())
    return dict(sorted(values.items(), key=lambda item: order.index(item[0])))


def differences(name: str, other: str) -> list[PresetDifference]:
    """The options in which two presets differ, in the order of ``clean``."""
    mine, theirs = all_values(name), all_values(other)
    return [
        PresetDifference(option, mine.get(option), theirs.get(option), says.get(name), says.get(other))
        for option, says in reasons().items()
        if mine.get(option) != theirs.get(option)
    ]


def _content(stem: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath(f"{stem}.toml").read_text(encoding="utf-8"))


def _flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    flattened: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flattened |= {f"{key}.{inner}": setting for inner, setting in _flatten(value).items()}
        else:
            flattened[key] = value
    return flattened
