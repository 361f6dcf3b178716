"""What a resolved configuration may not be, and where it is not as its preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from forgetkit.config.fields import NOT_PROTOCOL, RunConfig, flag, name_of
from forgetkit.config.layers import ComponentFactory
from forgetkit.errors import ConfigError, UnusedOptionError
from forgetkit.registry.spec import option_to_json


def refuse_contradictions(config: RunConfig) -> None:
    """What cannot be had together, wherever it comes from."""
    watching = {"carry": config.carry == "best-val", "patience": config.patience > 0}
    for key, watches in watching.items():
        if watches and config.val_fraction == 0:
            raise ConfigError(
                f"--{key} {getattr(config, key)} looks at validation accuracy, and --val-fraction 0 leaves no "
                "validation samples: leave one of them out"
            )


def refuse_unused(config: RunConfig, expected: RunConfig, made: Mapping[str, Any]) -> None:
    """An option that was given and would change nothing is a mistake. The preset's own are for all runs.

    One that turns something off that the preset has on does act, hence the second look, at the preset's value.
    """
    for key, reason in _unused_options(config, made).items():
        value, preset, default = getattr(config, key), getattr(expected, key), RunConfig.model_fields[key].default
        if value not in (preset, default) and key in _unused_options(config.model_copy(update={key: preset}), made):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UnusedOptionError(key, f"--{flag(key)} {shown} would be ignored, since {reason}: leave it out")


def _unused_options(config: RunConfig, made: Mapping[str, Any]) -> dict[str, str]:
    """Options that cannot act in this run, and why."""
    found: dict[str, str] = {}
    method, importance = f"--reinit {name_of(str(config.reinit))}", made["importance"]

    def idle(reason: str, *keys: str) -> None:
        found.update(dict.fromkeys(keys, reason))

    samples = ("score_on", "score_sampling", "score_transform", "score_batch")
    if importance is None:
        idle(f"{method} looks at no scores", "score_params")
    if (importance is None or not getattr(importance, "needs_data", True)) and not getattr(
        made["reinit"], "needs_data", False
    ):
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
    epochs = config.epochs if config.samples is None else math.inf  # how many, depends on the mega-batch
    patient = 0 < config.patience < epochs - 1  # the first epoch is always the best so far
    if config.samples is not None:
        idle("--samples says how long a mega-batch is trained", "epochs")
    if not patient:
        idle(f"there are {config.epochs} epochs", "patience")
    if epochs == 1:
        idle("there is one epoch", "carry")
    if not patient and (config.carry == "last" or epochs == 1):
        idle("neither --carry best-val nor --patience looks at validation", "min_delta")
    if config.schedule != "step":
        idle(f"--schedule is {config.schedule}", "milestones", "gamma")
    elif not (config.milestones or (config.milestones is None and config.samples is not None)):
        idle("there are no milestones", "gamma")
    if config.optimizer != "sgd":
        idle(f"--optimizer is {config.optimizer}", "momentum")
    return found


def find_overrides(
    config: RunConfig, expected: RunConfig, made: Mapping[str, Any], preset: ComponentFactory
) -> dict[str, dict[str, Any]]:
    """Each option of the protocol that is not as the preset has it, those of components included."""
    ours, theirs = config.model_dump(mode="json"), expected.model_dump(mode="json")
    found = {
        flag(key): {"value": ours[key], "preset": theirs[key]}
        for key in RunConfig.model_fields
        if key not in NOT_PROTOCOL and ours[key] != theirs[key]
    }
    if name_of(config.replay) != name_of(expected.replay):
        found["replay"] = {"value": name_of(config.replay), "preset": name_of(expected.replay)}
    for key in ("importance", "reinit", "replay"):
        name = name_of(ours[key]) if ours[key] is not None else ""
        if not name or ("." in name and "/" not in name):  # an object given in Python is nothing that a preset knows
            continue
        for option, default in preset.defaults(key, name).items():  # one without a default is the user's to choose
            value = getattr(made[key], option)
            if value != default:
                both = {"value": option_to_json(value), "preset": option_to_json(default)}
                found[f"{key}.{name}.{flag(option)}"] = both
    return found
