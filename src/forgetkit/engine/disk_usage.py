"""The disk usage of a run, estimated from the sizes of the tensors in its state."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from forgetkit.engine.state import TrainingState

_CHECKPOINTS = 3
"""Checkpoints on the disk at a time: two are kept, and the next is written before the older one is removed."""
_SLOTS = {"sgd": 1, "adamw": 2}
"""Tensors that an optimizer keeps for each parameter."""
_TENSOR, _ROW, _LAYER, _EPOCH = 500, 4000, 600, 600
"""Bytes: around a tensor in its archive; of the rows, notes and events of a mega-batch; of a parameter in the reports
of a forgetting, in all files that hold it; of the events of an epoch."""
_log = logging.getLogger("forgetkit")


def disk_bytes(state: TrainingState) -> int:
    """Estimate the most bytes that the directory of a run takes: models, checkpoints, rows and events.

    The tensors of interventions count once they exist.
    """
    return _bytes_without_events(state) + _bytes_of_events(state)


def _bytes_of_events(state: TrainingState) -> int:
    context = state.context
    return _EPOCH * sum(context.epochs(index).count for index in range(1, context.plan.config.mega_batches + 1))


def _bytes_without_events(state: TrainingState) -> int:
    context, config = state.context, state.context.plan.config
    model = _bytes(state.network.state_dict())
    checkpoint = _bytes(state.checkpoint()) + 8 * max(context.run_data.sizes)  # a number per sample that replay keeps
    if not state.optimizer.state and (config.optimizer != "sgd" or config.momentum > 0):
        checkpoint += _SLOTS[config.optimizer] * _bytes(dict(state.network.named_parameters()))
    if config.carry == "best-val" and not state.early_stopping.weights:
        checkpoint += model
    models = {"all": config.mega_batches, "last": min(2, config.mega_batches), "none": 0}[config.keep_models]
    layers = sum(1 for _ in state.network.parameters())
    masks = 0
    if config.keep_masks == "all":
        masks = (config.mega_batches - 1) * (state.parameters // 8 + layers * _TENSOR)
    return models * model + masks + _CHECKPOINTS * checkpoint + config.mega_batches * (_ROW + _LAYER * layers)


def warn_if_disk_low(state: TrainingState, folder: Path) -> None:
    """Warn if the disk of ``folder``, which need not exist yet, has less room than the run takes.

    The files of a resumed run count as room.
    """
    existing = next((parent for parent in (folder, *folder.absolute().parents) if parent.is_dir()), None)
    if existing is None:
        return
    try:
        free = shutil.disk_usage(existing).free
        there = sum(file.stat().st_size for file in folder.rglob("*")) if (folder / "manifest.json").exists() else 0
    except OSError:
        return
    needed, events = disk_bytes(state) - there, _bytes_of_events(state)
    if free < needed:
        epochs = "--epochs" if state.context.plan.config.samples is None else "--samples"
        _log.warning(
            "%s has room for %.1f MiB, the run takes about %.1f: make room, or %s",
            existing,
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
