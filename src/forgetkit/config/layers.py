"""Options from files, assignments and presets: one name for each, merged layer over layer."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forgetkit.config.fields import KIND_OF, REPEATABLE, RunConfig, flag
from forgetkit.errors import ConfigError, suggest
from forgetkit.registry.registry import Registry
from forgetkit.registry.spec import parse_spec, resolved_defaults
from forgetkit.system import safe_open

_IMPORT = re.compile(r"(?:^|[/=,;])\s*import:\s*(?:target=)?([^,\s]+)")
"""An ``import:`` SPEC: alone, after the name of a distribution, or as the value of an option."""
_PATH_LENGTH = 80
"""Characters at the end of a key's path that tell which option it is."""
_MAX_DOTS = 16
"""Dots of a key's path: an option of a component has two, and a distribution's name may have some."""


def read_toml(path: Path, allow_import: Collection[str] = ()) -> dict[str, Any]:
    """Read the options of a run from a TOML file; tables like ``["reinit.masked"]`` hold those of components."""
    try:
        return canonical_keys(read_options_file(path, allow_import))
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from error


def read_options_file(path: Path, allow_import: Collection[str] = ()) -> dict[str, Any]:
    """Read a TOML file.

    A file from elsewhere must not make code run: ``allow_import`` must have each module that an ``import:`` SPEC
    names, or a package that contains it.

    Raises:
        ConfigError: The file is unreadable, is no TOML or names another module; the caller adds its path.
    """
    content = _parse_toml(path)
    for target in _import_targets(content):
        module = target.strip("\"' ").partition(":")[0]
        if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in allow_import):
            raise ConfigError(
                f"import:{target} would run the code of the module {module}, which a file may not ask for by itself: "
                f"add --allow-import {module} where you trust it"
            )
    return content


def _import_targets(content: Mapping[str, Any]) -> Iterator[str]:
    """The targets of ``import:`` SPECs anywhere in a file, also in a table of that component's options."""
    pending: list[tuple[str, Any]] = [("", content)]  # no recursion: a file may exceed Python's limit
    while pending:
        path, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(f"{path[-_PATH_LENGTH:]}.{key.strip()}", inner) for key, inner in value.items()]
            yield from (match[1] for key in value for match in _IMPORT.finditer(key))
        elif isinstance(value, list):
            pending += [(path, inner) for inner in value]
        elif isinstance(value, str):
            if re.search(r"[./]import\.target$", path):
                yield value
            yield from (match[1] for match in _IMPORT.finditer(value))


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(safe_open.read_bytes(path).decode())
    except OSError as error:
        raise ConfigError(f"{error.strerror}; give a TOML file that you may read") from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply; write it flat") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise ConfigError(f"{error}; it must be TOML: repair it") from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Parse the ``key=value`` pairs of ``--set``."""
    found: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write key=value")
        key, value = next(iter(canonical_keys({key.strip(): value.strip()}).items()))
        if key in found:
            raise ConfigError(f"--set {key} is given twice: leave one out")
        found[key] = value
    return found


def canonical_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give each option one name.

    An option of a run gets the name of its field; ``given`` may have dashes and the singulars of the command line. An
    option of a component becomes ``reinit.masked.fraction``, also from a table ``reinit.masked``.

    Raises:
        ConfigError: An option is unknown or given twice.
    """
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if name in found:
            raise ConfigError(f"{flag(name)} is given twice: leave one out")
        found[name] = value

    for key, value in given.items():
        if "." in key or (key in KIND_OF and isinstance(value, Mapping)):
            for path, inner in _flatten(key, value):
                component, _, option = path.rpartition(".")
                if component.partition(".")[0] not in KIND_OF or "." not in component:
                    raise ConfigError(
                        f"'{path}' is no option of a component; write {', '.join(KIND_OF)}, a dot, its name, a dot, "
                        "the option: reinit.masked.fraction"
                    )
                add(f"{component}.{option.replace('-', '_')}", inner)
            continue
        name = key.replace("-", "_")
        name = f"{name}s" if f"{name}s" in REPEATABLE else name
        if name not in RunConfig.model_fields:
            known = [field.removesuffix("s") if field in REPEATABLE else field for field in RunConfig.model_fields]
            raise ConfigError(f"no option is called '{key}'; {suggest(key, [k.replace('_', '-') for k in known])}")
        add(name, value)
    return found


def _flatten(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested tables, by their paths."""
    if path.count(".") > _MAX_DOTS:
        raise ConfigError(f"'{path}…' is nested too deeply; an option of a component is like reinit.masked.fraction")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{path}.{key}", inner)
    else:
        yield path, value


def merge_layers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of options; a later one wins, and a method replaces criterion and reinit method of earlier ones."""
    options: dict[str, Any] = {}
    for layer in layers:
        covered = ("importance", "reinit") if layer.get("method") is not None else ()
        options = {**{key: value for key, value in options.items() if key not in covered}, **layer}
        for path in layer:
            component, dot, option = path.rpartition(".")
            key, _, name = component.partition(".")
            if dot and key not in layer and isinstance(options.get(key), str):
                options[key] = _without_option(options[key], name, option)
    return options


def _without_option(spec: str, name: str, option: str) -> str:
    """The SPEC without ``option``, if it is a SPEC of the component ``name``."""
    parsed = parse_spec(spec)
    if parsed.name != name or option not in parsed.options:
        return spec
    return str(replace(parsed, options={key: value for key, value in parsed.options.items() if key != option}))


@dataclass(frozen=True, eq=False)
class ComponentFactory:
    """Builds components with the defaults that the layers set for their options."""

    registry: Registry
    layers: Mapping[str, Any]

    def make(self, key: str, spec: Any) -> tuple[str, Any]:
        """The SPEC with every option, and the component."""
        return self.registry.make(KIND_OF[key], spec, self._tables(key))

    def defaults(self, key: str, name: str) -> dict[str, Any]:
        """The values that options of a component have if they are not given."""
        entry = self.registry.find(KIND_OF[key], name)
        return resolved_defaults(name, entry.component, self.registry.defaults_for(entry, self._tables(key)))

    def _tables(self, key: str) -> dict[str, dict[str, Any]]:
        """By the name of a component, the values that the layers set for its options."""
        tables: dict[str, dict[str, Any]] = {}
        for path, value in self.layers.items():
            component, dot, option = path.rpartition(".")
            if dot and component.partition(".")[0] == key:
                tables.setdefault(component.partition(".")[2], {})[option] = value
        return tables
