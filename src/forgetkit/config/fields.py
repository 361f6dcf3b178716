"""Every option of a run: type, range, default, and the sentence of the help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from forgetkit.config import presets
from forgetkit.contracts import (
    MOST_THREADS,
    BnStats,
    Carry,
    Keep,
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
from forgetkit.errors import ConfigError
from forgetkit.registry.spec import parse_spec

METHODS: Mapping[str, tuple[str | None, str]] = {
    "warm": (None, "none"),
    "cold": (None, "cold"),
    "rifle": (None, "rifle"),
    "llf": (None, "llf"),
    "shrink-perturb": (None, "shrink-perturb"),
    "lure": ("snip", "masked"),
}
"""The methods of the paper: the importance criterion and the reinit method of each name."""

_RETENTION = ("checkpoint_seconds", "checkpoint_epochs", "keep_models", "keep_masks")

NOT_RESULTS = ("preset", "method", "out", "name", "observers", "device", "threads", *_RETENTION)
"""Options that cannot change the result: where and how a run is executed, and shorthands for other options."""

NOT_PROTOCOL = (
    *("preset", "method", "importance", "reinit", "replay", "dataset", "model", "init", "seed"),
    *("device", "memory_format", "deterministic", "threads", "metrics", "out", "name", "observers"),
    *_RETENTION,
)
"""Options that are no part of a protocol: methods, data, networks, seeds, and those that cannot change the result."""

KIND_OF = {
    "importance": "importance",
    "reinit": "reinit",
    "replay": "replay",
    "dataset": "datasets",
    "model": "models",
}
"""The options that name one component, and its kind."""

MOST = 2**63 - 1
"""The largest count: a signed 64-bit integer."""

_LONGEST = 200
"""Bytes of a name; file systems allow 255, and some are added."""

PLAIN = (str, int, float, list, dict, type(None))
"""The types of a TOML file; a value of another type is a component."""

REPEATABLE = ("interventions", "metrics", "observers")
"""The options that name any number of components; each is the name of a kind."""


def _parse_list(given: Any) -> Any:
    """Parse ``20,40`` or ``none``."""
    if isinstance(given, str):
        if given.strip().lower() == "none":
            return []
        return [piece for piece in given.split(",") if piece.strip()]
    return given


def _parse_repeatable(given: Any) -> Any:
    """Accept a single SPEC for a list, as ``--set`` gives it."""
    return (given,) if isinstance(given, str) else given


def _parse_none(given: Any) -> Any:
    return None if given == "none" else given


def _as_text(given: Any) -> Any:
    return str(given) if isinstance(given, Path) else given


def _threads(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(given)
    except ValidationError as error:
        raise PydanticCustomError("threads", f"must be a number from 1 to {MOST_THREADS}, or auto") from error


def _plain_name(name: str | None) -> str | None:
    if name is None:
        return None
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > _LONGEST:
        raise PydanticCustomError(
            "plain",
            f"must be a folder's name, without slashes and of {_LONGEST} bytes at most; --out says where it is made",
        )
    return name


def _path(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise PydanticCustomError("path", "it holds a null character, which no path can")
    return text


Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
_Specs = Annotated[tuple[str, ...], BeforeValidator(_parse_repeatable)]


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
    score_batch: Annotated[int, Field(ge=1, le=MOST, description="samples per batch while scoring")] = 256
    optimizer_state: Annotated[OptimizerState, Field(description="the optimizer's memory at a forgetting: zero what was reset, the same but second moments rescaled, keep all, or start afresh (with any method)")] = "zero"  # fmt: skip
    bn_stats: Annotated[BnStats, Field(description="running statistics after a forgetting; recalibrate: measured again on all the scoring samples offered")] = "keep"  # fmt: skip

    dataset: Annotated[str, Field(description="where samples come from, a SPEC like folder:path=photos,size=32")] = "digits"  # fmt: skip
    model: Annotated[str, Field(description="the network, a SPEC like resnet18 or import:package.module:callable")] = "convnet"  # fmt: skip
    init: Annotated[str | None, BeforeValidator(_parse_none), BeforeValidator(_as_text), AfterValidator(_path), Field(description="weights that the network begins with: a file with its state_dict(), written by torch.save")] = None  # fmt: skip
    mega_batches: Annotated[int, Field(ge=1, le=MOST, description="in how many parts the training set arrives")] = 8
    split: Annotated[Split, Field(description="cut the training set at random, or in its own order")] = "random"
    val_fraction: Annotated[float, Field(ge=0, lt=1, description="share of each mega-batch set apart for validation")] = 0.1  # fmt: skip
    val_transform: Annotated[Mode, Field(description="validate on samples as they are, or augmented as for training")] = "eval"  # fmt: skip
    augment: Annotated[Literal["auto", "none", "flip", "crop", "crop-flip"], Field(description="random flip and crop of training images; auto is what suits the data set")] = "auto"  # fmt: skip
    shots: Annotated[Annotated[int, Field(ge=1, le=MOST)] | None, BeforeValidator(_parse_none), Field(description="train on that many samples of each class, drawn at random (default: on all)")] = None  # fmt: skip
    label_noise: Annotated[float, Field(ge=0, le=1, description="probability with which a training label is redrawn")] = 0.0  # fmt: skip
    label_noise_draw: Annotated[NoiseDraw, Field(description="redraw from any class, the true one included, or from the others")] = "any"  # fmt: skip
    label_noise_val: Annotated[Literal["noisy", "clean"], Field(description="whether validation labels are noisy too")] = "noisy"  # fmt: skip

    epochs: Annotated[int, Field(ge=1, le=MOST, description="epochs per mega-batch")] = 50
    samples: Annotated[Annotated[int, Field(ge=1, le=MOST)] | None, BeforeValidator(_parse_none), Field(description="train on that many samples in each mega-batch, in place of --epochs: the last epoch is cut")] = None  # fmt: skip
    batch_size: Annotated[int, Field(ge=1, le=MOST, description="samples per optimizer step")] = 64
    optimizer: Annotated[OptimizerName, Field(description="what makes the steps")] = "sgd"
    lr: Annotated[float | None, Field(gt=0, allow_inf_nan=False, description="learning rate at the start of each mega-batch (default: 0.1, with adamw 0.001)")] = None  # fmt: skip
    schedule: Annotated[ScheduleKind, Field(description="how the rate falls in each mega-batch: at milestones, as a cosine, not at all")] = "step"  # fmt: skip
    milestones: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST)], ...] | None, BeforeValidator(_parse_list), Field(description="epochs after which the learning rate is multiplied by gamma, like 20,40 (default: after 40 % and 80 % of the epochs or samples; none for a constant rate)")] = None  # fmt: skip
    gamma: Annotated[float, Field(gt=0, le=1, description="factor on the learning rate at each milestone")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight decay, on all parameters")] = 1e-4  # fmt: skip
    carry: Annotated[Carry, Field(description="the weights that are judged, scored and carried on: of the last epoch, or of the best on validation")] = "last"  # fmt: skip
    patience: Annotated[int, Field(ge=0, le=MOST, description="end a mega-batch after that many epochs without a better validation accuracy; 0: never")] = 0  # fmt: skip
    min_delta: Annotated[float, Field(ge=0, lt=1, description="how much better counts, as a fraction of one")] = 0.0

    on_nan: Annotated[Literal["stop", "skip"], Field(description="a loss or gradient that is NaN or infinite: stop the run, or leave that step out")] = "stop"  # fmt: skip

    seed: Annotated[int, Field(ge=0, description="the one seed that every random stream is derived from")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 for a large network on hardware that multiplies it natively, else fp32")] = "auto"  # fmt: skip
    memory_format: Annotated[Literal["auto", "contiguous", "channels-last"], Field(description="how images lie in memory; auto: channels-last for networks with 2-D convolutions")] = "auto"  # fmt: skip
    deterministic: Annotated[bool, Field(description="the same bits each time on CUDA too, or an error that names the operation that cannot")] = False  # fmt: skip
    threads: Annotated[Threads | Literal["auto"], WrapValidator(_threads), Field(description="threads of torch on the CPU; auto: one for a network whose batch takes few operations, else torch's own choice")] = "auto"  # fmt: skip
    metrics: Annotated[_Specs, Field(description="a metric beside the four of the paper, a SPEC (repeatable)")] = ()  # fmt: skip

    out: Annotated[
        str,
        BeforeValidator(_as_text),
        AfterValidator(_path),
        Field(min_length=1, description="folder that the run's directory is made in"),
    ] = "runs"
    name: Annotated[str | None, AfterValidator(_plain_name), Field(description="name of the run's directory (default: made from time, method, data and seed)")] = None  # fmt: skip
    observers: Annotated[_Specs, Field(description="a listener to the run's events, a SPEC (repeatable)")] = ()
    checkpoint_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False, description="write a state to resume from once the last is older, within an epoch too")] = 60.0  # fmt: skip
    checkpoint_epochs: Annotated[Annotated[int, Field(ge=1, le=MOST)] | None, BeforeValidator(_parse_none), Field(description="write one after every N epochs as well (default: by time alone)")] = None  # fmt: skip
    keep_models: Annotated[Keep, Field(description="which of the models that were judged after each mega-batch are kept; states to resume from stay")] = "all"  # fmt: skip
    keep_masks: Annotated[Literal["all", "none"], Field(description="whether what each forgetting reset is kept, a bit for each entry, for forgetkit analyze")] = "all"  # fmt: skip

    @model_validator(mode="after")
    def _validation_samples(self) -> Self:
        if self.val_fraction == 0:
            for key, is_used in {"carry": self.carry == "best-val", "patience": self.patience > 0}.items():
                if is_used:
                    raise PydanticCustomError(
                        "validation_samples",
                        f"--{key} {getattr(self, key)} needs validation accuracy, and --val-fraction 0 leaves no "
                        "validation samples: leave one of them out",
                    )
        return self

    @model_validator(mode="after")
    def _milestones_in_range(self) -> Self:
        if self.schedule != "step" or not self.milestones:
            return self
        if self.samples is not None:
            raise PydanticCustomError(
                "milestones",
                f"--milestones {','.join(map(str, self.milestones))} counts epochs, and with --samples the rate falls "
                "after 40 % and 80 % of the samples: leave one of them out",
            )
        if max(self.milestones) >= self.epochs:
            raise PydanticCustomError(
                "milestones",
                f"--milestones {max(self.milestones)}: the run's {self.epochs} epochs end before or with it, so it "
                "would be ignored: choose smaller ones, or leave them out",
            )
        return self


def validate_options(options: Mapping[str, Any], objects: Mapping[str, Any]) -> RunConfig:
    """Validate the options of a run; those of components and ``objects`` have defaults in their place.

    Raises:
        ConfigError: An option is out of range or contradicts another.
    """
    plain = {key: value for key, value in options.items() if key not in objects and "." not in key}
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ConfigError(first["msg"]) from error
        key = str(first["loc"][0])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"--{flag(key)} {options.get(key)}: {message}") from error


def flag(key: str) -> str:
    """The option's name on the command line, without dashes in front."""
    return (key.removesuffix("s") if key in REPEATABLE else key).replace("_", "-")


def name_of(spec: str) -> str:
    """The name of the component in a SPEC."""
    return parse_spec(spec).name
