"""A training step as a CUDA graph: the same kernels, launched all at once instead of one by one.

A small network on a fast device waits for Python more than for arithmetic. A graph is recorded once for the shape of a
batch, and used only if it gives the results of the plain step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from forgetkit.seeding import preserved_rng

_log = logging.getLogger("forgetkit")
_WARM_UP = 3  # steps before a recording, in which libraries choose their kernels

_ROUNDING = 1e-3

Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Forward and backward over a batch: its mean loss and its hits; its gradients take the place of earlier ones."""

Record = Callable[[Callable[[], tuple[Tensor, Tensor]]], tuple[tuple[Tensor, Tensor], Callable[[], None]]]
"""Runs a computation so that it can be repeated: its result, and what writes the result of the next into it."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded computation over one batch, with the tensors that it reads and writes."""

    inputs: Tensor
    labels: Tensor
    result: tuple[Tensor, Tensor]
    grads: Sequence[tuple[nn.Parameter, Tensor | None]]
    replay: Callable[[], None]

    def fits(self, inputs: Tensor, labels: Tensor) -> bool:
        """Whether a batch is of this shape."""
        return inputs.shape == self.inputs.shape and labels.shape == self.labels.shape

    def spoil(self) -> None:
        """Overwrite the tensors that a repetition writes."""
        with torch.no_grad():
            for tensor in (*self.result, *(grad for _, grad in self.grads if grad is not None)):
                tensor.fill_(-1)

    def repeated(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat the computation over another batch."""
        self.inputs.copy_(inputs)
        self.labels.copy_(labels)
        self.replay()
        for p, grad in self.grads:  # a plain step in between has put others there
            p.grad = grad
        return self.result


@dataclass(eq=False)
class GraphedStep:
    """Forward and backward over batches of one shape, recorded with the first of them.

    If recording fails, or the recording does not give the same loss and gradients (a network that draws), ``compute``
    runs for every batch, and one warning says so.
    """

    model: nn.Module
    compute: Compute
    record: Record
    tried: bool = field(default=False, init=False)
    recording: Recording | None = field(default=None, init=False)

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As ``compute``; what it returns holds until the next batch."""
        if not self.tried:
            self.tried, self.recording = True, self._found_sound(inputs, labels)
        if self.recording is None or not self.recording.fits(inputs, labels):
            return self.compute(inputs, labels)
        return self.recording.repeated(inputs, labels)

    def _found_sound(self, inputs: Tensor, labels: Tensor) -> Recording | None:
        """Make a recording that gives the results of a plain step; restore buffers and random states."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def restore() -> None:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

        with preserved_rng(), _current(inputs.device):
            expected = self._outcome(self.compute(inputs, labels))
            restore()
            try:
                recording = self._recorded(inputs.clone(), labels.clone())
                restore()
                recording.spoil()  # or a repetition that does nothing would pass
                found = self._outcome(recording.repeated(inputs, labels))
            except RuntimeError as error:  # what a graph cannot hold, CUDA refuses in words of its own
                reason = str(error).strip().partition("\n")[0]
            else:
                if _is_close(expected, found):
                    return recording
                reason = "a recorded step gives other gradients than a plain one"
            finally:
                restore()
        _log.warning("training steps are not captured, and take the plain path: %s", reason)
        return None

    def _recorded(self, inputs: Tensor, labels: Tensor) -> Recording:
        result, replay = self.record(lambda: self.compute(inputs, labels))
        return Recording(inputs, labels, result, [(p, p.grad) for p in self.model.parameters()], replay)

    def _outcome(self, result: tuple[Tensor, Tensor]) -> list[Tensor]:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return [tensor.detach().clone() for tensor in (*result, *grads)]


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make the device of the samples the current one, to which streams and graphs belong."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _is_close(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Within rounding: kernels may add up in another order, but no draw and no decision may differ."""
    return len(one) == len(other) and all(
        float((a.double() - b.double()).norm()) <= _ROUNDING * float(a.double().norm())
        for a, b in zip(one, other, strict=True)
    )


def cuda_graph(compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
    """Record on the current CUDA device; after a few steps on another stream, as torch's notes on CUDA graphs ask."""
    before = torch.cuda.current_stream()
    with torch.cuda.stream(before):  # which is what is gone back to, whatever a recording that fails leaves behind
        aside = torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                compute()
        before.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = compute()
    return result, graph.replay
