"""What the processes of a group hold: replicas of one network, parts of one, or tensors in parts (``DTensor``)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from forgetkit.errors import ComponentError, OptionError
from forgetkit.unlearning import tensor_parts, wire
from forgetkit.unlearning.apply import AppliedChanges
from forgetkit.unlearning.building import unwrap
from forgetkit.unlearning.fingerprints import fingerprints
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.shards import require_scorable
from forgetkit.unlearning.support import require_module

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Holding = Literal["alone", "replicas", "parts", "shards"]


def find_group(model: nn.Module, group: ProcessGroup | Literal[True] | None) -> SelectionGroup:
    """Return the group that is given, or the one that a wrapped or sharded model brings; without one, this process.

    Raises:
        OptionError: If the model needs another group than the given one, or if it cannot be unlearned in parts.
    """
    inner = unwrap(model)
    require_module(inner)
    own = _own_group(model, inner)
    if group is None or own is None:
        return SelectionGroup(own if group is None else group)
    processes = SelectionGroup(group)
    given = distributed.get_process_group_ranks(None if group is True else group)
    needed = distributed.get_process_group_ranks(own)
    if set(given) != set(needed):
        raise OptionError(
            f"group= holds the processes {given} and the model lies in {needed}: leave group= out, the model's own "
            "group is used"
        )
    return processes


def is_alone_among_others(group: object, processes: SelectionGroup) -> bool:
    """Whether nothing says which of several processes a plain model shares; then this one acts alone."""
    if group is not None or processes.size > 1 or not distributed.is_available():
        return False
    return distributed.is_initialized() and distributed.get_world_size() > 1


def _own_group(model: nn.Module, inner: nn.Module) -> ProcessGroup | None:
    """Return the group of a ``DistributedDataParallel`` around ``inner``, or of the mesh that its tensors lie in."""
    while model is not inner:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            group: ProcessGroup = model.process_group
            return group
        model = getattr(model, "_orig_mod", inner)
    tensor_parts.reshard(inner)
    require_scorable(inner)
    meshes = tensor_parts.meshes_of(inner)
    if not meshes:
        return None
    if len(meshes) > 1:
        raise OptionError(
            f"parameters of {type(inner).__name__} lie in {len(meshes)} device meshes, so that their owners cannot be "
            "told: distribute all of them over one mesh"
        )
    (mesh,) = meshes
    if mesh.ndim == 1:
        return cast("ProcessGroup", mesh.get_group())
    ranks = mesh.mesh.flatten().tolist()
    if len(ranks) == distributed.get_world_size():
        return distributed.group.WORLD
    return cast("ProcessGroup", mesh._flatten().get_group())


@dataclass(frozen=True)
class _Facts:
    """What one process says of its model."""

    wrapped: bool
    sharded: bool
    shapes: str
    details: str
    values: tuple[int, ...]
    state: tuple[int, ...]
    seed: int
    options: str
    has_batches: bool


@dataclass(frozen=True, eq=False)
class ProcessLayout:
    """The processes that act together, and what they hold.

    Replicas and shards (tensors in parts) see the same samples: the batches of all processes, in turn.
    """

    processes: SelectionGroup = field(default_factory=SelectionGroup)
    holding: Holding = "alone"
    has_batches: bool = False
    same_state: bool = False
    """Whether the optimizers' state was the same in all processes."""

    @classmethod
    def find(
        cls,
        model: nn.Module,
        processes: SelectionGroup,
        *,
        seed: int,
        options: str,
        optimizers: Iterable[Optimizer] = (),
        has_batches: bool = True,
    ) -> ProcessLayout:
        """Find out what the processes hold, by names, shapes and values; all of them call it.

        Modules of the same names, shapes and values are replicas; with tensors in parts, shards; others are parts. If
        names and shapes are the same and the values are not, they are parts if each process gives a seed of its own.

        Raises:
            ComponentError: In all processes, if this cannot be told, or if replicas or options differ.
        """
        inner = unwrap(model)
        sharded = tensor_parts.is_sharded(inner)
        if processes.size == 1:
            return cls(processes, "shards" if sharded else "alone", has_batches)
        own = _Facts(
            isinstance(_unwrap_compiled(model), nn.parallel.DistributedDataParallel),
            sharded,
            _digest((name, tuple(p.shape)) for name, p in inner.named_parameters()),
            _digest((name, str(p.dtype), p.requires_grad) for name, p in inner.named_parameters()),
            _common_values(inner),
            _state_values(inner, optimizers),
            seed,
            options,
            has_batches,
        )
        facts: list[_Facts] = processes.gather(own, "the comparison of models")
        holding = _holding(facts)
        if holding != "parts":
            _require_same(facts, own, holding)
        return cls(processes, holding, any(one.has_batches for one in facts), len({one.state for one in facts}) == 1)

    @property
    def shares_data(self) -> bool:
        """Whether all processes see the same batches."""
        return self.holding in ("replicas", "shards")

    @property
    def selecting(self) -> SelectionGroup:
        """The processes whose scores are pooled: replicas hold all scores."""
        return SelectionGroup() if self.holding == "replicas" else self.processes

    def gathered(self, batches: Iterable[Any] | None) -> Iterable[Any] | None:
        """Return the batches of all processes where they see the same ones, and otherwise this one's own."""
        if not self.shares_data or self.processes.size == 1 or not self.has_batches:
            return batches
        return GatheredBatches(() if batches is None else batches, self.processes)

    @contextmanager
    def common_buffers(self, model: nn.Module, *, keep: bool) -> Iterator[None]:
        """Give all processes the buffers of the first one; put their own back on a failure, and unless ``keep``."""
        if not self.shares_data or self.processes.size == 1:
            yield
            return
        buffers = [buffer for buffer in model.buffers() if not tensor_parts.is_distributed(buffer)]
        own = [buffer.clone() for buffer in buffers]
        done = False
        try:
            self.processes.exchange(b"", "the buffers")  # raises if another process failed before this
            with torch.no_grad():
                self.processes.broadcast(buffers)
            yield
            done = True
        finally:
            if not (done and keep):
                with torch.no_grad():
                    for buffer, value in zip(buffers, own, strict=True):
                        buffer.copy_(value)

    def require_equal(self, model: nn.Module, optimizers: Iterable[Optimizer] = ()) -> None:
        """Compare digests of what all processes hold alike.

        Raises:
            ComponentError: In all processes, if it is not the same; the message names the first that differs.
        """
        if self.shares_data:
            state = _state_values(model, optimizers) if self.same_state else ()
            buffers = fingerprints(b for b in model.buffers() if not tensor_parts.is_distributed(b))
            self.require_same({"parameters": _common_values(model), "buffers": buffers, "optimizer's state": state})

    def require_equal_parameters(self, model: nn.Module, names: Collection[str] | None = None) -> None:
        """Compare digests of the parameters of these names; without names, of all parameters."""
        if self.shares_data:
            chosen = [p.detach() for name, p in model.named_parameters() if names is None or name in names]
            self.require_same({"parameters": fingerprints(chosen)})

    def joined(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return tensors whose first dimension goes through the samples of all processes, in the order of the ranks."""
        if not self.shares_data or self.processes.size == 1:
            return tensors
        gathered = self.processes.gather(dict(tensors), "the activity of units")
        try:
            return {name: torch.cat([one[name].to(own.device) for one in gathered]) for name, own in tensors.items()}
        except (RuntimeError, KeyError) as error:
            raise ComponentError(
                "the activity of units has other shapes in other processes: give all of them samples of one shape"
            ) from error

    def require_same(self, values: Mapping[str, Any]) -> None:
        """Raise ``ComponentError`` in all processes if a value differs; its name says what it is."""
        if not self.shares_data or self.processes.size == 1:
            return
        gathered = self.processes.gather(dict(values), f"the comparison of {', '.join(values)}")
        for what in values:
            for rank, other in enumerate(gathered):
                if other[what] != gathered[0][what]:
                    raise ComponentError(
                        f"process {rank} of the group's {self.processes.size} would end with other {what} than process "
                        "0, so nothing is changed: compute the same in all processes (deterministic kernels, the same "
                        "initial=, previous= and memory=)"
                    )

    def add_up(self, applied: AppliedChanges) -> None:
        """Let shards report the changes of all processes; others report their own."""
        if self.holding != "shards":
            return
        names = list(applied.layers)
        own = [*(applied.layers[name].reset for name in names), applied.changed, applied.optimizer_cleared]
        *resets, applied.changed, applied.optimizer_cleared = self.processes.total(own).tolist()
        applied.layers = {
            name: replace(applied.layers[name], reset=reset) for name, reset in zip(names, resets, strict=True)
        }

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Run one step in all processes: if one of them fails, all of them do."""
        if not self.shares_data or self.processes.size == 1:
            yield
            return
        with self.processes:
            yield
            self.processes.finish()


ALONE = ProcessLayout()


class GatheredBatches:
    """The batches of all processes: the first of each, by rank, then the second of each, until all have ended.

    Of equal batches in one round only the first is taken, so that a loader that is not sharded counts once. Each
    reading gathers anew, a round at a time.
    """

    def __init__(self, batches: Iterable[Any], processes: SelectionGroup) -> None:
        self._batches, self._processes = batches, processes

    def __iter__(self) -> Iterator[Any]:
        own, ended = iter(self._batches), object()
        while True:
            batch = next(own, ended)
            gathered = self._processes.exchange(b"" if batch is ended else wire.dumps(batch), "a batch")
            distinct = dict.fromkeys(one for one in gathered if one)
            if not distinct:
                return
            yield from map(wire.loads, distinct)


def _unwrap_compiled(model: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def _holding(facts: list[_Facts]) -> Holding:
    for what in ("sharded", "wrapped"):
        answers = [getattr(one, what) for one in facts]
        if any(answers) and not all(answers):
            kind = "DTensors" if what == "sharded" else "DistributedDataParallel"
            raise ComponentError(
                f"process {answers.index(False)} of the group's {len(facts)} gives a plain module and others "
                f"{kind}: give the same in all processes"
            )
    same_shapes = len({one.shapes for one in facts}) == 1
    if facts[0].sharded:
        if not same_shapes or len({one.values for one in facts}) > 1:
            raise ComponentError(
                "the processes of the group hold DTensors, and the names, shapes or plain tensors of their models "
                "differ: give group= the processes that hold one model"
            )
        return "shards"
    if same_shapes and len({one.values for one in facts}) == 1:
        return "replicas"
    if facts[0].wrapped:
        rank = next(r for r, one in enumerate(facts) if (one.shapes, one.values) != (facts[0].shapes, facts[0].values))
        raise ComponentError(
            f"the replicas have come apart: process {rank} of the group's {len(facts)} holds other parameters than "
            "process 0; load the same checkpoint in all of them"
        )
    models = Counter((one.shapes, one.seed) for one in facts if one.values)
    if max(models.values(), default=1) > 1:
        raise ComponentError(
            "the processes of the group hold modules of the same names and shapes and other values: load the same "
            "weights if they are replicas, or give each its own seed= if they are parts of one network"
        )
    return "parts"


def _require_same(facts: list[_Facts], own: _Facts, holding: str) -> None:
    if len({one.details for one in facts}) > 1:
        raise ComponentError(
            f"the processes of the group hold {holding} of one network, and dtypes or requires_grad of their "
            "parameters differ: make them the same"
        )
    if len({(one.seed, one.options) for one in facts}) > 1:
        raise ComponentError(
            f"the processes of the group hold {holding} of one network and call this with different options, this one "
            f"with seed={own.seed}, {own.options}: give the same in all of them"
        )


def _digest(items: Iterable[object]) -> str:
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()


def _common_values(model: nn.Module) -> tuple[int, ...]:
    """Return fingerprints of the parameters that each process holds whole."""
    parameters = [tensor_parts.local_of(p) for p in model.parameters() if tensor_parts.is_everywhere(p)]
    return tuple(fingerprints(p.detach() for p in parameters))


def _state_values(model: nn.Module, optimizers: Iterable[Optimizer]) -> tuple[int, ...]:
    """Return fingerprints of the optimizers' state of these parameters."""
    tensors = [
        value.detach()
        for optimizer in optimizers
        for parameter in model.parameters()
        if tensor_parts.is_everywhere(parameter)
        for _, value in sorted(getattr(optimizer, "state", {}).get(parameter, {}).items())
        if isinstance(value, Tensor)
    ]
    return tuple(fingerprints(map(tensor_parts.local_of, tensors)))
