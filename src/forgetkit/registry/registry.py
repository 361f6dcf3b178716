"""The registry: components by kind and name, from built-ins, installed plugins and single files.

:func:`load` reads each plugin in a ``try`` of its own. A plugin that fails is listed with the reason; the others work.
What a plugin prints goes to standard error, and global random state and torch's settings are restored.
A registry is a value; this module holds no state.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from packaging.utils import canonicalize_name

from forgetkit import contracts
from forgetkit._version import __version__
from forgetkit.errors import ComponentError, ForgetkitError, OptionError, UsageError, suggest
from forgetkit.registry.entry_points import DISABLE, PluginEntryPoint
from forgetkit.registry.entry_points import plugins as installed_plugins
from forgetkit.registry.kinds import KIND_INFO
from forgetkit.registry.kinds import KINDS as KINDS
from forgetkit.registry.kinds import parse_kind as parse_kind
from forgetkit.registry.plugin_hooks import Component, collect_components, new_manager
from forgetkit.registry.spec import Spec, build_component, format_spec, parse_spec, validate_component
from forgetkit.seeding import preserved_rng

BUILTIN = "forgetkit"
_BUILTIN_PLUGINS = (
    "forgetkit.builtin.importance",
    "forgetkit.builtin.reinit",
    "forgetkit.builtin.replay",
    "forgetkit.builtin.datasets",
    "forgetkit.builtin.models",
    "forgetkit.builtin.metrics",
    "forgetkit.builtin.analyses",
    "forgetkit.builtin.executors",
)


@dataclass(frozen=True)
class ComponentEntry:
    """A component class, its name, and the plugin that provides it."""

    kind: str
    name: str
    component: Any
    distribution: str
    plugin: str = ""
    version: str = ""

    @property
    def is_builtin(self) -> bool:
        """Whether forgetkit itself provides it."""
        return self.distribution == BUILTIN

    @property
    def full_name(self) -> str:
        """The name with the distribution in front."""
        return f"{self.distribution}/{self.name}"

    @property
    def summary(self) -> str:
        """The first line of the docstring; empty for the signature that a dataclass without a docstring gets."""
        text = inspect.getdoc(self.component) or ""
        return "" if text.startswith(f"{getattr(self.component, '__name__', '')}(") else text.partition("\n")[0]


@dataclass(frozen=True)
class FailedPlugin:
    """A plugin that cannot be used, and the reason."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' of {self.distribution} is left out: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """All components that can be named, and the plugins that they come from."""

    components: tuple[ComponentEntry, ...]
    broken: tuple[FailedPlugin, ...]
    plugins: Mapping[str, str]
    """The version of each third-party distribution (or file) in use."""
    inactive: tuple[PluginEntryPoint, ...] = ()
    """Installed plugins that an option or the environment disables."""

    def named(self, kind: str) -> tuple[ComponentEntry, ...]:
        """The components of one kind, sorted by name."""
        entries = [entry for entry in self.components if entry.kind == kind]
        return tuple(sorted(entries, key=lambda entry: (entry.name, entry.distribution)))

    def find(self, kind: str, name: str) -> ComponentEntry:
        """The component that ``name`` or ``distribution/name`` means.

        A plain name means the built-in if there is one, so that no installed package changes what a command line
        means.

        Raises:
            OptionError: No component has this name, or two plugins provide it.
        """
        entries, label = self.named(kind), KIND_INFO[kind].label
        distribution, slash, plain = name.rpartition("/")
        matches = [
            entry for entry in entries if entry.name == plain and (not slash or entry.distribution == distribution)
        ]
        builtin = [entry for entry in matches if entry.is_builtin]
        if len(matches) == 1 or (builtin and not slash):
            return (builtin or matches)[0]
        if matches:
            choices = " or ".join(entry.full_name for entry in matches)
            raise OptionError(f"two plugins offer the {label} '{name}': write {choices}")
        if "." in plain:
            hint = "; a name with a dot stands for an object given in Python: give it again"
        else:
            hint = "".join(f"; {reason}" for reason in self._absences(distribution))
        raise OptionError(f"no {label} is called '{name}'; {suggest(name, {entry.name for entry in entries})}{hint}")

    def _absences(self, distribution: str) -> list[str]:
        """Why plugins are not in use: those of ``distribution`` if there are any, else all."""
        reasons = [(broken.distribution, str(broken)) for broken in self.broken]
        for point in self.inactive:
            switch = DISABLE if point.disabled else "--no-plugin"
            reasons.append(
                (point.distribution, f"plugin '{point.plugin}' of {point.distribution} is disabled by {switch}")
            )
        return [text for name, text in reasons if name == distribution] or [text for _, text in reasons]

    def _entry_of(self, component: object, kind: str | None = None) -> ComponentEntry | None:
        """The entry of an object's class."""
        entries = self.components if kind is None else self.named(kind)
        return next((entry for entry in entries if entry.component is type(component)), None)

    def distribution_of(self, component: object) -> str | None:
        """The third-party distribution (or file) of an object's class; None for any other object."""
        entries = (entry for entry in self.components if entry.component is type(component) and not entry.is_builtin)
        return next((entry.distribution for entry in entries), None)

    def origin(self, kind: str, name: str, distribution: str, version: str) -> str:
        """One line on a recorded component that is missing now: where it came from, how to have it again."""
        subject = f"the {KIND_INFO[kind].label} '{name}' came from"
        absent = {plugin.distribution for plugin in self.broken} | {point.distribution for point in self.inactive}
        if distribution in absent:
            return f"{subject} {distribution} {version}; {self._absences(distribution)[0]}"
        if version.startswith("file "):
            return f"{subject} the plugin file {distribution}.py: give it again, with --plugin {distribution}.py"
        remedy = f"pip install '{distribution}=={version}'"
        if distribution in self.plugins:
            return f"{subject} {distribution} {version}, and {self.plugins[distribution]} does not offer it: {remedy}"
        return f"{subject} {distribution} {version}, which is not installed: {remedy}"

    def label(self, entry: ComponentEntry) -> str:
        """The shortest name that means ``entry``."""
        is_unique = sum(other.name == entry.name for other in self.named(entry.kind)) == 1
        return entry.name if is_unique or entry.is_builtin else entry.full_name

    def require_all_loaded(self) -> None:
        """Raise ``UsageError`` if a plugin is broken."""
        if self.broken:
            raise UsageError(f"--strict-plugins: {'; '.join(map(str, self.broken))}")

    def make(
        self,
        kind: str,
        spec: str | Spec | object,
        defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> tuple[str, Any]:
        """Build and validate a component.

        Args:
            kind: A name of ``KINDS``.
            spec: A SPEC, or a component that was built in Python.
            defaults: By the name of a component, values for options that the SPEC does not give.

        Returns:
            The SPEC with every option written out, and the component.

        Raises:
            OptionError: The name or an option is unknown, a value is out of range, or the object breaks the contract.
        """
        info = KIND_INFO[kind]
        if not isinstance(spec, str | Spec):
            name = self._name_of(kind, spec)
            component = validate_component(name, spec)
        else:
            parsed = parse_spec(spec) if isinstance(spec, str) else spec
            name = parsed.name
            entry = self.find(kind, name)
            with nullcontext() if entry.is_builtin else _isolated(f"the {info.label} {name}"):
                component = build_component(name, entry.component, parsed, self.defaults_for(entry, defaults))
        if info.contract is not None and not isinstance(component, info.contract):
            methods = " and ".join(f"{method}()" for method in info.methods)
            raise OptionError(f"{name} is no {info.label}: one has {methods}")
        if isinstance(spec, str):
            self._keep_name(component, spec.strip())
        return format_spec(name, component), component

    def defaults_for(self, entry: ComponentEntry, defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The values in ``defaults`` for one component, under whichever of its names they stand."""
        tables = [table for name, table in defaults.items() if self.find(entry.kind, name) is entry]
        return {option: value for table in tables for option, value in table.items()}

    def _keep_name(self, component: object, written: str) -> None:
        """Let errors name a component by its SPEC, and a plugin's with its file or distribution too."""
        entry = self._entry_of(component)
        if entry is None or entry.is_builtin:
            contracts.keep_name(component, written)
        elif entry.version == "file":
            contracts.keep_name(component, written, contracts.source_file(type(component)))
        else:
            contracts.keep_name(component, written, f"{entry.distribution} {entry.version}")

    def _name_of(self, kind: str, component: object) -> str:
        """The registered name of an object's class, else module and class, whose dot no registered name has."""
        entry = self._entry_of(component, kind)
        if entry is not None:
            return self.label(entry)
        return f"{type(component).__module__}.{type(component).__qualname__.replace('<locals>.', '')}"


def load(*, without: Collection[str] = (), files: Sequence[Path] = (), entry_points: bool = True) -> Registry:
    """Build a registry: built-ins, then installed plugins, then single files.

    Args:
        without: Entry points or distributions to leave out.
        files: Python files that are plugins.
        entry_points: Whether to load installed plugins.

    Returns:
        The registry; it lists the installed plugins that fail.

    Raises:
        UsageError: ``without`` names no installed plugin, or a file is broken or has the name of another plugin.
    """
    manager = new_manager()
    components = [
        ComponentEntry(*found, BUILTIN, version=__version__)
        for module in _BUILTIN_PLUGINS
        for found in collect_components(manager, importlib.import_module(module))
    ]
    points = installed_plugins() if entry_points else ()
    unknown = {name for name in without if not any(point.is_one_of({name}) for point in points)}
    if unknown:
        names = {point.plugin for point in points}
        raise UsageError(f"--no-plugin: no plugin '{min(unknown)}' is installed; {suggest(min(unknown), names)}")
    inactive = tuple(point for point in points if point.disabled or point.is_one_of(without))
    active = [point for point in points if point not in inactive]
    _require_distinct_files(files, {point.distribution for point in active})

    broken: list[FailedPlugin] = []
    plugins: dict[str, str] = {}
    for point in active:
        try:
            _require_other_distribution(point)
            with _isolated(f"plugin '{point.plugin}' of {point.distribution}"):
                found = collect_components(manager, point.load())
            _require_new_names(found, point.distribution, components)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
            broken.append(FailedPlugin(point.plugin, point.distribution, _error_line(error)))
        else:
            components += [ComponentEntry(*part, point.distribution, point.plugin, point.version) for part in found]
            plugins[point.distribution] = point.version

    for path in files:
        try:
            with _isolated(f"plugin {path}"):
                found = collect_components(manager, _import_file(path))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UsageError(f"--plugin {path}: {_error_line(error)}; repair the file, or leave it out") from error
        components += [ComponentEntry(*part, path.stem, path.stem, "file") for part in found]
        plugins[path.stem] = f"file {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    return Registry(tuple(components), tuple(broken), plugins, inactive)


@contextmanager
def _isolated(name: str) -> Iterator[None]:
    """Send standard output to standard error; restore global random state and torch's settings."""
    from forgetkit.system.torch_settings import settings_restored  # imports torch, which takes a second

    with contextlib.redirect_stdout(sys.stderr), preserved_rng(), settings_restored(name):
        yield


def _require_distinct_files(files: Sequence[Path], distributions: Collection[str]) -> None:
    """A file's components are ``STEM/NAME``, so its stem must be no other plugin's name."""
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem == BUILTIN:
            raise UsageError(f"--plugin {path}: {BUILTIN}/NAME is a built-in: give the file another name")
        if path.stem in distributions:
            raise UsageError(
                f"--plugin {path}: {path.stem}/NAME would mean the installed distribution too: give the file another "
                f"name, or leave the other out with --no-plugin {path.stem}"
            )
        if path.stem in seen:
            raise UsageError(f"--plugin {path}: {path.stem}/NAME would mean {seen[path.stem]} too: leave out or rename")
        seen[path.stem] = path


def _require_other_distribution(point: PluginEntryPoint) -> None:
    if canonicalize_name(point.distribution) == BUILTIN:
        raise ComponentError(f"its distribution calls itself {BUILTIN}, as only the built-ins may")


def _require_new_names(found: Iterable[Component], distribution: str, components: Iterable[ComponentEntry]) -> None:
    """Refuse a second component of one kind and name in a distribution: no SPEC could name it."""
    plugin_of = {(entry.kind, entry.name): entry.plugin for entry in components if entry.distribution == distribution}
    for kind, name, _ in found:
        if (kind, name) in plugin_of:
            raise ComponentError(
                f"it offers the {KIND_INFO[kind].label} '{name}', as plugin '{plugin_of[kind, name]}' of "
                f"{distribution} does"
            )


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    name = f"forgetkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("this is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _error_line(error: BaseException) -> str:
    """One line; an error that is not of forgetkit begins with its type."""
    kind = type(error).__name__
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - the error of a plugin may raise in __str__
        text = ""
    if not text:
        return f"{kind}, which does not say why"
    return text if isinstance(error, ForgetkitError) else f"{kind}: {text}"
