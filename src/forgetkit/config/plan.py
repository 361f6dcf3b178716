"""A run's plan: its options resolved, and the components that they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from forgetkit import contracts
from forgetkit.config import machine, presets
from forgetkit.config.checks import find_overrides, refuse_contradictions, refuse_unused
from forgetkit.config.fields import KIND_OF, METHODS, NOT_RESULTS, PLAIN, REPEATABLE, RunConfig, flag, name_of
from forgetkit.config.layers import ComponentFactory, canonical_keys, merge_layers
from forgetkit.errors import ConfigError, InapplicableError, OptionError, suggest
from forgetkit.registry.registry import Registry
from forgetkit.registry.spec import check_option, resolved_defaults

if TYPE_CHECKING:
    from forgetkit.storage import InitialWeights

AUTO_OPTIONS = ("precision", "memory_format", "threads")
"""Options that may be left to what the network and the machine are found to be; a run records what they came to."""

_MAY_CHANGE = ("observers", "checkpoint_seconds", "checkpoint_epochs", "keep_models", "keep_masks")
"""Options that a run may go on with otherwise than it began."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A resolved configuration and the components it names."""

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
    """Each option that is not as the preset has it: its ``value``, and the ``preset``'s."""
    distributions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By kind and name, the third-party distribution (or file) that a component of the run comes from."""
    init: InitialWeights | None = None
    """The file with the weights that the network begins with."""
    offline: bool = False
    """Whether nothing may be downloaded, since a record alone names the data set."""

    @property
    def components(self) -> Mapping[str, Any]:
        """The components that options of a run name, by the option."""
        return {key: getattr(self, key) for key in KIND_OF}

    def with_resolved(self, **choices: Any) -> Plan:
        """The same plan with values in place of ``auto``."""
        overrides = dict(self.overrides)
        if "precision" in overrides and "precision" in choices:
            override = {**overrides.pop("precision"), "value": choices["precision"]}
            if override["value"] != override["preset"]:
                overrides["precision"] = override
        return replace(self, config=self.config.model_copy(update=choices), overrides=overrides)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that says what the run is; of a file, what it holds and not where it lies."""
        content = self.config.model_dump(mode="json", exclude=set(NOT_RESULTS))
        content["init"] = None if self.init is None else self.init.sha256
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def require_used(assigned: Mapping[str, Any], plan: Plan, registry: Registry) -> None:
    """Options of components that were given for this very run must be those it has; else they would be ignored."""
    for path, value in assigned.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            spec = getattr(plan.config, key)
            offer = registry.find(KIND_OF[key], name)
            if spec is None or registry.find(KIND_OF[key], name_of(spec)) is not offer:
                raise ConfigError(
                    f"--set {path}={value} would be ignored, since the run has --{key} {spec}: leave it out"
                )
            asked = resolved_defaults(name, offer.component, {option: value})[option]
            if asked != getattr(plan.components[key], option):
                raise ConfigError(f"--set {path}={value}: the run has --{key} {spec}; give the option once")


