"""What a run is made of: options from four layers, resolved into components.

Defaults < preset < TOML file < command line. The resolved configuration spells every choice out, so that
two runs of equal configuration are the same run.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from forgetkit import contracts, options, presets
from forgetkit.contracts import (
    BnStats,
    Carry,
    Mode,
    NoiseDraw,
    OptimizerName,
    OptimizerState,
    Sampling,
    ScheduleKind,
    Scope,
    ScoreOn,
    Split,
)
from forgetkit.errors import ConfigError, OptionError, closest
from forgetkit.registry import Registry

METHODS: Mapping[str, tuple[str | None, str]] = {
    "warm": (None, "none"),
    "cold": (None, "cold"),
    "rifle": (None, "rifle"),
    "llf": (None, "llf"),
    "shrink-perturb": (None, "shrink-perturb"),
    "lure": ("snip", "masked"),
}
"""Shorthands: the importance criterion and the reinit method of each name of the paper."""

NOT_RESULTS = ("preset", "method", "out", "name", "observers", "checkpoint_seconds", "device", "threads")
"""Options that say where and how a run is carried out, or are names for what others spell out: not what it is."""

_MAY_CHANGE = ("observers", "checkpoint_seconds")
"""Options that a run may go on with otherwise than it began."""


def _listed(given: Any) -> Any:
    """``"20,40"`` or ``"none"``, as the command line and ``--set`` give it."""
    if isinstance(given, str):
        if given.strip().lower() == "none":
            return []
        return [piece for piece in given.split(",") if piece.strip()]
    return given


def _several(given: Any) -> Any:
    """A single SPEC, as ``--set`` gives it, where there may be more."""
    return (given,) if isinstance(given, str) else given


def _none(given: Any) -> Any:
    return None if given == "none" else given


def _text(given: Any) -> Any:
    return str(given) if isinstance(given, Path) else given


def _plain(name: str | None) -> str | None:
    if name is not None and (name in ("", ".", "..") or "/" in name or "\\" in name):
        raise PydanticCustomError("plain", "a folder's name is wanted, without slashes; --out says where it is made")
    return name


_Specs = Annotated[tuple[str, ...], BeforeValidator(_several)]


class RunConfig(BaseModel):
    """Every option of ``forgetkit run``. Components are SPECs: ``name`` or ``name:key=value``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    preset: Annotated[str, Field(description="the protocol that options not given are taken from: " + ", ".join(presets.NAMES))] = presets.NAMES[0]  # fmt: skip
    method: Annotated[str | None, Field(description="shorthand for --importance and --reinit: " + ", ".join(METHODS) + " (default: lure)")] = None  # fmt: skip
    importance: Annotated[str | None, Field(description="importance criterion, a SPEC like snip:samples=128")] = None
    reinit: Annotated[str | None, Field(description="what is forgotten, a SPEC like masked:fraction=0.2")] = None
    replay: Annotated[str, Field(description="which seen samples are trained on again: full, none, last, buffer:size=186")] = "full"  # fmt: skip
    interventions: Annotated[_Specs, Field(description="what acts while training, a SPEC (repeatable)")] = ()

    score_on: Annotated[ScoreOn, Field(description="the training samples to score on: of the mega-batch just learned, of the one that arrives next, of the first, or all that is trained on next")] = "finished"  # fmt: skip
    score_sampling: Annotated[Sampling, Field(description="which of them a criterion gets: a random draw, or the first as they stand")] = "random"  # fmt: skip
    score_transform: Annotated[Mode, Field(description="score on samples as they are, or augmented as for training")] = "eval"  # fmt: skip
    score_mode: Annotated[Mode, Field(description="the network's mode while it is scored")] = "eval"
    score_params: Annotated[Scope, Field(description="which parameters are scored, and can be selected")] = "all"
    score_batch: Annotated[int, Field(ge=1, description="samples per batch while scoring")] = 256
    optimizer_state: Annotated[OptimizerState, Field(description="the optimizer's memory at a forgetting: zero what was reset, keep all, or start afresh (with any method)")] = "zero"  # fmt: skip
    bn_stats: Annotated[BnStats, Field(description="running statistics after a forgetting; recalibrate: measured again on all the scoring samples offered")] = "keep"  # fmt: skip

    dataset: Annotated[str, Field(description="where samples come from, a SPEC like folder:path=photos,size=32")] = "digits"  # fmt: skip
    model: Annotated[str, Field(description="the network, a SPEC like resnet18 or import:package.module:callable")] = "convnet"  # fmt: skip
    mega_batches: Annotated[int, Field(ge=1, description="in how many parts the training set arrives")] = 8
    split: Annotated[Split, Field(description="cut the training set at random, or in its own order")] = "random"
    val_fraction: Annotated[float, Field(ge=0, lt=1, description="share of each mega-batch set apart for validation")] = 0.1  # fmt: skip
    val_transform: Annotated[Mode, Field(description="validate on samples as they are, or augmented as for training")] = "eval"  # fmt: skip
    augment: Annotated[Literal["auto", "none", "flip", "crop", "crop-flip"], Field(description="random flip and crop of training images; auto is what suits the data set")] = "auto"  # fmt: skip
    shots: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_none), Field(description="train on that many samples of each class, drawn at random (default: on all)")] = None  # fmt: skip
    label_noise: Annotated[float, Field(ge=0, le=1, description="probability with which a training label is redrawn")] = 0.0  # fmt: skip
    label_noise_draw: Annotated[NoiseDraw, Field(description="redraw from any class, the true one included, or from the others")] = "any"  # fmt: skip
    label_noise_val: Annotated[Literal["noisy", "clean"], Field(description="whether validation labels are noisy too")] = "noisy"  # fmt: skip

    epochs: Annotated[int, Field(ge=1, description="epochs per mega-batch")] = 50
    batch_size: Annotated[int, Field(ge=1, description="samples per optimizer step")] = 64
    optimizer: Annotated[OptimizerName, Field(description="what makes the steps")] = "sgd"
    lr: Annotated[float | None, Field(gt=0, allow_inf_nan=False, description="learning rate at the start of each mega-batch (default: 0.1, with adamw 0.001)")] = None  # fmt: skip
    schedule: Annotated[ScheduleKind, Field(description="how the rate falls in each mega-batch: at milestones, as a cosine, not at all")] = "step"  # fmt: skip
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, BeforeValidator(_listed), Field(description="epochs after which the learning rate is multiplied by gamma, like 20,40 (default: after 40 % and 80 % of the epochs; none for a constant rate)")] = None  # fmt: skip
    gamma: Annotated[float, Field(gt=0, le=1, description="factor on the learning rate at each milestone")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight decay, on all parameters")] = 1e-4  # fmt: skip
    carry: Annotated[Carry, Field(description="the weights that are judged, scored and carried on: of the last epoch, or of the best on validation")] = "last"  # fmt: skip
    patience: Annotated[int, Field(ge=0, description="end a mega-batch after that many epochs without a better validation accuracy; 0: never")] = 0  # fmt: skip
    min_delta: Annotated[float, Field(ge=0, lt=1, description="how much better counts, as a fraction of one")] = 0.0

    seed: Annotated[int, Field(ge=0, description="the one seed that every random stream is derived from")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 where CUDA has it natively, else fp32")] = "auto"  # fmt: skip
    threads: Annotated[int | None, Field(ge=1, description="threads of torch on the CPU (default: torch's own choice)")] = None  # fmt: skip
    metrics: Annotated[_Specs, Field(description="a metric beside the four of the paper, a SPEC (repeatable)")] = ()  # fmt: skip

    out: Annotated[
        str, BeforeValidator(_text), Field(min_length=1, description="folder that the run's directory is made in")
    ] = "runs"
    name: Annotated[str | None, AfterValidator(_plain), Field(description="name of the run's directory (default: made from time, method and data)")] = None  # fmt: skip
    observers: Annotated[_Specs, Field(description="a listener to the run's events, a SPEC (repeatable)")] = ()
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False, description="at the end of an epoch, write a state to resume from if the last is older than this; 0: each epoch")] = 10.0  # fmt: skip


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
    departures: Mapping[str, Mapping[str, Any]]
    """Each option that is not as the preset has it: its ``value``, and the ``preset``'s."""

    @property
    def components(self) -> Mapping[str, Any]:
        """The components that options of a run name, by the option."""
        return {key: getattr(self, key) for key in _KIND_OF}

    @property
    def digest(self) -> str:
        """SHA-256 of everything that says what the run is."""
        content = self.config.model_dump(mode="json", exclude=set(NOT_RESULTS))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """The options in a TOML file, and in tables like ``["reinit.masked"]`` those of components."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    return canonical(content)


def settings(assignments: list[str]) -> dict[str, Any]:
    """``key=value`` pairs, as ``--set`` takes them."""
    found: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write key=value")
        key, value = next(iter(canonical({key.strip(): value.strip()}).items()))
        if key in found:
            raise ConfigError(f"--set {key} is given twice: leave one out")
        found[key] = value
    return found


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options one over the other, the last on top. A method overrules what lies below of the two it stands for."""
    options: dict[str, Any] = {}
    for layer in layers:
        covered = ("importance", "reinit") if layer.get("method") is not None else ()
        options = {**{key: value for key, value in options.items() if key not in covered}, **layer}
        for path in layer:
            component, dot, option = path.rpartition(".")
            key, _, name = component.partition(".")
            if dot and key not in layer and isinstance(options.get(key), str):
                options[key] = _without(options[key], name, option)
    return options


