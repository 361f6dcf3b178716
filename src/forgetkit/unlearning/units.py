"""Units on a traced graph: who writes them, what normalises them, who reads them.

The network is run once by ``torch.export``, and its graph is walked in order. A tensor's channels are followed through
everything that keeps them apart (nonlinearities, pooling, normalisation by channel, flattening); an addition couples
two groups into one, a concatenation lays them side by side. Whatever mixes channels otherwise (layer normalisation,
attention, an operation not known here) closes the groups it touches: they are not offered.
"""

from __future__ import annotations

import itertools
import logging
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from forgetkit.contracts import Change, UnitGroup, UnitSlice
from forgetkit.errors import OptionError
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

_RESHAPING = frozenset(["flatten", "reshape", "view", "_unsafe_view", "squeeze", "unsqueeze", "unflatten"])
_COUPLING = frozenset(["add", "sub", "mul", "div", "maximum", "minimum"])
_REDUCING = frozenset(["mean", "sum", "amax", "amin"])
_CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])


_KINDS = ("incoming", "bias", "norm", "stats", "outgoing")


@dataclass(frozen=True)
class _Segment:
    """Some neighbours along a dimension: the units of a group, ``repeat`` entries each; of no group: None."""

    group: int | None
    size: int
    repeat: int = 1


@dataclass(frozen=True)
class _Tag:
    """Which dimension of a tensor counts units, and whose they are."""

    dim: int
    segments: tuple[_Segment, ...]


@dataclass
class _GroupBuilder:
    """A group while it is being found."""

    size: int
    writers: int = 0
    closed: bool = False
    incoming: list[UnitSlice] = field(default_factory=list)
    bias: list[UnitSlice] = field(default_factory=list)
    norm: list[UnitSlice] = field(default_factory=list)
    stats: list[UnitSlice] = field(default_factory=list)
    outgoing: list[UnitSlice] = field(default_factory=list)

    def absorb(self, other: _GroupBuilder) -> None:
        """Take in a group that turned out to be the same."""
        self.writers += other.writers
        self.closed |= other.closed
        for kind in _KINDS:
            getattr(self, kind).extend(getattr(other, kind))

    def shares(self) -> Iterator[UnitSlice]:
        """All of them."""
        for kind in _KINDS:
            yield from getattr(self, kind)


_TRACER_LOG = logging.getLogger("torch._subclasses.fake_tensor")
"""Where torch writes the traceback of an operation that fails while it traces, which the error names anyhow."""


@contextmanager
def _silenced(log: logging.Logger) -> Iterator[None]:
    def nothing(_: logging.LogRecord) -> bool:
        return False

    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def units_of(model: nn.Module, inputs: Tensor, open_names: Collection[str]) -> tuple[UnitGroup, ...]:
    """The groups of ``model``, all of whose tensors are in ``open_names``, in the order in which they are computed.

    ``inputs`` is a batch that the model can take. Raises ``OptionError`` where its graph cannot be traced.
    """
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    example = inputs.to(floating) if inputs.is_floating_point() else inputs
    try:
        with torch.no_grad(), _silenced(_TRACER_LOG):
            traced = torch.export.export(model, (example,), strict=False)
    except Exception as error:  # what a stranger's forward does under a tracer is anybody's guess
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(f"the units of {type(model).__name__} cannot be found: tracing it fails: {reason}") from error
    known = owners(model)
    first = {id(getattr(owner.module, owner.local)): name for name, owner in known.items()}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    signature = traced.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    # A shared tensor goes by the name of its first holder.
    names = {node: first[id(_tensor_at(model, held[node]))] for node in held}
    walk = _ChannelTracer(names, tensors)
    for node in traced.graph.nodes:
        walk.visit(node)
    return tuple(
        group
        for group in walk.groups()
        if all(share.name in open_names for share in (*group.parameters, *group.stats))
        and all(isinstance(known[share.name].module, nn.Linear | _ConvNd) for share in group.outgoing)
    )


def _tensor_at(model: nn.Module, path: str) -> Tensor:
    parent, _, local = path.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(parent), local)
    return tensor


