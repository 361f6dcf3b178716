"""Scoring changes nothing: what a criterion may disturb is put back, what it may not is noticed."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from forgetkit.errors import ComponentError, ForgetkitError, OptionError
from forgetkit.seeding import seeded_rng
from forgetkit.system.memory import translate_oom
from forgetkit.system.torch_settings import scoring_settings, settings_restored

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_TORCH = Path(torch.__file__).parent
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 2**16
_ROWS = 16
_STEP = 0x5851F42D4C957F2D


@contextmanager
def read_only(model: nn.Module, who: str, seed: int, *, training: bool = False) -> Iterator[None]:
    """Lend ``model`` to ``who``: :func:`restore_state` on leaving, and the parameters have to be unchanged."""
    with assert_params_unchanged(model, who), restore_state(model, seed, training=training):
        yield


@contextmanager
def assert_params_unchanged(model: nn.Module, who: str) -> Iterator[None]:
    """A ``ComponentError`` on leaving, naming ``who`` and the parameter, where one has other bits than on entering.

    Parameters are not copied (a model may be too large for that): a fingerprint of their bits is.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = [_TensorLayout.of(p) for p in parameters.values()]
    prints = fingerprints(seen.entries(p) for seen, p in zip(before, parameters.values(), strict=True))
    yield
    same = [seen.fits(p) for seen, p in zip(before, parameters.values(), strict=True)]
    pairs = zip(before, parameters.values(), same, strict=True)
    again = iter(fingerprints(seen.entries(p) for seen, p, fits in pairs if fits))
    for name, fits, old in zip(parameters, same, prints, strict=True):
        if not fits or next(again) != old:
            raise ComponentError(f"{who} changed the parameter '{name}' of the model it was only to look at")


@dataclass(frozen=True)
class _TensorLayout:
    """A parameter's shape, dtype, and its dimensions in the order in which they lie in memory."""

    shape: torch.Size
    dtype: torch.dtype
    order: tuple[int, ...]

    @classmethod
    def of(cls, parameter: Tensor) -> _TensorLayout:
        return cls(parameter.shape, parameter.dtype, order_in_memory(parameter))

    def fits(self, parameter: Tensor) -> bool:
        """Whether the parameter still is of this shape and dtype."""
        return (parameter.shape, parameter.dtype) == (self.shape, self.dtype)

    def entries(self, parameter: Tensor) -> Tensor:
        """The parameter, turned so that reading it in order needs no copy while it lies as it lay."""
        return parameter.detach().permute(self.order)


