"""Discover, isolate, name and look up components.

pluggy finds plugins once, here. Each plugin is loaded, registered and asked in its own try: one
that fails is listed with its reason, and everything else goes on. What it prints goes to standard
error, what it draws from the global random state is put back. Nothing is kept in the module: a
registry is a value, built when it is wanted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from forgetkit import contracts
from forgetkit._version import __version__
from forgetkit.errors import ComponentError, ForgetkitError, OptionError, UsageError, suggest
from forgetkit.registry import hookspecs
from forgetkit.registry.entry_points import DISABLE, PluginEntryPoint
from forgetkit.registry.entry_points import plugins as installed_plugins
from forgetkit.registry.spec import Spec, build_component, format_spec, parse_spec, validate_component
from forgetkit.seeding import preserved_rng

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
    "interventions": tuple(
        name for name, value in vars(contracts.Intervention).items() if inspect.isfunction(value) and name[0] != "_"
    ),
    "datasets": ("load",),
    "models": ("build",),
    "metrics": ("compute",),
    "observers": ("notify",),
    "analyses": ("analyze",),
    "executors": ("execute",),
}

_Component = tuple[str, str, Any]
"""A kind, a name and a component class."""

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
    """A component class under the name it was offered, and the plugin that offers it."""

    kind: str
    name: str
    component: Any
    distribution: str
    plugin: str = ""
    version: str = ""

    @property
    def summary(self) -> str:
        """The first line of its docstring; a dataclass that has none is given its signature for one."""
        text = inspect.getdoc(self.component) or ""
        return "" if text.startswith(f"{getattr(self.component, '__name__', '')}(") else text.partition("\n")[0]


@dataclass(frozen=True)
class FailedPlugin:
    """A plugin that could not be used, and why."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' of {self.distribution} is left out: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """Everything on offer."""

    components: tuple[ComponentEntry, ...]
    broken: tuple[FailedPlugin, ...]
    plugins: Mapping[str, str]
    """Distribution (or file) of each third-party plugin in use, and its version."""
    inactive: tuple[PluginEntryPoint, ...] = ()
    """Installed plugins that somebody asked not to be used."""

    def named(self, kind: str) -> tuple[ComponentEntry, ...]:
        """The offers of one kind, sorted by name."""
        return tuple(sorted((o for o in self.components if o.kind == kind), key=lambda o: (o.name, o.distribution)))

    def find(self, kind: str, name: str) -> ComponentEntry:
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
            who = " or ".join(f"{o.distribution}/{o.name}" for o in matches)
            raise OptionError(f"two plugins offer the {kind_label(kind)} '{name}': write {who}")
        hint = "".join(f"; {reason}" for reason in self._absences(distribution))
        if "." in plain:
            hint = "; a name with a dot stands for an object given in Python: give it again"
        raise OptionError(f"no {kind_label(kind)} is called '{name}'; {suggest(name, {o.name for o in offers})}{hint}")

    def _absences(self, distribution: str) -> Iterable[str]:
        """Why a name may not be on offer: the plugins that are not in use, or those of the distribution it names."""
        why = [(broken.distribution, str(broken)) for broken in self.broken]
        for point in self.inactive:
            asker = DISABLE if point.disabled else "--no-plugin"
            asked = f"plugin '{point.plugin}' of {point.distribution} is left alone, as {asker} asks"
            why.append((point.distribution, asked))
        return [reason for who, reason in why if who == distribution] or [reason for _, reason in why]

    def distribution_of(self, component: object) -> str | None:
        """The third-party distribution, or the file, that offers an object's class; None for any other object."""
        makers = (offer.distribution for offer in self.components if offer.component is type(component))
        return next((maker for maker in makers if maker != BUILTIN), None)

    def origin(self, kind: str, name: str, distribution: str, version: str) -> str:
        """Where a component came from that is not on offer now, and how to have it again, in a line."""
        who = f"the {kind_label(kind)} '{name}' came from"
        absent = [broken for broken in self.broken if broken.distribution == distribution]
        absent_too = [point for point in self.inactive if point.distribution == distribution]
        if absent or absent_too:
            return f"{who} {distribution} {version}; {next(iter(self._absences(distribution)))}"
        if version.startswith("file "):
            return f"{who} the plugin file {distribution}.py: give it again, with --plugin {distribution}.py"
        again = f"pip install '{distribution}=={version}'"
        if distribution in self.plugins:
            return f"{who} {distribution} {version}, and {self.plugins[distribution]} does not offer it: {again}"
        return f"{who} {distribution} {version}, which is not installed: {again}"

    def label(self, offer: ComponentEntry) -> str:
        """The shortest name that means ``offer``."""
        alike = [o for o in self.named(offer.kind) if o.name == offer.name]
        alone = len(alike) == 1 or offer.distribution == BUILTIN
        return offer.name if alone else f"{offer.distribution}/{offer.name}"

    def require_all_loaded(self) -> None:
        """``UsageError`` where a plugin is left out."""
        if self.broken:
            raise UsageError(f"--strict-plugins: {'; '.join(map(str, self.broken))}")

    def make(
        self,
        kind: str,
        spec: str | Spec | object,
        defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> tuple[str, Any]:
        """The validated component of a SPEC or of an object, and the SPEC with every option spelled out.

        ``defaults`` are options by the name of the component, which hold where the SPEC gives none.
        """
        if not isinstance(spec, str | Spec):
            name = self._name_of(kind, spec)
            component = validate_component(name, spec)
        else:
            parsed = parse_spec(spec) if isinstance(spec, str) else spec
            name = parsed.name
            offer = self.find(kind, name)
            held = [given for written, given in defaults.items() if self.find(kind, written) is offer]
            usual = {key: value for given in held for key, value in given.items()}
            with nullcontext() if offer.distribution == BUILTIN else _isolated(f"the {kind_label(kind)} {name}"):
                component = build_component(name, offer.component, parsed, usual)
        contract = _CONTRACTS.get(kind)
        if contract is not None and not isinstance(component, contract):
            verbs = " and ".join(f"{verb}()" for verb in _VERBS[kind])
            raise OptionError(f"{name} is no {kind_label(kind)}: one has {verbs}")
        if isinstance(spec, str):
            self._keep_name(component, spec.strip())
        return format_spec(name, component), component

    def _keep_name(self, component: object, written: str) -> None:
        """A built-in goes by its SPEC, a plugin's component by that and where it comes from."""
        offer = next((offer for offer in self.components if offer.component is type(component)), None)
        if offer is None or offer.distribution == BUILTIN:
            contracts.keep_name(component, written)
        elif offer.version == "file":
            contracts.keep_name(component, written, contracts.source_file(type(component)))
        else:
            contracts.keep_name(component, written, f"{offer.distribution} {offer.version}")

    def _name_of(self, kind: str, component: object) -> str:
        """The name on offer; an object of a class that is not on offer goes by its module and class.

        Such a name holds a dot, so that it can never be taken for one on offer.
        """
        for offer in self.named(kind):
            if type(component) is offer.component:
                return self.label(offer)
        return f"{type(component).__module__}.{type(component).__qualname__.replace('<locals>.', '')}"


def parse_kind(text: str) -> str:
    """The kind that a user means by ``model`` or ``models``."""
    for kind in KINDS:
        if text in (kind, kind.removesuffix("s"), kind_label(kind)):
            return kind
    raise OptionError(f"no kind of component is called '{text}'; {suggest(text, KINDS)}")


def kind_label(kind: str) -> str:
    """What a component of a kind is called."""
    singular = {
        "importance": "importance criterion",
        "reinit": "reinit method",
        "replay": "replay strategy",
        "analyses": "analysis",
    }
    return singular.get(kind, kind.removesuffix("s"))


def load(*, without: Collection[str] = (), files: Sequence[Path] = (), entry_points: bool = True) -> Registry:
    """Build a registry: built-ins, then installed plugins, then single files.

    ``without`` names plugins (entry points or distributions) to leave alone; one that is not
    installed is an error, since a typing slip would silently leave it in.
    """
    offers = [
        ComponentEntry(kind, name, component, BUILTIN, version=__version__)
        for module in _BUILTIN_PLUGINS
        for kind, name, component in _collect_components(importlib.import_module(module))
    ]
    points = installed_plugins() if entry_points else ()
    unknown = {name for name in without if not any(point.is_one_of({name}) for point in points)}
    if unknown:
        names = {point.plugin for point in points}
        raise UsageError(f"--no-plugin: no plugin '{min(unknown)}' is installed; {suggest(min(unknown), names)}")
    inactive = tuple(point for point in points if point.disabled or point.is_one_of(without))
    in_use = [point for point in points if point not in inactive]
    _require_distinct_files(files, {point.distribution for point in in_use})

    broken: list[FailedPlugin] = []
    plugins: dict[str, str] = {}
    for point in in_use:
        try:
            with _isolated(f"plugin '{point.plugin}' of {point.distribution}"):
                found = _collect_components(_foreign_entry_point(point).load())
            _require_new_name(found, point.distribution, offers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything, or leave
            broken.append(FailedPlugin(point.plugin, point.distribution, _error_line(error)))
        else:
            offers += [ComponentEntry(*offer, point.distribution, point.plugin, point.version) for offer in found]
            plugins[point.distribution] = point.version

    for path in files:  # asked for by name, so a failure here is the user's to know at once
        try:
            with _isolated(f"plugin {path}"):
                found = _collect_components(_module_of(path))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UsageError(f"--plugin {path}: {_error_line(error)}; repair the file, or leave it out") from error
        offers += [ComponentEntry(*offer, path.stem, path.stem, "file") for offer in found]
        plugins[path.stem] = f"file {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    return Registry(tuple(offers), tuple(broken), plugins, inactive)


@contextmanager
def _isolated(who: str) -> Iterator[None]:
    """Standard output belongs to the caller. What ``who`` changes of global random state and settings is put back."""
    from forgetkit.system.torch_settings import settings_restored  # torch takes a second, and help needs none of it

    with contextlib.redirect_stdout(sys.stderr), preserved_rng(), settings_restored(who):
        yield


def _require_distinct_files(files: Sequence[Path], distributions: Collection[str]) -> None:
    """``distribution/name`` must mean one thing: a file goes by its stem."""
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


def _foreign_entry_point(point: PluginEntryPoint) -> PluginEntryPoint:
    if re.sub(r"[-_.]+", "-", point.distribution).lower() == BUILTIN:
        raise ComponentError(f"its distribution calls itself {BUILTIN}, as only the built-ins may")
    return point


def _require_new_name(found: Iterable[_Component], distribution: str, offers: Iterable[ComponentEntry]) -> None:
    """Within one distribution nothing could tell two components of a name apart."""
    taken = {(o.kind, o.name): o.plugin for o in offers if o.distribution == distribution}
    for kind, name, _ in found:
        if (kind, name) in taken:
            other = taken[kind, name]
            raise ComponentError(
                f"it offers the {kind_label(kind)} '{name}', as plugin '{other}' of {distribution} does"
            )


def _collect_components(plugin: object) -> list[_Component]:
    """Collect what one plugin offers, through a manager of its own: whatever it breaks breaks nothing else."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin)
    except pluggy.PluginValidationError as error:
        hook = re.search(r"forgetkit_\w+", str(error).partition("for hook")[2])
        if hook is None or "Argument" not in str(error):
            raise ComponentError(" ".join(str(error).split())) from error
        raise ComponentError(f"a hook takes nothing: write def {hook[0]}():") from error
    _require_hooks(plugin, manager)
    return [
        (kind, key, component)
        for kind in KINDS
        for key, component in _call_hook(kind, getattr(manager.hook, f"forgetkit_{kind}")).items()
    ]


def _require_hooks(plugin: object, manager: pluggy.PluginManager) -> None:
    """A hook that is misspelt or lacks its marker would be silently ignored, and a plugin without hooks as well."""
    known = [f"forgetkit_{kind}" for kind in KINDS]
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            raise ComponentError(f"no hook is called '{caller.name}'; {suggest(caller.name, known)}")
    for name in dir(plugin):
        if name not in known and (callers or not name.startswith("forgetkit_")):
            continue
        if inspect.isroutine(getattr(plugin, name)) and manager.parse_hookimpl_opts(plugin, name) is None:
            raise ComponentError(f"{name} lacks its marker: write @forgetkit.hookimpl above it")
    if not callers:
        raise ComponentError("it has no hook: a function like forgetkit_importance, under @forgetkit.hookimpl")


def _call_hook(kind: str, hook: pluggy.HookCaller) -> dict[str, Any]:
    """The components by name that a hook answers with, where there is one."""
    answers = hook()
    if hook.get_hookimpls() and not answers:  # pluggy drops the answer None
        raise ComponentError(f"forgetkit_{kind} returned nothing; it returns a mapping from names to classes")
    return {key: component for answer in answers for key, component in _validate_answer(kind, answer).items()}


def _validate_answer(kind: str, answer: object) -> dict[str, Any]:
    hook = f"forgetkit_{kind}"
    if not isinstance(answer, Mapping) or not all(isinstance(key, str) for key in answer):
        raise ComponentError(f"{hook} must return a mapping from names to classes, not {type(answer).__name__}")
    offered = dict(answer)
    for key, component in offered.items():
        if not re.fullmatch(r"\w[\w-]*", key):  # a dot, a slash and a colon mean something in a SPEC
            raise ComponentError(f"{hook} offers '{key}'; a name consists of letters, digits, - and _")
        if kind != "commands":
            fault = _class_fault(kind, component)
            if fault:
                raise ComponentError(f"{hook} offers '{key}', which {fault}")
    return offered


def _class_fault(kind: str, component: Any) -> str:
    """What can be seen of a component class without making one."""
    if not isinstance(component, type):
        return "is not a class"
    if not dataclasses.is_dataclass(component):
        return f"is no dataclass: write @dataclass(frozen=True) above class {component.__name__}"
    if kind == "interventions":
        if not issubclass(component, contracts.Intervention):
            return f"is no intervention: let class {component.__name__} inherit forgetkit.contracts.Intervention"
        acts = any(getattr(component, verb) is not getattr(contracts.Intervention, verb) for verb in _VERBS[kind])
        return "" if acts else f"never acts: class {component.__name__} has none of {', '.join(_VERBS[kind])}"
    lacking = [verb for verb in _VERBS[kind] if not callable(getattr(component, verb, None))]
    return f"is no {kind_label(kind)}: class {component.__name__} has no {lacking[0]}()" if lacking else ""


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


def _error_line(error: BaseException) -> str:
    """One line. Our own errors say what is wrong; a stranger's begins with its type."""
    who = type(error).__name__
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - a stranger's error may not even be able to say what it is
        text = ""
    if not text:
        return f"{who}, which does not say why"
    return text if isinstance(error, ForgetkitError) else f"{who}: {text}"
