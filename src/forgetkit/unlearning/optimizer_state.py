"""The optimizer's state of reset entries: what a new optimizer would hold, written in place."""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forgetkit.contracts import OptimizerState, OptimizerStateRule, component_name
from forgetkit.errors import ComponentError, OptionError
from forgetkit.unlearning.integrity import attribute_errors_to
from forgetkit.unlearning.tensor_parts import LocalState, local_like, local_of
from forgetkit.unlearning.tensor_write import Undo, write

_INNER = ("optimizer", "optim", "base_optimizer", "_optimizer")
"""Attributes under which wrappers (Lookahead, ZeRO, SAM, Accelerate, Lightning) hold the optimizer inside."""
_DECAY = ("weight_decay", "lambd")
"""Options that move a weight whose gradient is zero."""
_SIZES = (2, 3, 5, 7, 11, 13, 17, 19)
"""Sizes of a trial tensor: all differ, so that only a tensor of one number per entry has its shape."""
_BLOCK = 256
"""Entries of a quantised tensor that share a scale (bitsandbytes)."""


@dataclass(frozen=True)
class _Started:
    """What a new optimizer holds for one parameter: as made, and after one step without gradient."""

    first: Mapping[str, Any]
    stepped: Mapping[str, Any]
    group: Mapping[str, Any]
    """The options of its group that the step changed, as they were before."""