def require_used(assigned: Mapping[str, Any], plan: Plan, registry: Registry) -> None:
    """Options of components that were given for this very run must be those it has; else they would be ignored."""
    for path, value in assigned.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            spec = getattr(plan.config, key)
            offer = registry.find(_KIND_OF[key], name)
            if spec is None or registry.find(_KIND_OF[key], _name(spec)) is not offer:
                raise ConfigError(
                    f"--set {path}={value} would be ignored, since the run has --{key} {spec}: leave it out"
                )
            asked = options.resolved_defaults(name, offer.component, {option: value})[option]
            if asked != getattr(plan.components[key], option):
                raise ConfigError(f"--set {path}={value}: the run has --{key} {spec}; give the option once")


def _without(spec: str, name: str, option: str) -> str:
    """A SPEC less an option, where it is one of this component."""
    parsed = options.parse(spec)
    if parsed.name != name or option not in parsed.options:
        return spec
    kept = [f"{key}={value}" for key, value in parsed.options.items() if key != option]
    pieces = ([parsed.first] if parsed.first is not None else []) + kept
    return f"{name}:{','.join(pieces)}" if pieces else name


def resolve(given: Mapping[str, Any], registry: Registry) -> Plan:
    """The plan of a run from the options given; what is not given is as the preset has it, or takes its default.

    Components may be SPECs or objects. Raises ``ConfigError`` or ``OptionError``, one line each.
    """
    given = canonical(given)
    given = {**given, "preset": _preset(given.get("preset"))}
    protocol = canonical(presets.read(given["preset"]))
    _check_defaults(given, registry)
    base = _without_foreign_lr(protocol, given)
    everything = layered(base, given)
    make = _Workshop(registry, everything).make

    objects = {
        key: value
        for key, value in everything.items()
        if (key in _KIND_OF and not isinstance(value, _PLAIN))
        or (key in _SEVERAL and isinstance(value, list | tuple) and not all(isinstance(part, _PLAIN) for part in value))
    }
    config = _validated(everything, objects)
    wanted = {key: objects.get(key, getattr(config, key)) for key in _KIND_OF}
    wanted["importance"], wanted["reinit"] = _method(config.method, wanted["importance"], wanted["reinit"], make)

    spelled: dict[str, Any] = {}
    made: dict[str, Any] = {"importance": None}
    for key in _KIND_OF:
        if wanted[key] is not None:
            spelled[key], made[key] = make(key, wanted[key])
    several: dict[str, list[tuple[str, Any]]] = {
        key: [registry.make(key, spec) for spec in objects.get(key, getattr(config, key))] for key in _SEVERAL
    }
    if made["importance"] is not None and not _needs_scores(made["reinit"]):
        raise OptionError(
            f"--reinit {_name(spelled['reinit'])} looks at no scores, so --importance {_name(spelled['importance'])} "
            "would be ignored: leave it out, or use --reinit masked"
        )
    preset = _Workshop(registry, protocol)
    label = _label(spelled, preset.make)
    resolved = _by_rule(config).model_copy(
        update={
            "method": label if label in METHODS else None,
            "importance": None,
            **spelled,
            **{key: tuple(spec for spec, _ in parts) for key, parts in several.items()},
            "device": _device(config.device),
            "precision": _precision(config.precision, _device(config.device)),
            "threads": config.threads or _threads(),
        }
    )
    expected = _expected(protocol, resolved)
    _refuse_contradictions(resolved)
    _refuse_idle(resolved, expected, made)
    return Plan(
        config=resolved,
        method=label,
        **made,
        interventions=tuple(c for _, c in several["interventions"]),
        metrics=_metrics(several["metrics"], registry),
        observers=tuple(c for _, c in several["observers"]),
        plugins=registry.plugins,
        departures=_departures(resolved, expected, made, preset),
    )


