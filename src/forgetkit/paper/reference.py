"""A table of the paper as data: its options, its figures, and caveats.

Each table is a TOML file in ``forgetkit/paper/tables``; ``shared.toml`` holds what they have in common.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import Any

from forgetkit.ablation.grid import parse_seeds
from forgetkit.config import canonical_keys
from forgetkit.errors import OptionError, suggest
from forgetkit.paper.answer_columns import AnswerColumn, Query
from forgetkit.results.table import STANDARD, Column, fixed_bounds, number

SCALES = ("smoke", "cpu", "full")
_COLUMNS = ("test_accuracy", "cer", "generalization_gap")
_OF_THE_COLUMN = ("title", "unit", "better", "bounds")
_BETTER = {"higher": True, "lower": False, "neither": None}
_PRINTED_PER_UNIT = {"fraction": 100}  # the paper prints percent
_FOLDER = ("paper", "tables")
_SHARED = "shared"


@dataclass(frozen=True)
class PaperNumber:
    """A number of the paper, and its standard deviation if one is printed, in the unit of a run's result."""

    value: float
    std: float | None = None


@dataclass(frozen=True)
class Caveat:
    """A reason to take figures with care. ``None`` stands for all parts, all arms, all columns.

    ``source`` is a row of docs/reproducibility.md, or a place in the paper.
    """

    says: str
    source: str
    part: str | None = None
    arm: str | None = None
    column: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is about the table as a whole."""
        return self.part is None and self.arm is None and self.column is None


@dataclass(frozen=True)
class TablePart:
    """A block of rows: its data set, by the paper's name, and its own options."""

    data: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RunScale:
    """A size of the runs of a table.

    Options replace the paper's; so do networks and data sets, by the paper's names. ``only`` are the parts that run by
    default, empty for all; ``analyses`` are SPECs by label. Numbers of a scale that is not ``comparable`` are not
    compared with the paper's.
    """

    name: str
    says: str
    seeds: tuple[int, ...]
    data: Mapping[str, str]
    models: Mapping[str, str]
    options: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Any]]
    only: tuple[str, ...] = ()
    analyses: Mapping[str, str] = field(default_factory=dict)
    comparable: bool = True


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    ``part`` and ``arm`` name the axes ("data set", "method"). ``ours`` are arms that the paper does not have, and
    ``printed`` holds figures by part, arm and column, none if the paper prints none. ``queries`` are the analyses of
    the runs by label, and ``answer_columns`` the columns that show numbers of their answers.
    """

    name: str
    title: str
    part: str
    arm: str
    columns: tuple[Column, ...]
    base: Mapping[str, Any]
    parts: Mapping[str, TablePart]
    arms: Mapping[str, Mapping[str, Any]]
    ours: tuple[str, ...]
    baseline: str
    printed: Mapping[str, Mapping[str, Mapping[str, PaperNumber]]]
    caveats: tuple[Caveat, ...]
    scales: Mapping[str, RunScale]
    queries: Mapping[str, Query]
    answer_columns: Mapping[str, AnswerColumn]
    judged_parts: tuple[str, ...] = ()
    judged_columns: tuple[str, ...] = ()

    def judges(self, part: str, column: Column) -> bool:
        """Whether arms are compared with the baseline in this part and column.

        Verdicts are corrected over all comparisons of a table, so each comparison costs the others seeds.
        """
        return part in self.judged_parts and column.key in self.judged_columns and column.higher_is_better is not None

    def figure(self, part: str, arm: str, column: str) -> PaperNumber | None:
        """The number that the paper prints, if any."""
        return self.printed.get(part, {}).get(arm, {}).get(column)


def table_names() -> tuple[str, ...]:
    """The names of all tables and figures."""
    files = (entry.name for entry in resources.files("forgetkit").joinpath(*_FOLDER).iterdir())
    names = (name.removesuffix(".toml") for name in files if name.endswith(".toml") and _SHARED not in name)
    return tuple(sorted(names, key=_table_number))


def table_titles() -> dict[str, str]:
    """The title of each table, by name."""
    return {name: str(_content(name)["title"]) for name in table_names()}


def read_table(name: str) -> PaperTable:
    """Read a table by its name; raises ``OptionError`` if it does not exist."""
    if name not in table_names():
        raise OptionError(f"there is no '{name}' to reproduce; {suggest(name, table_names())}")
    own, shared = _content(name), _content(_SHARED)
    sizes, resized = shared["scales"], own.get("scales", {})
    parts = {
        key: TablePart(part["data"], canonical_keys(part.get("options", {}))) for key, part in own["parts"].items()
    }
    arms = {key: canonical_keys(options) for key, options in own["arms"].items()}
    columns, answer_columns = _columns(own)
    keys = [column.key for column in columns]
    return PaperTable(
        name=name,
        title=own["title"],
        part=own.get("part", "part"),
        arm=own["arm"],
        columns=columns,
        base=canonical_keys({**shared["base"], **own["base"]}),
        parts=parts,
        arms=arms,
        ours=tuple(own.get("ours", ())),
        baseline=own["baseline"],
        printed={
            part: {arm: _figures(row, columns) for arm, row in rows.items()}
            for part, rows in own.get("printed", {}).items()
        },
        caveats=tuple(_caveats([*own.get("doubts", ()), *shared["doubts"]], arms, keys)),
        scales={scale: _scale(scale, sizes[scale], resized.get(scale, {})) for scale in SCALES},
        queries={label: _query(given) for label, given in own.get("analyses", {}).items()},
        answer_columns=answer_columns,
        judged_parts=tuple(own.get("judged", {}).get("parts", parts)),
        judged_columns=tuple(own.get("judged", {}).get("columns", keys)),
    )


def _table_number(name: str) -> list[str | int]:
    """A key that sorts figure 2 before figure 10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def _content(stem: str) -> dict[str, Any]:
    file = resources.files("forgetkit").joinpath(*_FOLDER, f"{stem}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _columns(own: Mapping[str, Any]) -> tuple[tuple[Column, ...], dict[str, AnswerColumn]]:
    """Standard columns in their order, then those of answers; and where the latter find their numbers."""
    columns, answer_columns = [column for column in STANDARD if column.key in own.get("columns", _COLUMNS)], {}
    for key, given in own.get("numbers", {}).items():
        title, unit, better = (given[name] for name in ("title", "unit", "better"))
        bounds = given.get("bounds", (0, 1) if unit == "fraction" else (0, None))
        columns.append(
            Column(key, title, partial(number, key=key), _BETTER[better], unit, bounds=fixed_bounds(*bounds))
        )
        answer_columns[key] = AnswerColumn(**{name: text for name, text in given.items() if name not in _OF_THE_COLUMN})
    return tuple(columns), answer_columns


def _query(given: str | Mapping[str, Any]) -> Query:
    if isinstance(given, str):
        return Query(given)
    return Query(given["analysis"], given.get("mega-batch"), given.get("about", "run"))


def _figures(row: Mapping[str, float], columns: Iterable[Column]) -> dict[str, PaperNumber]:
    """The figures of a row; percent become fractions."""
    found = {}
    for column in columns:
        if column.key in row:
            one = _PRINTED_PER_UNIT.get(column.unit, 1)
            std = row.get("std") if column.key == "test_accuracy" else None
            found[column.key] = PaperNumber(row[column.key] / one, None if std is None else std / one)
    return found


def _caveats(given: Iterable[Mapping[str, str]], arms: Iterable[str], keys: Iterable[str]) -> Iterable[Caveat]:
    """The caveats whose arm and column the table has."""
    for entry in given:
        caveat = Caveat(**entry)
        if caveat.arm in (None, *arms) and caveat.column in (None, *keys):
            yield caveat


def _scale(name: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> RunScale:
    return RunScale(
        name=name,
        says=shared["says"],
        seeds=parse_seeds(own.get("seeds", shared["seeds"])),
        data={**shared["data"], **own.get("data", {})},
        models={**shared.get("models", {}), **own.get("models", {})},
        options={**canonical_keys(shared.get("options", {})), **canonical_keys(own.get("options", {}))},
        parts={part: canonical_keys(options) for part, options in own.get("parts", {}).items()},
        arms={arm: canonical_keys(options) for arm, options in own.get("arms", {}).items()},
        only=tuple(own.get("only", ())),
        analyses=own.get("analyses", {}),
        comparable=shared.get("comparable", True),
    )