@dataclass(eq=False)
class OptimizerStates:
    """Optimizers at a reset: starts the state of reset entries anew, and notes what it cannot.

    The state of an entry comes from a new optimizer of the same class and options, which takes one step with zero
    gradient and no weight decay on a copy of the parameter. All of it is written in place, so that a checkpoint has the
    same keys before and after. Under a mask a number for the whole tensor, such as Adam's step count, stays: it belongs
    to the kept entries too. Without a mask it starts anew.

    Args:
        optimizers: Each with the optimizers that it wraps, the outermost first.
        rule: What happens to the state of reset entries.
        plugins: Rules of third parties for their optimizers.
    """

    optimizers: Sequence[tuple[Any, ...]]
    rule: OptimizerState = "zero"
    plugins: Sequence[OptimizerStateRule] = ()
    notes: dict[str, None] = field(default_factory=dict, init=False)
    """What the report says about kept numbers."""
    warnings: dict[str, None] = field(default_factory=dict, init=False)
    """What could not be cleared."""
    _kinds: dict[tuple[int, int, int], tuple[frozenset[str], frozenset[str]] | None] = field(
        default_factory=dict, init=False
    )

    @classmethod
    def of(
        cls, given: object, rule: OptimizerState = "zero", plugins: Sequence[OptimizerStateRule] = ()
    ) -> OptimizerStates:
        """Accept an optimizer, or several in a list or as the values of a mapping; None is no optimizer.

        Raises:
            OptionError: If one of them is not an optimizer.
        """
        return cls(tuple(_layers(one) for one in list_optimizers(given)), rule, plugins)

    def reset(self, name: str, parameter: Tensor, mask: Tensor | None, undo: Undo) -> int:
        """Start the state of ``parameter`` anew under ``mask``, after it got its fresh values; return the entries."""
        if self.rule not in ("zero", "rescaled") or not self.optimizers:
            return 0
        return self._reset(name, parameter, mask, undo)

    def reset_all(self, model: nn.Module, undo: Undo) -> int:
        """Make the whole state that of a new optimizer; return the number of entries."""
        cleared = sum(self._reset(name, p, None, undo) for name, p in model.named_parameters() if p.requires_grad)
        own = set(model.parameters())
        for layers in self.optimizers:
            for optimizer in layers:
                for group in getattr(optimizer, "param_groups", ()):
                    if group["params"] and own.issuperset(group["params"]):
                        self._reset_group(optimizer, group, undo)
        return cleared

    def _reset(self, name: str, parameter: Tensor, mask: Tensor | None, undo: Undo) -> int:
        cleared, held = 0, False
        for layers in self.optimizers:
            seen: set[int] = set()
            for depth, optimizer in enumerate(layers):
                group = _group_of(optimizer, parameter)
                if group is None:
                    continue
                held = True
                state = getattr(optimizer, "state", None)
                if not isinstance(state, Mapping) or id(state) in seen:
                    continue
                if any(state is getattr(inner, "state", None) for inner in layers[depth + 1 :]):
                    continue  # a wrapper that shows the state of what it wraps
                seen.add(id(state))
                plugin = self._plugin(optimizer)
                if plugin is not None:
                    cleared += _by_plugin(plugin, optimizer, name, parameter, mask, undo)
                elif state.get(parameter):
                    cleared += self._reset_entry(layers[depth:], group, parameter, mask, undo)
                elif _holds_tensor(state) and self._is_shared(layers[depth:], group, parameter):
                    self._warn(optimizer, state, undo)
        if not held:
            self.warnings[f"no optimizer given holds '{name}': pass all optimizers that train the model"] = None
        return cleared

    def _plugin(self, optimizer: Any) -> OptimizerStateRule | None:
        for plugin in self.plugins:
            with attribute_errors_to(component_name(plugin)):
                if plugin.handles(optimizer):
                    return plugin
        return None

    def _reset_entry(
        self,
        layers: Sequence[Any],
        group: Mapping[str, Any],
        parameter: Tensor,
        mask: Tensor | None,
        undo: Undo,
    ) -> int:
        optimizer, state = layers[0], LocalState.of(layers[0].state[parameter])
        mask, parameter = local_like(mask, parameter), local_of(parameter)
        new = _start(layers, group, parameter.detach().clone(memory_format=torch.preserve_format))
        if new is None:
            self._warn(optimizer, state, undo)
            return 0
        scales = self._scale_keys(layers, group, parameter)
        per_entry = {key for key in state if self._is_per_entry(layers, group, key, state, new, parameter)}
        whole = mask is None
        if self.rule == "rescaled" and mask is not None and bool(mask.all()):
            whole = True  # nothing is kept that a mean or a step count could come from
        cleared = 0
        left = list[str]()
        for key, value in list(state.items()):
            if key in per_entry:
                cleared += self._reset_tensor(key, state, new, mask, whole, scales, undo)
            elif _is_companion(key, state):
                continue
            elif whole and key in new.first and _restart(state, key, new.first[key], undo):
                cleared += value.numel() if _is_tensor(value) and value.ndim else 0
            elif _is_count(value):
                self.notes[f"{type(optimizer).__name__}: '{key}' is one number for a tensor and is kept"] = None
            elif _holds_tensor(value):
                left.append(key)
        if left:
            self._warn(optimizer, state, undo, new.first, left)
        return cleared

    def _reset_tensor(
        self,
        key: str,
        state: dict[str, Any],
        new: _Started,
        mask: Tensor | None,
        whole: bool,
        scales: frozenset[str],
        undo: Undo,
    ) -> int:
        value = state[key]
        where = None if mask is None else mask.to(value.device)
        source = new.first if whole and key in new.first else new.stepped
        book, own_scale = _code_book(key, state), None
        if book is not None:
            own_scale = _block_scales(key, state, value)
        fresh = _decoded(key, source)
        if self.rule == "rescaled" and not whole and key in scales and where is not None:
            kept = _decoded(key, state)[~where]
            fresh = torch.full_like(fresh, float(kept.double().mean()))
        if book is not None and own_scale is not None:
            if whole and where is None:
                written = write(value, None, source[key], undo)[0]
                _restart(state, f"absmax{key[-1]}", source[f"absmax{key[-1]}"], undo)
                return written
            fresh = _encoded(fresh, book, own_scale)
        return write(value, where, fresh, undo)[0]

    def _is_per_entry(
        self,
        layers: Sequence[Any],
        group: Mapping[str, Any],
        key: str,
        state: Mapping[str, Any],
        new: _Started,
        parameter: Tensor,
    ) -> bool:
        value = state[key]
        if not _is_tensor(value) or value.shape != parameter.shape or not _is_tensor(new.stepped.get(key)):
            return False
        if new.stepped[key].shape != parameter.shape:
            return False
        if not value.is_floating_point():
            return _code_book(key, state) is not None and value.is_contiguous() and parameter.is_contiguous()
        if parameter.ndim and len(set(parameter.shape)) == parameter.ndim and 1 not in parameter.shape:
            return True  # no tensor of rows, columns or pairs of them has this shape
        kinds = self._trial(layers, group, parameter)
        return kinds is None or key in kinds[0]

    def _scale_keys(self, layers: Sequence[Any], group: Mapping[str, Any], parameter: Tensor) -> frozenset[str]:
        kinds = self._trial(layers, group, parameter) if self.rule == "rescaled" else None
        return frozenset() if kinds is None else kinds[1]

    def _trial(
        self, layers: Sequence[Any], group: Mapping[str, Any], parameter: Tensor
    ) -> tuple[frozenset[str], frozenset[str]] | None:
        """Return the keys of state per entry, and those of second moments, by steps on a small tensor.

        A second moment grows with a gradient of either sign, by the same amount.
        """
        at = id(layers[0]), id(group), parameter.ndim
        if at not in self._kinds:
            shape = _SIZES[: max(parameter.ndim, 1)]
            like = torch.full(shape, 0.5, dtype=parameter.dtype, device=parameter.device)
            answers = [_start(layers, group, like.clone(), gradient) for gradient in (0.0, 1.0, -1.0)]
            self._kinds[at] = _compared(answers, shape)
        return self._kinds[at]

    def _reset_group(self, optimizer: Any, group: dict[str, Any], undo: Undo) -> None:
        layers = next(all_[all_.index(optimizer) :] for all_ in self.optimizers if optimizer in all_)
        first = group["params"][0]
        new = _start(layers, group, first.detach().clone())
        if new is not None:
            for key, value in new.group.items():
                if key in group:
                    undo.append(partial(group.__setitem__, key, group[key]))
                    group[key] = value

    def _is_shared(self, layers: Sequence[Any], group: Mapping[str, Any], parameter: Tensor) -> bool:
        """Whether the state of all parameters lies elsewhere: a new optimizer keeps none for this one either."""
        new = _start(layers, group, parameter.detach().clone())
        return new is None or not _holds_tensor(new.stepped)

    def _warn(
        self,
        optimizer: Any,
        state: Mapping[Any, Any],
        undo: Undo,
        first: Mapping[str, Any] | None = None,
        keys: Sequence[str] = (),
    ) -> None:
        """Warn of state that is not cleared; ``fresh`` drops it, and the optimizer makes it anew."""
        name = type(optimizer).__name__
        if self.rule != "fresh":
            which = f" ({', '.join(keys)})" if keys else ""
            self.warnings[
                f"{name} keeps state{which} that is not per entry and still knows the old values: "
                "optimizer_state='fresh' starts it anew"
            ] = None
            return
        if isinstance(state, dict):
            undo.append(partial(_refill, state, dict(state)))
            for key in keys or list(state):
                if first is not None and key in first:
                    state[key] = first[key]
                else:
                    del state[key]


