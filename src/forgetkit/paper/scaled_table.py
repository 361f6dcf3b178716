"""A table of the paper at a scale: the grid of its runs, and what was changed to make it so small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forgetkit import config
from forgetkit.ablation.grid import Grid
from forgetkit.config import RunConfig, presets
from forgetkit.contracts import Keep
from forgetkit.errors import OptionError, suggest
from forgetkit.paper.answer_columns import Query
from forgetkit.paper.reference import SCALES, PaperTable, RunScale, read_table
from forgetkit.registry.spec import parse_spec

Options = Mapping[str, Any]

_CHANGE_TEXTS = {
    "model": "network {} → {}",
    "mega_batches": "{} → {} mega-batches",
    "epochs": "{} → {} epochs",
    "shots": "{} → {} training images of each class",
    "batch_size": "batches of {} → {}",
    "replay.buffer.size": "buffer of {} → {}",
}
"""How a changed option is said; any other goes by its name."""
_NOT_SET = {"shots": "all", "interventions": "none", "metrics": "none"}
"""How an option that nothing sets is said; any other is unset."""
_OPEN = {None: "as usual", "none": "all"}
"""The same of an analysis: not given, or on all samples there are."""
_FAMILY = {
    "method": {"method", "importance", "reinit"},
    "importance": {"importance", "method"},
    "reinit": {"reinit", "method"},
}
"""By which options one may be decided, where not by itself alone."""
_MACHINE = ("device", "threads", "checkpoint_seconds", "checkpoint_epochs", "observers")
_EXAMPLES = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "Restricted ImageNet": "restricted-imagenet:path=FOLDER",
}


@dataclass(frozen=True)
class ScaledTable:
    """A table, the parts of it that are run, and with what.

    ``data`` has a SPEC for each data set of these parts, ``given`` names those that the user chose it for, and
    ``changes`` are options the user sets for all runs.
    """

    table: PaperTable
    scale: RunScale
    parts: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Mapping[str, str]
    given: frozenset[str] = frozenset()
    changes: Options = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """What rows are told apart by; parts only where the table has several."""
        return (self.table.part, self.table.arm) if len(self.table.parts) > 1 else (self.table.arm,)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Parts of the table that are not run."""
        return tuple(part for part in self.table.parts if part not in self.parts)

    def grid(self) -> Grid:
        """Every part with every arm at every seed."""
        several = len(self.axes) > 1
        values = {self.table.part: self.parts, self.table.arm: tuple(self.table.arms)}
        parts = {part: {key: v for key, v in self._run(part).items() if key not in self.changes} for part in self.parts}
        sets = {self.table.part: parts, self.table.arm: {arm: self.arm(arm) for arm in self.table.arms}}
        return Grid(
            title=f"{self.table.title}, scale {self.scale.name}",
            axes={axis: values[axis] for axis in self.axes},
            seeds=self.seeds,
            base=config.merge_layers({} if several else parts[self.parts[0]], self.changes),
            sets={axis: sets[axis] for axis in self.axes},
            baseline=None if several else {self.table.arm: self.table.baseline},
        )

    @property
    def queries(self) -> dict[str, Query]:
        """What each run is asked when it is done, by the label that its answer is kept under."""
        return {
            label: replace(query, analysis=self.scale.analyses.get(label, query.analysis))
            for label, query in self.table.queries.items()
        }

    @property
    def keep(self) -> Keep:
        """Which models runs have to keep for that."""
        return "all" if any(query.mega_batch is not None for query in self.queries.values()) else "last"

    def counts_alike(self, part: str) -> bool:
        """Whether a count of errors has the paper's test set and number of mega-batches behind it."""
        ours, theirs = self._run(part), self._paper_run(part)
        name = self.table.parts[part].data
        same = ours["dataset"] == self.table.scales["full"].data.get(name)
        return (same or self._chosen(part)) and str(ours["mega_batches"]) == str(theirs["mega_batches"])

    def same_network(self, part: str) -> bool:
        """Whether it is the paper's, so that its parameters can be as many."""
        return bool(self._run(part)["model"] == self._paper_run(part)["model"])

    def changes_from_paper(self) -> tuple[str, ...]:
        """Everything in which these runs differ from the paper's, in words: what all parts share comes first."""
        by_part = {part: list(_changes(self._paper_run(part), self._run(part))) for part in self.parts}
        shared = [said for said in by_part[self.parts[0]] if all(said in others for others in by_part.values())]
        own: dict[str, list[str]] = {}
        for part, said in by_part.items():
            if rest := ", ".join(one for one in said if one not in shared):
                own.setdefault(rest, []).append(part)
        arms = (
            f"{arm}: {', '.join(said)}"
            for arm, options in self.table.arms.items()
            if (said := list(_changes(options, self.arm(arm))))
        )
        parts = (f"{' and '.join(parts)}: {said}" for said, parts in own.items())
        return (*dict.fromkeys(self._sources()), *shared, *parts, *arms, *self._changed_analyses())

    def _changed_analyses(self) -> Iterator[str]:
        """In what the analyses differ, in words."""
        for label, query in self.queries.items():
            before, after = (parse_spec(one.analysis).options for one in (self.table.queries[label], query))
            said = [
                f"{key.replace('_', '-')} {_OPEN.get(was, was)} → {_OPEN.get(now, now)}"
                for key in {**before, **after}
                for was, now in [(before.get(key), after.get(key))]
                if was != now
            ]
            if said:
                yield f"{label}: {', '.join(said)}"

    def _paper_run(self, part: str) -> dict[str, Any]:
        """What the paper's runs of a part share, but for the data set."""
        return config.merge_layers(self.table.base, self.table.parts[part].options)

    def _run(self, part: str) -> dict[str, Any]:
        """The same of ours."""
        own = self._paper_run(part)
        data = {"dataset": self.data[self.table.parts[part].data]}
        model = {"model": self.scale.models.get(own["model"], own["model"])}
        run = config.merge_layers(own, data, model, self.scale.options, self.scale.parts.get(part, {}), self.changes)
        return {key: value for key, value in run.items() if not self._overruled(key)}

    def _overruled(self, key: str) -> bool:
        """Whether a change stands in an option's place: a SPEC that spells it, samples for epochs."""
        if key == "epochs" and key not in self.changes:
            return not _is_unset("samples", self.changes.get("samples"))
        return _sets_option(self.changes, key)

    def arm(self, arm: str) -> dict[str, Any]:
        """The options that a row has of its own."""
        return config.merge_layers(self.table.arms[arm], self.scale.arms.get(arm, {}))

    def _chosen(self, part: str) -> bool:
        """Whether the data of a part is what the user gave for its data set."""
        name = self.table.parts[part].data
        return name in self.given and self._run(part)["dataset"] == self.data[name]

    def _sources(self) -> Iterator[str]:
        usual = self.table.scales["full"].data
        for part in self.parts:
            name, used = self.table.parts[part].data, str(self._run(part)["dataset"])
            if self._chosen(part):
                yield f"{name} from {used}"
            elif used != usual.get(name):
                yield f"{name} → {used}"


