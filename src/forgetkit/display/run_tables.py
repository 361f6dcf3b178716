"""Tables, lines and sparklines about a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from forgetkit.contracts import MegaBatchResult, RunStarted
from forgetkit.display import layout

_BLOCKS = "▁▂▃▄▅▆▇█"


def run_headline(event: RunStarted) -> str:
    """Describe a run that starts, in one line."""
    config = event.config
    own_options = [
        f"{option.rpartition('.')[2]}={_word(both['value'])}"
        for option, both in event.overrides.items()
        if option.startswith(("importance.", "reinit."))
    ]
    interventions = [spec.partition(":")[0] for spec in config["interventions"]]
    parts = [
        " with ".join([f"{event.method} ({', '.join(own_options)})" if own_options else event.method, *interventions]),
        f"on {config['dataset'].partition(':')[0]}",
        f"with {config['model'].partition(':')[0]} ({event.parameters:,} parameters)",
        f"{event.mega_batches} mega-batches of {_length(event)}",
        f"replay {config['replay'].partition(':')[0]}",
        f"preset {event.preset}",
        f"seed {config['seed']}",
        _rate(config),
        f"augment {augmentation(config['augment'], event.augment)}",
        f"{config['device']} with {config['threads']} thread{'s' * (config['threads'] != 1)}",
        config["precision"],
        config["memory_format"],
        *(["deterministic"] if config["deterministic"] else []),
    ]
    return ", ".join(parts)


def augmentation(option: str, chosen: str) -> str:
    """Name the augmentation, and say whether it was ``auto``."""
    return f"{chosen} (auto)" if option == "auto" else chosen


def _rate(config: Mapping[str, Any]) -> str:
    """Name the learning rate and its schedule."""
    if config["schedule"] != "step":
        return f"lr {config['lr']:g} {config['schedule']}"
    if config["samples"] is not None and config["milestones"] is None:
        return f"lr {config['lr']:g} stepped after 40 % and 80 % of the samples"
    steps = " and ".join(map(str, config["milestones"] or ()))
    return f"lr {config['lr']:g} " + (f"stepped after epoch {steps}" if steps else "throughout")


def _length(event: RunStarted) -> str:
    """Name the length of training for each mega-batch."""
    if event.epochs is None:
        return f"{event.samples[0]:,} samples"
    return f"{event.epochs} epoch{'s' if event.epochs > 1 else ''}"


def row_line(row: MegaBatchResult) -> str:
    """Describe a finished mega-batch in one line."""
    by_interventions = "".join(f", {count:,} by {name} meanwhile" for name, count in row.interventions.items() if count)
    reset = "" if row.unlearn is None else f", {row.unlearn['reset']:,} entries reset"
    carried = (
        "" if row.carried_epoch in (None, row.epochs) else f", weights of epoch {row.carried_epoch} of {row.epochs}"
    )
    skipped = f", {row.skipped_steps:,} steps left out" if row.skipped_steps else ""
    return (
        f"mega-batch {row.index}: test accuracy {row.test_accuracy:.2%}, {row.test_errors} errors"
        f"{carried}{skipped}{reset}{by_interventions}, {duration(row.seconds)}"
    )


def provenance(preset: str, overrides: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the preset, and each override with the preset's own value in brackets."""
    changed = [
        f"{option}={_word(both['value'])} (preset: {_word(both['preset'])})" for option, both in overrides.items()
    ]
    return f"preset {preset}; " + (f"overrides: {', '.join(changed)}" if changed else "no overrides")


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def mega_batches(result: Mapping[str, Any], width: int) -> RenderableType:
    """Make a table with a row per mega-batch; 80 columns hold 11 million parameters."""
    heads = ("batch", "samples", "train", "val", "test", "errors", "gap", "reset", "seconds")
    rows = [
        (
            str(row["index"]),
            f"{row['train_samples']:,}",
            percent(row["train_accuracy"]),
            percent(row["val_accuracy"]),
            percent(row["test_accuracy"]),
            f"{row['test_errors']:,}",
            percent(row["generalization_gap"]),
            "–" if row["unlearn"] is None else f"{row['unlearn']['reset']:,}",
            f"{row['seconds']:.1f}",
        )
        for row in result["mega_batches"]
    ]
    return layout.table(width, heads, rows, right=range(len(heads)), bold=[heads.index("test")])


def totals(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the whole run: accuracy, cost, overrides and the directory."""
    curve = [row["test_accuracy"] for row in result["mega_batches"]]
    yield f"anytime accuracy  {sparkline(curve)}  first {curve[0]:.2%}, last {curve[-1]:.2%}"
    yield (
        f"test accuracy {percent(result['test_accuracy'])}   CER {result['cer']:,}   "
        f"mean anytime error {percent(result['mean_anytime_error'])}   gap {percent(result['generalization_gap'])}"
    )
    yield f"{result['samples_seen']:,} samples seen in {duration(result['seconds'])}{_noise(result)}"
    if result["skipped_steps"]:
        yield f"{result['skipped_steps']:,} steps were skipped: their loss or gradients were NaN or infinite"
    yield provenance(result["preset"], result["overrides"])
    yield f"record: {result['directory']}"


def _noise(result: Mapping[str, Any]) -> str:
    changed = result["noisy_labels"]
    if not changed:
        return ""
    noisy = "train and val" if result["config"]["label_noise_val"] == "noisy" else "train"
    return f"; {changed:,} labels of the stream changed by noise, {noisy} counted against them"


def plan(estimate: Mapping[str, Any], width: int) -> RenderableType:
    """Make a table of the resolved configuration."""
    rows = []
    config = estimate["config"]
    resolved = {"augment": augmentation(config["augment"], estimate["augment"])}
    if config["schedule"] == "step" and not config["milestones"]:
        resolved["milestones"] = "after 40 % and 80 % of the samples" if config["milestones"] is None else "none"
    for key, value in {**config, **resolved}.items():
        absent = value is False or value in (None, [], ())
        if not absent and not (key == "epochs" and estimate["config"]["samples"]):
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"--{key.replace('_', '-')}", shown))
    return layout.table(width, ("option", "value"), rows, title=f"{estimate['method']}: what would run")


def cost(estimate: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the cost of a run."""
    sizes = estimate["train_samples"]
    yield f"{estimate['parameters']:,} parameters; training on {', '.join(f'{n:,}' for n in sizes)} samples per epoch"
    yield f"{estimate['samples_to_be_seen']:,} samples to be seen"
    yield provenance(estimate["preset"], estimate["overrides"])
    memory = estimate["estimated_memory_bytes"]
    memory_text = "" if memory is None else f", {memory / 2**20:,.0f} MiB of memory"
    disk = estimate["estimated_disk_bytes"] / 2**20
    yield (
        f"about {duration(estimate['estimated_seconds'])}{memory_text} and {disk:,.1f} MiB on the disk, "
        f"from a sample of {estimate['timed_steps']} steps; nothing was written"
    )


def sparkline(values: Sequence[float], among: Sequence[float] = ()) -> str:
    """Draw a block per value, on the scale of these values or of ``among``."""
    low, high = min(among or values), max(among or values)
    span = high - low
    return "".join(_BLOCKS[round((v - low) / span * (len(_BLOCKS) - 1)) if span else 3] for v in values)


def percent(value: float | None) -> str:
    """Format a fraction as a percentage, None as a dash."""
    return "–" if value is None else f"{value:.2%}"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