@contextmanager
def restore_state(model: nn.Module, seed: int, *, training: bool = False) -> Iterator[None]:
    """Meanwhile ``model`` is in eval mode (or in training mode), without gradients in ``.grad``, outside autocast.

    On leaving, buffers, each module's attributes (training flag, hooks, what it keeps count of),
    ``requires_grad``, ``.grad`` and the global random state are as they were.

    Meanwhile ``seed`` seeds the global random state, so that a shuffling DataLoader gives the same
    batches each time, and backward hooks are off: they may change a gradient or keep a record of it.
    """
    parameters = list(model.parameters())
    grads = {p: (p.grad, p.requires_grad) for p in parameters}
    buffers = [(b, b.clone()) for b in model.buffers()]
    device = next((p.device.type for p in parameters), "cpu")
    try:
        with (
            preserved_attributes(model),
            seeded_rng(seed),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            for p in grads:
                p.grad = None
            for module in model.modules():
                module._backward_hooks.clear()
                module._backward_pre_hooks.clear()
            model.train() if training else model.eval()
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not _same_bits(buffer, value):  # a write, even of the same, would spoil a backward pass under way
                    buffer.copy_(value)
        for p, (grad, requires_grad) in grads.items():
            p.requires_grad_(requires_grad)
            p.grad = grad


def dtype_in(model: nn.Module) -> torch.dtype:
    """What ``model`` is scored in: float64 where it has a parameter of that, float32 where it is of lower precision."""
    return torch.float64 if any(p.dtype == torch.float64 for p in model.parameters()) else torch.float32


def require_gradients_possible(model: nn.Module) -> None:
    """``OptionError`` where a tensor of ``model`` was made in inference mode, which torch lets nobody differentiate."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise OptionError(
                f"'{name}' of {type(model).__name__} was made inside torch.inference_mode() and can have no gradient: "
                "build the network outside"
            )


def with_network_settings(
    function: Callable[Concatenate[nn.Module, _Params], _Result],
) -> Callable[Concatenate[nn.Module, _Params], _Result]:
    """Call ``function`` inside the scoring settings of the network that is its first argument."""

    @functools.wraps(function)
    def inside(model: nn.Module, /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        require_gradients_possible(model)
        with scoring_settings(dtype_in(model)):
            return function(model, *args, **kwargs)

    return inside


@contextmanager
def component_call(who: str) -> Iterator[None]:
    """Call a component: attribute its errors to it and put back the settings that it changes."""
    with attribute_errors_to(who), settings_restored(who):
        yield


@contextmanager
def attribute_errors_to(who: str) -> Iterator[None]:
    """What a stranger's code raises becomes a ``ComponentError`` of one line that names ``who`` and the place."""
    try:
        with translate_oom():
            yield
    except ForgetkitError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, or leave
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise ComponentError(f"{who} raised {reason} in {error_location(error)}") from error


def error_location(error: BaseException) -> str:
    """FILE:LINE where an error came up: in whose code called torch, where torch raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(_TORCH)]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def hooks_on(model: nn.Module) -> dict[tuple[str, int], str]:
    """Each hook on ``model`` or inside it, by its table and the number that torch gave it: the module it hangs on."""
    return {
        (table, number): name
        for name, module in model.named_modules()
        for table in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
        for number in getattr(module, table)
    }


@contextmanager
def preserved_attributes(model: nn.Module) -> Iterator[None]:
    """On leaving, each module's attributes are those of before: modes, hooks, counts, which tensor is which buffer."""
    tables = [(table, dict(table)) for module in model.modules() for table in _table_attributes(vars(module))]
    try:
        yield
    finally:
        for table, entries in tables:
            table.clear()
            table.update(entries)


def _table_attributes(attributes: dict[str, Any]) -> list[dict[Any, Any]]:
    """A module's attributes, and those of them that are tables themselves: of hooks, of buffers."""
    return [attributes, *(value for value in attributes.values() if isinstance(value, dict))]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's entries as integers, so that signs of zero and NaN count."""
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return real.contiguous().view(_INTEGER_OF_SIZE[real.element_size()])


def fingerprint(tensor: Tensor) -> int:
    """A number made of all of a tensor's bits, in the order of its entries."""
    return fingerprints([tensor])[0]


def fingerprints(tensors: Iterable[Tensor]) -> list[int]:
    """Of each tensor the wrapping sum of its words of 32 bits, each times an odd number of 64 random bits and mixed.

    An odd number divides no power of two and mixing is one to one, so a change within one word always shows. Several
    changes cancel by coincidence alone: which ones do hangs on the entries and the random numbers, which are fixed;
    it is no protection against somebody who looks for them. Two signs turned round together never cancel.
    """
    factors: dict[torch.device, Tensor] = {}
    sums = []
    for tensor in tensors:
        words = _words(tensor)
        needed = min(len(words), _PIECE)
        if words.device not in factors or len(factors[words.device]) < needed:
            factors[words.device] = _odd_numbers(min(2 * needed, _PIECE)).to(words.device)
        sums.append(_sums(words, factors[words.device]))
    return [functools.reduce(lambda total, piece: (total * _STEP + piece) % 2**64, each.tolist(), 0) for each in sums]


def _sums(words: Tensor, factors: Tensor) -> Any:
    """Of each whole piece of ``words`` and of the rest, wrapping in 64 bits."""
    if words.device.type != "cpu":
        return _sums_in_rows(words, factors)
    here, odd = words.numpy(), factors.numpy()  # of which numpy is faster, on pieces that stay in its cache
    pieces = (here[start : start + _PIECE] for start in range(0, len(here) + 1, _PIECE))
    return np.array([_mix(piece, odd[: len(piece)]).sum() for piece in pieces])


def _sums_in_rows(words: Tensor, factors: Tensor) -> Tensor:
    """On any device: many pieces at once keep it busy, and yet are no second copy of a large tensor."""
    end = len(words) // _PIECE * _PIECE
    rows, rest = words[:end].view(-1, _PIECE).split(_ROWS) if end else (), words[end:]
    return torch.cat(
        [*(_mix(some, factors).sum(1) for some in rows), _mix(rest, factors[: len(rest)]).sum(0, keepdim=True)]
    )


def _mix(words: Any, factors: Any) -> Any:
    """Arrays or tensors. The products alone would take a change of sign for the same whatever the word is."""
    products = words * factors
    products ^= (products >> 32) & (2**32 - 1)
    return products


def _odd_numbers(count: int) -> Tensor:
    """The first ``count`` of a row that is always the same."""
    rng = torch.Generator().manual_seed(0)
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None, generator=rng) | 1


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bits as integers of 32 bits, or of fewer where they come out even only so."""
    bits = _bits(tensor).flatten()
    size = bits.element_size()
    width = next(w for w in (4, 2, 1) if bits.numel() * size % w == 0 and bits.storage_offset() * size % w == 0)
    return bits.view(_INTEGER_OF_SIZE[width])


def order_in_memory(tensor: Tensor) -> tuple[int, ...]:
    """A tensor's dimensions, that of the largest steps first: permuted so, a dense tensor is contiguous."""
    strides = tensor.stride()
    return tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floats holds neither NaN nor infinity; takes little memory beside it."""
    return not tensor.numel() or bool(torch.stack(_extremes(tensor)).isfinite().all())


def bounds(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest entry of a tensor that has some: both NaN if one is; takes little memory beside it."""
    least, most = torch.stack(_extremes(tensor)).tolist()
    return least, most


def is_constant(tensor: Tensor) -> bool:
    """Whether all entries of a tensor are equal; takes little memory beside it."""
    tensor = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor
    return not tensor.numel() or len(set(bounds(tensor))) == 1


def any_nan(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN; takes little memory beside it."""
    tensor = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor
    return tensor.is_floating_point() and bool(tensor.numel()) and bool(_extremes(tensor)[0].isnan())


def _extremes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest entry: both NaN where one is."""
    extremes = [torch.stack(torch.aminmax(part)) for part in _readable(tensor.detach())]
    least, most = torch.aminmax(torch.cat(extremes))
    return least, most


def _readable(tensor: Tensor) -> Iterator[Tensor]:
    """All entries, of which those that must be copied to be compared come a few at a time."""
    entries = tensor.permute(order_in_memory(tensor))  # another order would be copied
    few = _PIECE if tensor.device.type == "cpu" else _ROWS * _PIECE
    for part in _dense(entries, few):
        if part.element_size() == 1:  # 8 bits have no order
            yield from (piece.float() for piece in part.flatten().split(few))
        else:
            yield part


def _dense(entries: Tensor, few: int) -> Iterator[Tensor]:
    """Parts without gaps, or of ``few`` entries at most."""
    if entries.is_contiguous() or entries.numel() <= few:
        yield entries
        return
    rows = few * len(entries) // entries.numel()
    for part in entries.split(rows) if rows else entries:
        yield from _dense(part, few)
