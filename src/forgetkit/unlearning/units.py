"""Units, found on a traced graph: which weights compute them, which layers normalise them, which weights read them.

``torch.export`` runs the network once, and :class:`_ChannelTracer` walks its graph in order. It follows a tensor's
channels through every operation that keeps them apart (nonlinearities, pooling, normalisation by channel, flattening).
An addition couples two groups into one, a concatenation lays them side by side. Whatever else mixes channels (layer
normalisation, attention, an unknown operation) closes the groups it touches: closed groups are not offered.
"""

from __future__ import annotations

import itertools
import logging
import math
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from forgetkit.contracts import UnitGroup, UnitSlice
from forgetkit.errors import OptionError
from forgetkit.unlearning.batches import map_leaves
from forgetkit.unlearning.integrity import first_line
from forgetkit.unlearning.structure import owners

# fmt: off
_KEEPING = frozenset({
    "abs", "alias", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "alpha_dropout",
    "celu", "clamp", "clone", "contiguous", "detach", "dropout", "elu", "feature_dropout", "gelu",
    "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid", "max_pool1d", "max_pool2d",
    "max_pool2d_with_indices", "max_pool3d", "mish", "neg", "relu", "relu6", "rrelu", "rsub", "selu", "sigmoid", "silu",
    "softplus", "softsign", "square", "tanh", "to", "_to_copy", "upsample_bicubic2d", "upsample_bilinear2d",
    "upsample_nearest1d", "upsample_nearest2d",
})
# fmt: on
"""Operations by element, or within a channel: each channel stays where it is."""

_COUPLING = frozenset(["add", "sub", "mul", "div", "maximum", "minimum"])
_CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])
_SLICES = ("incoming", "bias", "norm", "stats", "outgoing")
_TRACER_LOG = logging.getLogger("torch._subclasses.fake_tensor")
"""torch logs the traceback of an operation that fails under the tracer here; the error names it anyway."""

Shape = tuple[int, ...]


def units_of(
    model: nn.Module, inputs: Any, open_names: Collection[str], keywords: Mapping[str, Any] | None = None
) -> tuple[UnitGroup, ...]:
    """Return the groups all of whose tensors are in ``open_names``, in the order in which they are computed.

    Args:
        model: The network.
        inputs: A batch that the model can take, or a tuple of positional arguments.
        open_names: The parameters and buffers that may change.
        keywords: Keyword arguments of the model's call.

    Raises:
        OptionError: If the model cannot be traced.
    """
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    given = (inputs if isinstance(inputs, tuple) else (inputs,), dict(keywords or {}))
    args, kwargs = map_leaves(given, lambda _, leaf: _cast(leaf, floating))
    try:
        with torch.no_grad(), _silenced(_TRACER_LOG):
            traced = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:  # a model's forward may raise anything under a tracer
        reason = first_line(error)
        raise OptionError(f"the units of {type(model).__name__} cannot be found: tracing it fails: {reason}") from error
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    first_names = {id(tensor): name for name, tensor in tensors.items()}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    names_of_shared = {name: first_names[id(tensor)] for name, tensor in every}
    signature = traced.graph_signature
    placeholders = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tracer = _ChannelTracer({node: names_of_shared[name] for node, name in placeholders.items()}, tensors)
    for node in traced.graph.nodes:
        tracer.visit(node)
    owner_of = owners(model)
    return tuple(
        group
        for group in tracer.groups()
        if all(slice_.name in open_names for slice_ in (*group.parameters, *group.stats))
        and all(isinstance(owner_of[slice_.name].module, nn.Linear | _ConvNd) for slice_ in group.outgoing)
    )


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


@contextmanager
def _silenced(log: logging.Logger) -> Iterator[None]:
    def drop(_: logging.LogRecord) -> bool:
        return False

    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


@dataclass(eq=False)
class _GroupBuilder:
    """A group while it is being found; ``merged`` is the group that it turned out to be part of."""

    index: int
    size: int
    writers: int = 1
    closed: bool = False
    slices: dict[str, list[UnitSlice]] = field(default_factory=lambda: defaultdict(list))
    merged: _GroupBuilder | None = None

    @property
    def root(self) -> _GroupBuilder:
        """The group that this one is part of in the end."""
        return self if self.merged is None else self.merged.root

    def unite(self, other: _GroupBuilder) -> None:
        """Make one group of two."""
        first, second = sorted((self.root, other.root), key=lambda group: group.index)
        if first is not second:
            first.writers += second.writers
            first.closed |= second.closed
            for kind, slices in second.slices.items():
                first.slices[kind].extend(slices)
            second.merged = first

    def all_slices(self) -> Iterator[UnitSlice]:
        """Yield the slices of every kind."""
        return itertools.chain.from_iterable(self.slices.values())


