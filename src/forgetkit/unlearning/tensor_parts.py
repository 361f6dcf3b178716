"""Tensors that lie in parts in several processes (``DTensor``): the local part, and a whole tensor cut like another.

``torch.distributed.tensor`` is never imported here: a process that holds such tensors has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def is_distributed(tensor: object) -> bool:
    """Whether ``tensor`` is a ``DTensor``."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def fsdp_modules(model: nn.Module) -> list[Any]:
    """Return the modules that ``fully_shard`` was called on, from the outside in."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]


def reshard(model: nn.Module) -> None:
    """Let each parameter be its part again: a forward pass of ``fully_shard`` may leave whole ones."""
    for module in fsdp_modules(model):
        module.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter or buffer of the model lies in parts in several processes."""
    return any(map(is_distributed, (*model.parameters(), *model.buffers())))


def local_of(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares memory with it; of a plain tensor, itself."""
    if not is_distributed(tensor):
        return tensor
    part: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return part


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` in the parts of ``like``; a plain ``value`` is whole and the same in all processes."""
    if not is_distributed(like) or value.shape != like.shape:
        return value
    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    if is_distributed(value):
        same = value.placements == placements  # type: ignore[attr-defined]
        return value if same else value.redistribute(placements=placements)  # type: ignore[attr-defined]
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * mesh.ndim
    whole = DTensor.from_local(value.to(local_of(like).device), mesh, everywhere, run_check=False)
    return whole.redistribute(placements=placements)


def joined_like(part: Tensor, like: Tensor) -> Tensor:
    """Return the tensor of which ``part`` is this process's part, in the shape and the parts of ``like``."""
    if not is_distributed(like):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def whole_of(tensor: Tensor) -> Tensor:
    """Gather all parts; all processes of the mesh call it."""
    if not is_distributed(tensor):
        return tensor
    whole: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return whole


def plain_operands(model: nn.Module) -> AbstractContextManager[Any]:
    """Let code combine a whole, plain tensor with one in parts, if the model has any: it counts as replicated."""
    if not is_sharded(model):
        return nullcontext()
    from torch.distributed.tensor.experimental import implicit_replication

    return implicit_replication()


def is_everywhere(tensor: Tensor) -> bool:
    """Whether each process holds all of a tensor."""
    return not is_distributed(tensor) or all(p.is_replicate() for p in tensor.placements)  # type: ignore[attr-defined]


def meshes_of(model: nn.Module) -> list[Any]:
    """Return the device meshes in which parameters and buffers of the model lie."""
    found: list[Any] = []
    for tensor in filter(is_distributed, (*model.parameters(), *model.buffers())):
        if tensor.device_mesh not in found:  # type: ignore[attr-defined]
            found.append(tensor.device_mesh)  # type: ignore[attr-defined]
    return found


def local_like(value: Tensor | None, like: Tensor) -> Tensor | None:
    """Return this process's part of ``value``, which is whole, in parts, or this part already."""
    return None if value is None else local_of(cut_like(value, like))


def counted_here(model: nn.Module) -> Callable[[Tensor], bool]:
    """Return whether this process counts a tensor's part: of those that hold the same entries, the first does."""
    meshes = meshes_of(model)
    is_first = not meshes or not any(meshes[0].get_coordinate())

    def is_counted(tensor: Tensor) -> bool:
        if not is_distributed(tensor):
            return is_first
        placed = zip(tensor.device_mesh.get_coordinate(), tensor.placements, strict=True)  # type: ignore[attr-defined]
        return not any(at for at, placement in placed if placement.is_replicate())

    return is_counted


@contextmanager
def resharded(model: nn.Module) -> Iterator[None]:
    """Reshard on leaving; after an error, let the next forward pass start anew."""
    try:
        yield
    except BaseException:
        for module in fsdp_modules(model):  # torch leaves the state of the pass that failed
            state = module._get_fsdp_state()
            state._state_ctx.iter_forward_root = None
            for one in (state, getattr(state, "_fsdp_param_group", None)):
                if one is not None:
                    one._training_state = type(one._training_state).IDLE
        raise
    finally:
        reshard(model)


def compute_device(model: nn.Module) -> torch.device:
    """Return the device on which the model runs: that of its parameters, or of the mesh in which they lie."""
    first = next(iter(model.parameters()))
    if not is_distributed(first) or first.device.type == first.device_mesh.device_type:  # type: ignore[attr-defined]
        return first.device
    return torch.device(first.device_mesh.device_type)  # type: ignore[attr-defined]


class LocalState(dict[str, Any]):
    """The state of a parameter with this process's parts in place of tensors in parts; what is set goes to both."""

    def __init__(self, whole: dict[str, Any]) -> None:
        super().__init__({key: local_of(value) if is_distributed(value) else value for key, value in whole.items()})
        self._whole = whole

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._whole[key] = value

    @classmethod
    def of(cls, state: Any) -> Any:
        """Return ``state`` itself if no tensor in it lies in parts."""
        return cls(state) if any(map(is_distributed, state.values())) else state


def placement_of(tensor: Tensor) -> Any:
    """Return the mesh and the placements of a tensor in parts, or None."""
    return (tensor.device_mesh, tensor.placements) if is_distributed(tensor) else None  # type: ignore[attr-defined]


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors, or this process's parts of them, lie in the same memory; parts without entries do not."""
    parts = [local_of(tensor) for tensor in (one, other)]
    return all(p.numel() for p in parts) and len({p.untyped_storage().data_ptr() for p in parts}) == 1


def stack_parts(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape, and keep the parts in which they lie."""
    first = tensors[0]
    if not is_distributed(first):
        return torch.stack(list(tensors))
    from torch.distributed.tensor import DTensor, Shard

    mesh, placements = first.device_mesh, first.placements  # type: ignore[attr-defined]
    if any(type(p) is not Shard and p.is_shard() for p in placements):
        return torch.stack(list(tensors))
    moved = [Shard(p.dim + 1) if p.is_shard() else p for p in placements]
    part = torch.stack([local_of(tensor) for tensor in tensors])
    shape = torch.Size((len(tensors), *first.shape))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, moved, run_check=False, shape=shape, stride=stride)
