"""A table of the paper at a scale: the grid of its runs, and how they differ from the paper's."""

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

# The text of a changed option; any other goes by its name.
_CHANGE_TEXTS = {
    "model": "network {} → {}",
    "mega_batches": "{} → {} mega-batches",
    "epochs": "{} → {} epochs",
    "shots": "{} → {} training images of each class",
    "batch_size": "batches of {} → {}",
    "replay.buffer.size": "buffer of {} → {}",
}
# The text of a value that is not set: of an option of a run, and of one of an analysis.
_UNSET = {"shots": "all", "interventions": "none", "metrics": "none"}
_ANALYSIS_UNSET = {None: "as usual", "none": "all"}
# The options that decide an option, if others than itself do.
_DECIDED_BY = {
    "method": {"method", "importance", "reinit"},
    "importance": {"importance", "method"},
    "reinit": {"reinit", "method"},
}
_MACHINE = ("device", "threads", "checkpoint_seconds", "checkpoint_epochs", "observers")
_EXAMPLES = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "Restricted ImageNet": "restricted-imagenet:path=FOLDER",
}


@dataclass(frozen=True)
class ScaledTable:
    """A table, the parts of it that run, and their data and options.

    ``data`` maps each data set of these parts to a SPEC, ``given`` names the data sets whose SPEC the user chose, and
    ``changes`` are options that the user sets for all runs.
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
        """The axes of the grid; parts only if the table has several."""
        return (self.table.part, self.table.arm) if len(self.table.parts) > 1 else (self.table.arm,)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Parts of the table that do not run."""
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
        """The analyses of each finished run, by the label of the stored answer."""
        return {
            label: replace(query, analysis=self.scale.analyses.get(label, query.analysis))
            for label, query in self.table.queries.items()
        }

    @property
    def keep(self) -> Keep:
        """Which models the runs must keep for these analyses."""
        return "all" if any(query.mega_batch is not None for query in self.queries.values()) else "last"

    def counts_alike(self, part: str) -> bool:
        """Whether errors are counted over the paper's test set and number of mega-batches."""
        ours, theirs = self._run(part), self._paper_run(part)
        same_data = ours["dataset"] == self.table.scales["full"].data.get(self.table.parts[part].data)
        return (same_data or self._chosen(part)) and str(ours["mega_batches"]) == str(theirs["mega_batches"])

    def same_network(self, part: str) -> bool:
        """Whether the network is the paper's, so that numbers of parameters can be compared."""
        return bool(self._run(part)["model"] == self._paper_run(part)["model"])

    def changes_from_paper(self) -> tuple[str, ...]:
        """All differences between these runs and the paper's, in words: first those that all parts share."""
        by_part = {part: list(_changes(self._paper_run(part), self._run(part))) for part in self.parts}
        shared = [text for text in by_part[self.parts[0]] if all(text in others for others in by_part.values())]
        own: dict[str, list[str]] = {}
        for part, texts in by_part.items():
            if rest := ", ".join(text for text in texts if text not in shared):
                own.setdefault(rest, []).append(part)
        parts = (f"{' and '.join(parts)}: {text}" for text, parts in own.items())
        by_arm = {arm: ", ".join(_changes(options, self.arm(arm))) for arm, options in self.table.arms.items()}
        arms = (f"{arm}: {text}" for arm, text in by_arm.items() if text)
        return (*dict.fromkeys(self._sources()), *shared, *parts, *arms, *self._changed_analyses())

    def _changed_analyses(self) -> Iterator[str]:
        for label, query in self.queries.items():
            before, after = (parse_spec(one.analysis).options for one in (self.table.queries[label], query))
            changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            values = {key: [_ANALYSIS_UNSET.get(v, v) for v in (before.get(key), after.get(key))] for key in changed}
            if changed:
                texts = (f"{key.replace('_', '-')} {was} → {now}" for key, (was, now) in values.items())
                yield f"{label}: {', '.join(texts)}"

    def _paper_run(self, part: str) -> dict[str, Any]:
        """The options that the paper's runs of a part share, except for the data set."""
        return config.merge_layers(self.table.base, self.table.parts[part].options)

    def _run(self, part: str) -> dict[str, Any]:
        own = self._paper_run(part)
        data = {"dataset": self.data[self.table.parts[part].data]}
        model = {"model": self.scale.models.get(own["model"], own["model"])}
        run = config.merge_layers(own, data, model, self.scale.options, self.scale.parts.get(part, {}), self.changes)
        return {key: value for key, value in run.items() if not self._overruled(key)}

    def _overruled(self, key: str) -> bool:
        """Whether a change replaces an option: a SPEC that sets it, or samples in place of epochs."""
        if key == "epochs" and key not in self.changes:
            return not _is_unset("samples", self.changes.get("samples"))
        return _sets_option(self.changes, key)

    def arm(self, arm: str) -> dict[str, Any]:
        """The options that belong to a row alone."""
        return config.merge_layers(self.table.arms[arm], self.scale.arms.get(arm, {}))

    def _chosen(self, part: str) -> bool:
        """Whether a part runs on the data that the user gave for its data set."""
        name = self.table.parts[part].data
        return name in self.given and self._run(part)["dataset"] == self.data[name]

    def _sources(self) -> Iterator[str]:
        full = self.table.scales["full"].data
        for part in self.parts:
            name, used = self.table.parts[part].data, str(self._run(part)["dataset"])
            if self._chosen(part):
                yield f"{name} from {used}"
            elif used != full.get(name):
                yield f"{name} → {used}"


