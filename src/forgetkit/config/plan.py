"""A run's plan: its options resolved, and the components that they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit import contracts
from forgetkit.config import machine, presets
from forgetkit.config.checks import find_overrides, refuse_unused
from forgetkit.config.fields import (
    KIND_OF,
    METHODS,
    NOT_RESULTS,
    PLAIN,
    REPEATABLE,
    RunConfig,
    name_of,
    validate_options,
)
from forgetkit.config.layers import ComponentFactory, canonical_keys, merge_layers
from forgetkit.errors import ConfigError, OptionError, suggest
from forgetkit.registry.registry import Registry
from forgetkit.registry.spec import check_option, resolved_defaults

if TYPE_CHECKING:
    from forgetkit.storage import InitialWeights

AUTO_OPTIONS = ("precision", "memory_format", "threads")
"""Options whose ``auto`` depends on the network and the machine; the run resolves and records them."""

_Make = Callable[[str, Any], tuple[str, Any]]


@dataclass(frozen=True, eq=False)
class Plan:
    """A resolved configuration and the components that it names."""

    config: RunConfig
    method: str
    importance: contracts.Importance | None
    reinit: contracts.Reinit
    replay: contracts.Replay
    interventions: tuple[contracts.Intervention, ...]
    dataset: contracts.DatasetSource
    model: contracts.ModelBuilder
    metrics: Mapping[str, contracts.Metric]
    observers: tuple[contracts.Observer, ...]
    plugins: Mapping[str, str]
    overrides: Mapping[str, Mapping[str, Any]]
    """Each option that differs from the preset: its ``value``, and the ``preset``'s."""
    distributions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By kind and name, the third-party distribution (or file) of a component."""
    init: InitialWeights | None = None
    """The file with the initial weights."""
    offline: bool = False
    """Whether downloads are forbidden, because only a record names the data set."""

    @property
    def components(self) -> Mapping[str, Any]:
        """The components that options of a run name, by the option."""
        return {key: getattr(self, key) for key in KIND_OF}

    def with_resolved(self, **values: Any) -> Plan:
        """The same plan with values for options that were ``auto``."""
        overrides = dict(self.overrides)
        if "precision" in overrides and "precision" in values:
            override = {**overrides.pop("precision"), "value": values["precision"]}
            if override["value"] != override["preset"]:
                overrides["precision"] = override
        return replace(self, config=self.config.model_copy(update=values), overrides=overrides)

    @property
    def digest(self) -> str:
        """SHA-256 of every option that can change the result; a file of weights counts by its content."""
        content = self.config.model_dump(mode="json", exclude=set(NOT_RESULTS))
        content["init"] = None if self.init is None else self.init.sha256
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolve(given: Mapping[str, Any], registry: Registry, *, offline: bool = False) -> Plan:
    """Resolve the options of a run; the preset and the defaults fill what is not given.

    Args:
        given: Options by name; a component is a SPEC or an object.
        registry: The components that SPECs can name.
        offline: Whether downloads are forbidden, because only a record names the data set.

    Returns:
        The plan, with every option written out.

    Raises:
        ConfigError: An option is unknown, out of range, without effect, or contradicts another.
        OptionError: A component or one of its options is unknown or out of range.
    """
    given = canonical_keys(given)
    preset = given.get("preset")
    given = {**given, "preset": presets.NAMES[0] if preset is None else str(preset)}
    protocol = canonical_keys(presets.read(given["preset"]))
    _check_component_options(given, registry)
    options = merge_layers(_without_foreign_lr(protocol, given), given)
    make = ComponentFactory(registry, options).make

    objects = _objects(options)
    config = validate_options(options, objects)
    choices = {key: objects.get(key, getattr(config, key)) for key in KIND_OF}
    choices["importance"], choices["reinit"] = _method(config.method, choices["importance"], choices["reinit"], make)
    specs: dict[str, str] = {}
    components: dict[str, Any] = {"importance": None}
    for key, choice in choices.items():
        if choice is not None:
            specs[key], components[key] = make(key, choice)
    lists = {key: [registry.make(key, spec) for spec in objects.get(key, getattr(config, key))] for key in REPEATABLE}
    if components["importance"] is not None and not _needs_scores(components["reinit"]):
        raise OptionError(
            f"--reinit {name_of(specs['reinit'])} looks at no scores, so --importance "
            f"{name_of(specs['importance'])} would be ignored: leave it out, or use --reinit masked"
        )
    preset_factory = ComponentFactory(registry, protocol)
    label = _label(specs, preset_factory.make)
    resolved = _apply_rules(config).model_copy(
        update={
            "method": label if label in METHODS else None,
            "importance": None,
            **specs,
            **{key: tuple(spec for spec, _ in parts) for key, parts in lists.items()},
            "device": machine.resolve_device(config.device),
            "init": None if config.init is None else str(Path(config.init).absolute()),
        }
    )
    expected = _preset_config(protocol, resolved)
    refuse_unused(resolved, expected, components)
    named = [(KIND_OF[key], spec, components[key]) for key, spec in specs.items()]
    named += [(key, spec, component) for key, parts in lists.items() for spec, component in parts]
    return Plan(
        config=resolved,
        method=label,
        **components,
        interventions=tuple(component for _, component in lists["interventions"]),
        metrics=_metrics(lists["metrics"], registry),
        observers=tuple(component for _, component in lists["observers"]),
        plugins=registry.plugins,
        overrides=find_overrides(resolved, expected, components, preset_factory),
        distributions=_distributions(named, registry),
        init=initial_weights(resolved.init),
        offline=offline,
    )


def require_used(assigned: Mapping[str, Any], plan: Plan, registry: Registry) -> None:
    """Raise ``ConfigError`` if an option of a component, given for this run, is not in effect."""
    for path, value in assigned.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            spec = getattr(plan.config, key)
            entry = registry.find(KIND_OF[key], name)
            if spec is None or registry.find(KIND_OF[key], name_of(spec)) is not entry:
                raise ConfigError(
                    f"--set {path}={value} would be ignored, since the run has --{key} {spec}: leave it out"
                )
            if resolved_defaults(name, entry.component, {option: value})[option] != getattr(
                plan.components[key], option
            ):
                raise ConfigError(f"--set {path}={value}: the run has --{key} {spec}; give the option once")


def initial_weights(path: str | None) -> InitialWeights | None:
    """The file of ``--init``."""
    from forgetkit.storage import InitialWeights  # imports torch, which a command line does after its first line

    return None if path is None else InitialWeights(Path(path))


def _objects(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options whose value is a component that was built in Python, or a list with one."""

    def is_object(key: str, value: Any) -> bool:
        if key in REPEATABLE and isinstance(value, list | tuple):
            return not all(isinstance(part, PLAIN) for part in value)
        return key in KIND_OF and not isinstance(value, PLAIN)

    return {key: value for key, value in options.items() if is_object(key, value)}