def _by_plugin(
    plugin: OptimizerStateRule, optimizer: Any, name: str, parameter: Tensor, mask: Tensor | None, undo: Undo
) -> int:
    """Write what a third party says that a new optimizer holds."""
    whose, state = component_name(plugin), optimizer.state.get(parameter, {})
    with attribute_errors_to(whose):
        found = dict(plugin.fresh(optimizer, parameter))
    cleared = 0
    for key, fresh in found.items():
        value = state.get(key)
        if value is None:
            continue  # not stepped yet
        if not _is_tensor(fresh) or not _is_tensor(value) or fresh.shape != value.shape or fresh.dtype != value.dtype:
            raise ComponentError(f"{whose}: the state '{key}' of '{name}' is no tensor of the shape and dtype there")
        fits = value.shape == parameter.shape
        if mask is not None and not fits:
            raise ComponentError(f"{whose}: the state '{key}' of '{name}' has not the shape of the parameter")
        where = None if mask is None else mask.to(value.device)
        cleared += write(value, where, fresh.to(value.device), undo)[0]
    return cleared


def list_optimizers(given: object) -> tuple[Any, ...]:
    """Return the optimizers in ``given``: one, several in a list or tuple, or the values of a mapping.

    Raises:
        OptionError: If one of them is not an optimizer.
    """
    if given is None:
        return ()
    found: Iterable[object] = given.values() if isinstance(given, Mapping) else ()
    if not isinstance(given, Mapping):
        found = given if isinstance(given, list | tuple) else (given,)
    several = tuple(found)
    if not several:
        raise OptionError("optimizer= is empty: give the optimizers that train the model, or leave it out")
    for one in several:
        if not any(isinstance(layer, Optimizer) or _looks_like_one(layer) for layer in _layers(one)):
            raise OptionError(f"optimizer= takes optimizers of torch, one or a list, not {type(one).__name__}")
    return several


