"""The installed plugins, read from package metadata without an import."""

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
"""The entry-point group of plugins."""

DISABLE = "FORGETKIT_DISABLE_PLUGINS"
"""The environment variable that disables plugins: ``1`` or ``all``, or names of entry points or distributions."""


@dataclass(frozen=True)
class PluginEntryPoint:
    """An entry point of the group: one installed plugin."""

    plugin: str
    distribution: str
    version: str
    module: str
    point: importlib.metadata.EntryPoint

    def is_one_of(self, names: Collection[str]) -> bool:
        """Whether ``names`` has the plugin or its distribution."""
        return self.plugin in names or self.distribution in names

    @property
    def disabled(self) -> bool:
        """Whether the environment disables it. The variable may name plugins that are not installed."""
        words = {word.strip() for word in os.environ.get(DISABLE, "").split(",")} - {""}
        return bool(words & {"1", "all"}) or self.is_one_of(words)

    @property
    def clash(self) -> str:
        """The requirement of its distribution that this version of forgetkit does not meet, and the remedy, or ""."""
        requires = (self.point.dist and self.point.dist.requires) or ()
        for requirement in _requirements_on_forgetkit(requires):
            if not requirement.specifier.contains(__version__, prereleases=True):
                return (
                    f"{self.distribution} {self.version} needs forgetkit{requirement.specifier}, and this is forgetkit "
                    f"{__version__}: update forgetkit, or install a version of {self.distribution} that is made for "
                    "this one"
                )
        return ""

    def load(self) -> object:
        """Import the plugin.

        Raises:
            ComponentError: It requires another version of forgetkit, or its entry point names no module.
        """
        if self.clash:
            raise ComponentError(self.clash)
        if not all(part.isidentifier() for part in self.module.split(".")):
            raise ComponentError(f"its entry point names no module: '{self.plugin} = {self.point.value}'")
        return self.point.load()


def _requirements_on_forgetkit(requires: Collection[str]) -> Iterator[Requirement]:
    """The requirements that apply here; those of an extra do not."""
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # pip ignores unreadable requirements of installed packages too
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and canonicalize_name(requirement.name) == GROUP:
            yield requirement


def plugins() -> tuple[PluginEntryPoint, ...]:
    """Every installed plugin, sorted by distribution and entry point."""
    found = []
    for point in importlib.metadata.entry_points(group=GROUP):
        module = point.value.partition(":")[0].strip()
        distribution = (point.dist and point.dist.name) or module  # a damaged installation has no metadata
        version = (point.dist and point.dist.version) or "unknown"
        found.append(PluginEntryPoint(point.name, distribution, version, module, point))
    return tuple(sorted(found, key=lambda entry: (entry.distribution, entry.plugin)))