def scale_table(
    name: str,
    scale: str,
    parts: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    seeds: Sequence[int] | None = None,
    changes: Options | None = None,
) -> ScaledTable:
    """A table at a scale.

    Without ``parts``, it has all parts of the scale that have data. ``data`` maps the paper's names of data sets to
    SPECs. Raises ``OptionError`` if a name is unknown, an option would be ignored, or a part has no data.
    """
    table = read_table(name)
    if scale not in SCALES:
        raise OptionError(f"--scale {scale}: {suggest(scale, SCALES)}")
    size = table.scales[scale]
    named = [_match_name("--part", part, tuple(table.parts)) for part in parts]
    sets = tuple(dict.fromkeys(part.data for part in table.parts.values()))
    given = {_match_name("--data", key, sets): spec for key, spec in (data or {}).items()}
    specs = {**size.data, **given}
    default = [part for part in size.only or table.parts if table.parts[part].data in specs]
    chosen = tuple(part for part in table.parts if part in (named or default))
    needed = sets if not chosen else tuple(table.parts[part].data for part in chosen)
    for key in needed:
        if key not in specs:
            raise OptionError(f"{name} at scale {scale} needs data: --data '{key}={_EXAMPLES[key]}'")
    for key in given:
        if key not in needed:
            raise OptionError(f"--data {key} would be ignored: no part that is run has that data")
    scaled = ScaledTable(
        table=table,
        scale=size,
        parts=chosen,
        seeds=tuple(size.seeds if seeds is None else seeds),
        data={key: specs[key] for key in needed},
        given=frozenset(given),
        changes=config.canonical_keys(changes or {}),
    )
    _require_effective(scaled)
    return scaled


def _require_effective(scaled: ScaledTable) -> None:
    """Raise ``OptionError`` if a row of the table, or another change, decides what a change sets."""
    for key in scaled.changes:
        name = key.replace("_", "-")
        if _sets_option(scaled.changes, key):
            kind = key.partition(".")[0]
            raise OptionError(f"--set {name} and --set {kind}={scaled.changes[kind]} say the same twice: leave one out")
        for arm in scaled.table.arms:
            own = scaled.arm(arm)
            if _decides(own, key):
                options = ", ".join(f"{option}={value}" for option, value in own.items())
                raise OptionError(
                    f"--set {name} would be ignored: the row '{arm}' of {scaled.table.name} is {options}; leave it "
                    "out, or compare with forgetkit ablate"
                )


def _decides(arm: Options, key: str) -> bool:
    """Whether the options of an arm override an option that is set for all runs."""
    if "." in key:
        return key in arm or _sets_option(arm, key)
    return not _DECIDED_BY.get(key, {key}).isdisjoint(path.partition(".")[0] for path in arm)


def _sets_option(given: Options, path: str) -> bool:
    """Whether one of the options is a SPEC that sets ``path``, like ``reinit.masked.fraction``."""
    component, dot, option = path.rpartition(".")
    kind, _, name = component.partition(".")
    if not dot or not isinstance(given.get(kind), str):
        return False
    spec = parse_spec(given[kind])
    return option in spec.options and spec.name.rpartition("/")[2] == name.rpartition("/")[2]


def _match_name(flag: str, text: str, names: Sequence[str]) -> str:
    """The paper's name, whatever its case and punctuation: ``restricted-imagenet`` is Restricted ImageNet."""
    plain = {_letters(name): name for name in names}
    if _letters(text) not in plain:
        raise OptionError(f"{flag} {text}: {suggest(text, names)}")
    return plain[_letters(text)]


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _changes(printed: Options, run: Options) -> Iterator[str]:
    """How two sets of options differ, in words; without the data set."""
    preset = config.canonical_keys(presets.all_values(str(run.get("preset", "paper"))))
    for key, value in run.items():
        if key == "dataset" or key in _MACHINE:
            continue
        fallback = RunConfig.model_fields[key].default if key in RunConfig.model_fields else None
        before, after = (_format_change(key, one) for one in (printed.get(key, preset.get(key, fallback)), value))
        if before != after:
            yield _CHANGE_TEXTS.get(key, f"{key.replace('_', '-')} {{}} → {{}}").format(before, after)


def _format_change(key: str, value: Any) -> str:
    return _UNSET.get(key, "unset") if _is_unset(key, value) else str(value)


def _is_unset(key: str, value: Any) -> bool:
    return value in (None, ()) or (key in ("shots", "samples") and value == "none")
