"""Arms, a value on each axis: their text, and the arm that a user's text means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from forgetkit.errors import ConfigError, suggest
from forgetkit.registry.spec import mask_quoted

Arm = Mapping[str, str]
Axes = Mapping[str, Sequence[str]]


def format_arm(arm: Arm) -> str:
    """``importance=snip, replay=full``."""
    return ", ".join(f"{axis}={value}" for axis, value in arm.items())


def matches(arm: Arm, combination: Arm) -> bool:
    """Whether an arm has the values of ``combination``, which may leave out axes."""
    return all(arm.get(axis) == value for axis, value in combination.items())


def find_baseline(arms: Iterable[Arm], combination: Arm) -> dict[str, str]:
    """The one arm that ``combination`` matches; raises ``ConfigError`` if it matches none or several."""
    found = [arm for arm in arms if matches(arm, combination)]
    if len(found) != 1:
        which = "no arm" if not found else f"{len(found)} arms"
        raise ConfigError(f"baseline: {format_arm(combination)} means {which}: give a value on each axis that differs")
    return dict(found[0])


def parse_arm(option: str, text: str, axes: Axes) -> dict[str, str]:
    """Parse ``importance=random,replay=full``, or the value of one axis alone if no other axis has it.

    A comma ends a value only if an axis and ``=`` follow, so that a value may be a SPEC with options. ``option`` begins
    the message of the ``ConfigError`` for a text that is no arm.
    """
    having = [axis for axis, values in axes.items() if text in values]
    if len(having) > 1:
        raise ConfigError(f"{option} {text}: {', '.join(having)} have that value; write AXIS=VALUE")
    if having:
        return {having[0]: text}
    found: dict[str, str] = {}
    for axis, value in _pieces(option, text, axes):
        if value not in axes[axis]:
            raise ConfigError(f"{option} {text}: '{value}' is no value of {axis}; {suggest(value, axes[axis])}")
        if found.setdefault(axis, value) != value:
            raise ConfigError(f"{option} {text}: {axis} has two values there")
    return found


def _pieces(option: str, text: str, axes: Axes) -> list[tuple[str, str]]:
    """Pairs of axis and value."""
    heads = list(re.finditer(rf"(?:^|,)\s*({'|'.join(map(re.escape, axes))})=", mask_quoted(text)))
    if not heads or heads[0].start() > 0:
        values = {value for values in axes.values() for value in values}
        raise ConfigError(f"{option} {text}: write AXIS=VALUE, with axes {', '.join(axes)}; {suggest(text, values)}")
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [(head[1], text[head.end() : end].strip()) for head, end in zip(heads, ends, strict=True)]
