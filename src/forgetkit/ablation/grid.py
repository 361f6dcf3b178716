"""The grid of an ablation: every combination of the values on its axes, at every seed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, TypeVar

from forgetkit import config
from forgetkit.config import Plan
from forgetkit.errors import ConfigError, ForgetkitError, OptionError, UnusedOptionError
from forgetkit.registry.registry import Registry
from forgetkit.registry.spec import mask_quoted, strip_quotes
from forgetkit.results.arm import find_baseline, format_arm, matches, parse_arm

ARM = "arm"
"""The axis of named arms, each a set of options."""

_OPTION = re.compile(r"\s*[A-Za-z_][\w-]*\s*=")
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
_NOT_SHARED = {
    "seed": "--seeds",
    "out": "--out of the ablation",
    "name": "--name of the ablation",
    "keep_models": "--keep",
}
_NO_AXES = ("observers", "checkpoint_seconds", "checkpoint_epochs", "device", "threads")
"""Options of where and how a run runs. Runs that differ in them alone are one cell."""
_MOST_SEEDS = 10_000
_MOST_CELLS = 100_000
"""More cells make no readable table."""
_Value = TypeVar("_Value", int, str)
_KEYS = ("title", "seeds", "baseline", "base", "axes", "arms", "exclude", "include")


@dataclass(frozen=True)
class GridCell:
    """One run of a grid: an arm, with its value on each axis, at one seed."""

    arm: Mapping[str, str]
    seed: int
    options: Mapping[str, Any]
    """Options for ``config.resolve``."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Those of them that all cells share."""
    own: frozenset[str] = frozenset()
    """The names of those that its arm sets, shared or not."""
    repeatable: bool = False
    """Whether another arm may have the same run."""

    def __str__(self) -> str:
        return f"{format_arm(self.arm)}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Axes and their values, combinations to leave out or add, seeds, and options of all cells.

    ``axes`` maps an option of a run (``importance``, ``reinit.masked.fraction``) to its values, spelled as on a command
    line. The axis ``arm`` has the names in ``arms``, which map to sets of options; ``sets`` has such names for further
    axes. ``exclude`` and ``include`` are combinations; an included one names every axis. Two arms may be the same run
    only if ``sets`` has their names: a row of the paper stands in several parts of a table.
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
        if len(self.seeds) > _MOST_SEEDS:
            raise ConfigError(f"seeds: these are more than {_MOST_SEEDS:,} seeds")
        cells = math.prod(map(len, self.axes.values())) * len(self.seeds)
        if cells > _MOST_CELLS:  # before they are listed
            raise ConfigError(f"a grid of {cells:,} cells is beyond {_MOST_CELLS:,}: give fewer values or seeds")
        twice = _first_repeated(self.seeds)
        if twice is not None:
            raise ConfigError(f"seeds: {twice} is given twice: leave one out")
        for axis, values in self.axes.items():
            again = _first_repeated(values)
            if again is not None:
                raise ConfigError(f"axes: {axis} has the value '{again}' twice: leave one out")
        differing = (self.axes, *(options for named in self._named.values() for options in named.values()))
        for option, remedy in _NOT_SHARED.items():
            if any(option in options for options in (self.base, *differing)):
                raise ConfigError(f"'{option}' is set by the ablation for each cell: use {remedy}")
        for option in _NO_AXES:
            if any(option in options for options in differing):
                raise ConfigError(
                    f"'{option}' says how a run runs and does not change its result, so it is no axis: give it for all "
                    "cells"
                )
        for what, combinations in (("exclude", self.exclude), ("include", self.include)):
            for combination in combinations:
                self._require_known(what, combination)
                if what == "include" and set(combination) != set(self.axes):
                    raise ConfigError(
                        f"include: {format_arm(combination)} needs a value on each axis: {_list(self.axes)}"
                    )
        for combination in self.exclude:
            if not any(matches(arm, combination) for arm in self._product()):
                raise ConfigError(f"exclude: {format_arm(combination)} matches no combination, so it would be ignored")
        if self.baseline is not None:
            self._require_known("baseline", self.baseline)
            self._the_baseline()

    def combinations(self) -> tuple[dict[str, str], ...]:
        """Return the arms in the order of the axes' values, included ones last."""
        found = [arm for arm in self._product() if not any(matches(arm, gone) for gone in self.exclude)]
        found += [dict(arm) for arm in self.include if arm not in found]
        if not found:
            raise ConfigError("exclude leaves no combination: the grid is empty")
        return tuple(found)

    def cells(self) -> tuple[GridCell, ...]:
        """Return the cells, arm by arm and seed by seed."""
        shared = config.canonical_keys(self.base)
        return tuple(
            GridCell(arm, seed, self._options(arm, seed), shared, frozenset(self._of_the_arm(arm)), bool(self.sets))
            for arm in self.combinations()
            for seed in self.seeds
        )

    def reference(self) -> dict[str, str] | None:
        """Return the arm that others are compared with: its value on each axis."""
        return None if self.baseline is None else self._the_baseline()

    def _product(self) -> Iterator[dict[str, str]]:
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def _options(self, arm: Mapping[str, str], seed: int) -> dict[str, Any]:
        return config.merge_layers(config.canonical_keys(self.base), self._of_the_arm(arm), {"seed": seed})

    def _of_the_arm(self, arm: Mapping[str, str]) -> dict[str, Any]:
        own = {axis: value for axis, value in arm.items() if axis not in self._named}
        sets = (self._named[axis][value] for axis, value in arm.items() if axis in self._named)
        return config.merge_layers(*map(config.canonical_keys, (*sets, own)))

    @property
    def _named(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """The axes whose values name sets of options."""
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
        return find_baseline(self.combinations(), self.baseline or {})


def _first_repeated(values: Sequence[_Value]) -> _Value | None:
    """Return the first value that occurs twice."""
    seen: set[_Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def plan_cells(cells: Sequence[GridCell], registry: Registry) -> tuple[tuple[GridCell, Plan], ...]:
    """Plan each cell.

    A shared option is left out of cells in which it cannot act. Raises ``ConfigError`` if it acts in no cell, if
    options of a cell contradict each other, or if two arms are the same runs: a table would show one result twice, and
    Holm's correction count it twice.
    """
    pairs = tuple(_plan_cell(cell, registry) for cell in cells)
    _require_own_arms(pairs, registry)
    for option, value in (cells[0].shared if cells else {}).items():
        if not any(_acts(option, value, cell, plan, registry) for cell, plan in pairs):
            text = f"--set {option}={value}" if "." in option else f"--{config.flag(option)} {value}"
            raise ConfigError(f"{text} would be ignored {_reason_unused(option, [cell for cell, _ in pairs])}")
    return pairs


def _require_own_arms(pairs: Sequence[tuple[GridCell, Plan]], registry: Registry) -> None:
    """Raise ``ConfigError`` if all cells of two arms are the same runs, however their values are spelled."""
    runs: dict[str, list[str]] = {}
    for cell, plan in pairs:
        if not cell.repeatable:
            runs.setdefault(format_arm(cell.arm), []).append(_run_digest(plan, registry))
    first: dict[tuple[str, ...], str] = {}
    for arm, digests in runs.items():
        other = first.setdefault(tuple(digests), arm)
        if other != arm:
            raise ConfigError(
                f"{other} and {arm} are the same run: its result would stand in the table twice, and count twice in "
                "the correction of p values; leave one of them out"
            )


def _run_digest(plan: Plan, registry: Registry) -> str:
    """Return the digest of a plan with full names of components, so that ``snip`` is ``forgetkit/snip``."""

    def full(kind: str, spec: str) -> str:
        name = config.name_of(spec)
        try:
            return f"{registry.find(kind, name).distribution}/{name.rpartition('/')[2]}{spec.removeprefix(name)}"
        except OptionError:  # an object is named by its module and class
            return spec

    named: dict[str, Any] = {
        key: full(kind, spec) for key, kind in config.KIND_OF.items() if (spec := getattr(plan.config, key)) is not None
    }
    named["interventions"] = tuple(full("interventions", spec) for spec in plan.config.interventions)
    named["metrics"] = ()  # metrics do not change a run
    return replace(plan, config=plan.config.model_copy(update=named)).digest


def _acts(option: str, value: Any, cell: GridCell, plan: Plan, registry: Registry) -> bool:
    """Return whether a shared option acts in this cell."""
    if option in cell.own or option not in cell.options:
        return False
    try:
        config.require_used({option: value}, plan, registry)
    except ConfigError:
        return False
    return True


def _reason_unused(option: str, cells: Sequence[GridCell]) -> str:
    if all(option in cell.own for cell in cells):
        return "in each cell of the grid, since each arm sets it: leave one of both out"
    if option in ("importance", "reinit") and all("method" in cell.own for cell in cells):
        return "in each cell of the grid, since each arm's method decides it: name both in arms, in a grid file"
    return "in each cell of the grid: leave it out"


def _plan_cell(cell: GridCell, registry: Registry) -> tuple[GridCell, Plan]:
    try:
        return cell, config.resolve(cell.options, registry)
    except UnusedOptionError as error:
        if error.option not in cell.shared or error.option in cell.own or error.option not in cell.options:
            raise ConfigError(f"the cell {format_arm(cell.arm)}: {error}") from error
        left = {option: value for option, value in cell.options.items() if option != error.option}
        return _plan_cell(replace(cell, options=left), registry)
    except ForgetkitError as error:
        remedy = "; --exclude leaves a combination out" if len(cell.arm) > 1 else ""
        remedy = _quotes_hint(cell.arm, registry) or remedy
        raise ConfigError(f"the cell {format_arm(cell.arm)}: {error}{remedy}") from error


def _quotes_hint(arm: Mapping[str, str], registry: Registry) -> str:
    """Return a remedy for a value that names no component: a comma in a path may have split it."""
    for axis, value in arm.items():
        if axis in config.KIND_OF and value != "none":
            try:
                registry.find(config.KIND_OF[axis], config.name_of(value))
            except ForgetkitError:
                return f'; a value with a comma in it needs quotes: --over {axis}=NAME:path="a,b"'
    return ""


def read_grid(path: Path, allow_import: Collection[str] = ()) -> Grid:
    """Read a grid from a TOML file, whose ``import:`` SPECs may name modules in ``allow_import`` alone."""
    try:
        return _build_grid(config.read_options_file(path, allow_import), path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def extend_grid(
    grid: Grid | None,
    over: Iterable[str],
    seeds: str | None,
    base: Mapping[str, Any],
    baseline: str | None,
    exclude: Iterable[str] = (),
) -> Grid:
    """Return the grid of a command line: axes, seeds and shared options on top of those of a file, if there is one."""
    new: dict[str, tuple[str, ...]] = {}
    for text in over:
        axis, values = parse_axis(text)
        if axis in new:
            raise ConfigError(f"--over {axis} is given twice: give its values once, with commas")
        new[axis] = values
    chosen_seeds = None if seeds is None else parse_seeds(seeds)
    return _overlay(grid, new, chosen_seeds, base, baseline, exclude)


def split_axes(named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the keywords of a call into axes, which have several values, and options of all runs."""
    axes = {key: value for key, value in named.items() if _is_several(value)}
    return axes, {key: value for key, value in named.items() if key not in axes}


def grid_from_python(
    grid: str | Path | Mapping[str, Any] | None,
    axes: Mapping[str, Any],
    seeds: Any,
    base: Mapping[str, Any],
    baseline: str | Mapping[str, Any] | None,
    exclude: Iterable[str | Mapping[str, Any]] = (),
) -> Grid:
    """Return the grid of a call: axes, seeds and shared options on top of those of a file or a mapping.

    Raises ``ConfigError`` if a value is an object: a worker builds components by their SPECs.
    """
    if isinstance(grid, str | Path):
        below: Grid | None = read_grid(Path(grid))
    elif grid is None:
        below = None
    elif isinstance(grid, Mapping):
        content = _plain("the grid", grid)
        below = _build_grid(content, " by ".join(_table("axes", content.get("axes", {}))) or "grid")
    else:
        raise ConfigError(f"the grid is a path or a mapping with 'axes' or 'arms', not {type(grid).__name__}")
    if below is None and not axes:
        raise ConfigError('an ablation needs something that differs: importance=["snip", "random"], or a grid')
    if isinstance(exclude, str | Mapping):
        raise ConfigError(f"exclude is a list of combinations, not {exclude!r}")
    new: dict[str, tuple[str, ...]] = {}
    for key, values in axes.items():
        axis = _axis(key)
        if axis in new:
            raise ConfigError(f"axes: {key} is given twice: leave one out")
        new[axis] = _values(key, _plain(key, values))
    several = [seeds] if isinstance(seeds, Integral) else seeds
    chosen_seeds = (
        parse_seeds(seeds) if isinstance(seeds, str) else None if seeds is None else _whole(_plain("seeds", several))
    )
    return _overlay(below, new, chosen_seeds, config.canonical_keys(_plain("options", base)), baseline, exclude)


def _is_several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _plain(what: str, value: Any) -> Any:
    """The value as a TOML file has it; ``ConfigError`` if it is an object."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(str(key), inner) for key, inner in value.items()}
    if _is_several(value):
        return [_plain(what, inner) for inner in value]
    raise ConfigError(
        f"{what}: {type(value).__name__} is no value of a grid: write text, numbers or a list of them; a worker builds "
        "a component by its SPEC, of a plugin or import:MODULE:NAME"
    )


def _overlay(
    grid: Grid | None,
    new: Mapping[str, tuple[str, ...]],
    seeds: tuple[int, ...] | None,
    base: Mapping[str, Any],
    baseline: str | Mapping[str, Any] | None,
    exclude: Iterable[str | Mapping[str, Any]] = (),
) -> Grid:
    """Lay axes, seeds and shared options over a grid, or make one of them."""
    axes = {**(grid.axes if grid is not None else {}), **new}
    if grid is None:
        grid = Grid(" by ".join(axes), axes, (0,) if seeds is None else seeds)
    else:
        grid = replace(grid, axes=axes, seeds=grid.seeds if seeds is None else seeds)
    for axis in grid.axes:
        if axis in base:
            raise ConfigError(f"--{axis.replace('_', '-')} and --over {axis} are given both: leave one out")
    below = {option: value for option, value in config.canonical_keys(grid.base).items() if option not in new}
    shared = config.merge_layers(below, base)
    left_out = (*grid.exclude, *(_parse_combination("exclude", one, grid.axes) for one in exclude))
    chosen = grid.baseline if baseline is None else _parse_combination("baseline", baseline, grid.axes)
    return replace(grid, base=shared, exclude=left_out, baseline=chosen)


def _parse_combination(
    what: str, given: str | Mapping[str, Any], axes: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    if isinstance(given, str):
        return parse_arm(f"--{what}", given, axes)
    return _combination(what, _plain(what, given))


def parse_axis(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse ``importance=snip:samples=64,fisher``: an option of a run, and its values.

    A comma followed by ``key=`` belongs to the SPEC before it, as does one in brackets or quotes.
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
    values = [strip_quotes(value) for value in values]
    twice = next((value for value in values if values.count(value) > 1 or not value), None)
    if twice is not None:
        raise ConfigError(f"--over {text}: " + (f"'{twice}' is given twice" if twice else "a value is empty"))
    return _axis(key.strip()), tuple(values)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``0-4``, ``0,2,7`` or both, in the order given."""
    found: dict[int, str] = {}
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--seeds {text}: write 0-4, or 0,2,7")
        several = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(found) + len(several) > _MOST_SEEDS:
            raise ConfigError(f"--seeds {text}: these are more than {_MOST_SEEDS:,} seeds")
        for seed in several:
            if seed in found:
                raise ConfigError(
                    f"--seeds {text}: seed {seed} is given twice, by {found[seed]} and by {piece.strip()}"
                )
            found[seed] = piece.strip()
    return tuple(found)


def _build_grid(content: Mapping[str, Any], stem: str) -> Grid:
    unknown = set(content) - set(_KEYS)
    if unknown:
        raise ConfigError(f"a grid has no entry '{min(unknown)}': use {', '.join(_KEYS)}")
    seeds = content.get("seeds", "0")
    arms = {name: _table("arms", arm) for name, arm in _table("arms", content.get("arms", {})).items()}
    axes = {_axis(key): _values(key, values) for key, values in _table("axes", content.get("axes", {})).items()}
    if ARM in axes:
        raise ConfigError("axes: arms are given in tables, [arms.NAME]")
    if arms:
        axes = {ARM: tuple(arms), **axes}
    return Grid(
        title=str(content.get("title", stem)),
        axes=axes,
        seeds=parse_seeds(seeds) if isinstance(seeds, str) else _whole(seeds),
        base=_table("base", content.get("base", {})),
        arms=arms,
        exclude=_combinations("exclude", content.get("exclude", [])),
        include=_combinations("include", content.get("include", [])),
        baseline=_parse_baseline(content.get("baseline")),
    )


def _axis(key: str) -> str:
    """Return the canonical name of an option."""
    if key == ARM:
        return ARM
    try:
        return next(iter(config.canonical_keys({key: ""})))
    except ConfigError as error:
        raise ConfigError(f"an axis is an option of forgetkit run: {error}") from error


def _values(key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f'axes: {key} needs a list of values, like ["full", "none"]')
    return tuple(_word(value) for value in values)


def _parse_baseline(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    return {ARM: given} if isinstance(given, str) else _combination("baseline", given)


def _combinations(what: str, given: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(given, list):
        raise ConfigError(f"{what}: write [[{what}]] above each combination, or a list of tables")
    return tuple(_combination(what, one) for one in given)


def _combination(what: str, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f'{what}: write axes and values, like {{ replay = "none" }}')
    return {_axis(key): _word(value) for key, value in given.items()}


def _table(what: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what}: write a table")
    return dict(given)


def _whole(seeds: Any) -> tuple[int, ...]:
    several = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not several or min(seeds, default=0) < 0:
        raise ConfigError('seeds: write "0-4", or a list of different whole numbers from 0')
    return tuple(seeds)


def _word(value: Any) -> str:
    """Spell a value as on a command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _pieces(text: str) -> list[str]:
    """Split at commas, except for those in brackets and quotes."""
    pieces, depth = [""], 0
    for character, shape in zip(text, mask_quoted(text), strict=True):
        depth += (shape in "[{(") - (shape in "]})")
        if shape == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