def _check_component_options(given: Mapping[str, Any], registry: Registry) -> None:
    """Options of components must exist and be in range, even if the component takes no part."""
    for path, value in given.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            check_option(name, registry.find(KIND_OF[key], name).component, option, value)


def _without_foreign_lr(protocol: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The preset without its learning rate if another optimizer is given: its own default applies."""
    if given.get("optimizer") in (None, protocol.get("optimizer", "sgd")):
        return protocol
    return {key: value for key, value in protocol.items() if key != "lr"}


def _apply_rules(config: RunConfig) -> RunConfig:
    """Fill in the options that a rule decides."""
    lr = config.lr if config.lr is not None else {"sgd": 0.1, "adamw": 0.001}[config.optimizer]
    is_fp32 = config.precision == "auto" and config.deterministic  # the same on more hardware
    precision = "fp32" if is_fp32 else config.precision
    return config.model_copy(update={"lr": lr, "milestones": _milestones(config), "precision": precision})


def _preset_config(protocol: Mapping[str, Any], resolved: RunConfig) -> RunConfig:
    """The configuration of the preset alone; milestones by rule follow the run's epochs, samples and schedule.

    A preset's ``auto`` precision may resolve to either value, since the record of a run holds the resolved one.
    """
    preset = RunConfig.model_validate({key: value for key, value in protocol.items() if "." not in key})
    followed = preset.model_copy(update={key: getattr(resolved, key) for key in ("epochs", "samples", "schedule")})
    precision = resolved.precision if preset.precision == "auto" else preset.precision
    lr = _apply_rules(preset).lr
    return preset.model_copy(update={"lr": lr, "milestones": _milestones(followed), "precision": precision})


def _milestones(config: RunConfig) -> tuple[int, ...] | None:
    """The milestones in order; by default 40 % and 80 % of the epochs, as the paper's 20 and 40 of 50."""
    if config.schedule != "step" or config.samples is not None:
        return config.milestones
    epochs = {config.epochs * 2 // 5, config.epochs * 4 // 5} - {0}
    return tuple(sorted(set(config.milestones) if config.milestones is not None else epochs))


def _needs_scores(reinit: object) -> bool:
    return bool(getattr(reinit, "needs_scores", False))


def _method(name: str | None, importance: Any, reinit: Any, make: _Make) -> tuple[Any, Any]:
    """The criterion and the reinit method: those given, else those of the shorthand."""
    if name is not None and name not in METHODS:
        raise ConfigError(f"no method is called '{name}'; {suggest(name, METHODS)}")
    if name is None and importance is None and reinit is None:
        name = "lure"
    base_importance, base_reinit = METHODS[name] if name is not None else ("snip", "masked")
    reinit = reinit if reinit is not None else base_reinit
    if importance is None and _needs_scores(make("reinit", reinit)[1]):
        importance = base_importance or "snip"
    return importance, reinit


def _label(specs: Mapping[str, str], make: _Make) -> str:
    """The shorthand of this criterion and reinit method, or the names of both."""
    pair = (specs.get("importance"), specs["reinit"])
    for method, (importance, reinit) in METHODS.items():
        if pair == (None if importance is None else make("importance", importance)[0], make("reinit", reinit)[0]):
            return method
    return "+".join(name_of(spec) for spec in pair if spec is not None)


def _distributions(named: list[tuple[str, str, Any]], registry: Registry) -> dict[str, dict[str, str]]:
    """By kind and name, the third-party distribution of each component."""
    found: dict[str, dict[str, str]] = {}
    for kind, spec, component in named:
        distribution = registry.distribution_of(component)
        if distribution is not None:
            found.setdefault(kind, {})[name_of(spec)] = distribution
    return found


_RESULT_KEYS = (
    *("schema", "run", "directory", "method", "config", "versions", "parameters", "mega_batches", "samples_seen"),
    *("skipped_steps", "forward_passes", "backward_passes", "seconds", "peak_memory_bytes", "status", "augment"),
    *("preset", "overrides", "noisy_labels", "init_sha256", "sha256"),
)

_PAPER_METRICS = ("test-accuracy", "cer", "mean-anytime-error", "generalization-gap")


def _metrics(extra: list[tuple[str, contracts.Metric]], registry: Registry) -> dict[str, contracts.Metric]:
    """The four metrics of the paper, and ``extra``; each under a key of its own in the result."""
    metrics = {name: registry.make("metrics", name)[1] for name in _PAPER_METRICS}
    for spec, metric in extra:
        name = name_of(spec)
        if name not in _PAPER_METRICS and (name in metrics or name.replace("-", "_") in _RESULT_KEYS):
            raise ConfigError(f"--metric {name}: the result has another entry of that name")
        metrics[name] = metric
    return metrics
