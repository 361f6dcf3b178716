"""Discover, isolate, name and look up components.

pluggy finds plugins once, here. Each plugin is loaded, registered and asked in its own try: one
that fails is listed with its reason, and everything else goes on. Nothing is kept in the module:
a registry is a value, built when it is wanted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from forgetkit import contracts, hookspecs, options
from forgetkit.errors import OptionError, UsageError, closest

GROUP = "forgetkit"
KINDS = (
    "importance",
    "reinit",
    "replay",
    "interventions",
    "datasets",
    "models",
    "metrics",
    "observers",
    "analyses",
    "executors",
    "commands",
)
"""Every kind of component; the hook of a kind is ``forgetkit_KIND``."""

_CONTRACTS: Mapping[str, type] = {
    "importance": contracts.Importance,
    "reinit": contracts.Reinit,
    "replay": contracts.Replay,
    "interventions": contracts.Intervention,
    "datasets": contracts.DatasetSource,
    "models": contracts.ModelBuilder,
    "metrics": contracts.Metric,
    "observers": contracts.Observer,
    "analyses": contracts.Analysis,
    "executors": contracts.Executor,
}
_VERBS: Mapping[str, tuple[str, ...]] = {
    "importance": ("score",),
    "reinit": ("propose",),
    "replay": ("retain",),
    "interventions": ("begin", "loss", "after_step", "after_epoch"),
    "datasets": ("load",),
    "models": ("build",),
    "metrics": ("compute",),
    "observers": ("notify",),
    "analyses": ("analyze",),
    "executors": ("execute",),
}

BUILTIN = "forgetkit"
_BUILTIN_PLUGINS = (
    "forgetkit.builtin.importance",
    "forgetkit.builtin.reinit",
    "forgetkit.builtin.replay",
    "forgetkit.builtin.datasets",
    "forgetkit.builtin.models",
    "forgetkit.builtin.metrics",
)


@dataclass(frozen=True)
class Offer:
    """A component class under the name it was offered, and the distribution that offers it."""

    kind: str
    name: str
    component: Any
    distribution: str

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.component) or "").partition("\n")[0]


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be used, and why."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' of {self.distribution} is left out: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """Everything on offer."""

    offers: tuple[Offer, ...]
    broken: tuple[Broken, ...]
    plugins: Mapping[str, str]
    """Distribution (or file) of each third-party plugin in use, and its version."""

    def named(self, kind: str) -> tuple[Offer, ...]:
        """The offers of one kind, sorted by name."""
        return tuple(sorted((o for o in self.offers if o.kind == kind), key=lambda o: (o.name, o.distribution)))

    def find(self, kind: str, name: str) -> Offer:
        """The offer that ``name`` or ``distribution/name`` means.

        A plain name means the built-in where there is one, so that no installed package can
        change what a command line says; two strangers of one name must be told apart.
        """
        offers = self.named(kind)
        distribution, slash, plain = name.rpartition("/")
        matches = [o for o in offers if o.name == plain and (not slash or o.distribution == distribution)]
        builtin = [o for o in matches if o.distribution == BUILTIN]
        if len(matches) == 1 or (builtin and not slash):
            return (builtin or matches)[0]
        if matches:
            who = " and ".join(f"{o.distribution}/{o.name}" for o in matches)
            raise OptionError(f"two plugins offer the {_one(kind)} '{name}': write {who.replace(' and ', ' or ')}")
        hint = "".join(f"; {broken}" for broken in self.broken)
        if "." in name and not slash:
            hint = "; a name with a dot stands for an object given in Python: give it again"
        raise OptionError(f"no {_one(kind)} is called '{name}'; {closest(name, {o.name for o in offers})}{hint}")

    def make(
        self, kind: str, spec: str | object, defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    ) -> tuple[str, Any]:
        """The validated component of a SPEC or of an object, and the SPEC with every option spelled out.

        ``defaults`` are options by the name of the component, which hold where the SPEC gives none.
        """
        if not isinstance(spec, str):
            name = self._name_of(kind, spec)
            component = options.checked(name, spec)
        else:
            parsed = options.parse(spec)
            name = parsed.name
            offer = self.find(kind, name)
            held = [given for written, given in defaults.items() if self.find(kind, written) is offer]
            component = options.build(name, offer.component, parsed, {k: v for given in held for k, v in given.items()})
        contract = _CONTRACTS.get(kind)
        if contract is not None and not isinstance(component, contract):
            verbs = " and ".join(f"{verb}()" for verb in _VERBS[kind])
            raise OptionError(f"{name} is no {_one(kind)}: one has {verbs}")
        return options.spelled(name, component), component

    def _name_of(self, kind: str, component: object) -> str:
        """The name on offer; an object of a class that is not on offer goes by its module and class.

        Such a name holds a dot, so that it can never be taken for one on offer.
        """
        for offer in self.named(kind):
            if type(component) is offer.component:
                alike = [o for o in self.named(kind) if o.name == offer.name]
                return offer.name if len(alike) == 1 else f"{offer.distribution}/{offer.name}"
        return f"{type(component).__module__}.{type(component).__qualname__.replace('<locals>.', '')}"


def load(*, without: Collection[str] = (), files: Sequence[Path] = (), entry_points: bool = True) -> Registry:
    """Build a registry: built-ins, then installed plugins, then single files.

    ``without`` names plugins (entry points or distributions) to leave alone; one that is not
    installed is an error, since a typing slip would silently leave it in.
    """
    offers: list[Offer] = []
    broken: list[Broken] = []
    plugins: dict[str, str] = {}

    for module in _BUILTIN_PLUGINS:
        offers += _ask(importlib.import_module(module), BUILTIN)

    points = importlib.metadata.entry_points(group=GROUP) if entry_points else ()
    unknown = set(without)
    for point in points:
        distribution = (point.dist and point.dist.name) or point.value  # nameless where its metadata is gone
        unknown -= {point.name, distribution}
        if {point.name, distribution} & set(without):
            continue
        try:
            offers += _ask(point.load(), distribution)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything, or leave
            broken.append(Broken(point.name, distribution, _reason(error)))
        else:
            plugins[distribution] = (point.dist and point.dist.version) or "unknown"
    if unknown:
        names = {p.name for p in points}
        raise UsageError(f"--no-plugin: no plugin '{min(unknown)}' is installed; {closest(min(unknown), names)}")

    for path in files:  # asked for by name, so a failure here is the user's to know at once
        try:
            offers += _ask(_module_of(path), path.stem)
        except (Exception, SystemExit) as error:
            raise UsageError(f"--plugin {path}: {_reason(error)}") from error
        plugins[path.stem] = "file"
    return Registry(tuple(offers), tuple(broken), plugins)


def _ask(plugin: object, distribution: str) -> list[Offer]:
    """Collect what one plugin offers, through a manager of its own: whatever it breaks breaks nothing else."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()  # the only guard against a misspelt hook
    return [
        Offer(kind, key, component, distribution)
        for kind in KINDS
        for answer in getattr(manager.hook, f"forgetkit_{kind}")()
        for key, component in _checked(kind, answer).items()
    ]


def _checked(kind: str, answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping) or not all(isinstance(key, str) for key in answer):
        raise TypeError(f"forgetkit_{kind} must return a mapping from names to classes, not {type(answer).__name__}")
    for key, component in answer.items():
        if kind != "commands" and not isinstance(component, type):
            raise TypeError(f"forgetkit_{kind} offers '{key}', which is not a class")
    return answer


def _module_of(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    name = f"forgetkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("this is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _one(kind: str) -> str:
    singular = {
        "importance": "importance criterion",
        "reinit": "reinit method",
        "replay": "replay strategy",
        "analyses": "analysis",
    }
    return singular.get(kind, kind.removesuffix("s"))
