"""Heads: the layers from which the loss is computed with no other weighted layer in between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from forgetkit.errors import OptionError

_Node = Any
"""A node of autograd's graph: torch gives its class no public name."""


def heads_of(model: nn.Module, weighted: Collection[str], compute_loss: Callable[[], Tensor]) -> tuple[str, ...]:
    """Return the names among ``weighted`` of the heads, in order of execution.

    Walks autograd's graph back from the loss, and stops at each output of a weighted layer. So a network with several
    outputs has several heads, and a layer whose output the loss does not depend on is none.

    Args:
        model: The network.
        weighted: The names of the layers that hold a matrix or kernel.
        compute_loss: Runs the model and returns a loss with a graph.

    Raises:
        OptionError: If the last weights are those of a module that contains other weighted layers.
    """
    written: dict[_Node, str] = {}
    with ExitStack() as hooks:
        for name in weighted:

            def record(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                for tensor in _tensors(output):
                    if tensor.grad_fn is not None:
                        written.setdefault(tensor.grad_fn, name)  # the innermost module returns first

            hooks.enter_context(model.get_submodule(name).register_forward_hook(record))
        last = compute_loss().grad_fn
    found: set[str] = set()
    seen, waiting = {last}, [last]
    while waiting:
        node = waiting.pop()
        if node in written:
            found.add(written[node])
            continue
        before = {source for source, _ in node.next_functions if source is not None} if node is not None else set()
        waiting.extend(before - seen)
        seen |= before
    for name in found:
        prefix = f"{name}." if name else ""
        if inside := [other for other in weighted if other != name and other.startswith(prefix)]:
            kind = type(model.get_submodule(name)).__name__
            raise OptionError(
                f"the last weights are those of {kind} itself, beside '{inside[0]}' in it, so no layer is the head: "
                "name one"
            )
    return tuple(dict.fromkeys(name for name in written.values() if name in found))


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in an output; those of objects that torch cannot look into, by their attributes."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (value for value in vars(leaf).values() if isinstance(value, Tensor))