class _ChannelTracer:
    """Follows channels through a graph, node by node."""

    def __init__(self, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        self._names, self._tensors = names, tensors
        self._tags: dict[fx.Node, _Tag] = {}
        self._drafts: list[_GroupBuilder] = []
        self._same: list[int] = []
        self._held: list[fx.Node] = []
        self._explained: set[tuple[fx.Node | None, fx.Node]] = set()
        """Uses of a parameter, by what uses it, that are recorded as a group's shares."""

    def visit(self, node: fx.Node) -> None:
        """Take note of what one node does to channels."""
        if node.op == "placeholder" and node.name in self._names:
            self._held.append(node)
        elif node.op == "output":
            self._close(node.all_input_nodes)
        elif node.op == "call_function" and _shape(node) is not None:
            tag = self._followed(node)
            if tag is not None:
                self._tags[node] = tag
        elif node.op not in ("placeholder", "get_attr"):
            tensors = [n for n in node.all_input_nodes if _shape(n) is not None]
            if not isinstance(node.meta.get("val"), int | float | bool | torch.SymInt):
                self._close(tensors)

    def groups(self) -> Iterator[UnitGroup]:
        """What was found: groups that something writes and something reads, and nothing mixes."""
        drafts = {root: self._drafts[root] for root in map(self._root, range(len(self._drafts)))}
        self._close_shared(drafts.values())
        self._close_used_otherwise(drafts.values())
        found = [d for _, d in sorted(drafts.items()) if not d.closed and d.incoming and d.outgoing]
        modules = Counter(_owner(draft.incoming[0]) for draft in found)
        for draft in found:
            weight = draft.incoming[0]
            yield UnitGroup(
                name=_owner(weight) if modules[_owner(weight)] == 1 else weight.name,
                size=draft.size,
                incoming=tuple(draft.incoming),
                bias=tuple(draft.bias),
                norm=tuple(draft.norm),
                stats=tuple(draft.stats),
                outgoing=tuple(draft.outgoing),
                readers=tuple(map(_owner, draft.outgoing)),
                coupled=draft.writers > 1,
            )

    def _followed(self, node: fx.Node) -> _Tag | None:
        """The channels of a node's output, by what kind of operation it is."""
        kind = _operation(node)
        inputs = node.all_input_nodes
        tagged = [n for n in inputs if n in self._tags]
        if kind == "linear":
            return self._linear(node)
        if kind in _CONVOLUTIONS:
            return self._convolution(node)
        if not tagged:
            return None
        if kind == "batch_norm":
            return self._batch_norm(node)
        if kind in _KEEPING and len(tagged) == 1:
            return self._kept(node, tagged[0])
        if kind == "getitem" and _operation(tagged[0]) in _KEEPING and node.args[1] == 0:
            return self._tags[tagged[0]]
        handler: Callable[[fx.Node, _Tag], _Tag | None] | None = None
        if kind in _COUPLING:
            return self._coupled(node, tagged)
        if kind == "cat":
            return self._concatenated(node)
        if kind in _RESHAPING:
            handler = self._reshaped
        elif kind in _REDUCING:
            handler = self._reduced
        elif kind in ("permute", "transpose"):
            handler = self._permuted
        elif kind in ("pad", "constant_pad_nd"):
            handler = self._padded
        tag = handler(node, self._tags[tagged[0]]) if handler is not None and len(tagged) == 1 else None
        if tag is None:
            self._close(tagged)
        return tag

    def _kept(self, node: fx.Node, source: fx.Node) -> _Tag | None:
        """Each channel stays where it is, unless what is pooled or resized is the dimension that counts them."""
        tag = self._tags[source]
        spatial = re.search(r"([123])d", _operation(node))
        if spatial is not None and tag.dim >= len(_shape(source) or ()) - int(spatial[1]):
            self._close([source])
            return None
        return tag

    def _linear(self, node: fx.Node) -> _Tag | None:
        value, weight, bias = _arguments(node, 3)
        if weight.name not in self._names:
            self._close(node.all_input_nodes)
            return None
        self._explained.update((parameter, node) for parameter in (weight, bias))
        self._read(value, weight, dim=len(_shape(value) or ()) - 1)
        return self._written(weight, bias, dim=len(_shape(node) or ()) - 1)

    def _convolution(self, node: fx.Node) -> _Tag | None:
        value, weight, bias = _arguments(node, 3)
        groups = _argument(node, 6, "groups", 1)
        if weight.name not in self._names:
            self._close(node.all_input_nodes)
            return None
        self._explained.update((parameter, node) for parameter in (weight, bias))
        channels = (_shape(value) or ())[1]
        if groups == 1:
            self._read(value, weight, dim=1)
        elif groups == channels and value in self._tags:
            return self._by_channel(value, weight, bias)
        else:
            self._close([value])
        return self._written(weight, bias, dim=1)

    def _by_channel(self, value: fx.Node, weight: fx.Node, bias: fx.Node | None) -> _Tag | None:
        """A kernel for each channel (depthwise): the units stay apart, and so do their kernels."""
        tag = self._tags[value]
        rows, channels = self._tensors[self._names[weight.name]].shape[0], sum(s.size * s.repeat for s in tag.segments)
        if tag.dim != 1 or rows % channels:
            self._close([value])
            return None
        times = rows // channels
        wider = tuple(replace(s, repeat=s.repeat * times) for s in tag.segments)
        self._attach(wider, weight, "incoming")
        if bias is not None:
            self._attach(wider, bias, "bias")
        return replace(tag, segments=wider)

    def _batch_norm(self, node: fx.Node) -> _Tag | None:
        value, weight, bias, mean, variance = _arguments(node, 5)
        tag = self._tags.get(value)
        if tag is None or tag.dim != 1:
            self._close(node.all_input_nodes)
            return None
        self._explained.update((parameter, node) for parameter in (weight, bias, mean, variance))
        for parameter in (weight, bias):
            if parameter is not None:
                self._attach(tag.segments, parameter, "norm")
        for statistic in (mean, variance):
            if statistic is not None:
                self._attach(tag.segments, statistic, "stats")
        return tag

    def _coupled(self, node: fx.Node, tagged: Sequence[fx.Node]) -> _Tag | None:
        """Element by element: with a single number nothing happens; two maps become one group."""
        others = [n for n in node.all_input_nodes if n not in tagged]
        if any(math.prod(_shape(n) or ()) > 1 for n in others):
            self._close(tagged)
            return None
        first, *rest = tagged
        if _operation(node) == "div" and (rest or node.args[0] is not first):
            self._close(tagged)  # a silent unit would be divided by: zero over zero is no number
            return None
        tag = self._tags[first]
        for other in rest:
            if not self._alike(first, other):
                self._close(tagged)
                return None
        for other in rest:
            for mine, theirs in zip(tag.segments, self._tags[other].segments, strict=True):
                self._unite(mine.group, theirs.group)
        return tag

    def _alike(self, one: fx.Node, other: fx.Node) -> bool:
        a, b = self._tags[one], self._tags[other]
        same_place = len(_shape(one) or ()) == len(_shape(other) or ()) and a.dim == b.dim
        sizes = [[(s.group is None, s.size, s.repeat) for s in tag.segments] for tag in (a, b)]
        return same_place and sizes[0] == sizes[1]

    def _concatenated(self, node: fx.Node) -> _Tag | None:
        parts: Sequence[fx.Node] = node.args[0]  # type: ignore[assignment]
        dim = _argument(node, 1, "dim", 0) % len(_shape(node) or (1,))
        tags = [self._tags.get(part) for part in parts]
        if all(tag is None or tag.dim == dim for tag in tags):
            segments = [
                tag.segments if tag is not None else (_Segment(None, (_shape(part) or ())[dim]),)
                for tag, part in zip(tags, parts, strict=True)
            ]
            return _Tag(dim, tuple(s for several in segments for s in several))
        self._close(parts)
        return None

    def _reshaped(self, node: fx.Node, tag: _Tag) -> _Tag | None:
        """The dimension of the new shape that counts the units, with what was flattened into it."""
        (source,) = (n for n in node.all_input_nodes if n in self._tags)
        old, new = _shape(source) or (), _shape(node) or ()
        before, count = math.prod(old[: tag.dim]), old[tag.dim]
        for dim, size in enumerate(new):
            if math.prod(new[:dim]) == before and size >= count and size % count == 0:
                times = size // count
                return _Tag(dim, tuple(replace(s, repeat=s.repeat * times) for s in tag.segments))
        return None

    def _reduced(self, node: fx.Node, tag: _Tag) -> _Tag | None:
        """A mean over space; one over the channels mixes them."""
        (source,) = (n for n in node.all_input_nodes if n in self._tags)
        rank = len(_shape(source) or ())
        dims = _argument(node, 1, "dim", None)
        if not isinstance(dims, list | tuple | int):
            return None
        gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
        if tag.dim in gone or not gone:
            return None
        keeps = _argument(node, 2, "keepdim", False)
        return tag if keeps else replace(tag, dim=tag.dim - sum(d < tag.dim for d in gone))

    def _permuted(self, node: fx.Node, tag: _Tag) -> _Tag | None:
        rank = len(_shape(node) or ())
        if _operation(node) == "permute":
            order = [d % rank for d in _argument(node, 1, "dims", ())]
        else:
            one, other = _argument(node, 1, "dim0", 0) % rank, _argument(node, 2, "dim1", 1) % rank
            order = list(range(rank))
            order[one], order[other] = other, one
        return replace(tag, dim=order.index(tag.dim))

    def _padded(self, node: fx.Node, tag: _Tag) -> _Tag | None:
        """Padding around a map, not among its channels."""
        (source,) = (n for n in node.all_input_nodes if n in self._tags)
        old, new = _shape(source) or (), _shape(node) or ()
        return tag if old[: tag.dim + 1] == new[: tag.dim + 1] else None

    def _read(self, value: fx.Node, weight: fx.Node, dim: int) -> None:
        """``weight`` has a column for each entry along ``dim`` of ``value``."""
        tag = self._tags.get(value)
        if tag is None:
            return
        if tag.dim != dim:
            self._close([value])
            return
        self._attach(tag.segments, weight, "outgoing", dim=1)

    def _written(self, weight: fx.Node, bias: fx.Node | None, dim: int) -> _Tag | None:
        """``weight`` has a row for each unit along ``dim`` of the output; a new group."""
        name = self._names[weight.name]
        size = self._tensors[name].shape[0]
        draft = _GroupBuilder(size, writers=1, incoming=[UnitSlice(name, 0)])
        if bias is not None:
            if bias.name in self._names:
                draft.bias.append(UnitSlice(self._names[bias.name], 0))
            else:
                draft.closed = True
        self._same.append(len(self._drafts))
        self._drafts.append(draft)
        return _Tag(dim, (_Segment(len(self._drafts) - 1, size),))

    def _attach(self, segments: Sequence[_Segment], parameter: fx.Node, kind: str, dim: int = 0) -> None:
        start = 0
        for segment in segments:
            if segment.group is not None:
                draft = self._drafts[self._root(segment.group)]
                if parameter.name in self._names:
                    share = UnitSlice(self._names[parameter.name], dim, start, segment.repeat)
                    getattr(draft, kind).append(share)
                else:  # a computed weight: nothing that could be reset
                    draft.closed = True
            start += segment.size * segment.repeat

    def _unite(self, one: int | None, other: int | None) -> None:
        if one is None or other is None:
            return
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._drafts[first].absorb(self._drafts[second])
            self._same[second] = first

    def _root(self, group: int) -> int:
        while self._same[group] != group:
            group = self._same[group]
        return group

    def _close(self, nodes: Collection[fx.Node]) -> None:
        for node in nodes:
            for segment in self._tags[node].segments if node in self._tags else ():
                if segment.group is not None:
                    self._drafts[self._root(segment.group)].closed = True

    def _close_shared(self, drafts: Collection[_GroupBuilder]) -> None:
        """Groups that use entries of one tensor twice: what is done to one unit would be done to another."""
        uses: dict[tuple[str, int], list[tuple[int, int, _GroupBuilder]]] = {}
        for draft in drafts:
            for share in draft.shares():
                end = share.start + draft.size * share.repeat
                uses.setdefault((share.name, share.dim), []).append((share.start, end, draft))
        for places in uses.values():
            for (start, end, one), (other_start, other_end, other) in itertools.combinations(places, 2):
                if start < other_end and other_start < end:
                    one.closed = other.closed = True

    def _close_used_otherwise(self, drafts: Collection[_GroupBuilder]) -> None:
        """Groups with a tensor that something else uses too: it would be heard there."""
        used = {
            self._names[node.name] for node in self._held for user in node.users if (node, user) not in self._explained
        }
        for draft in drafts:
            draft.closed |= any(share.name in used for share in draft.shares())


def _operation(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``; what works in place is called as what does not."""
    if node.target is operator.getitem:
        return "getitem"
    name = getattr(getattr(node.target, "overloadpacket", node.target), "__name__", str(node.target))
    return name.removesuffix("_")


def _owner(share: UnitSlice) -> str:
    """The module that holds the share's tensor."""
    return share.name.rpartition(".")[0]


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    if isinstance(value, tuple | list):  # an operation with several results: what its first one is
        value = value[0] if value and isinstance(value[0], Tensor) else None
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else None


def _arguments(node: fx.Node, count: int) -> list[Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return [_argument(node, at, schema[at].name, None) for at in range(count)]


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


@contextmanager
def capture_inputs(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """What each of these modules was first given while the model runs inside this context, by the module's name."""
    seen: dict[str, Tensor] = {}

    def saw(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            first = next(iter((*arguments, *named.values())), None)
            if isinstance(first, Tensor):
                seen.setdefault(name, first.detach())

        return hook

    modules = [(name, model.get_submodule(name)) for name in dict.fromkeys(names)]
    handles = [module.register_forward_pre_hook(saw(name), with_kwargs=True) for name, module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def activity_in(
    groups: Sequence[UnitGroup], model: nn.Module, seen: Mapping[str, Tensor], batch: int
) -> dict[str, Tensor]:
    """What the readers of each group saw of it, ``(batch, size, positions)`` in float32, by the group's name.

    A reader that was not called, or saw something else than a multiple of ``batch``, has no part.
    """
    found = {}
    for group in groups:
        views = []
        for share, reader in zip(group.outgoing, group.readers, strict=True):
            value = seen.get(reader)
            dim = -1 if isinstance(model.get_submodule(reader), nn.Linear) else 1
            if value is None or value.numel() % (batch * value.shape[dim]) or len(value) % batch:
                continue
            own = value.movedim(dim, -1)[..., share.start : share.start + group.size * share.repeat]
            by_sample = own.reshape(batch, -1, group.size, share.repeat)
            views.append(by_sample.transpose(1, 2).flatten(2).float())
        if views:
            found[group.name] = torch.cat(views, dim=2)
    return found


def reset_changes(
    groups: Sequence[UnitGroup],
    chosen: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fresh: Callable[[str], Tensor],
) -> Iterator[Change]:
    """One change per tensor: chosen units start anew and are not heard.

    Their incoming weights, normalisation and statistics are as in a network just made, their bias and outgoing weights
    zero. An entry that is the incoming of one unit and the outgoing of another is zero.
    """
    by_name = {group.name: group for group in groups}
    unknown = set(chosen) - set(by_name)
    if unknown:
        raise OptionError(f"there is no group of units called '{min(unknown)}'")
    renewed: dict[str, Tensor] = {}
    silenced: dict[str, Tensor] = {}
    for name, units in chosen.items():
        group = by_name[name]
        if not isinstance(units, Tensor) or units.dtype != torch.bool or tuple(units.shape) != (group.size,):
            raise OptionError(f"which units of '{name}' are reset is said by a bool tensor of shape ({group.size},)")
        if not bool(units.any()):
            continue
        shares = [(s, renewed) for s in (*group.incoming, *group.norm, *group.stats)]
        shares += [(s, silenced) for s in (*group.bias, *group.outgoing)]
        for share, masks in shares:
            mask = share.mask(tensors[share.name], units)
            masks[share.name] = masks[share.name] | mask if share.name in masks else mask
    for name in dict.fromkeys((*renewed, *silenced)):
        tensor = tensors[name]
        zero = silenced.get(name)
        value = fresh(name) if name in renewed else torch.zeros_like(tensor)
        if zero is not None:
            value = torch.where(zero, torch.zeros_like(tensor), value)
        masks_here = [mask[name] for mask in (renewed, silenced) if name in mask]
        yield Change(name, masks_here[0] if len(masks_here) == 1 else masks_here[0] | masks_here[1], value)
