"""The validation of a checkpoint: a right digest does not prove that this run wrote the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.contracts import Carry, Role
from forgetkit.data import simulate_replay
from forgetkit.data.stream import ROLES
from forgetkit.engine.context import RunContext
from forgetkit.seeding import preserved_rng, restore_rng
from forgetkit.training import EpochProgress

_MOST = 2**63 - 1


def require_possible(state: Mapping[str, Any], context: RunContext) -> None:
    """Refuse a checkpoint that contradicts the plan or the data of the run, before anything is built from it.

    Raises:
        KeyError, TypeError, ValueError: An entry is missing, of another type, or impossible in this run.
    """
    if state["digest"] != context.plan.digest:
        raise ValueError("it belongs to another configuration")
    shape, channels = list(context.run_data.data.train.inputs.shape[1:]), state["shape"][0]
    _require(state["shape"] == shape, "its samples have another shape")
    for name in ("mean", "std"):
        _require(len(state[name]) == channels and all(map(math.isfinite, state[name])), f"its {name} is none")
    _require(min(state["std"]) > 0, "its std is none")
    _require_counts("mega_batch", [state["mega_batch"]], 1, len(context.run_data.mega_batches))
    sizes = context.epochs(state["mega_batch"])
    _require_counts("epochs_done", [state["epochs_done"]], 0, sizes.count)
    _require_counts("skipped", [state["skipped"]])
    _require_counts("passes", state["passes"])
    _require_counts("resets", state["resets"])
    _require(len(state["passes"]) == 2, "its passes are not two")
    _require_early_stopping(state["early_stopping"], state["epochs_done"], context.plan.config.carry)
    for role in ROLES:
        _require_replayed(state["stream"][role], context, state["mega_batch"], role)
    if state["epoch_progress"] is not None:
        _require_epoch(state["epoch_progress"], context.plan.config.batch_size, sizes.of(state["epochs_done"] + 1))


def require_tensors(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse tensors that do not fit the network, and a state that does not fit the class of the optimizer."""
    own = model.state_dict()
    require_alike("its model", state["model"], own)
    for what, tensors in (
        ("its previous model", state["previous"]),
        ("its best model", state["early_stopping"]["weights"]),
    ):
        if tensors:
            require_alike(what, tensors, {name: own[name] for name in tensors})
    saved, fresh = state["optimizer"], optimizer.state_dict()
    for group, own_group in zip(saved["param_groups"], fresh["param_groups"], strict=True):
        for option in (group.keys() & own_group.keys()) - {"lr"}:  # another torch may have others besides
            _require(group[option] == own_group[option], f"its optimizer has another {option}")
        _require(isinstance(group["lr"], int | float) and 0 <= group["lr"] < math.inf, "its learning rate is none")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entries in saved["state"].items():
        own_entries = _after_a_step(optimizer, parameters[number])
        for name, value in own_entries.items():
            if value is None:
                _require(entries[name] is None, f"its optimizer has a {name}")
        tensors = {name: value for name, value in own_entries.items() if value is not None}
        _require(entries.keys() == own_entries.keys(), "its optimizer keeps something else")
        saved_tensors = {name: entries[name] for name in tensors}
        require_alike(f"its optimizer's state of parameter {number}", saved_tensors, tensors, may_overflow=True)


def require_alike(
    what: str, tensors: Mapping[str, Any], own: Mapping[str, Tensor], *, may_overflow: bool = False
) -> None:
    """Refuse tensors of other names, shapes or types than the network's own, and NaN or infinity unless it has some.

    With ``may_overflow`` infinity is accepted: AdamW's mean of squares of a very large gradient is infinite.
    """
    if tensors.keys() != own.keys():
        raise ValueError(f"{what} has other tensors: {sorted(map(str, tensors.keys() ^ own.keys()))[0]}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(f"'{name}' in {what} has another shape or type")
        wrong = tensor.isnan() if may_overflow else ~tensor.isfinite()
        if bool(own[name].isfinite().all()) and bool(wrong.any()):
            raise ValueError(f"'{name}' in {what} holds NaN or infinity")


def _after_a_step(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor | None]:
    """The state that an optimizer of this class and these options keeps for a parameter."""
    twin = nn.Parameter(torch.zeros_like(parameter))
    twin.grad = torch.zeros_like(parameter)
    options = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    kind: Any = type(optimizer)
    other = kind([{**options, "params": [twin]}])
    other.step()
    return dict(other.state[twin])


def _require_early_stopping(best: Mapping[str, Any], epochs_done: int, carry: Carry) -> None:
    _require(best.keys() == {"epoch", "accuracy", "waited", "weights"}, "its best epoch lacks an entry")
    _require_counts("best epoch", [best["epoch"]], 0, epochs_done)
    _require_counts("epochs since", [best["waited"]], 0, epochs_done - best["epoch"])
    accuracy = best["accuracy"]
    _require(accuracy is None or (isinstance(accuracy, float) and 0 <= accuracy <= 1), "its best accuracy is none")
    _require((accuracy is None) == (best["epoch"] == 0), "its best epoch has no accuracy")
    _require(bool(best["weights"]) == (carry == "best-val" and best["epoch"] > 0), "its best epoch has no weights")


def _require_replayed(kept: Mapping[str, Any], context: RunContext, mega_batch: int, role: Role) -> None:
    """Compare the replayed samples with those of the stream, so that a checkpoint opens no sample of the future."""
    past = context.run_data.mega_batches[:mega_batch]
    labels, plan = context.run_data.data.train.labels, context.plan
    *_, ids = simulate_replay(labels, past, plan.replay, context.seeds, role)
    ids = ids[: len(ids) - len(getattr(past[-1], role))]
    own = {"ids": torch.from_numpy(ids), "seen": torch.tensor(sum(len(getattr(m, role)) for m in past[:-1]))}
    require_alike(f"its {role} samples", {**kept, "seen": torch.tensor(kept["seen"])}, own)
    _require(all(torch.equal(own[name], torch.as_tensor(kept[name])) for name in own), f"its {role} samples are others")


def _require_epoch(progress: Mapping[str, Any], batch_size: int, samples: int) -> None:
    """Check the sums of an unfinished epoch, whose batches are full, and its global random state."""
    steps, skipped = progress["steps"], progress["skipped"]
    _require_counts("step", [steps], 1, samples // batch_size)
    _require_counts("skipped", [skipped], 0, steps)
    counts = [steps * batch_size, (steps - skipped) * batch_size]
    _require([progress["samples"], progress["counted"]] == counts, "its samples are not those of its steps")
    _require(0 <= progress["hits"] <= counts[1], "its hits are more than its samples")
    cpu = torch.device("cpu")
    own = vars(EpochProgress.start(cpu))
    require_alike("its epoch", {k: progress[k] for k in ("loss", "hits")}, {k: own[k] for k in ("loss", "hits")})
    for name in ("rate", "seconds"):
        if type(progress[name]) is not float or not 0 <= progress[name] < math.inf:
            raise ValueError(f"the {name} of its epoch is none")
    with preserved_rng():
        restore_rng(progress["draws"], cpu)


def _require_counts(what: str, counts: Iterable[Any], least: int = 0, most: int = _MOST) -> None:
    for count in counts:
        if type(count) is not int or not least <= count <= most:
            raise ValueError(f"its {what} is {count!r}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