def require_trained_by(optimizer: object, model: nn.Module) -> None:
    """Raise ``OptionError`` if one of the optimizers holds none of the model's parameters."""
    own = set(model.parameters())
    shapes = {p.shape for p in own}
    for one in list_optimizers(optimizer):
        held = [p for layer in _layers(one) for group in getattr(layer, "param_groups", ()) for p in group["params"]]
        if not own.isdisjoint(held):
            continue
        if held and all(p.shape in shapes for p in held):
            raise OptionError(
                f"{type(one).__name__} holds none of the model's parameters, but copies or another network's of their "
                "shapes: give the optimizer that trains this model"
            )
        raise OptionError("the optimizer holds none of the model's parameters: give the one that trains this model")


def _looks_like_one(candidate: object) -> bool:
    groups = getattr(candidate, "param_groups", None)
    return isinstance(groups, list) and isinstance(getattr(candidate, "state", None), Mapping)


def _layers(optimizer: Any) -> tuple[Any, ...]:
    """Return the optimizer and those that it wraps, the outermost first."""
    found = [optimizer]
    while True:
        inner = next((v for n in _INNER if (v := _attribute(found[-1], n)) is not None), None)
        if inner is None or any(inner is one for one in found):
            return tuple(found)
        found.append(inner)


def _attribute(owner: object, name: str) -> object | None:
    if isinstance(owner, nn.Module):
        return None
    found = getattr(owner, name, None)
    return found if isinstance(found, Optimizer) or _looks_like_one(found) else None


def _group_of(optimizer: Any, parameter: Tensor) -> dict[str, Any] | None:
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", [])
    return next((group for group in groups if any(p is parameter for p in group["params"])), None)