def resolve(given: Mapping[str, Any], registry: Registry, *, offline: bool = False) -> Plan:
    """The plan of a run from the options given; what is not given is as the preset has it, or takes its default.

    Components may be SPECs or objects. ``offline``: a record names the data set, so nothing is downloaded.
    Raises ``ConfigError`` or ``OptionError``, one line each.
    """
    given = canonical_keys(given)
    given = {**given, "preset": _preset_of(given.get("preset"))}
    protocol = canonical_keys(presets.read(given["preset"]))
    _check_defaults(given, registry)
    base = _without_foreign_lr(protocol, given)
    everything = merge_layers(base, given)
    make = ComponentFactory(registry, everything).make

    objects = {
        key: value
        for key, value in everything.items()
        if (key in KIND_OF and not isinstance(value, PLAIN))
        or (
            key in REPEATABLE and isinstance(value, list | tuple) and not all(isinstance(part, PLAIN) for part in value)
        )
    }
    config = _validate(everything, objects)
    wanted = {key: objects.get(key, getattr(config, key)) for key in KIND_OF}
    wanted["importance"], wanted["reinit"] = _method(config.method, wanted["importance"], wanted["reinit"], make)

    spelled: dict[str, Any] = {}
    made: dict[str, Any] = {"importance": None}
    for key in KIND_OF:
        if wanted[key] is not None:
            spelled[key], made[key] = make(key, wanted[key])
    several: dict[str, list[tuple[str, Any]]] = {
        key: [registry.make(key, spec) for spec in objects.get(key, getattr(config, key))] for key in REPEATABLE
    }
    if made["importance"] is not None and not _needs_scores(made["reinit"]):
        raise OptionError(
            f"--reinit {name_of(spelled['reinit'])} looks at no scores, so --importance "
            f"{name_of(spelled['importance'])} would be ignored: leave it out, or use --reinit masked"
        )
    preset = ComponentFactory(registry, protocol)
    label = _label(spelled, preset.make)
    resolved = _apply_rules(config).model_copy(
        update={
            "method": label if label in METHODS else None,
            "importance": None,
            **spelled,
            **{key: tuple(spec for spec, _ in parts) for key, parts in several.items()},
            "device": machine.resolve_device(config.device),
            "init": None if config.init is None else str(Path(config.init).absolute()),
        }
    )
    expected = _preset_config(protocol, resolved)
    refuse_contradictions(resolved)
    refuse_unused(resolved, expected, made)
    return Plan(
        config=resolved,
        method=label,
        **made,
        interventions=tuple(c for _, c in several["interventions"]),
        metrics=_metrics(several["metrics"], registry),
        observers=tuple(c for _, c in several["observers"]),
        plugins=registry.plugins,
        overrides=find_overrides(resolved, expected, made, preset),
        distributions=_distributions(spelled, made, several, registry),
        init=_initial_weights(resolved.init),
        offline=offline,
    )


def _initial_weights(path: str | None) -> InitialWeights | None:
    from forgetkit.storage import InitialWeights  # this imports torch, and a command line prints its first line before

    return None if path is None else InitialWeights(Path(path))


def _distributions(
    spelled: Mapping[str, str],
    made: Mapping[str, Any],
    several: Mapping[str, list[tuple[str, Any]]],
    registry: Registry,
) -> dict[str, dict[str, str]]:
    components = [(KIND_OF[key], spec, made[key]) for key, spec in spelled.items()]
    components += [(key, spec, component) for key, parts in several.items() for spec, component in parts]
    found: dict[str, dict[str, str]] = {}
    for kind, spec, component in components:
        distribution = registry.distribution_of(component)
        if distribution is not None:
            found.setdefault(kind, {})[name_of(spec)] = distribution
    return found


def _missing(kind: str, spec: str, manifest: Mapping[str, Any], registry: Registry) -> str | None:
    """Why a component of a recorded run is not on offer, and where it came from; None if it is."""
    name = name_of(spec)
    try:
        registry.find(kind, name)
    except OptionError as error:
        versions, makers = (manifest.get(key) for key in ("versions", "distributions"))
        plugins = versions.get("plugins") if isinstance(versions, Mapping) else None
        plugins = plugins if isinstance(plugins, Mapping) else {}
        own = makers.get(kind) if isinstance(makers, Mapping) else None
        maker = own.get(name) if isinstance(own, Mapping) else None
        if isinstance(maker, str):
            return registry.origin(kind, name, maker, str(plugins.get(maker)))
        gone = ", ".join(f"{who} {version}" for who, version in plugins.items() if who not in registry.plugins)
        return f"{error}; the run was begun with {gone}, which is not here" if gone and "." not in name else str(error)
    return None