def resumed(manifest: Mapping[str, Any], given: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The options of a run that goes on: its own. One given beside them must say the same, or not matter."""
    recorded = manifest.get("config")
    if not isinstance(recorded, Mapping):
        raise ConfigError("the manifest of this run holds no configuration; it is damaged")
    own = {key: value for key, value in recorded.items() if key != "method"}
    for key, value in given.items():  # an object given again takes the place of its name
        if key in _KIND_OF and not isinstance(value, _PLAIN) and registry.make(_KIND_OF[key], value)[0] == own.get(key):
            own[key] = value
    given = canonical(given)
    if given:
        plan = resolve(layered(own, {key: value for key, value in given.items() if "." not in key}), registry)
        asked = plan.config.model_dump(mode="json")
        require_used(given, plan, registry)
        for key in given:
            if key not in _MAY_CHANGE and "." not in key and asked[key] != recorded.get(key):
                raise ConfigError(
                    f"--{key.replace('_', '-')} {given[key]}: this run was begun with {recorded.get(key)}; "
                    "a resumed run keeps its configuration"
                )
    return {**own, **{key: given[key] for key in _MAY_CHANGE if key in given}}


_KIND_OF = {
    "importance": "importance",
    "reinit": "reinit",
    "replay": "replay",
    "dataset": "datasets",
    "model": "models",
}
_NOT_PROTOCOL = (
    *("preset", "method", "importance", "reinit", "replay", "dataset", "model", "seed"),
    *("device", "precision", "threads", "metrics", "out", "name", "observers", "checkpoint_seconds"),
)
"""What is compared, with what and where, or is told apart by its options: all else is the protocol's."""

_PLAIN = (str, int, float, list, dict, type(None))  # what a TOML file can hold, and no component
_SEVERAL = ("interventions", "metrics", "observers")
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
    "seconds",
    "status",
    "augment",
    "preset",
    "departures",
    "noisy_labels",
)
_OWN_METRICS = ("test-accuracy", "cer", "mean-anytime-error", "generalization-gap")


def canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options under one name each, whatever was written.

    Those of a run by the names of their fields: dashes or underscores, and the command line's singulars, will do.
    Those of components as ``reinit.masked.fraction``, whether written so or in a table ``reinit.masked``.
    """
    found: dict[str, Any] = {}

    def take(name: str, value: Any) -> None:
        if name in found:
            raise ConfigError(f"{_flag(name)} is given twice: leave one out")
        found[name] = value

    for key, value in given.items():
        if "." in key or (key in _KIND_OF and isinstance(value, Mapping)):
            for path, setting in _flattened(key, value):
                component, _, option = path.rpartition(".")
                if component.partition(".")[0] not in _KIND_OF or "." not in component:
                    raise ConfigError(
                        f"'{path}' is no option of a component; write {', '.join(_KIND_OF)}, a dot, its name, a dot, "
                        "the option: reinit.masked.fraction"
                    )
                take(f"{component}.{option.replace('-', '_')}", setting)
            continue
        name = key.replace("-", "_")
        name = f"{name}s" if f"{name}s" in _SEVERAL else name
        if name not in RunConfig.model_fields:
            known = [field.removesuffix("s") if field in _SEVERAL else field for field in RunConfig.model_fields]
            raise ConfigError(f"no option is called '{key}'; {closest(key, [k.replace('_', '-') for k in known])}")
        take(name, value)
    return found


def _flattened(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Tables inside tables, however they are nested, as paths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(f"{path}.{key}", inner)
    else:
        yield path, value


@dataclass(frozen=True, eq=False)
class _Workshop:
    """Makes components, with the defaults for their options that the layers hold."""

    registry: Registry
    layers: Mapping[str, Any]

    def make(self, key: str, spec: Any) -> tuple[str, Any]:
        """The SPEC of a component, spelled out, and the component."""
        return self.registry.make(_KIND_OF[key], spec, self._tables(key))

    def defaults(self, key: str, name: str) -> dict[str, Any]:
        """The options of a component that nobody gives."""
        offer = self.registry.find(_KIND_OF[key], name)
        held = [t for written, t in self._tables(key).items() if self.registry.find(_KIND_OF[key], written) is offer]
        return options.resolved_defaults(name, offer.component, ChainMap(*held))

    def _tables(self, key: str) -> dict[str, dict[str, Any]]:
        """By the name of a component, the defaults given for its options."""
        tables: dict[str, dict[str, Any]] = {}
        for path, value in self.layers.items():
            component, dot, option = path.rpartition(".")
            if dot and component.partition(".")[0] == key:
                tables.setdefault(component.partition(".")[2], {})[option] = value
        return tables


def _preset(name: Any) -> str:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"--preset {name}: the name of one is wanted: {', '.join(presets.NAMES)}")
    return presets.NAMES[0] if name is None else name


def _check_defaults(given: Mapping[str, Any], registry: Registry) -> None:
    """Options given for components that may or may not take part: they must exist and hold."""
    for path, value in given.items():
        component, dot, option = path.rpartition(".")
        if dot:
            key, _, name = component.partition(".")
            options.check_option(name, registry.find(_KIND_OF[key], name).component, option, value)


def _validated(given: Mapping[str, Any], objects: Mapping[str, Any]) -> RunConfig:
    plain = {key: value for key, value in given.items() if key not in objects and "." not in key}
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"--{_flag(key)} {given.get(key)}: {message}") from error


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _without_foreign_lr(protocol: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's learning rate is meant for its optimizer: with another, that one's own default holds."""
    if given.get("optimizer") in (None, protocol.get("optimizer", "sgd")):
        return protocol
    return {key: value for key, value in protocol.items() if key != "lr"}


