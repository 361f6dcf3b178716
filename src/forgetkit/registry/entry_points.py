"""Which plugins are installed: read from their distributions' metadata, without importing any of them."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from forgetkit._version import __version__
from forgetkit.errors import ComponentError

GROUP = "forgetkit"
"""The entry-point group that plugins declare themselves under."""

DISABLE = "FORGETKIT_DISABLE_PLUGINS"
"""The environment variable that leaves plugins alone: ``1`` or ``all``, or names of entry points or distributions."""


@dataclass(frozen=True)
class PluginEntryPoint:
    """An entry point of the group: one plugin."""

    plugin: str
    distribution: str
    version: str
    module: str
    point: importlib.metadata.EntryPoint

    def is_one_of(self, names: Collection[str]) -> bool:
        """Whether it, or the distribution that brings it, is named."""
        return self.plugin in names or self.distribution in names

    @property
    def disabled(self) -> bool:
        """Whether the environment variable disables the plugin.

        Names that are not installed are allowed there: one variable serves machines with different plugins.
        """
        said = {word.strip() for word in os.environ.get(DISABLE, "").split(",")} - {""}
        return bool(said & {"1", "all"}) or self.is_one_of(said)

    @property
    def clash(self) -> str:
        """What its distribution requires of forgetkit and this version is not; empty if there is no such thing."""
        requires = (self.point.dist and self.point.dist.requires) or ()
        unmet = [str(one.specifier) for one in _of_forgetkit(requires) if not one.specifier.contains(__version__, True)]
        if not unmet:
            return ""
        return (
            f"{self.distribution} {self.version} needs forgetkit{unmet[0]}, and this is forgetkit {__version__}: "
            f"update forgetkit, or install a version of {self.distribution} that is made for this one"
        )

    def load(self) -> object:
        """Import it; ``ComponentError`` if it is made for another version of forgetkit."""
        if self.clash:
            raise ComponentError(self.clash)
        if not all(part.isidentifier() for part in self.module.split(".")):
            raise ComponentError(f"its entry point names no module: '{self.plugin} = {self.point.value}'")
        return self.point.load()


def _of_forgetkit(requires: Collection[str]) -> Iterator[Requirement]:
    """The requirements on forgetkit itself that hold here; an extra's hold only if it is asked for."""
    for text in requires:
        try:
            one = Requirement(text)
        except InvalidRequirement:  # pip, too, passes over what it cannot read in what is installed
            continue
        if canonicalize_name(one.name) == GROUP and (one.marker is None or one.marker.evaluate({"extra": ""})):
            yield one


def plugins() -> tuple[PluginEntryPoint, ...]:
    """Every plugin that is installed, by the names of distribution and entry point."""
    return tuple(sorted(_find_entry_points(), key=lambda one: (one.distribution, one.plugin)))


def _find_entry_points() -> Iterator[PluginEntryPoint]:
    for point in importlib.metadata.entry_points(group=GROUP):
        module = point.value.partition(":")[0].strip()
        distribution = point.dist and point.dist.name
        version = point.dist and point.dist.version
        yield PluginEntryPoint(
            point.name, distribution or module, version or "unknown", module, point
        )  # metadata may be gone