def _require_present(manifest: Mapping[str, Any], own: Mapping[str, Any], registry: Registry) -> None:
    """``OptionError`` names a component of a run that goes on which is not on offer, and where it came from."""
    parts = [(KIND_OF[key], own.get(key)) for key in KIND_OF]
    parts += [(key, spec) for key in REPEATABLE for spec in own.get(key) or ()]
    for kind, spec in parts:
        why = _missing(kind, spec, manifest, registry) if isinstance(spec, str) else None
        if why is not None:
            raise OptionError(why)


def code_of(recorded: Mapping[str, Any]) -> dict[str, str]:
    """The options of a run whose SPEC names code that is neither built in nor of an installed plugin."""
    spec = str(recorded.get("model"))
    with suppress(OptionError):
        return {"model": spec} if name_of(spec).rpartition("/")[2] == "import" else {}
    return {}


_COUNTS = ("epochs", "mega_batches")
"""Options that others follow from: that of a resumed run must be the one it was begun with, before those are judged."""


def _keep_begun(key: str, given: Any, begun: Any) -> ConfigError:
    said, was = (str(value).lower() if isinstance(value, bool) else value for value in (given, begun))
    return ConfigError(f"--{flag(key)} {said}: this run was begun with {was}; a resumed run keeps its configuration")


