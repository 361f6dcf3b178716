"""The kinds of components: one row for each hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forgetkit import contracts
from forgetkit.errors import OptionError, suggest


@dataclass(frozen=True)
class Kind:
    """A kind of component: its name, its label in messages, its contract and the methods that the contract names."""

    name: str
    label: str
    contract: type | None
    methods: tuple[str, ...]

    @property
    def hook(self) -> str:
        """The hook that provides components of this kind."""
        return f"forgetkit_{self.name}"


_INTERVENTION_METHODS = tuple(name for name in vars(contracts.Intervention) if not name.startswith("_"))

KIND_INFO: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("importance", "importance criterion", contracts.Importance, ("score",)),
        Kind("reinit", "reinit method", contracts.Reinit, ("propose",)),
        Kind("replay", "replay strategy", contracts.Replay, ("retain",)),
        Kind("interventions", "intervention", contracts.Intervention, _INTERVENTION_METHODS),
        Kind("datasets", "dataset", contracts.DatasetSource, ("load",)),
        Kind("models", "model", contracts.ModelBuilder, ("build",)),
        Kind("metrics", "metric", contracts.Metric, ("compute",)),
        Kind("observers", "observer", contracts.Observer, ("notify",)),
        Kind("analyses", "analysis", contracts.Analysis, ("analyze",)),
        Kind("executors", "executor", contracts.Executor, ("execute",)),
        Kind("optimizer_state", "optimizer-state rule", contracts.OptimizerStateRule, ("handles", "fresh")),
        Kind("commands", "command", None, ()),
    )
}

KINDS = tuple(KIND_INFO)
"""The names of all kinds."""


def parse_kind(text: str) -> str:
    """The kind that a user means by ``model`` or ``models``."""
    for kind in KIND_INFO.values():
        if text in (kind.name, kind.name.removesuffix("s"), kind.label):
            return kind.name
    raise OptionError(f"no kind of component is called '{text}'; {suggest(text, KINDS)}")
