"""Options that have no effect in a run, and options that differ from the preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from forgetkit.config.fields import NOT_PROTOCOL, RunConfig, flag, name_of
from forgetkit.config.layers import ComponentFactory
from forgetkit.errors import UnusedOptionError
from forgetkit.registry.spec import option_to_json


def refuse_unused(config: RunConfig, expected: RunConfig, components: Mapping[str, Any]) -> None:
    """Raise ``UnusedOptionError`` for an option of the user that has no effect; presets set options for all runs.

    An option that turns off what the preset turns on has an effect, so the preset's value is checked as well.
    """
    for key, reason in _unused_options(config, components).items():
        value, preset, default = getattr(config, key), getattr(expected, key), RunConfig.model_fields[key].default
        with_preset = config.model_copy(update={key: preset})
        if value not in (preset, default) and key in _unused_options(with_preset, components):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UnusedOptionError(key, f"--{flag(key)} {text} would be ignored, since {reason}: leave it out")


def _unused_options(config: RunConfig, components: Mapping[str, Any]) -> dict[str, str]:
    """The options that have no effect in this run, and why."""
    importance, reinit = components["importance"], components["reinit"]
    method = f"--reinit {name_of(str(config.reinit))}"
    needs_data = (importance is not None and getattr(importance, "needs_data", True)) or getattr(
        reinit, "needs_data", False
    )
    changes_nothing = getattr(reinit, "changes_nothing", False)
    scoring = ("score_on", "score_sampling", "score_transform", "score_batch")
    epochs = config.epochs if config.samples is None else math.inf  # depends on the mega-batch
    can_stop_early = 0 < config.patience < epochs - 1  # the first epoch is always the best so far
    uses_validation = can_stop_early or (config.carry != "last" and epochs > 1)
    is_step = config.schedule == "step"
    by_rule = config.milestones is None and config.samples is not None
    no_scores, no_samples = f"{method} looks at no scores", f"--importance {config.importance} looks at no samples"
    no_data = no_scores if importance is None else no_samples
    single = "nothing is forgotten after the only mega-batch"
    unlearning = ("score_params", "score_mode", *scoring, "bn_stats", "optimizer_state")
    rows: tuple[tuple[bool, str, tuple[str, ...]], ...] = (
        (importance is None, no_scores, ("score_params",)),
        (not needs_data, no_data, ("score_mode",)),
        (not needs_data and config.bn_stats != "recalibrate", no_data, scoring),
        (changes_nothing, f"{method} changes nothing", ("bn_stats",)),
        (changes_nothing and config.optimizer_state != "fresh", f"{method} changes nothing", ("optimizer_state",)),
        (config.mega_batches == 1, single, unlearning),
        (config.label_noise == 0, "--label-noise is 0", ("label_noise_draw", "label_noise_val")),
        (config.val_fraction == 0, "--val-fraction is 0", ("val_transform", "label_noise_val")),
        (config.samples is not None, "--samples says how long a mega-batch is trained", ("epochs",)),
        (not can_stop_early, f"there are {config.epochs} epochs", ("patience",)),
        (epochs == 1, "there is one epoch", ("carry",)),
        (not uses_validation, "neither --carry best-val nor --patience looks at validation", ("min_delta",)),
        (not is_step, f"--schedule is {config.schedule}", ("milestones", "gamma")),
        (is_step and not config.milestones and not by_rule, "there are no milestones", ("gamma",)),
        (
            config.optimizer == "sgd" and config.optimizer_state in ("zero", "rescaled"),
            "--optimizer sgd has no second moments to rescale",
            ("optimizer_state",),
        ),
        (config.optimizer != "sgd", f"--optimizer is {config.optimizer}", ("momentum",)),
    )
    return {key: reason for applies, reason, keys in rows if applies for key in keys}


def find_overrides(
    config: RunConfig, expected: RunConfig, components: Mapping[str, Any], preset: ComponentFactory
) -> dict[str, dict[str, Any]]:
    """Each option of the protocol that differs from the preset, those of components included."""
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
        if not name or ("." in name and "/" not in name):  # no preset knows an object given in Python
            continue
        for option, default in preset.defaults(key, name).items():  # an option without a default is the user's
            value = getattr(components[key], option)
            if value != default:
                both = {"value": option_to_json(value), "preset": option_to_json(default)}
                found[f"{key}.{name}.{flag(option)}"] = both
    return found
