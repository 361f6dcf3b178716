"""Whether a checkpoint is one that this run can have written: whoever can write a file can write its digest too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetkit.session import Session
from forgetkit.stream.stream import ROLES


def require_possible(state: Mapping[str, Any], session: Session) -> None:
    """Refuse a state that contradicts the run's plan or its data, before anything is made from it.

    Raises:
        KeyError, TypeError, ValueError: An entry is missing, of another type, or not one that the run can come to.
    """
    if state["digest"] != session.plan.digest:
        raise ValueError("it belongs to another configuration")
    shape, channels = list(session.data.train.inputs.shape[1:]), state["shape"][0]
    _require(state["shape"] == shape, "its samples have another shape")
    for name in ("mean", "std"):
        _require(len(state[name]) == channels and all(map(math.isfinite, state[name])), f"its {name} is none")
    _require(min(state["std"]) > 0, "its std is none")
    _require_counts("mega_batch", [state["mega_batch"]], 1, len(session.mega_batches))
    sizes = session.epochs(state["mega_batch"])
    _require_counts("epochs_done", [state["epochs_done"]], 0, sizes.count)
    _require_counts("skipped", [state["skipped"]])
    _require_counts("passes", state["passes"])
    _require_counts("resets", state["resets"])
    _require(len(state["passes"]) == 2, "its passes are not two")
    _require_early_stopping(state["best"], state["epochs_done"])
    for role in ROLES:
        _require_arrived(state["stream"][role], session, state["mega_batch"], role)
    if state["underway"] is not None:
        _require_epoch(state["underway"], sizes.of(state["epochs_done"] + 1))


def require_tensors(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse tensors that are not those of the network, and options of an optimizer that are not the run's."""
    own = model.state_dict()
    for what in ("model", "previous"):
        _require_alike(what, state[what], own, all_of_them=what == "model")
    _require_alike("best", state["best"]["weights"], own, all_of_them=bool(state["best"]["weights"]))
    saved, fresh = state["optimizer"], optimizer.state_dict()
    _require(len(saved["param_groups"]) == len(fresh["param_groups"]), "its optimizer has other parameters")
    for group, own_group in zip(saved["param_groups"], fresh["param_groups"], strict=True):
        for option in (group.keys() & own_group.keys()) - {"lr"}:  # each epoch sets the rate
            _require(group[option] == own_group[option], f"its optimizer has another {option}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, entries in saved["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape not in ((), parameters[place].shape):
                raise ValueError(f"its optimizer's {name} of parameter {place} has another shape")


def _require_alike(what: str, tensors: Mapping[str, Any], own: Mapping[str, Tensor], *, all_of_them: bool) -> None:
    _require(not all_of_them or tensors.keys() == own.keys(), f"its {what} has other tensors than the network")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(f"'{name}' in its {what} is not that of the network")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"'{name}' in its {what} holds NaN or infinity")


def _require_early_stopping(best: Mapping[str, Any], epochs_done: int) -> None:
    _require(best.keys() == {"epoch", "accuracy", "waited", "weights"}, "its best epoch lacks an entry")
    _require_counts("best epoch", [best["epoch"], best["waited"]], 0, epochs_done)
    accuracy = best["accuracy"]
    _require(accuracy is None or (isinstance(accuracy, float) and 0 <= accuracy <= 1), "its best accuracy is none")


def _require_arrived(kept: Mapping[str, Any], session: Session, mega_batch: int, role: str) -> None:
    """No checkpoint opens samples of the future: what replay kept has arrived before."""
    ids = kept["ids"]
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        raise TypeError(f"the ids of its {role} samples are none")
    past = [getattr(session.mega_batches[index], role) for index in range(mega_batch - 1)]
    arrived = np.concatenate(past) if past else np.empty(0, dtype=np.int64)
    _require(bool(np.isin(ids.numpy(), arrived).all()), f"its {role} samples have not arrived")
    _require_counts("seen", [kept["seen"]], 0, len(arrived))


def _require_epoch(underway: Mapping[str, Any], samples: int) -> None:
    _require_counts("step", [underway[name] for name in ("steps", "samples", "counted", "skipped")], 0, samples)
    for name in ("loss", "hits"):
        value = underway[name]
        if not isinstance(value, Tensor) or value.ndim or not bool(value.isfinite()):
            raise ValueError(f"the {name} of its epoch is none")


def _require_counts(what: str, counts: Iterable[Any], least: int = 0, most: float = math.inf) -> None:
    for count in counts:
        if type(count) is not int or not least <= count <= most:
            raise ValueError(f"its {what} is {count!r}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
