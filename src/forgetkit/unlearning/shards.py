"""Scores, masks and gradients of tensors that lie in parts in several processes (``DTensor``).

Each process keeps its part; what depends on the whole (the order of ties, fresh values) is as in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from forgetkit.errors import OptionError
from forgetkit.unlearning.masks import PackedMask, pack_mask
from forgetkit.unlearning.reparametrization import REPARAMETRIZING_HOOKS
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.tensor_parts import (
    counted_here,
    cut_like,
    fsdp_modules,
    is_distributed,
    joined_like,
    local_of,
    reshard,
    whole_of,
)

Compare = Callable[[Tensor], Tensor]
"""Compares the entries of a flat tensor with a threshold."""
ChooseTied = Callable[[NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Shards:
    """The scored tensors of a model in parts: ``likes`` by name, each in its placements."""

    model: nn.Module
    likes: Mapping[str, Tensor]
    processes: SelectionGroup

    def parts_of(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's part of each score; of entries in several processes, that of the first of them."""
        parts = {
            name: local_of(score).detach().clone(memory_format=torch.contiguous_format)
            for name, score in scores.items()
        }
        self.processes.exchange(b"", "its part of the scores")  # reading one may fail, while others would broadcast
        return {name: self._from_first(part, self.likes[name]) for name, part in parts.items()}

    def _from_first(self, part: Tensor, like: Tensor) -> Tensor:
        if not is_distributed(like):
            self.processes.broadcast([part])
            return part
        mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
        for dim, placement in enumerate(placements):
            if placement.is_replicate() and mesh.size(dim) > 1:
                distributed.broadcast(part, group=mesh.get_group(dim), group_src=0)
        return part

    def counted(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parts that this process counts: an entry in several processes counts in one of them."""
        is_counted = counted_here(self.model)
        return {name: part for name, part in parts.items() if is_counted(self.likes[name])}

    def masks(
        self,
        parts: Mapping[str, Tensor],
        inside: Compare,
        tied: Compare,
        choose_tied: ChooseTied | None,
    ) -> tuple[dict[str, PackedMask], int]:
        """Return the masks of all parts, and how many selected entries this process counts.

        ``choose_tied`` takes the positions of tied entries in the order of the whole tensors.
        """
        is_counted, masks, selected, start = counted_here(self.model), dict[str, PackedMask](), 0, 0
        for name, part in parts.items():
            like, mask = self.likes[name], inside(part)
            if choose_tied is not None:
                whole = whole_of(joined_like(tied(part).to(torch.uint8), like))
                positions = whole.flatten().nonzero().flatten()
                end = start + len(positions)
                chosen = torch.from_numpy(choose_tied(np.arange(start, end))).to(positions.device)
                whole.zero_().view(-1)[positions[chosen]] = 1
                mask, start = mask | local_of(cut_like(whole, like)).bool(), end
            masks[name] = pack_mask(mask), mask.shape
            selected += int(mask.sum()) if is_counted(like) else 0
        return masks, selected


def require_scorable(model: nn.Module) -> None:
    """Raise ``OptionError`` if a part cannot be reset, or if its gradients would not come whole."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_distributed(tensor) and any(p.is_partial() for p in tensor.placements):  # type: ignore[attr-defined]
            raise OptionError(
                f"'{name}' is a DTensor of partial sums, so that no process holds its values: redistribute it to Shard "
                "or Replicate"
            )


def require_gradients(model: nn.Module) -> None:
    """Raise ``OptionError`` if a backward pass would not give each process the gradient of its part."""
    for name, p in model.named_parameters():
        if is_distributed(p) and p.dtype in (torch.float16, torch.bfloat16):
            dtype = str(p.dtype).removeprefix("torch.")
            raise OptionError(
                f"'{name}' lies in parts of {dtype}, which cannot be scored in float32: keep parameters in float32, "
                "and let MixedPrecisionPolicy(param_dtype=...) compute in less"
            )
    for module in fsdp_modules(model):
        group = getattr(module._get_fsdp_state(), "_fsdp_param_group", None)
        if group is None:
            continue
        pending = any(p.unsharded_accumulated_grad is not None for p in group.fsdp_params)
        if not (group.reduce_grads and group.all_reduce_grads) or pending:
            raise OptionError(
                "the model accumulates gradients without synchronisation: call this after the optimizer's step, with "
                "model.set_requires_gradient_sync(True)"
            )
        if group.gradient_divide_factor not in (None, float(group.mesh_info.mesh.size())):
            raise OptionError(
                "set_gradient_divide_factor() scales the gradients of this model, and scores by them would be scaled: "
                "score with the default factor"
            )


def precision_remark(model: nn.Module) -> str | None:
    """Return a line if a policy of ``fully_shard`` computes in another precision than the parameters have."""
    for module in fsdp_modules(model):
        group = getattr(module._get_fsdp_state(), "_fsdp_param_group", None)
        dtype = None if group is None else group.mp_policy.param_dtype
        if dtype not in (None, torch.float32, torch.float64):
            name = str(dtype).removeprefix("torch.")
            return f"scored in {name}, in which this model computes (MixedPrecisionPolicy), and not in float32"
    return None


def gradients_by_backward(
    model: nn.Module, value: Tensor, parameters: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor | None]:
    """Differentiate by ``backward()``: the only way to gradients of parts. ``.grad`` is empty before and afterwards."""
    found: dict[str, Tensor | None] = {}
    reshard(model)  # hooks hang on the parts
    with _no_grad_hooks(model):
        try:
            value.backward()
            reshard(model)
            for name, p in parameters.items():
                grad = p.grad
                found[name] = None if grad is None else cut_like(grad.detach(), p).to(dtype)
        finally:
            reshard(model)
            for p in model.parameters():
                p.grad = None
    return found


@contextmanager
def _no_grad_hooks(model: nn.Module) -> Iterator[None]:
    """Turn hooks on gradients off: an optimizer that steps in the backward pass would train the model."""
    tables: list[Any] = []
    for p in model.parameters():
        tables += [hooks for hooks in (p._backward_hooks, getattr(p, "_post_accumulate_grad_hooks", None)) if hooks]
    kept = [(table, dict(table)) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in kept:
            table.update(hooks)


def plain_twin(model: nn.Module) -> nn.Module:
    """Return a model of the same modules, whose tensors in parts are whole and hold nothing but a shape."""
    modules: dict[int, nn.Module] = {}
    tensors: dict[int, Tensor | None] = {id(None): None}

    def whole(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not is_distributed(tensor):
            return tensor
        if id(tensor) not in tensors:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            tensors[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
        return tensors[id(tensor)]

    def twin(module: nn.Module) -> nn.Module:
        if id(module) in modules:
            return modules[id(module)]
        cls = type(module)
        original = cls.__mro__[cls._orig_cls_mro_index] if hasattr(cls, "_orig_cls_mro_index") else cls
        made: nn.Module = object.__new__(original)
        modules[id(module)] = made
        attributes = {key: value for key, value in vars(module).items() if "composable" not in str(key)}
        hooks = module._forward_pre_hooks
        attributes |= {
            "_parameters": {name: whole(p) for name, p in module._parameters.items()},
            "_buffers": {name: whole(b) for name, b in module._buffers.items()},
            "_modules": {name: None if m is None else twin(m) for name, m in module._modules.items()},
            "_forward_hooks": {},
            "_forward_pre_hooks": {n: h for n, h in hooks.items() if isinstance(h, REPARAMETRIZING_HOOKS)},
        }
        vars(made).update(attributes)
        return made

    return twin(model)
