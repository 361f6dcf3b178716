"""What a page says beside its table and pictures: counts, losses, configurations, overrides, provenance."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forgetkit.errors import OptionError
from forgetkit.registry.spec import Spec, parse_spec
from forgetkit.results.outcome import Outcomes, Status
from forgetkit.results.plots import series
from forgetkit.results.plots.styles import arm_names
from forgetkit.results.render.formatting import one_line

_PER_CELL = ("seed", "out", "name")  # options in which all cells differ
_STATUSES: tuple[Status, ...] = ("completed", "failed", "diverged", "missing")


@dataclass(frozen=True)
class LostCells:
    """Cells of one arm without a result, for one reason."""

    arm: str
    seeds: str
    status: Status
    reason: str


@dataclass(frozen=True)
class OptionEntries:
    """Options of the arms: a column for each in which arms differ, and those that all share.

    An arm whose seeds have different values shows them all; a dash stands for an unknown value. If arms differ, a
    SPEC shows only the options in which SPECs of the same name differ.
    """

    differ: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    shared: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CellInfo:
    """One cell; ``digest`` finds it in its folder."""

    arm: str
    seed: int
    status: Status
    digest: str


@dataclass(frozen=True)
class ReportData:
    """The facts of a page; every text is one line without control characters."""

    title: str
    baseline: str
    arms: int
    seeds: tuple[int, ...]
    counts: tuple[tuple[Status, int], ...]
    lost: tuple[LostCells, ...]
    config: OptionEntries
    presets: str
    overrides: OptionEntries
    versions: tuple[tuple[str, str], ...]
    cells: tuple[CellInfo, ...]


def gather_report_data(outcomes: Outcomes) -> ReportData:
    """Gather the facts; entries that a result lacks or has in another form are left out."""
    names = arm_names(outcomes)
    found = [cell.status for cell in outcomes.cells]
    baseline = outcomes.baseline or {}
    return ReportData(
        title=one_line(outcomes.title) or "An ablation",
        baseline=one_line(", ".join(f"{axis}={value}" for axis, value in baseline.items())),
        arms=len(names),
        seeds=tuple(sorted({cell.seed for cell in outcomes.cells})),
        counts=tuple((status, found.count(status)) for status in _STATUSES if status in found),
        lost=_lost_cells(outcomes, names),
        config=_compare_entries(outcomes, names, _config),
        presets=" | ".join(dict.fromkeys(format_value(r["preset"]) for r in _results(outcomes) if r.get("preset"))),
        overrides=_compare_entries(outcomes, names, _overrides),
        versions=_versions(outcomes),
        cells=tuple(
            CellInfo(names[outcomes.key(cell.arm)], cell.seed, cell.status, one_line(cell.digest)[:16])
            for cell in outcomes.cells
        ),
    )


def format_value(value: Any) -> str:
    """Return a value of a configuration as one line."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    if isinstance(value, Mapping):
        return one_line(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else one_line(str(value))


def _results(outcomes: Outcomes) -> list[Mapping[str, Any]]:
    return [result for arm in outcomes.arms() for result in series.results(outcomes, arm)]


def _lost_cells(outcomes: Outcomes, names: Mapping[tuple[str, ...], str]) -> tuple[LostCells, ...]:
    seeds: dict[tuple[str, Status, str], list[int]] = {}
    for cell in outcomes.cells:
        if cell.status != "completed":
            group = names[outcomes.key(cell.arm)], cell.status, one_line(cell.reason)
            seeds.setdefault(group, []).append(cell.seed)
    return tuple(
        LostCells(arm, ", ".join(map(str, sorted(own))), status, reason) for (arm, status, reason), own in seeds.items()
    )


@dataclass(frozen=True)
class _Value:
    """An option of one result: a text that may be a SPEC, and a suffix."""

    text: str
    suffix: str = ""


_UNKNOWN = _Value("–")


def _compare_entries(
    outcomes: Outcomes,
    names: Mapping[tuple[str, ...], str],
    entries: Callable[[Mapping[str, Any]], Mapping[str, _Value]],
) -> OptionEntries:
    """The ``entries`` of each result, divided into those in which arms differ and those that all share."""
    by_arm: list[tuple[str, list[Mapping[str, _Value]]]] = []
    for arm in outcomes.arms():
        found = [entries(result) for result in series.results(outcomes, arm)]
        if found:
            by_arm.append((names[outcomes.key(arm)], found))
    shared, columns = [], {}
    for option in dict.fromkeys(option for _, found in by_arm for one in found for option in one):
        values = [list(dict.fromkeys(one.get(option, _UNKNOWN) for one in found)) for _, found in by_arm]
        if all(own == values[0] for own in values):
            shared.append((option, _join_values(values[0], {})))
        else:
            short = _distinguish({value.text for own in values for value in own})
            columns[option] = [_join_values(own, short) for own in values]
    rows = tuple((arm, tuple(own[place] for own in columns.values())) for place, (arm, _) in enumerate(by_arm))
    return OptionEntries(tuple(columns), rows if columns else (), tuple(shared))


def _join_values(values: Iterable[_Value], short: Mapping[str, str]) -> str:
    """``snip | fisher``: the values of one arm at different seeds."""
    return " | ".join(dict.fromkeys(short.get(value.text, value.text) + value.suffix for value in values))


def _distinguish(texts: Collection[str]) -> dict[str, str]:
    """Shorten each SPEC to the options in which SPECs of its name differ."""
    specs = {}
    for text in texts:
        with contextlib.suppress(OptionError):
            specs[text] = parse_spec(text)
    short = {}
    for text, spec in specs.items():
        alike = [other for other in specs.values() if other.name == spec.name]
        if all(other.first is None for other in alike):
            own = {key: v for key, v in spec.options.items() if any(one.options.get(key) != v for one in alike)}
            short[text] = str(Spec(spec.name, None, own))
    return short if len({short.get(text, text) for text in texts}) == len(texts) else {}


def _config(result: Mapping[str, Any]) -> dict[str, _Value]:
    """The options; without ``--method``, the method is the result's label of criterion and reset."""
    own = {option: value for option, value in result.get("config", {}).items() if option not in _PER_CELL}
    if "method" in own and own["method"] is None:
        own["method"] = result.get("method")
    return {one_line(str(option)): _Value(format_value(value)) for option, value in own.items()}


def _overrides(result: Mapping[str, Any]) -> dict[str, _Value]:
    """Each override of the preset, with the preset's value in brackets."""
    return {
        one_line(option): _Value(format_value(both["value"]), f" ({format_value(both['preset'])})")
        for option, both in result.get("overrides", {}).items()
    }


def _versions(outcomes: Outcomes) -> tuple[tuple[str, str], ...]:
    found: dict[str, dict[str, None]] = {}
    for result in _results(outcomes):
        for name, version in result.get("versions", {}).items():
            own = version.items() if isinstance(version, Mapping) else [(name, version)]
            for distribution, number in own:
                found.setdefault(one_line(distribution), {})[format_value(number)] = None
    return tuple((name, " | ".join(numbers)) for name, numbers in found.items())
