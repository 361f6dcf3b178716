"""Which runs an ablation is made of: every combination of the values on its axes, at every seed."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forgetkit import config
from forgetkit.ablate.arm import asked_baseline, matches, said, the_baseline
from forgetkit.config import Plan
from forgetkit.errors import ConfigError, ForgetkitError, IdleOptionError
from forgetkit.registry import Registry

ARM = "arm"
"""The axis of arms that are given by name, each a set of options."""

_OPTION = re.compile(r"\s*[A-Za-z_][\w-]*\s*=")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_ITS_OWN = {"seed": "--seeds", "out": "--out of the ablation", "name": "--name of the ablation"}
_KEYS = ("title", "seeds", "baseline", "base", "axes", "arms", "exclude", "include")


@dataclass(frozen=True)
class Cell:
    """One run of a grid: an arm, its value on each axis as it is shown, at one seed."""

    arm: Mapping[str, str]
    seed: int
    options: Mapping[str, Any]
    """What ``config.resolve`` takes."""
    shared: frozenset[str] = frozenset()
    """Options that all cells share and this one's arm does not set."""


@dataclass(frozen=True)
class Grid:
    """A question: axes and their values, combinations left out or added, seeds, and what all cells share.

    ``axes`` maps an option of a run (``importance``, ``reinit.masked.fraction``) to its values, as a command line has
    them; the axis ``arm`` has the names in ``arms``, which map to sets of options, and ``sets`` has such names for
    further axes. ``exclude`` and ``include`` are combinations: one that is excluded need not name every axis, one that
    is included must.
    """

    title: str
    axes: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    base: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: tuple[Mapping[str, str], ...] = ()
    include: tuple[Mapping[str, str], ...] = ()
    baseline: Mapping[str, str] | None = None
    sets: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.axes:
            raise ConfigError("an ablation needs something that differs: --over importance=snip,fisher, or a grid file")
        if not self.seeds:
            raise ConfigError("an ablation needs a seed: --seeds 0-4")
        for option, remedy in _ITS_OWN.items():
            sets = (options for named in self._named.values() for options in named.values())
            if any(option in options for options in (self.axes, self.base, *sets)):
                raise ConfigError(f"'{option}' is no option that cells share or differ in: use {remedy}")
        for what, combinations in (("exclude", self.exclude), ("include", self.include)):
            for combination in combinations:
                self._require_known(what, combination)
                if what == "include" and set(combination) != set(self.axes):
                    raise ConfigError(f"include: {said(combination)} needs a value on each axis: {_list(self.axes)}")
        for combination in self.exclude:
            if not any(matches(arm, combination) for arm in self._product()):
                raise ConfigError(f"exclude: {said(combination)} matches no combination, so it would be ignored")
        if self.baseline is not None:
            self._require_known("baseline", self.baseline)
            self._the_baseline()

    def combinations(self) -> tuple[dict[str, str], ...]:
        """The arms, in the order of the axes' values; included ones last."""
        found = [arm for arm in self._product() if not any(matches(arm, gone) for gone in self.exclude)]
        found += [dict(arm) for arm in self.include if arm not in found]
        if not found:
            raise ConfigError("exclude leaves no combination: the grid is empty")
        return tuple(found)

    def cells(self) -> tuple[Cell, ...]:
        """Arm by arm, seed by seed."""
        shared = frozenset(config.canonical(self.base))
        return tuple(
            Cell(arm, seed, self._options(arm, seed), shared - self._of_the_arm(arm).keys())
            for arm in self.combinations()
            for seed in self.seeds
        )

    def reference(self) -> dict[str, str] | None:
        """The arm that others are compared with, its value on each axis."""
        return None if self.baseline is None else self._the_baseline()

    def _product(self) -> Iterator[dict[str, str]]:
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def _options(self, arm: Mapping[str, str], seed: int) -> dict[str, Any]:
        return config.layered(config.canonical(self.base), self._of_the_arm(arm), {"seed": seed})

    def _of_the_arm(self, arm: Mapping[str, str]) -> dict[str, Any]:
        own = {axis: value for axis, value in arm.items() if axis not in self._named}
        sets = (self._named[axis][value] for axis, value in arm.items() if axis in self._named)
        return config.layered(*map(config.canonical, (*sets, own)))

    @property
    def _named(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """The axes whose values are names of sets of options."""
        return {**self.sets, ARM: self.arms}

    def _require_known(self, what: str, combination: Mapping[str, str]) -> None:
        for axis, value in combination.items():
            if axis not in self.axes:
                raise ConfigError(f"{what}: the grid has no axis '{axis}'; it has {_list(self.axes)}")
            known = self._named.get(axis, self.axes[axis])
            if what != "include" and value not in known:
                raise ConfigError(f"{what}: '{value}' is no value of {axis}; it has {_list(known)}")
            if axis in self._named and value not in known:
                raise ConfigError(f"{what}: no {axis} is called '{value}'; there are {_list(known)}")

    def _the_baseline(self) -> dict[str, str]:
        return the_baseline(self.combinations(), self.baseline or {})


def planned(cells: Sequence[Cell], registry: Registry) -> tuple[tuple[Cell, Plan], ...]:
    """Each cell with its plan.

    What all cells share need not act in each of them, so a cell where it cannot goes without it; an option that acts
    in no cell is a mistake. A ``ConfigError`` names the cell whose options do not go together.
    """
    pairs = tuple(_planned(cell, registry) for cell in cells)
    for option in sorted(frozenset().union(*(cell.shared for cell in cells))):
        if not any(option in cell.options for cell, _ in pairs):
            raise ConfigError(f"--{option.replace('_', '-')} would be ignored in each cell of the grid: leave it out")
    return pairs


def _planned(cell: Cell, registry: Registry) -> tuple[Cell, Plan]:
    try:
        return cell, config.resolve(cell.options, registry)
    except IdleOptionError as error:
        if error.option not in cell.shared or error.option not in cell.options:
            raise ConfigError(f"the cell {said(cell.arm)}: {error}") from error
        left = {option: value for option, value in cell.options.items() if option != error.option}
        return _planned(replace(cell, options=left), registry)
    except ForgetkitError as error:
        raise ConfigError(f"the cell {said(cell.arm)}: {error}; exclude it, or change the grid") from error


def resolved(cells: Sequence[Cell], registry: Registry) -> Iterator[Plan]:
    """The plan of each cell."""
    return (plan for _, plan in planned(cells, registry))


def read(path: Path) -> Grid:
    """The grid in a TOML file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return _made(content, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def extended(
    grid: Grid | None,
    over: Iterable[str],
    seeds: str | None,
    base: Mapping[str, Any],
    baseline: str | None,
    exclude: Iterable[str] = (),
) -> Grid:
    """The grid of a command line: axes, seeds and shared options beside those of a file, or without one."""
    axes: dict[str, tuple[str, ...]] = dict(grid.axes) if grid is not None else {}
    for text in over:
        axis, values = axis_of(text)
        if axis in axes and (grid is None or axis not in grid.axes):
            raise ConfigError(f"--over {axis} is given twice: give its values once, with commas")
        axes[axis] = values
    if grid is None:
        grid = Grid(" by ".join(axes), axes, seeds_of(seeds or "0"))
    else:
        grid = replace(grid, axes=axes, seeds=grid.seeds if seeds is None else seeds_of(seeds))
    shared = config.layered(config.canonical(grid.base), base)
    for axis in grid.axes:
        if axis in base:
            raise ConfigError(f"--{axis.replace('_', '-')} and --over {axis} are given both: leave one out")
    left_out = (*grid.exclude, *(_combination_of(text, grid) for text in exclude))
    chosen = grid.baseline if baseline is None else baseline_of(baseline, grid)
    return replace(grid, base=shared, exclude=left_out, baseline=chosen)


def axis_of(text: str) -> tuple[str, tuple[str, ...]]:
    """``importance=snip:samples=64,fisher``: an option of a run, and its values.

    A comma followed by ``key=`` belongs to the SPEC before it, as does one inside brackets.
    """
    key, equals, rest = text.partition("=")
    if not equals or not rest.strip():
        raise ConfigError(f"--over {text}: write option=value,value")
    values: list[str] = []
    for piece in _pieces(rest):
        if values and _OPTION.match(piece):
            values[-1] += f",{piece}"
        else:
            values.append(piece)
    values = [value.strip() for value in values]
    if "" in values or len(set(values)) < len(values):
        raise ConfigError(f"--over {text}: a value is empty or given twice")
    return _axis(key.strip()), tuple(values)


def seeds_of(text: str) -> tuple[int, ...]:
    """``0-4``, ``0,2,7`` or both, in the order given."""
    found: list[int] = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--seeds {text}: write 0-4, or 0,2,7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(found)) < len(found):
        raise ConfigError(f"--seeds {text}: a seed is given twice")
    return tuple(found)


def baseline_of(text: str, grid: Grid) -> dict[str, str]:
    """``importance=random,replay=full``, or one axis's value alone where no other axis has it."""
    return asked_baseline(text, grid.axes)


def _combination_of(text: str, grid: Grid) -> dict[str, str]:
    """``importance=fisher,reinit=cold``."""
    pairs = dict(piece.split("=", 1) for piece in _joined(text, grid) if piece)
    if not pairs or ",".join(f"{axis}={value}" for axis, value in pairs.items()) != text:
        raise ConfigError(f"--exclude {text}: write AXIS=VALUE,AXIS=VALUE, with axes {_list(grid.axes)}")
    return pairs


def _joined(text: str, grid: Grid) -> tuple[str, ...]:
    """A baseline's pieces: a comma that is followed by ``axis=`` parts them."""
    starts = [m.start() for axis in grid.axes for m in re.finditer(rf"(?:^|,){re.escape(axis)}=", text)]
    bounds = [*sorted(starts), len(text)]
    return tuple(text[a:b].strip(",") for a, b in itertools.pairwise(bounds))


def _made(content: Mapping[str, Any], stem: str) -> Grid:
    unknown = set(content) - set(_KEYS)
    if unknown:
        raise ConfigError(f"a grid has no entry '{min(unknown)}'; it has {', '.join(_KEYS)}")
    seeds = content.get("seeds", "0")
    arms = {name: _table("arms", arm) for name, arm in _table("arms", content.get("arms", {})).items()}
    axes = {_axis(key): _values(key, values) for key, values in _table("axes", content.get("axes", {})).items()}
    if ARM in axes:
        raise ConfigError("axes: arms are given in tables, [arms.NAME]")
    if arms:
        axes = {ARM: tuple(arms), **axes}
    baseline = content.get("baseline")
    return Grid(
        title=str(content.get("title", stem)),
        axes=axes,
        seeds=seeds_of(seeds) if isinstance(seeds, str) else _whole(seeds),
        base=_table("base", content.get("base", {})),
        arms=arms,
        exclude=tuple(_combination("exclude", c) for c in content.get("exclude", ())),
        include=tuple(_combination("include", c) for c in content.get("include", ())),
        baseline={ARM: baseline} if isinstance(baseline, str) else baseline and _combination("baseline", baseline),
    )


def _axis(key: str) -> str:
    """An option's one name."""
    if key == ARM:
        return ARM
    try:
        return next(iter(config.canonical({key: ""})))
    except ConfigError as error:
        raise ConfigError(f"an axis is an option of forgetkit run: {error}") from error


def _values(key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"axes: {key} needs a list of values")
    found = tuple(_word(value) for value in values)
    if len(set(found)) < len(found):
        raise ConfigError(f"axes: {key} has a value twice")
    return found


def _combination(what: str, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{what}: write a table of axes and values")
    return {_axis(key): _word(value) for key, value in given.items()}


def _table(what: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what}: write a table")
    return dict(given)


def _whole(seeds: Any) -> tuple[int, ...]:
    several = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not several or min(seeds, default=0) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError('seeds: write "0-4", or a list of different whole numbers from 0')
    return tuple(seeds)


def _word(value: Any) -> str:
    """A value as a command line spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _pieces(text: str) -> list[str]:
    """What commas part, but for those in brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