@dataclass(frozen=True)
class _Segment:
    """Neighbours along a dimension: the units of a group (None: of no group), ``repeat`` entries each."""

    group: _GroupBuilder | None
    size: int
    repeat: int = 1


@dataclass(frozen=True)
class _Tag:
    """The dimension of a tensor that counts units, and what lies along it."""

    dim: int
    segments: tuple[_Segment, ...]

    def widened(self, times: int, dim: int | None = None) -> _Tag:
        """Repeat each unit's entries."""
        wider = tuple(replace(segment, repeat=segment.repeat * times) for segment in self.segments)
        return _Tag(self.dim if dim is None else dim, wider)


class _ChannelTracer:
    """Follows channels through a graph, node by node."""

    def __init__(self, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        self._names, self._tensors = names, tensors
        self._tags: dict[fx.Node, _Tag] = {}
        self._groups: list[_GroupBuilder] = []
        self._placeholders: list[fx.Node] = []
        self._recorded: set[tuple[fx.Node | None, fx.Node]] = set()
        """Uses (parameter, user) that are recorded as slices of a group."""

    def visit(self, node: fx.Node) -> None:
        """Follow the channels of one node's inputs to its output; close their groups if they cannot be followed."""
        if node.op in ("placeholder", "get_attr"):
            if node.name in self._names:
                self._placeholders.append(node)
            return
        tag = self._followed(node) if node.op == "call_function" and _value(node) is not None else None
        if tag is not None:
            self._tags[node] = tag
        elif not isinstance(node.meta.get("val"), int | float | bool | torch.SymInt):
            self._close(node.all_input_nodes)

    def groups(self) -> Iterator[UnitGroup]:
        """Yield the groups that some weight computes and some weight reads, and that nothing mixes."""
        roots = [group for group in self._groups if group.merged is None]
        self._close_shared(roots)
        self._close_used_otherwise(roots)
        found = [g for g in roots if not g.closed and g.slices["incoming"] and g.slices["outgoing"]]
        modules = Counter(_module_of(group.slices["incoming"][0]) for group in found)
        for group in found:
            first = group.slices["incoming"][0]
            yield UnitGroup(
                name=_module_of(first) if modules[_module_of(first)] == 1 else first.name,
                size=group.size,
                **{kind: tuple(group.slices[kind]) for kind in _SLICES},
                readers=tuple(map(_module_of, group.slices["outgoing"])),
                coupled=group.writers > 1,
            )

    def _followed(self, node: fx.Node) -> _Tag | None:
        """Return the channels of a node's output; None if it mixes them or has none."""
        kind = _operation(node)
        tagged = [source for source in node.all_input_nodes if source in self._tags]
        if kind == "linear":
            return self._linear(node)
        if kind in _CONVOLUTIONS:
            return self._convolution(node)
        if not tagged:
            return None
        if kind == "batch_norm":
            return self._batch_norm(node)
        if kind in _COUPLING:
            return self._coupled(node, tagged)
        if kind == "cat":
            return self._concatenated(node)
        rule = _RULES.get(kind)
        if rule is None or len(tagged) > 1:
            return None
        return rule(node, self._tags[tagged[0]], tagged[0])

    def _linear(self, node: fx.Node) -> _Tag | None:
        value, weight, bias = _arguments(node, 3)
        if weight.name not in self._names:
            return None
        self._recorded.update((parameter, node) for parameter in (weight, bias))
        self._read(value, weight, dim=len(_shape(value)) - 1)
        return self._written(weight, bias, dim=len(_shape(node)) - 1)

    def _convolution(self, node: fx.Node) -> _Tag | None:
        value, weight, bias = _arguments(node, 3)
        groups = _argument(node, 6, "groups", 1)
        if weight.name not in self._names:
            return None
        self._recorded.update((parameter, node) for parameter in (weight, bias))
        if groups == 1:
            self._read(value, weight, dim=1)
        elif groups == _shape(value)[1] and value in self._tags:
            return self._depthwise(self._tags[value], weight, bias)
        else:
            self._close([value])
        return self._written(weight, bias, dim=1)

    def _depthwise(self, tag: _Tag, weight: fx.Node, bias: fx.Node | None) -> _Tag | None:
        """One kernel per channel: units stay apart, and so do their kernels."""
        rows, channels = self._tensors[self._names[weight.name]].shape[0], sum(s.size * s.repeat for s in tag.segments)
        if tag.dim != 1 or rows % channels:
            return None
        wider = tag.widened(rows // channels)
        self._attach(wider, weight, "incoming")
        self._attach(wider, bias, "bias")
        return wider

    def _batch_norm(self, node: fx.Node) -> _Tag | None:
        value, *parameters = _arguments(node, 5)
        tag = self._tags.get(value)
        if tag is None or tag.dim != 1:
            return None
        self._recorded.update((parameter, node) for parameter in parameters)
        for parameter, kind in zip(parameters, ("norm", "norm", "stats", "stats"), strict=True):
            self._attach(tag, parameter, kind)
        return tag

    def _coupled(self, node: fx.Node, tagged: Sequence[fx.Node]) -> _Tag | None:
        """Element by element: a single number changes nothing; two maps of one form become one group."""
        if any(math.prod(_shape(source)) > 1 for source in node.all_input_nodes if source not in tagged):
            return None
        first, *others = tagged
        if _operation(node) == "div" and (others or node.args[0] is not first):
            return None  # a silent unit would be the divisor: zero over zero is no number
        if any(self._form(first) != self._form(other) for other in others):
            return None
        tag = self._tags[first]
        for other in others:
            for mine, theirs in zip(tag.segments, self._tags[other].segments, strict=True):
                if mine.group is not None and theirs.group is not None:
                    mine.group.unite(theirs.group)
        return tag

    def _form(self, node: fx.Node) -> tuple[int, int, list[tuple[bool, int, int]]]:
        """Return what must agree for two maps to have their units in the same places."""
        tag = self._tags[node]
        return len(_shape(node)), tag.dim, [(s.group is None, s.size, s.repeat) for s in tag.segments]

    def _concatenated(self, node: fx.Node) -> _Tag | None:
        parts: Sequence[fx.Node] = node.args[0]  # type: ignore[assignment]
        dim = _argument(node, 1, "dim", 0) % (len(_shape(node)) or 1)
        tags = [self._tags.get(part) or _Tag(dim, (_Segment(None, _shape(part)[dim]),)) for part in parts]
        if any(tag.dim != dim for tag in tags):
            return None
        return _Tag(dim, tuple(segment for tag in tags for segment in tag.segments))

    def _read(self, value: fx.Node, weight: fx.Node, dim: int) -> None:
        """Record that ``weight`` has a column for each entry along ``dim`` of ``value``."""
        tag = self._tags.get(value)
        if tag is not None and tag.dim == dim:
            self._attach(tag, weight, "outgoing", dim=1)
        else:
            self._close([value])

    def _written(self, weight: fx.Node, bias: fx.Node | None, dim: int) -> _Tag:
        """Record that ``weight`` has a row for each unit along ``dim`` of the output: a new group."""
        group = _GroupBuilder(len(self._groups), self._tensors[self._names[weight.name]].shape[0])
        self._groups.append(group)
        tag = _Tag(dim, (_Segment(group, group.size),))
        self._attach(tag, weight, "incoming")
        self._attach(tag, bias, "bias")
        return tag

    def _attach(self, tag: _Tag, parameter: fx.Node | None, kind: str, dim: int = 0) -> None:
        """Add the slices of ``parameter`` to the groups along a tag's dimension."""
        start = 0
        for segment in tag.segments if parameter is not None else ():
            if segment.group is not None:
                group = segment.group.root
                if parameter is not None and parameter.name in self._names:
                    name = self._names[parameter.name]
                    group.slices[kind].append(UnitSlice(name, dim, start, segment.repeat))
                else:  # a computed weight: there is no tensor to reset
                    group.closed = True
            start += segment.size * segment.repeat

    def _close(self, nodes: Collection[fx.Node]) -> None:
        for node in nodes:
            for segment in self._tags[node].segments if node in self._tags else ():
                if segment.group is not None:
                    segment.group.root.closed = True

    def _close_shared(self, groups: Collection[_GroupBuilder]) -> None:
        """Close groups that use entries of one tensor twice: a reset of one unit would reset another."""
        uses: dict[tuple[str, int], list[tuple[int, int, _GroupBuilder]]] = defaultdict(list)
        for group in groups:
            for slice_ in group.all_slices():
                end = slice_.start + group.size * slice_.repeat
                uses[slice_.name, slice_.dim].append((slice_.start, end, group))
        for ranges in uses.values():
            for (start, end, one), (other_start, other_end, other) in itertools.combinations(ranges, 2):
                if start < other_end and other_start < end:
                    one.closed = other.closed = True

    def _close_used_otherwise(self, groups: Collection[_GroupBuilder]) -> None:
        """Close groups with a tensor that has another use: a reset would be felt there."""
        used = {
            self._names[node.name]
            for node in self._placeholders
            for user in node.users
            if (node, user) not in self._recorded
        }
        for group in groups:
            group.closed |= any(slice_.name in used for slice_ in group.all_slices())


def _kept(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    """Each channel stays where it is, unless its dimension is the one that is pooled or resized."""
    spatial = re.search(r"([123])d", _operation(node))
    return None if spatial is not None and tag.dim >= len(_shape(source)) - int(spatial[1]) else tag


def _first_result(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    return tag if _operation(source) in _KEEPING and node.args[1] == 0 else None


def _reshaped(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    """Find the dimension of the new shape that counts the units, with what was flattened into it."""
    old, new = _shape(source), _shape(node)
    before, count = math.prod(old[: tag.dim]), old[tag.dim]
    for dim, size in enumerate(new):
        if math.prod(new[:dim]) == before and size >= count and size % count == 0:
            return tag.widened(size // count, dim)
    return None


def _reduced(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    """A reduction over space keeps channels; one over channels mixes them."""
    rank = len(_shape(source))
    dims = _argument(node, 1, "dim", None)
    if not isinstance(dims, list | tuple | int):
        return None
    gone = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    if tag.dim in gone or not gone:
        return None
    keepdim = _argument(node, 2, "keepdim", False)
    return tag if keepdim else replace(tag, dim=tag.dim - sum(dim < tag.dim for dim in gone))


def _permuted(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    rank = len(_shape(source))
    order = [dim % rank for dim in _argument(node, 1, "dims", ())]
    return replace(tag, dim=order.index(tag.dim))


def _transposed(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    rank = len(_shape(source))
    one, other = _argument(node, 1, "dim0", 0) % rank, _argument(node, 2, "dim1", 1) % rank
    return replace(tag, dim={one: other, other: one}.get(tag.dim, tag.dim))


def _padded(node: fx.Node, tag: _Tag, source: fx.Node) -> _Tag | None:
    """Padding may go around a map, but not among its channels."""
    return tag if _shape(source)[: tag.dim + 1] == _shape(node)[: tag.dim + 1] else None


_RULES: Mapping[str, Callable[[fx.Node, _Tag, fx.Node], _Tag | None]] = {
    **dict.fromkeys(_KEEPING, _kept),
    **dict.fromkeys(("flatten", "reshape", "view", "_unsafe_view", "squeeze", "unsqueeze", "unflatten"), _reshaped),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    "getitem": _first_result,
    "permute": _permuted,
    "transpose": _transposed,
}
"""Operations with one tagged input: what becomes of its tag."""


def _operation(node: fx.Node) -> str:
    """Return ``conv2d`` for ``aten.conv2d.default``; an operation in place has the name of the one that is not."""
    if node.target is operator.getitem:
        return "getitem"
    name = getattr(getattr(node.target, "overloadpacket", node.target), "__name__", str(node.target))
    return name.removesuffix("_")


def _module_of(slice_: UnitSlice) -> str:
    return slice_.name.rpartition(".")[0]


def _value(node: fx.Node) -> Tensor | None:
    """Return the (fake) tensor that a node computes; of several results, the first."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        value = value[0] if value else None
    return value if isinstance(value, Tensor) else None


def _shape(node: fx.Node) -> Shape:
    value = _value(node)
    return () if value is None else tuple(int(size) for size in value.shape)


def _arguments(node: fx.Node, count: int) -> list[Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return [_argument(node, at, schema[at].name, None) for at in range(count)]


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)