def resumed_options(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The options of a run that goes on: its own. One given beside them must say the same, or not matter."""
    recorded = manifest.get("config")
    if not isinstance(recorded, Mapping):
        raise ConfigError("the manifest of this run holds no configuration; it is damaged: begin the run anew")
    unknown = RunConfig.model_fields.keys() - recorded.keys() - {*_MAY_CHANGE}
    if unknown:
        raise ConfigError(f"this run was begun by a forgetkit that had no --{flag(min(unknown))}: begin it anew")
    own = {key: value for key, value in recorded.items() if key != "method"}
    for key, value in given.items():  # an object given again takes the place of its name
        if key in KIND_OF and not isinstance(value, PLAIN) and registry.make(KIND_OF[key], value)[0] == own.get(key):
            own[key] = value
    given = canonical_keys(given)
    _require_present(manifest, {**own, **{key: given[key] for key in _MAY_CHANGE if key in given}}, registry)
    for key, spec in code_of(own).items():
        if key not in given:
            raise ConfigError(
                f"this run's {key} is code from outside, and none is run because a record names it: add --{key} {spec}"
            )
    if given:
        for key, value in given.items():  # before what follows from it is looked at
            if isinstance(value, str | int | float) and key in _COUNTS and str(value) != str(recorded[key]):
                raise _keep_begun(key, value, recorded[key])
        plan = resolve(merge_layers(own, {key: value for key, value in given.items() if "." not in key}), registry)
        asked = plan.config.model_dump(mode="json")
        require_used(given, plan, registry)
        for key in given:
            left_open = key in AUTO_OPTIONS and asked[key] == "auto"  # which it has come to, or may have
            if key not in _MAY_CHANGE and "." not in key and asked[key] != recorded.get(key) and not left_open:
                raise _keep_begun(key, given[key], recorded.get(key))
    return {**own, **{key: given[key] for key in _MAY_CHANGE if key in given}}


OVERRIDABLE = ("dataset", "model", "device")
"""Options of a finished run that may be others where it is looked at: the same data elsewhere, the same network."""


def recorded_options(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The options of a finished run, with those ``given`` that say where and with what it is looked at.

    Raises ``ConfigError`` for one that is not in ``OVERRIDABLE``, and if its network is code from outside that is
    not given again.
    """
    for key in given:
        if key not in OVERRIDABLE:
            raise ConfigError(f"{key}= is as the run was made; what may be another is {', '.join(OVERRIDABLE)}")
    content = manifest.get("config")
    if not isinstance(content, Mapping):
        raise ConfigError("the manifest of this run holds no configuration; it is damaged")
    foreign = {key for key in content if key not in RunConfig.model_fields}
    unknown = RunConfig.model_fields.keys() - content.keys() - {*_MAY_CHANGE}
    if foreign or unknown:
        name = flag(min(foreign or unknown))
        raise ConfigError(f"this run was made by a forgetkit with other options (--{name}): run it again with this one")
    for key, spec in code_of(content).items():
        if key not in given:
            raise ConfigError(
                f"this run's {key} is code from outside, and none is run because a record names it: add --{key} {spec}"
            )
    own = {key: value for key, value in content.items() if key not in ("method", *_MAY_CHANGE)}
    return merge_layers(own, canonical_keys(given))


@dataclass(frozen=True)
class AbsentComponent:
    """A component of a finished run that is not at hand: an ``InapplicableError`` as soon as something asks for it."""

    reason: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of which copy asks
            raise AttributeError(name)
        raise InapplicableError(self.reason)


def finished_plan(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> Plan:
    """The plan of a finished run, to look at it; ``given`` is as for :func:`recorded_options`.

    A component that cannot be made again is missed when something asks for it: a question about weights needs no
    criterion. Options are as they were recorded, resolved; whether they can act was found out when the run began.
    """
    content = recorded_options(manifest, given, registry)
    objects = {key: value for key, value in content.items() if key in KIND_OF and not isinstance(value, PLAIN)}
    config = _validate(content, objects)
    make = ComponentFactory(registry, content).make
    spelled: dict[str, str] = {}
    made: dict[str, Any] = {"importance": None}
    for key in KIND_OF:
        spec = objects.get(key, getattr(config, key))
        if spec is not None:
            try:
                spelled[key], made[key] = make(key, spec)
            except OptionError as error:
                if key in given:
                    raise
                why = _missing(KIND_OF[key], spec, manifest, registry) if isinstance(spec, str) else None
                made[key] = AbsentComponent(f"this run's {flag(key)}: {why or error}")
    config = config.model_copy(update={**spelled, "device": machine.resolve_device(config.device)})
    return Plan(
        config,
        str(manifest.get("method")),
        **made,
        interventions=(),
        metrics={},
        observers=(),
        plugins=registry.plugins,
        overrides={},
        init=_initial_weights(config.init),
        offline="dataset" not in given,
    )


_RESULT_KEYS = (
    "schema",
    "run",
    "directory",
    "method",
    "config",
    "versions",
    "parameters",
    "mega_batches",
    "samples_seen",
    "skipped_steps",
    "forward_passes",
    "backward_passes",
    "seconds",
    "peak_memory_bytes",
    "status",
    "augment",
    "preset",
    "overrides",
    "noisy_labels",
    "init_sha256",
    "sha256",
)

_OWN_METRICS = ("test-accuracy", "cer", "mean-anytime-error", "generalization-gap")


def _preset_of(name: Any) -> str:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"--preset {name}: the name of one is wanted: {', '.join(presets.NAMES)}")
    return presets.NAMES[0] if name is None else name


def _check_defaults(given: Mapping[str, Any], registry: Registry) -> None:
    """Options given for components that may or may not take part: they must exist and hold."""
    for path, value in given.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            check_option(name, registry.find(KIND_OF[key], name).component, option, value)


def _validate(given: Mapping[str, Any], objects: Mapping[str, Any]) -> RunConfig:
    plain = {key: value for key, value in given.items() if key not in objects and "." not in key}
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"--{flag(key)} {given.get(key)}: {message}") from error