class _FirstValues(dict[str, Any]):
    """A parameter's state that remembers the first value of each key, as it was when it was set."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.first = {key: _copied(value) for key, value in given.items()}

    def __setitem__(self, key: str, value: Any) -> None:
        self.first.setdefault(key, _copied(value))
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _start(layers: Sequence[Any], group: Mapping[str, Any], values: Tensor, gradient: float = 0.0) -> _Started | None:
    """Give a new optimizer one step on ``values``; None if its class cannot be made or stepped here."""
    for step in _STEPS:
        parameter = nn.Parameter(values.clone(), requires_grad=True)
        for make in (_construct, _copy):
            try:
                with torch.enable_grad():
                    new = make(layers, group, parameter)
                    state = _FirstValues(new.state.get(parameter, {}))
                    new.state[parameter] = state
                    if callable(getattr(new, "train", None)):
                        new.train()  # Schedule-Free steps in this mode alone
                    before = {key: _copied(value) for key, value in new.param_groups[0].items() if key != "params"}
                    step(new, parameter, gradient)
            except Exception:  # noqa: BLE001 - a foreign class may raise anything: another way is tried
                continue
            stepped = new.state.get(parameter, {})
            if not all(_finite(value) for value in stepped.values()):
                continue
            after = new.param_groups[0]
            changed = {key: old for key, old in before.items() if key in after and not _same(old, after[key])}
            return _Started(state.first, stepped, changed)
    return None


def _construct(layers: Sequence[Any], group: Mapping[str, Any], parameter: nn.Parameter) -> Any:
    """Call the constructor with the options that the group and the optimizer itself hold."""
    optimizer, defaults = layers[0], getattr(layers[0], "defaults", {})
    inner = None if len(layers) == 1 else _construct(layers[1:], group, parameter)
    options = {**defaults, **{key: value for key, value in group.items() if key not in ("params", "param_names")}}
    arguments: dict[str, Any] = {}
    signature = list(inspect.signature(type(optimizer)).parameters.values())
    for at, one in enumerate(signature):
        if at == 0 or one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            continue
        if one.name in options:
            arguments[one.name] = _copied(options[one.name])
        elif one.name in vars(optimizer) and _is_plain(vars(optimizer)[one.name]):
            arguments[one.name] = vars(optimizer)[one.name]
    for name in _DECAY:
        if name in arguments:
            arguments[name] = 0.0
    if "differentiable" in arguments:
        arguments["differentiable"] = False
    extra = {key: value for key, value in options.items() if key not in defaults}
    new = type(optimizer)([{**extra, "params": [parameter]}] if inner is None else inner, **arguments)
    for name, value in vars(optimizer).items():
        if name == "args" or (name in vars(new) and not name.startswith("_") and _is_plain(value)):
            setattr(new, name, value)
    _without_decay(new)
    return new


def _copy(layers: Sequence[Any], group: Mapping[str, Any], parameter: nn.Parameter) -> Any:
    """Make an optimizer without calling its constructor, with an empty state."""
    if len(layers) > 1:
        raise TypeError("a wrapper is not copied")
    own = {id(p) for each in layers[0].param_groups for p in each["params"]}
    others = (value for name, value in vars(layers[0]).items() if name not in ("state", "param_groups"))
    if any(id(tensor) in own for value in others for tensor in _tensors_in(value)):
        raise TypeError("its step would move the network")
    new = object.__new__(type(layers[0]))
    vars(new).update(vars(layers[0]))
    for name in [name for name in vars(new) if "hook" in name and isinstance(vars(new)[name], dict)]:
        setattr(new, name, OrderedDict())
    new.state = defaultdict(dict)
    new.param_groups = [{**{key: _copied(value) for key, value in group.items()}, "params": [parameter]}]
    _without_decay(new)
    return new


def _without_decay(new: Any) -> None:
    for name in _DECAY:
        if name in new.param_groups[0]:
            new.param_groups[0][name] = 0.0


def _step_dense(new: Any, parameter: Tensor, gradient: float) -> None:
    parameter.grad = torch.full_like(parameter, gradient)
    _step_of(new)(new)


def _step_with_closure(new: Any, parameter: Tensor, gradient: float) -> None:
    parameter.grad = torch.full_like(parameter, gradient)
    _step_of(new)(new, lambda: torch.zeros((), device=parameter.device))


def _step_sparse(new: Any, parameter: Tensor, gradient: float) -> None:
    parameter.grad = torch.full_like(parameter, gradient).to_sparse()
    _step_of(new)(new)


def _step_of(new: Any) -> Callable[..., Any]:
    """The step of its class, which no scheduler has replaced, without the hooks that torch puts around it."""
    step: Any = type(new).step
    plain: Callable[..., Any] = step.__wrapped__ if getattr(step, "hooked", False) else step
    return plain


_STEPS: tuple[Callable[[Any, Tensor, float], None], ...] = (_step_dense, _step_with_closure, _step_sparse)


def _compared(
    answers: Sequence[_Started | None], shape: tuple[int, ...]
) -> tuple[frozenset[str], frozenset[str]] | None:
    none, plus, minus = answers
    if none is None:
        return None
    entries = {key for key, value in none.stepped.items() if _is_tensor(value) and tuple(value.shape) == shape}
    if plus is None or minus is None:
        return frozenset(entries), frozenset()
    entries |= {k for k, v in plus.stepped.items() if _is_tensor(v) and tuple(v.shape) == shape}
    scales = set()
    for key in entries & plus.stepped.keys() & minus.stepped.keys():
        up, down = _decoded(key, plus.stepped), _decoded(key, minus.stepped)
        base = _decoded(key, none.stepped) if key in none.stepped else torch.zeros_like(up)
        if torch.allclose(up, down) and bool((up > base).all()) and bool((base >= 0).all()):
            scales.add(key)
    return frozenset(entries), frozenset(scales)


def _refill(state: dict[Any, Any], old: Mapping[Any, Any]) -> None:
    state.clear()
    state.update(old)


def _restart(state: dict[str, Any], key: str, first: Any, undo: Undo) -> bool:
    """Set what a new optimizer sets for the whole tensor, in place if it is a tensor; False if it does not fit."""
    value = state[key]
    if isinstance(value, Tensor):
        if not isinstance(first, Tensor):
            first = torch.as_tensor(first, device=value.device) if isinstance(first, int | float) else None
        if first is None or value.shape != first.shape:
            return False
        write(value, None, first.to(value), undo)
        return True
    if _holds_tensor(value) or _holds_tensor(first):
        return False
    undo.append(partial(state.__setitem__, key, value))
    state[key] = first
    return True


def _code_book(key: str, state: Mapping[str, Any]) -> Tensor | None:
    """Return the values that the codes of a quantised tensor stand for: ``qmap1`` of ``state1``."""
    book, scales, value = state.get(f"qmap{key[-1:]}"), state.get(f"absmax{key[-1:]}"), state.get(key)
    if not isinstance(value, Tensor) or value.dtype != torch.uint8:
        return None
    blocks = -(-value.numel() // _BLOCK)
    if not isinstance(book, Tensor) or not isinstance(scales, Tensor) or scales.numel() != blocks:
        return None
    return book


def _block_scales(key: str, state: Mapping[str, Any], like: Tensor) -> Tensor:
    blocks = state[f"absmax{key[-1]}"].flatten()
    scales: Tensor = blocks.repeat_interleave(_BLOCK)[: like.numel()].view(like.shape)
    return scales


def _decoded(key: str, state: Mapping[str, Any]) -> Tensor:
    value: Tensor = state[key].detach()
    book = _code_book(key, state)
    if book is None:
        return value
    values: Tensor = book[value.long()] * _block_scales(key, state, value)
    return values


def _encoded(values: Tensor, book: Tensor, scales: Tensor) -> Tensor:
    """Return the codes whose values are nearest, in blocks of these scales."""
    wanted = torch.where(scales > 0, values / scales, torch.zeros_like(values)).flatten()
    ordered, order = book.sort()
    right = torch.searchsorted(ordered, wanted.contiguous()).clamp(1, len(ordered) - 1)
    left = right - 1
    nearest = torch.where(wanted - ordered[left] <= ordered[right] - wanted, left, right)
    codes: Tensor = order[nearest].to(torch.uint8).view(values.shape)
    return codes


def _is_companion(key: str, state: Mapping[str, Any]) -> bool:
    """Whether it is the code book or the scales of a quantised tensor."""
    return key[:-1] in ("qmap", "absmax") and _code_book(f"state{key[-1]}", state) is not None


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _holds_tensor(value: object) -> bool:
    return any(True for _ in _tensors_in(value))


def _tensors_in(value: object, depth: int = 3) -> Iterator[Tensor]:
    """Find tensors in containers, and in objects that hold some (preconditioners)."""
    if isinstance(value, Tensor):
        yield value
        return
    inside: Iterable[object] = ()
    if isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    elif hasattr(value, "__dict__"):
        inside = vars(value).values()
    for one in inside if depth else ():
        yield from _tensors_in(one, depth - 1)


def _finite(value: object) -> bool:
    return not (isinstance(value, Tensor) and value.is_floating_point()) or bool(value.isfinite().all())


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)
