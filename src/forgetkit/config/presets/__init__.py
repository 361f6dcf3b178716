"""The protocols: options under one name, each with the reason for it and where that comes from.

A preset is a TOML file of options and of component tables, nothing else; where it is silent, ``clean`` speaks.
``reasons.toml`` says why each sets what it sets. An option of a component goes by ``kind.component.option``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from forgetkit.errors import ConfigError, suggest

NAMES = ("clean", "paper", "lure-code", "alma")
"""The presets there are; the first is the default."""


@dataclass(frozen=True)
class Reason:
    """Why a preset sets an option as it does: a sentence, and its source."""

    says: str
    source: str


@dataclass(frozen=True)
class PresetDifference:
    """An option in which two presets differ: both values, and the reason of each.

    A value is None where neither the preset nor ``clean`` sets one, so that a rule decides (see :func:`rule`); a
    reason is None where the preset is silent.
    """

    option: str
    value: Any
    other_value: Any
    reason: Reason | None
    other_reason: Reason | None


def read(name: str) -> dict[str, Any]:
    """What a preset sets: options by their names, the options of components in tables."""
    if name not in NAMES:
        raise ConfigError(f"no preset is called '{name}'; {suggest(name, NAMES)}")
    return _content(name)


def summary(name: str) -> str:
    """A preset in one line."""
    read(name)
    return str(_content("reasons")["presets"][name])


def rule(option: str) -> str:
    """What an option comes to that no preset in force sets; empty where no rule is needed."""
    return str(_content("reasons")["rules"].get(option, ""))


def reasons() -> Mapping[str, Mapping[str, Reason]]:
    """By option, in the order of ``clean``, and then by preset: why that preset sets it."""
    content = _content("reasons")
    options = {option: by_preset for option, by_preset in content.items() if option not in ("presets", "rules")}
    return {
        option: {preset: Reason(**reason) for preset, reason in by_preset.items()}
        for option, by_preset in options.items()
    }


def all_values(name: str) -> dict[str, Any]:
    """Every option's value under a preset: its own, else that of ``clean``."""
    values = {**_flatten(read("clean")), **_flatten(read(name))}
    order = list(reasons())
    return dict(sorted(values.items(), key=lambda item: order.index(item[0])))


def differences(name: str, other: str) -> list[PresetDifference]:
    """In what two presets differ, in the order of ``clean``."""
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