def _without_foreign_lr(protocol: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's learning rate is meant for its optimizer: with another, that one's own default holds."""
    if given.get("optimizer") in (None, protocol.get("optimizer", "sgd")):
        return protocol
    return {key: value for key, value in protocol.items() if key != "lr"}


def _apply_rules(config: RunConfig) -> RunConfig:
    """What is left open, by its rule."""
    lr = config.lr if config.lr is not None else {"sgd": 0.1, "adamw": 0.001}[config.optimizer]
    is_fp32 = config.precision == "auto" and config.deterministic  # the same on more hardware
    precision = "fp32" if is_fp32 else config.precision
    return config.model_copy(update={"lr": lr, "milestones": _milestones(config), "precision": precision})


def _preset_config(protocol: Mapping[str, Any], resolved: RunConfig) -> RunConfig:
    """What the preset alone would come to; milestones by rule follow the run's epochs or samples, and its schedule.

    A preset's ``auto`` precision stands for either value, since the record of a run holds the resolved one.
    """
    preset = RunConfig.model_validate({key: value for key, value in protocol.items() if "." not in key})
    followed = preset.model_copy(update={key: getattr(resolved, key) for key in ("epochs", "samples", "schedule")})
    precision = resolved.precision if preset.precision == "auto" else preset.precision
    lr = _apply_rules(preset).lr
    return preset.model_copy(update={"lr": lr, "milestones": _milestones(followed), "precision": precision})


def _needs_scores(reinit: object) -> bool:
    return bool(getattr(reinit, "needs_scores", False))


def _method(
    name: str | None, importance: Any, reinit: Any, make: Callable[[str, Any], tuple[str, Any]]
) -> tuple[Any, Any]:
    """The criterion and the reinit method: a shorthand's, unless one is named itself."""
    if name is not None and name not in METHODS:
        raise ConfigError(f"no method is called '{name}'; {suggest(name, METHODS)}")
    if name is None and importance is None and reinit is None:
        name = "lure"
    base_importance, base_reinit = METHODS[name] if name is not None else ("snip", "masked")
    reinit = reinit if reinit is not None else base_reinit
    if importance is None:
        needs = _needs_scores(make("reinit", reinit)[1])
        importance = (base_importance or "snip") if needs else None
    return importance, reinit


def _label(spelled: Mapping[str, str], make: Callable[[str, Any], tuple[str, Any]]) -> str:
    """The shorthand that stands for this pair, or the names of both."""
    pair = (spelled.get("importance"), spelled["reinit"])
    for method, (importance, reinit) in METHODS.items():
        spelled_pair = (
            None if importance is None else make("importance", importance)[0],
            make("reinit", reinit)[0],
        )
        if pair == spelled_pair:
            return method
    return "+".join(name_of(spec) for spec in pair if spec is not None)


def _milestones(config: RunConfig) -> tuple[int, ...] | None:
    """Those given, in order, or 40 % and 80 % of the epochs: 20 and 40 of the paper's 50; of samples, by themselves."""
    if config.schedule != "step":
        return config.milestones
    if config.samples is not None:
        if config.milestones:
            raise ConfigError(
                f"--milestones {','.join(map(str, config.milestones))}: they count epochs, and --samples gives out "
                "samples, so that the rate falls after 40 % and 80 % of them: leave one of both out"
            )
        return config.milestones
    if config.milestones is not None:
        if config.milestones and max(config.milestones) >= config.epochs:
            raise ConfigError(
                f"--milestones {max(config.milestones)}: the run's {config.epochs} epochs end before or with it, "
                "so it would be ignored: choose smaller ones, or leave them out"
            )
        return tuple(sorted(set(config.milestones)))
    halfway = {config.epochs * 2 // 5, config.epochs * 4 // 5}
    return tuple(sorted(epoch for epoch in halfway if 0 < epoch < config.epochs))


def _metrics(asked: list[tuple[str, contracts.Metric]], registry: Registry) -> dict[str, contracts.Metric]:
    """The paper's four, and those asked for; each under a key of its own in the result."""
    metrics = {name: registry.make("metrics", name)[1] for name in _OWN_METRICS}
    for spec, metric in asked:
        name = name_of(spec)
        if name not in _OWN_METRICS and (name in metrics or name.replace("-", "_") in _RESULT_KEYS):
            raise ConfigError(f"--metric {name}: the result has another entry of that name")
        metrics[name] = metric
    return metrics