def scale_table(
    name: str,
    scale: str,
    parts: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    seeds: Sequence[int] | None = None,
    changes: Options | None = None,
) -> ScaledTable:
    """How a table is to be run.

    Without ``parts``, all of the scale's that there is data for. ``data`` maps the paper's names of data sets to SPECs.
    Raises ``OptionError`` where a name is unknown, something given would be ignored, or a part has no data.
    """
    table = read_table(name)
    if scale not in SCALES:
        raise OptionError(f"--scale {scale}: {suggest(scale, SCALES)}")
    size = table.scales[scale]
    asked = [_match_name("--part", part, tuple(table.parts)) for part in parts]
    sets = tuple(dict.fromkeys(part.data for part in table.parts.values()))
    given = {_match_name("--data", key, sets): spec for key, spec in (data or {}).items()}
    specs = {**size.data, **given}
    usual = size.only or tuple(table.parts)
    chosen = tuple(
        part
        for part in table.parts
        if part in asked or (not asked and part in usual and table.parts[part].data in specs)
    )
    needed = sets if not chosen else tuple(table.parts[part].data for part in chosen)
    lacking = next((key for key in needed if key not in specs), None)
    if lacking is not None:
        raise OptionError(f"{name} at scale {scale} needs data: --data '{lacking}={_EXAMPLES[lacking]}'")
    idle = next((key for key in given if key not in needed), None)
    if idle is not None:
        raise OptionError(f"--data {idle} would be ignored: no part that is run has that data")
    made = ScaledTable(
        table=table,
        scale=size,
        parts=chosen,
        seeds=tuple(size.seeds if seeds is None else seeds),
        data={key: specs[key] for key in needed},
        given=frozenset(given),
        changes=config.canonical_keys(changes or {}),
    )
    _require_effective(made)
    return made


