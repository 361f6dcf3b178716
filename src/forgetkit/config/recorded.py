"""The options of a recorded run, to resume it or to analyse it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from forgetkit.config import machine
from forgetkit.config.fields import KIND_OF, PLAIN, REPEATABLE, RunConfig, flag, name_of, validate_options
from forgetkit.config.layers import ComponentFactory, canonical_keys, merge_layers
from forgetkit.config.plan import AUTO_OPTIONS, Plan, initial_weights, require_used, resolve
from forgetkit.errors import ConfigError, InapplicableError, OptionError
from forgetkit.registry.registry import Registry

OVERRIDABLE = ("dataset", "model", "device")
"""Options of a finished run that an analysis may change: the same data elsewhere, the same network."""

_CHANGEABLE = ("observers", "checkpoint_seconds", "checkpoint_epochs", "keep_models", "keep_masks")
"""Options that a resumed run may change."""

_COUNTS = ("epochs", "mega_batches")
"""Options that others are checked against, so that a change of them must be refused first."""


def code_of(recorded: Mapping[str, Any]) -> dict[str, str]:
    """The options of a run whose SPEC names code outside forgetkit and its plugins."""
    spec = str(recorded.get("model"))
    with suppress(OptionError):
        return {"model": spec} if name_of(spec).rpartition("/")[2] == "import" else {}
    return {}


def resumed_options(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The options of a resumed run: the recorded ones, and those given that may change.

    Raises:
        ConfigError: An option that is given differs from the recorded one and may not change, or the manifest is
            damaged or of another version.
        OptionError: A component of the run is missing.
    """
    recorded = _recorded_config(manifest)
    unknown = RunConfig.model_fields.keys() - recorded.keys() - {*_CHANGEABLE}
    if unknown:
        raise ConfigError(f"this run was begun by a forgetkit that had no --{flag(min(unknown))}: start a new run")
    own = {key: value for key, value in recorded.items() if key != "method"}
    for key, value in given.items():  # an object that is given again replaces its name
        if key in KIND_OF and not isinstance(value, PLAIN) and registry.make(KIND_OF[key], value)[0] == own.get(key):
            own[key] = value
    given = canonical_keys(given)
    changed = {key: given[key] for key in _CHANGEABLE if key in given}
    _require_components(manifest, {**own, **changed}, registry)
    _require_code(own, given)
    for key in _COUNTS:
        value = given.get(key)
        if isinstance(value, str | int | float) and str(value) != str(recorded[key]):
            raise _changed_option(key, value, recorded[key])
    if given:
        plan = resolve(merge_layers(own, {key: value for key, value in given.items() if "." not in key}), registry)
        resolved = plan.config.model_dump(mode="json")
        require_used(given, plan, registry)
        for key in given:
            is_open = key in AUTO_OPTIONS and resolved[key] == "auto"  # the record has its value, or will have
            if key not in _CHANGEABLE and "." not in key and resolved[key] != recorded.get(key) and not is_open:
                raise _changed_option(key, given[key], recorded.get(key))
    return {**own, **changed}


def recorded_options(manifest: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a finished run, with those of ``OVERRIDABLE`` that are given.

    Raises:
        ConfigError: Another option is given, the network is code that is not given again, or the manifest is damaged
            or of another version.
    """
    for key in given:
        if key not in OVERRIDABLE:
            raise ConfigError(f"{key}= cannot change for a finished run; what may is {', '.join(OVERRIDABLE)}")
    recorded = _recorded_config(manifest)
    fields = RunConfig.model_fields.keys()
    unknown = (recorded.keys() - fields) or (fields - recorded.keys() - {*_CHANGEABLE})
    if unknown:
        raise ConfigError(
            f"this run was made by a forgetkit with other options (--{flag(min(unknown))}): run it again with this one"
        )
    _require_code(recorded, given)
    own = {key: value for key, value in recorded.items() if key not in ("method", *_CHANGEABLE)}
    return merge_layers(own, canonical_keys(given))


@dataclass(frozen=True)
class AbsentComponent:
    """Stands for a missing component of a finished run: any use of it raises ``InapplicableError``."""

    reason: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy looks for these
            raise AttributeError(name)
        raise InapplicableError(self.reason)


def finished_plan(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> Plan:
    """The plan of a finished run, for an analysis; ``given`` is as for :func:`recorded_options`.

    A component that is missing fails when an analysis uses it: a question about weights needs no criterion.
    """
    options = recorded_options(manifest, given)
    objects = {key: value for key, value in options.items() if key in KIND_OF and not isinstance(value, PLAIN)}
    config = validate_options(options, objects)
    make = ComponentFactory(registry, options).make
    specs: dict[str, str] = {}
    components: dict[str, Any] = {"importance": None}
    for key in KIND_OF:
        spec = objects.get(key, getattr(config, key))
        if spec is not None:
            try:
                specs[key], components[key] = make(key, spec)
            except OptionError as error:
                if key in given:
                    raise
                reason = _missing(KIND_OF[key], spec, manifest, registry) if isinstance(spec, str) else None
                components[key] = AbsentComponent(f"this run's {flag(key)}: {reason or error}")
    config = config.model_copy(update={**specs, "device": machine.resolve_device(config.device)})
    return Plan(
        config,
        str(manifest.get("method")),
        **components,
        interventions=(),
        metrics={},
        observers=(),
        plugins=registry.plugins,
        overrides={},
        init=initial_weights(config.init),
        offline="dataset" not in given,
    )


def _recorded_config(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    recorded = manifest.get("config")
    if not isinstance(recorded, Mapping):
        raise ConfigError("the manifest of this run holds no configuration; it is damaged: start a new run")
    return recorded


def _require_code(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A record alone must not make code run."""
    for key, spec in code_of(recorded).items():
        if key not in given:
            raise ConfigError(
                f"this run's {key} is code from outside, and none is run because a record names it: add --{key} {spec}"
            )


def _require_components(manifest: Mapping[str, Any], options: Mapping[str, Any], registry: Registry) -> None:
    """Raise ``OptionError`` if a component of a resumed run is missing, with the place that it came from."""
    specs = [(kind, options.get(key)) for key, kind in KIND_OF.items()]
    specs += [(key, spec) for key in REPEATABLE for spec in options.get(key) or ()]
    for kind, spec in specs:
        reason = _missing(kind, spec, manifest, registry) if isinstance(spec, str) else None
        if reason is not None:
            raise OptionError(reason)


def _missing(kind: str, spec: str, manifest: Mapping[str, Any], registry: Registry) -> str | None:
    """Why a component of a recorded run is missing, and where it came from; None if it is there."""
    name = name_of(spec)
    try:
        registry.find(kind, name)
    except OptionError as error:
        plugins = _mapping(_mapping(manifest.get("versions")).get("plugins"))
        distribution = _mapping(_mapping(manifest.get("distributions")).get(kind)).get(name)
        if isinstance(distribution, str):
            return registry.origin(kind, name, distribution, str(plugins.get(distribution)))
        gone = ", ".join(f"{plugin} {version}" for plugin, version in plugins.items() if plugin not in registry.plugins)
        return f"{error}; the run was begun with {gone}, which is not here" if gone and "." not in name else str(error)
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _changed_option(key: str, given: Any, recorded: Any) -> ConfigError:
    new, old = (str(value).lower() if isinstance(value, bool) else value for value in (given, recorded))
    return ConfigError(f"--{flag(key)} {new}: this run was begun with {old}; a resumed run keeps its configuration")