def _by_rule(config: RunConfig) -> RunConfig:
    """What is left open, by its rule."""
    lr = config.lr if config.lr is not None else {"sgd": 0.1, "adamw": 0.001}[config.optimizer]
    return config.model_copy(update={"lr": lr, "milestones": _milestones(config)})


def _expected(protocol: Mapping[str, Any], resolved: RunConfig) -> RunConfig:
    """What the preset alone would come to; milestones by rule follow the epochs of the run, and its schedule."""
    preset = RunConfig.model_validate({key: value for key, value in protocol.items() if "." not in key})
    followed = preset.model_copy(update={"epochs": resolved.epochs, "schedule": resolved.schedule})
    return preset.model_copy(update={"lr": _by_rule(preset).lr, "milestones": _milestones(followed)})


def _refuse_contradictions(config: RunConfig) -> None:
    """What cannot be had together, wherever it comes from."""
    watching = {"carry": config.carry == "best-val", "patience": config.patience > 0}
    for key, watches in watching.items():
        if watches and config.val_fraction == 0:
            raise ConfigError(
                f"--{key} {getattr(config, key)} looks at validation accuracy, and --val-fraction 0 leaves no validation "
                "samples: leave one of them out"
            )


def _refuse_idle(config: RunConfig, expected: RunConfig, made: Mapping[str, Any]) -> None:
    """An option that was given and would change nothing is a mistake. The preset's own are for all runs.

    One that turns something off that the preset has on does act, hence the second look, at the preset's value.
    """
    for key, reason in _idle(config, made).items():
        value, preset, default = getattr(config, key), getattr(expected, key), RunConfig.model_fields[key].default
        if value not in (preset, default) and key in _idle(config.model_copy(update={key: preset}), made):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise ConfigError(f"--{_flag(key)} {shown} would be ignored, since {reason}: leave it out")