def _require_effective(made: ScaledTable) -> None:
    """``OptionError`` where a row of the table, or another change, leaves nothing to a change."""
    for key in made.changes:
        name = key.replace("_", "-")
        if _sets_option(made.changes, key):
            kind = key.partition(".")[0]
            raise OptionError(f"--set {name} and --set {kind}={made.changes[kind]} say the same twice: leave one out")
        for arm in made.table.arms:
            own = made.arm(arm)
            if _decides(own, key):
                said = ", ".join(f"{option}={value}" for option, value in own.items())
                raise OptionError(
                    f"--set {name} would be ignored: the row '{arm}' of {made.table.name} is {said}; leave it out, or "
                    "compare with forgetkit ablate"
                )


def _decides(arm: Options, key: str) -> bool:
    """Whether the options of an arm leave nothing to an option that all runs are given."""
    if "." in key:
        return key in arm or _sets_option(arm, key)
    return not _FAMILY.get(key, {key}).isdisjoint(path.partition(".")[0] for path in arm)


def _sets_option(given: Options, path: str) -> bool:
    """Whether a SPEC among options sets ``reinit.masked.fraction`` itself."""
    component, dot, option = path.rpartition(".")
    kind, _, name = component.partition(".")
    if not dot or not isinstance(given.get(kind), str):
        return False
    spec = parse_spec(given[kind])
    return option in spec.options and spec.name.rpartition("/")[2] == name.rpartition("/")[2]


def _match_name(flag: str, asked: str, names: Sequence[str]) -> str:
    """A name as the paper has it, however it is written: ``restricted-imagenet`` will do."""
    plain = {"".join(filter(str.isalnum, name)).lower(): name for name in names}
    found = plain.get("".join(filter(str.isalnum, asked)).lower())
    if found is None:
        raise OptionError(f"{flag} {asked}: {suggest(asked, names)}")
    return found


def _changes(printed: Options, run: Options) -> Iterator[str]:
    """In what two sets of options differ, in words; the data set apart."""
    usual = config.canonical_keys(presets.all_values(str(run.get("preset", "paper"))))
    for key, value in run.items():
        if key == "dataset" or key in _MACHINE:
            continue
        fallback = RunConfig.model_fields[key].default if key in RunConfig.model_fields else None
        before, after = (_format_change(key, one) for one in (printed.get(key, usual.get(key, fallback)), value))
        if before != after:
            yield _CHANGE_TEXTS.get(key, f"{key.replace('_', '-')} {{}} → {{}}").format(before, after)


def _format_change(key: str, value: Any) -> str:
    return _NOT_SET.get(key, "unset") if _is_unset(key, value) else str(value)


def _is_unset(key: str, value: Any) -> bool:
    return value in (None, ()) or (key in ("shots", "samples") and value == "none")
