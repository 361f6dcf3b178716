"""Networks of the same architecture that get the same reset: an average of the weights, or a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from forgetkit.errors import OptionError
from forgetkit.unlearning.building import unwrap
from forgetkit.unlearning.tensor_parts import local_of, placement_of, reshard
from forgetkit.unlearning.tensor_write import Undo, write


@dataclass(frozen=True, eq=False)
class Followers:
    """Networks that get the changes of another one.

    Args:
        tensors: For each network its parameters and buffers, by the name in the leading one. Tensors that are tied
            there and not here all stand under one name.
    """

    tensors: Sequence[Mapping[str, Sequence[Tensor]]] = ()

    @classmethod
    def of(cls, given: object, model: nn.Module) -> Followers:
        """Compare the networks with ``model``.

        Raises:
            OptionError: If one of them is not a network of the same names and shapes, or shares a tensor with ``model``
                or with another one.
        """
        if given is None:
            return cls()
        if not isinstance(given, list | tuple):
            raise OptionError(f"followers= takes a list of networks: followers=[ema], not {type(given).__name__}")
        own = _named(model)
        taken = {_address(t): "the model" for t in own.values() if local_of(t).numel()}
        found = []
        for number, one in enumerate(given, 1):
            what = f"follower {number}"
            if not isinstance(one, nn.Module):
                raise OptionError(f"{what} is {type(one).__name__} and no network: give the module that holds the copy")
            inner = _unwrap(one, own)
            reshard(inner)
            if inner is model:
                raise OptionError(f"{what} is the model itself: give a copy, or leave it out")
            tensors = _named(inner)
            _require_same(own, tensors, what)
            _require_not_tied(own, tensors, what)
            for name, tensor in tensors.items():
                if local_of(tensor).numel() and _address(tensor) in taken:
                    raise OptionError(f"'{name}' of {what} is a tensor of {taken[_address(tensor)]}: give a copy")
            taken.update({_address(t): what for t in tensors.values() if local_of(t).numel()})
            found.append(_by_leading_name(model, tensors))
        return cls(found)

    def write(self, name: str, mask: Tensor | None, tensor: Tensor, undo: Undo) -> int:
        """Write the entries of the leading ``tensor`` under ``mask`` to each network; return how many."""
        written = 0
        for tensors in self.tensors:
            for own in tensors[name]:
                where = None if mask is None else mask.to(own.device)
                written += write(own, where, tensor.detach().to(device=own.device, dtype=own.dtype), undo)[0]
        return written

    def write_buffers(self, names: Iterable[str], model: nn.Module, undo: Undo) -> int:
        """Write whole buffers of the leading ``model`` to each network; return how many entries."""
        buffers = dict(model.named_buffers())
        return sum(self.write(name, None, buffers[name], undo) for name in names)


NO_FOLLOWERS = Followers()


def _unwrap(network: nn.Module, own: Mapping[str, Tensor]) -> nn.Module:
    """Return the module inside compiled, distributed and averaging wrappers, which call it ``module``."""
    while True:
        network = unwrap(network)
        inner = getattr(network, "module", None)
        if not isinstance(inner, nn.Module) or _named(network).keys() == own.keys():
            return network
        network = inner


def _named(network: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def _address(tensor: Tensor) -> tuple[str, int]:
    return str(tensor.device), local_of(tensor).data_ptr()


def _require_same(own: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
    for name in [*own, *other]:
        if name not in other or name not in own:
            where = what if name not in other else "the model"
            raise OptionError(f"{what} is another network: {where} has no '{name}'; give one of the same architecture")
        if own[name].shape != other[name].shape:
            shapes = f"{tuple(other[name].shape)} there and {tuple(own[name].shape)} in the model"
            raise OptionError(f"{what} is another network: '{name}' has shape {shapes}")
        if placement_of(own[name]) != placement_of(other[name]):
            raise OptionError(f"{what} has '{name}' in other parts than the model: shard both alike")
        if own[name].is_floating_point() != other[name].is_floating_point():
            raise OptionError(f"{what} is another network: '{name}' is {other[name].dtype} there")


def _require_not_tied(own: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
    """Two tensors of the model cannot follow in one."""
    first: dict[int, str] = {}
    for name, tensor in other.items():
        known = first.setdefault(id(tensor), name)
        if own[known] is not own[name]:
            raise OptionError(f"{what} is another network: '{known}' and '{name}' are tied there, not in the model")


def _by_leading_name(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Group the tensors by the one name that ``named_parameters`` gives to those that are tied in ``model``."""
    leading = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    found: dict[str, list[Tensor]] = {name: [] for name in leading.values()}
    for name, own in _named(model).items():
        group = found[leading[id(own)]]
        if all(tensors[name] is not one for one in group):
            group.append(tensors[name])
    return found
