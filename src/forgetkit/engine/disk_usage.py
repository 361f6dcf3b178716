"""What a run takes on the disk, from the sizes of what its training state holds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from forgetkit.engine.state import TrainingState

_STATES = 3
"""Two are kept, and the next is written before the older one goes."""
_SLOTS = {"sgd": 1, "adamw": 2}
"""Tensors that an optimizer keeps for each parameter."""
_TENSOR, _ROW, _LAYER, _EPOCH = 500, 4000, 600, 600
"""Bytes: around a tensor in its archive; of the rows, notes and events of a mega-batch; of a parameter in the reports
of a forgetting, in all files that hold it; of the events of an epoch."""
_log = logging.getLogger("forgetkit")


def disk_bytes(learner: TrainingState) -> int:
    """Roughly the most that the directory of a run takes: models, states to resume from, rows and events.

    What interventions keep is counted once they have begun.
    """
    return _bytes_without_events(learner) + _bytes_of_events(learner)


def _bytes_of_events(learner: TrainingState) -> int:
    context = learner.context
    return _EPOCH * sum(context.epochs(index).count for index in range(1, context.plan.config.mega_batches + 1))


def _bytes_without_events(learner: TrainingState) -> int:
    context, config = learner.context, learner.context.plan.config
    model = _bytes(learner.model.state_dict())
    state = _bytes(learner.state()) + 8 * max(context.sizes)  # a number for each sample that replay keeps
    if not learner.optimizer.state and (config.optimizer != "sgd" or config.momentum > 0):
        state += _SLOTS[config.optimizer] * _bytes(dict(learner.model.named_parameters()))
    if config.carry == "best-val" and not learner.early_stopping.weights:
        state += model
    models = {"all": config.mega_batches, "last": min(2, config.mega_batches), "none": 0}[config.keep_models]
    layers = sum(1 for _ in learner.model.parameters())
    masks = (
        (config.mega_batches - 1) * (learner.parameters // 8 + layers * _TENSOR) if config.keep_masks == "all" else 0
    )
    return models * model + masks + _STATES * state + config.mega_batches * (_ROW + _LAYER * layers)


def warn_if_disk_low(learner: TrainingState, folder: Path) -> None:
    """Say in one line where the disk of ``folder``, which need not be there yet, has not the room that the run takes.

    What lies in the folder of a run that goes on is room that it has.
    """
    place = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), None)
    if place is None:
        return
    try:
        free = shutil.disk_usage(place).free
        there = sum(file.stat().st_size for file in folder.rglob("*")) if (folder / "manifest.json").exists() else 0
    except OSError:
        return
    needed, events = disk_bytes(learner) - there, _bytes_of_events(learner)
    if free < needed:
        epochs = "--epochs" if learner.context.plan.config.samples is None else "--samples"
        _log.warning(
            "%s has room for %.1f MiB, the run takes about %.1f: make room, or %s",
            place,
            free / 2**20,
            needed / 2**20,
            f"give fewer {epochs}" if events > needed - events else "keep fewer models (--keep-models last)",
        )


def _bytes(tree: Mapping[str, Any]) -> int:
    return sum(tensor.nbytes + _TENSOR for tensor in _tensors(tree))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
