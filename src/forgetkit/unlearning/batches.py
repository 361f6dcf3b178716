"""Batches of any shape: how many samples they hold, the first of them, one of them, and copies on a device.

A batch is a tree: tensors in tuples, lists, mappings (a ``dict``, a ``BatchEncoding``) and dataclasses. The first
dimension of each tensor counts samples. A sequence may also hold one item for each sample (the images and targets of a
detection model). Which of the two it is, the lengths tell: if the first dimensions of all tensors agree, sequences hold
the arguments of a model, as torch's own collate function gives them; otherwise they hold samples.

Tensors without a dimension, text, numbers and None are the same for all samples.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from forgetkit.errors import OptionError

_CONSTANTS = (str, bytes, int, float, complex, torch.dtype, torch.device, type(None))
_Map = Callable[[str, Any], Any]


@dataclass(frozen=True)
class SampleLayout:
    """How the samples of a batch lie in its tree.

    Args:
        samples: How many there are.
        listed: Whether sequences hold one item for each sample.
    """

    samples: int
    listed: bool = False

    def is_samples(self, path: str, node: Any) -> bool:
        """Whether a node is cut by samples, rather than its parts or nothing."""
        if isinstance(node, Tensor | np.ndarray):
            return node.ndim > 0
        if not path or not _is_sequence(node):
            return False
        return self.listed or (len(node) == self.samples and bool(node) and not _has_tensors(node))


def layout_of(batch: Any) -> SampleLayout:
    """Find the samples of a batch.

    Raises:
        OptionError: If lengths contradict each other, or the batch holds no samples or something that is none.
    """
    by_dimension, by_item = _lengths(batch, listed=False), _lengths(batch, listed=True)
    has_records = any(_is_sequence(node) and _has_records(node) for _, node in _children(batch) or ())
    for lengths, listed in ((by_item, True), (by_dimension, False)) if has_records else ((by_dimension, False),):
        if len(set(lengths.values())) == 1:
            return SampleLayout(next(iter(lengths.values())), listed)
    if len(set(by_item.values())) == 1:
        return SampleLayout(next(iter(by_item.values())), listed=True)
    if not by_item and not by_dimension:
        raise OptionError(
            f"a batch holds no samples: it is {type(batch).__name__} without a tensor that has a dimension"
        )
    lengths = by_dimension or by_item
    (first, length), *others = lengths.items()
    other, another = next(item for item in others if item[1] != length)
    raise OptionError(
        f"the samples of a batch cannot be counted: {_where(first)} holds {length} and {_where(other)} {another}; the "
        "first dimension of each tensor counts samples"
    )


def count_samples(batch: Any) -> int:
    """Return the number of samples in a batch."""
    return layout_of(batch).samples


def take_samples(batch: Any, which: slice, layout: SampleLayout | None = None) -> Any:
    """Return a batch of some of the samples; tensors are views."""
    found = layout or layout_of(batch)

    def cut(path: str, node: Any) -> Any:
        if isinstance(node, Tensor) and node.layout != torch.strided:
            wanted = torch.arange(len(node), device=node.device)[which]
            return node.index_select(0, wanted)
        return node[which]

    return map_samples(batch, cut, found)


def copy_to(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Return a copy on ``device``, with new containers; floating-point tensors are cast to ``dtype``."""

    def moved(path: str, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            tensor = leaf.detach().to(device, copy=True)
            return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        return copy.copy(leaf)

    return map_leaves(batch, moved)


def tensors_in(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch in their order."""
    found: list[Tensor] = []
    map_leaves(batch, lambda _, leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found


def map_leaves(batch: Any, function: _Map) -> Any:
    """Return the tree with ``function(path, leaf)`` in place of each leaf."""
    return _map(batch, "", lambda _, node: _children(node) is None, function)


def map_samples(batch: Any, function: _Map, layout: SampleLayout) -> Any:
    """Return the tree with ``function(path, node)`` in place of each node that holds samples; the rest as it is."""

    def applied(path: str, node: Any) -> Any:
        return function(path, node) if layout.is_samples(path, node) else node

    def stop(path: str, node: Any) -> bool:
        return layout.is_samples(path, node) or _children(node) is None

    return _map(batch, "", stop, applied)


class NoTensorError(OptionError, AttributeError):
    """A component takes a batch for a tensor."""


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """A batch that is no pair of tensors, as a component gets it: it has a length, and slices are batches again.

    Args:
        tree: The batch.
        layout: Where its samples lie.
        part: Which part of a pair this stands for, 0 for inputs and 1 for targets; None for the whole batch.
    """

    tree: Any
    layout: SampleLayout
    part: int | None = None

    @property
    def value(self) -> Any:
        """The batch, or the part that this stands for."""
        return self.tree if self.part is None else self.tree[self.part]

    def __len__(self) -> int:
        return self.layout.samples

    def __getitem__(self, which: slice) -> TreeBatch:
        if not isinstance(which, slice):
            raise OptionError("a batch that is no pair of tensors has no single items: take a slice of its samples")
        cut = take_samples(self.tree, which, self.layout)
        return replace(self, tree=cut, layout=replace(self.layout, samples=len(range(len(self))[which])))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NoTensorError(
            f"this component needs batches that are pairs of tensors, (inputs, targets): it asks for '{name}' of a "
            f"batch that is {type(self.tree).__name__}"
        )

    @property
    def sample_tensors(self) -> list[Tensor] | None:
        """The tensors whose first dimension counts samples; None if samples lie in sequences."""
        found: list[Any] = []
        map_samples(self.tree, lambda _, node: found.append(node), self.layout)
        return found if all(isinstance(node, Tensor) for node in found) else None

    def with_tensors(self, tensors: Iterable[Tensor], samples: int) -> TreeBatch:
        """Return a batch with other tensors in place of :attr:`sample_tensors`."""
        rest = iter(tensors)
        tree = map_samples(self.tree, lambda _, __: next(rest), self.layout)
        return replace(self, tree=tree, layout=replace(self.layout, samples=samples))


def _map(node: Any, path: str, stop: Callable[[str, Any], bool], function: _Map) -> Any:
    if stop(path, node):
        return function(path, node)
    children = _children(node) or []
    return _rebuild(node, [_map(child, f"{path}[{key!r}]", stop, function) for key, child in children])


def _lengths(batch: Any, *, listed: bool) -> dict[str, int]:
    """Return the length of each node that counts samples, by its path."""
    tensors, sequences = dict[str, int](), dict[str, int]()

    def noted(path: str, node: Any) -> None:
        if isinstance(node, Tensor | np.ndarray):
            if node.ndim:
                tensors[path] = len(node)
        elif _is_sequence(node):
            sequences[path] = len(node)
        elif not isinstance(node, _CONSTANTS):
            raise OptionError(
                f"a batch holds {type(node).__name__} in {_where(path)}, whose samples cannot be cut: give tensors, "
                "and let objective= make it from them"
            )

    def stop(path: str, node: Any) -> bool:
        inside = bool(path) and _is_sequence(node)
        return _children(node) is None or (inside and (listed or not _has_tensors(node)))

    _map(batch, "", stop, noted)
    # A list without tensors may be the same for all samples, so it counts if nothing else does.
    return {**tensors, **sequences} if listed else tensors or sequences


def _is_sequence(node: Any) -> bool:
    return isinstance(node, list | tuple) and _children(node) is not None


def _has_tensors(node: Any) -> bool:
    return bool(tensors_in(node)) if _children(node) is not None else isinstance(node, Tensor)


def _has_records(sequence: Iterable[Any]) -> bool:
    return any(isinstance(item, Mapping) for item in sequence)


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """Return the parts of a container with their keys, or None for a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    if isinstance(node, PackedSequence) or pytree.tree_is_leaf(node):
        return None
    return list(enumerate(pytree.tree_flatten(node, is_leaf=lambda other: other is not node)[0]))


def _rebuild(node: Any, values: list[Any]) -> Any:
    rebuilt: Any
    if isinstance(node, Mapping):
        keyed = dict(zip(node, values, strict=True))
        if not isinstance(node, MutableMapping):
            return keyed
        rebuilt = copy.copy(node)  # keeps what the class stores beside its items
        for key, value in keyed.items():
            rebuilt[key] = value
        return rebuilt
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        rebuilt = copy.copy(node)
        for field, value in zip(dataclasses.fields(node), values, strict=True):
            object.__setattr__(rebuilt, field.name, value)
        return rebuilt
    structure = pytree.tree_structure(node, is_leaf=lambda other: other is not node)
    return pytree.tree_unflatten(values, structure)


def _where(path: str) -> str:
    return f"batch{path}" if path else "the batch"
