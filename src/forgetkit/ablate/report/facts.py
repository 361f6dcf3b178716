"""What a page says beside its table and pictures: counts, losses, configurations, departures, provenance."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forgetkit.ablate.outcome import Outcomes, Status
from forgetkit.ablate.plots import reading
from forgetkit.ablate.plots.looks import names
from forgetkit.ablate.render.words import plain
from forgetkit.errors import OptionError
from forgetkit.options import Spec, parse

_OWN = ("seed", "out", "name")
"""Options in which every cell differs from every other."""
_STATUSES: tuple[Status, ...] = ("completed", "failed", "diverged", "missing")


@dataclass(frozen=True)
class Lost:
    """Cells of one arm that have no result for one reason."""

    arm: str
    seeds: str
    status: Status
    reason: str


@dataclass(frozen=True)
class Options:
    """Entries of a configuration: those in which arms differ, a column each, and those that all share.

    An arm with several values, one seed unlike another, has them all; a dash stands for what is not known. Where arms
    differ, a component is written with those of its options in which others of its name differ from it.
    """

    differ: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    shared: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Made:
    """One cell, and how to find it again."""

    arm: str
    seed: int
    status: Status
    digest: str


@dataclass(frozen=True)
class Facts:
    """All of it, every text one line without control characters."""

    title: str
    baseline: str
    arms: int
    seeds: tuple[int, ...]
    counts: tuple[tuple[Status, int], ...]
    lost: tuple[Lost, ...]
    config: Options
    presets: str
    departures: Options
    versions: tuple[tuple[str, str], ...]
    cells: tuple[Made, ...]


def gather(outcomes: Outcomes) -> Facts:
    """Read it off the outcomes; what a result lacks or has in another form is left out."""
    called = {_key(outcomes, arm): name for arm, name in zip(outcomes.arms(), names(outcomes).values(), strict=True)}
    found = [cell.status for cell in outcomes.cells]
    baseline = outcomes.baseline or {}
    return Facts(
        title=plain(outcomes.title) or "An ablation",
        baseline=plain(", ".join(f"{axis}={value}" for axis, value in baseline.items())),
        arms=len(called),
        seeds=tuple(sorted({cell.seed for cell in outcomes.cells})),
        counts=tuple((status, found.count(status)) for status in _STATUSES if status in found),
        lost=_lost(outcomes, called),
        config=_compared(outcomes, called, _config),
        presets=" | ".join(dict.fromkeys(said(r["preset"]) for r in _results(outcomes) if r.get("preset"))),
        departures=_compared(outcomes, called, _departures),
        versions=_versions(outcomes),
        cells=tuple(
            Made(called[_key(outcomes, cell.arm)], cell.seed, cell.status, plain(cell.digest)[:16])
            for cell in outcomes.cells
        ),
    )


def said(value: Any) -> str:
    """A value of a configuration as one line."""
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or "none"
    if isinstance(value, Mapping):
        return plain(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else plain(str(value))


def _key(outcomes: Outcomes, arm: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(arm[axis] for axis in outcomes.axes)


def _results(outcomes: Outcomes) -> list[Mapping[str, Any]]:
    return [result for arm in outcomes.arms() for result in reading.results(outcomes, arm)]


def _lost(outcomes: Outcomes, called: Mapping[tuple[str, ...], str]) -> tuple[Lost, ...]:
    seeds: dict[tuple[str, Status, str], list[int]] = {}
    for cell in outcomes.cells:
        if cell.status != "completed":
            seeds.setdefault((called[_key(outcomes, cell.arm)], cell.status, plain(cell.reason)), []).append(cell.seed)
    return tuple(
        Lost(arm, ", ".join(map(str, sorted(own))), status, reason) for (arm, status, reason), own in seeds.items()
    )


@dataclass(frozen=True)
class _Value:
    """An option of one result: a text that may be a SPEC, and what stands behind it."""

    text: str
    behind: str = ""


_UNKNOWN = _Value("–")


def _compared(
    outcomes: Outcomes,
    called: Mapping[tuple[str, ...], str],
    entries: Callable[[Mapping[str, Any]], Mapping[str, _Value]],
) -> Options:
    """What ``entries`` finds in each result, told apart by whether all arms agree."""
    by_arm: list[tuple[str, list[Mapping[str, _Value]]]] = []
    for arm in outcomes.arms():
        found = [entries(result) for result in reading.results(outcomes, arm)]
        if found:
            by_arm.append((called[_key(outcomes, arm)], found))
    shared, columns = [], {}
    for option in dict.fromkeys(option for _, found in by_arm for one in found for option in one):
        values = [list(dict.fromkeys(one.get(option, _UNKNOWN) for one in found)) for _, found in by_arm]
        if all(own == values[0] for own in values):
            shared.append((option, _joined(values[0], {})))
        else:
            short = _told_apart({value.text for own in values for value in own})
            columns[option] = [_joined(own, short) for own in values]
    rows = tuple((arm, tuple(own[place] for own in columns.values())) for place, (arm, _) in enumerate(by_arm))
    return Options(tuple(columns), rows if columns else (), tuple(shared))


def _joined(values: Iterable[_Value], short: Mapping[str, str]) -> str:
    """``snip | fisher``: the values that one arm has at different seeds."""
    return " | ".join(dict.fromkeys(short.get(value.text, value.text) + value.behind for value in values))


def _told_apart(texts: Collection[str]) -> dict[str, str]:
    """Each SPEC with no more of its options than those in which it differs from others of that name."""
    specs = {}
    for text in texts:
        with contextlib.suppress(OptionError):
            specs[text] = parse(text)
    short = {}
    for text, spec in specs.items():
        alike = [other for other in specs.values() if other.name == spec.name]
        if all(other.first is None for other in alike):
            own = {key: v for key, v in spec.options.items() if any(one.options.get(key) != v for one in alike)}
            short[text] = str(Spec(spec.name, None, own))
    return short if len({short.get(text, text) for text in texts}) == len(texts) else {}


def _config(result: Mapping[str, Any]) -> dict[str, _Value]:
    """A method that is no shorthand is known by the label of criterion and reset that the result has."""
    own = {option: value for option, value in result.get("config", {}).items() if option not in _OWN}
    if "method" in own and own["method"] is None:
        own["method"] = result.get("method")
    return {plain(str(option)): _Value(said(value)) for option, value in own.items()}


def _departures(result: Mapping[str, Any]) -> dict[str, _Value]:
    """Each departure from the preset, with the preset's own value in brackets."""
    return {
        plain(option): _Value(said(both["value"]), f" ({said(both['preset'])})")
        for option, both in result.get("departures", {}).items()
    }


def _versions(outcomes: Outcomes) -> tuple[tuple[str, str], ...]:
    found: dict[str, dict[str, None]] = {}
    for result in _results(outcomes):
        for name, version in result.get("versions", {}).items():
            own = version.items() if isinstance(version, Mapping) else [(name, version)]
            for distribution, number in own:
                found.setdefault(plain(distribution), {})[said(number)] = None
    return tuple((name, " | ".join(numbers)) for name, numbers in found.items())