def _idle(config: RunConfig, made: Mapping[str, Any]) -> dict[str, str]:
    """Options that cannot act in this run, and why."""
    found: dict[str, str] = {}
    method, importance = f"--reinit {_name(str(config.reinit))}", made["importance"]

    def idle(reason: str, *keys: str) -> None:
        found.update(dict.fromkeys(keys, reason))

    samples = ("score_on", "score_sampling", "score_transform", "score_batch")
    if importance is None:
        idle(f"{method} looks at no scores", "score_params", "score_mode")
    if importance is None or not getattr(importance, "needs_data", True):
        looks = (
            f"{method} looks at no scores"
            if importance is None
            else f"--importance {config.importance} looks at no samples"
        )
        idle(looks, "score_mode", *(samples if config.bn_stats != "recalibrate" else ()))
    if getattr(made["reinit"], "changes_nothing", False):
        idle(f"{method} changes nothing", "bn_stats")
        if config.optimizer_state != "fresh":
            idle(f"{method} changes nothing", "optimizer_state")
    if config.mega_batches == 1:
        idle("nothing is forgotten after the only mega-batch", "score_params", "score_mode", *samples)
        idle("nothing is forgotten after the only mega-batch", "bn_stats", "optimizer_state")
    if config.label_noise == 0:
        idle("--label-noise is 0", "label_noise_draw", "label_noise_val")
    if config.val_fraction == 0:
        idle("--val-fraction is 0", "val_transform", "label_noise_val")
    patient = 0 < config.patience < config.epochs - 1  # the first epoch is always the best so far
    if not patient:
        idle(f"there are {config.epochs} epochs", "patience")
    if config.epochs == 1:
        idle("there is one epoch", "carry")
    if not patient and (config.carry == "last" or config.epochs == 1):
        idle("neither --carry best-val nor --patience looks at validation", "min_delta")
    if config.schedule != "step":
        idle(f"--schedule is {config.schedule}", "milestones", "gamma")
    elif not config.milestones:
        idle("there are no milestones", "gamma")
    if config.optimizer != "sgd":
        idle(f"--optimizer is {config.optimizer}", "momentum")
    return found


def _departures(
    config: RunConfig, expected: RunConfig, made: Mapping[str, Any], preset: _Workshop
) -> dict[str, dict[str, Any]]:
    """Each option of the protocol that is not as the preset has it, those of components included."""
    ours, theirs = config.model_dump(mode="json"), expected.model_dump(mode="json")
    found = {
        _flag(key): {"value": ours[key], "preset": theirs[key]}
        for key in RunConfig.model_fields
        if key not in _NOT_PROTOCOL and ours[key] != theirs[key]
    }
    if _name(config.replay) != _name(expected.replay):
        found["replay"] = {"value": _name(config.replay), "preset": _name(expected.replay)}
    for key in ("importance", "reinit", "replay"):
        name = _name(ours[key]) if ours[key] is not None else ""
        if not name or ("." in name and "/" not in name):  # an object given in Python is nothing that a preset knows
            continue
        for option, default in preset.defaults(key, name).items():  # one without a default is the user's to choose
            value = getattr(made[key], option)
            if value != default:
                both = {"value": options.plain(value), "preset": options.plain(default)}
                found[f"{key}.{name}.{_flag(option)}"] = both
    return found


def _needs_scores(reinit: object) -> bool:
    return bool(getattr(reinit, "needs_scores", False))


def _method(
    name: str | None, importance: Any, reinit: Any, make: Callable[[str, Any], tuple[str, Any]]
) -> tuple[Any, Any]:
    """The criterion and the reinit method: a shorthand's, unless one is named itself."""
    if name is not None and name not in METHODS:
        raise ConfigError(f"no method is called '{name}'; {closest(name, METHODS)}")
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
    return "+".join(_name(spec) for spec in pair if spec is not None)


def _milestones(config: RunConfig) -> tuple[int, ...] | None:
    """Those given, in order, or 40 % and 80 % of the epochs: 20 and 40 of the paper's 50."""
    if config.schedule != "step":
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


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _device(name: str) -> str:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not have.get(device.type, False):
        raise ConfigError(f"--device {name}: this machine has none; use auto or cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()}, counted from cuda:0")
    return name


def _precision(name: str, device: str) -> str:
    if name != "auto":
        return name
    import torch

    native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def _metrics(asked: list[tuple[str, contracts.Metric]], registry: Registry) -> dict[str, contracts.Metric]:
    """The paper's four, and those asked for; each under a key of its own in the result."""
    metrics = {name: registry.make("metrics", name)[1] for name in _OWN_METRICS}
    for spec, metric in asked:
        name = _name(spec)
        if name not in _OWN_METRICS and (name in metrics or name.replace("-", "_") in _RESULT_KEYS):
            raise ConfigError(f"--metric {name}: the result has another entry of that name")
        metrics[name] = metric
    return metrics


def _name(spec: str) -> str:
    return options.parse(spec).name
