"""The probe: gradients and outputs of a model for a criterion, with nothing left behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset

from forgetkit.contracts import Gradients, SampleGradients
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.system.memory import translate_oom
from forgetkit.unlearning.batches import count_samples
from forgetkit.unlearning.differentiation import (
    ChunkGradients,
    SampleLosses,
    ScoringNotes,
    gradients_of,
    map_over_samples,
    require_separable,
    same_gradients,
)
from forgetkit.unlearning.integrity import component_call, first_line, scoring_dtype
from forgetkit.unlearning.lazy_tensors import LazyTensors
from forgetkit.unlearning.loss_counts import CountedLoss
from forgetkit.unlearning.objective import Arguments, Loss, Objective, move_parts
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.selection import count_of
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.shards import gradients_by_backward, require_gradients
from forgetkit.unlearning.tensor_checks import bounds
from forgetkit.unlearning.tensor_parts import compute_device, cut_like, is_sharded, local_of, resharded

Batches = Iterable[Any]
_Found = TypeVar("_Found")

_SAMPLE_GRADS_BYTES = 128 * 2**20
_SAMPLES_AT_ONCE = 64
"""The most memory and the most samples of one chunk of per-sample gradients.

Activations and the copies that vmap makes come on top: for a ResNet-18 three times the gradients. On a CPU larger
chunks are also slower, since they leave its caches.
"""
_CHUNK_FACTOR = 4  # on another device, where starting each chunk costs time


class ReplayableBatches:
    """Batches that can be read more than once; what can be read only once (a generator) is kept as far as it was read.

    A DataLoader is read anew each time: its ``iter()`` draws from the global random state.
    """

    def __init__(self, batches: Batches) -> None:
        if isinstance(batches, Dataset):
            raise OptionError(
                f"batches= is {type(batches).__name__}, a Dataset of single samples: pass a loader of batches, "
                "torch.utils.data.DataLoader(dataset, batch_size=64)"
            )
        if isinstance(batches, Mapping | Tensor) or not isinstance(batches, Iterable):
            raise OptionError(
                f"batches= is {type(batches).__name__}, and not an iterable of batches: pass [batch], or a DataLoader"
            )
        self._batches = batches

    @cached_property
    def samples(self) -> int:
        """The number of samples; counting reads all batches once."""
        return sum(map(count_samples, self))

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(self._batches, Iterator):
            return iter(self._batches)
        self._batches, copy = itertools.tee(self._batches)
        return copy


class GuardedProbe:
    """Implements :class:`forgetkit.contracts.Probe` for any module.

    Gradients are taken with respect to detached stand-ins for the parameters (``torch.func.functional_call``), so
    ``.grad`` and ``requires_grad`` are never touched. Stand-ins share memory with the parameters, except those of half
    precision: these are scored in float32, and a stand-in is made on each access.

    ``passes`` counts each sample that runs through the model; the gradient of a sample is one backward pass, a
    Hessian-vector product two. Messages name the component that runs the network.
    """

    _component_name = "examining the network"

    def __init__(
        self,
        model: nn.Module,
        batches: ReplayableBatches,
        names: Sequence[str],
        loss: Loss | Objective | None,
        seeds: Seeds,
    ) -> None:
        self._model = model
        self._batches = batches
        self._objective = Objective.of(loss)
        self._seeds = seeds
        self.passes = PassCounter()
        self.notes = ScoringNotes()
        self._maps_samples: bool | None = None
        self._counted: bool | None = None
        self.rng = seeds.torch("score")
        parameters = dict(model.named_parameters())
        self._dtype = scoring_dtype(model)
        self._parameters = {name: parameters[name] for name in names}
        self._targets = _detached(self._parameters, self._dtype)
        # Every buffer: what a forward pass assigns to a buffer's name is gone when the pass returns.
        others = [(name, p) for name, p in parameters.items() if name not in self._parameters]
        self._rest = _detached(dict([*others, *model.named_buffers()]), self._dtype)
        self.device = compute_device(model)
        self._in_parts = is_sharded(model)
        if self._in_parts:
            self._maps_samples = False

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameters to score, detached, in float32 (float64 if the model is)."""
        return self._targets

    def rng_for(self, name: str) -> torch.Generator:
        """Return a generator of its own for each name."""
        return self._seeds.torch("score", name)

    def zeros(self) -> dict[str, Tensor]:
        """Return one tensor of zeros per target."""
        return self._or_zeros(dict.fromkeys(self._parameters))

    def _or_zeros(self, grads: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        def zeros(name: str) -> Tensor:
            return torch.zeros_like(self._parameters[name], dtype=self._dtype, requires_grad=False)

        return {name: zeros(name) if grad is None else grad for name, grad in grads.items()}

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield batches on the model's device, at most ``samples`` in all; the last one is cut.

        A float is a fraction of the samples, rounded down, but at least one sample.
        """
        left = max(1, count_of(samples, self._batches.samples)) if isinstance(samples, float) else samples
        for batch in self._batches:
            inputs, targets = self._objective.parts(batch)
            if left is not None:
                # The same object twice is a batch that is no pair; it stays one.
                inputs, targets = (inputs[:left],) * 2 if inputs is targets else (inputs[:left], targets[:left])
                left -= len(targets)
            if len(targets):
                # Copies, so that no criterion can write to the caller's data.
                yield move_parts(inputs, targets, self.device, self._dtype)
            if left == 0:
                return

    def module(self, name: str) -> nn.Module:
        """Return a module by its name."""
        try:
            return self._model.get_submodule(name)
        except AttributeError as error:
            raise OptionError(f"{type(self._model).__name__} has no module '{name}'") from error

    def outputs(self, inputs: Any, *, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the model's outputs, without a graph."""
        outputs: Tensor = self._objective.outputs(self.run(inputs, at=at))
        return outputs

    def run(self, inputs: Any, *, at: Mapping[str, Tensor] | None = None) -> Any:
        """Run the model without a graph and return what it returns."""
        self.passes.add(forward=len(inputs))

        def inside(model: nn.Module) -> Any:
            return self._objective.run(model, inputs, self._component_name)

        with torch.no_grad():
            return self._with_tensors({**self._targets, **self._known(at)}, inside)

    def arguments(self, inputs: Any) -> Arguments:
        """Return the arguments with which the model is called on a batch."""
        if isinstance(inputs, Tensor):
            return (inputs,), {}

        def inside(model: nn.Module) -> Arguments:
            return self._objective.arguments(model, inputs, self._component_name)

        with torch.no_grad():
            return self._with_tensors(self._targets, inside)

    def grads(
        self, inputs: Any, targets: Any, *, loss: Loss | None = None, at: Mapping[str, Tensor] | None = None
    ) -> Gradients:
        """Return the gradient of the batch's loss with respect to each target, and how much it counts."""
        found, grads = self._differentiate(inputs, targets, loss, self._known(at))
        count = self._require_valid(found, len(inputs))
        return Gradients(self._or_zeros(grads) if count else self.zeros(), count)

    def mean_grads(self, samples: int | float | None = None) -> Gradients:
        """Return the gradient of the mean loss over all batches; each counts by what its loss averages over."""
        mean, seen = self.zeros(), 0.0
        for inputs, targets in self.batches(samples):
            grads = self.grads(inputs, targets)
            if not grads.count:
                continue
            seen += grads.count
            for name, grad in grads.items():
                mean[name].lerp_(grad, grads.count / seen)  # of a single batch: its gradient to the bit
        return Gradients(mean, seen)

    def grads_or_none(self, inputs: Any, targets: Any) -> dict[str, Tensor | None]:
        """Like :meth:`grads`, with None for a parameter that the loss does not depend on; the loss may be NaN."""
        return self._differentiate(inputs, targets, None, {})[1]

    def loss(self, inputs: Any, targets: Any) -> Tensor:
        """Return the batch's loss, with its graph."""

        def inside(model: nn.Module) -> Tensor:
            return self._objective.evaluate(model, inputs, targets, None, self._component_name).value

        return self._with_tensors(self._leaves({}), inside)

    def hvp(self, inputs: Any, targets: Any, vector: Mapping[str, Tensor], *, loss: Loss | None = None) -> Gradients:
        """Return the Hessian times a vector: the gradient of the gradient's product with it."""
        self._require_whole("hvp()")
        if set(vector) != set(self._parameters):
            raise OptionError("hvp() takes a vector with a tensor for each of the targets")
        samples = len(inputs)
        self.passes.add(forward=samples)
        leaves = self._leaves({})

        def inside(model: nn.Module) -> tuple[float, dict[str, Tensor | None]]:
            found = self._objective.evaluate(model, inputs, targets, loss, self._component_name)
            count = self._require_valid(found, samples)
            if not count:
                return count, dict.fromkeys(leaves)
            grads = self._gradients(found.value, leaves, samples, create_graph=True)
            products = [(grad * vector[name]).sum() for name, grad in grads.items() if grad is not None]
            product = torch.stack(products).sum() if products else found.value.detach()
            return count, self._gradients(product, leaves, samples)  # all None if linear in the parameters

        with sdpa_kernel(SDPBackend.MATH):  # the other attention kernels have no second derivative
            count, second = self._with_tensors(leaves, inside)
        return Gradients({name: tensor.detach() for name, tensor in self._or_zeros(second).items()}, count)

    def _differentiate(
        self, inputs: Any, targets: Any, loss: Loss | None, at: Mapping[str, Tensor]
    ) -> tuple[CountedLoss, dict[str, Tensor | None]]:
        """Return the loss, and its gradients while the leaves still stand in: a checkpoint runs the network again."""
        samples = len(inputs)
        self.passes.add(forward=samples)
        leaves = self._leaves(at)

        def inside(model: nn.Module) -> tuple[CountedLoss, dict[str, Tensor | None]]:
            found = self._objective.evaluate(model, inputs, targets, loss, self._component_name)
            return replace(found, value=found.value.detach()), self._gradients(found.value, leaves, samples)

        return self._with_tensors({**at, **leaves}, inside)

    def _leaves(self, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the loss is differentiated by: stand-ins, or parts, which nothing else can stand in for."""
        if self._in_parts:
            require_gradients(self._model)
            return dict(self._parameters)
        return {name: at.get(name, tensor).detach().requires_grad_() for name, tensor in self._targets.items()}

    def _gradients(
        self, value: Tensor, leaves: Mapping[str, Tensor], samples: int, *, create_graph: bool = False
    ) -> dict[str, Tensor | None]:
        """Differentiate ``value``; None for each leaf that it does not depend on."""
        if value.grad_fn is None:
            return dict.fromkeys(leaves)
        self.passes.add(backward=samples)
        return self._gradients_of(value, leaves, create_graph=create_graph)

    def _gradients_of(
        self, value: Tensor, leaves: Mapping[str, Tensor], *, create_graph: bool = False
    ) -> dict[str, Tensor | None]:
        try:
            with translate_oom():
                if self._in_parts:
                    return gradients_by_backward(self._model, value, leaves, self._dtype)
                return gradients_of(value, leaves, create_graph=create_graph)
        except RuntimeError as error:
            raise ComponentError(
                f"{self._component_name}: the loss of {type(self._model).__name__} cannot be differentiated: "
                f"{shorten(first_line(error), 160, placeholder='…')}"
            ) from error

    def _known(self, at: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        unknown = set(at or ()) - set(self._targets) - set(self._rest)
        if unknown:
            raise OptionError(f"at= holds '{min(unknown)}', which the model does not have")
        if at:
            self._require_whole("at=")
        return at or {}

    def _require_whole(self, what: str) -> None:
        """Raise ``OptionError`` if parameters lie in parts."""
        if self._in_parts:
            raise OptionError(
                f"{self._component_name} uses {what}, which needs whole parameters, and those of "
                f"{type(self._model).__name__} lie in parts in several processes (DTensor): choose a component of "
                "first-order gradients"
            )

    def sample_grads(
        self, inputs: Any, targets: Any, weights: Tensor | None = None, *, loss: Loss | None = None
    ) -> Iterator[SampleGradients]:
        """Yield gradients of each sample's own loss (times its weight), in chunks that fit memory."""
        require_separable(self._model)
        weights = torch.ones(len(targets), dtype=self._dtype, device=self.device) if weights is None else weights
        bytes_per_sample = sum(p.numel() for p in self._parameters.values()) * self._dtype.itemsize
        fitting = min(_SAMPLES_AT_ONCE, _SAMPLE_GRADS_BYTES // max(1, bytes_per_sample))
        chunk = max(1, fitting * (1 if self.device.type == "cpu" else _CHUNK_FACTOR))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            own = (inputs[part],) * 2 if inputs is targets else (inputs[part], targets[part])
            yield self._sample_grads(SampleLosses(*own, weights[part], loss))

    def _sample_grads(self, chunk: SampleLosses) -> SampleGradients:
        """Return the gradients of a chunk: all at once if the network can be mapped over samples, else one by one."""
        samples = len(chunk)
        self.passes.add(forward=samples, backward=samples)
        with sdpa_kernel(SDPBackend.MATH):  # vmap runs the other attention kernels one sample at a time
            found = None if self._maps_samples is False else self._map_samples(chunk)
            if found is None:
                found = self._loop_over_samples(chunk)
        counted = (found.counts != 0) & (chunk.weights != 0)
        self._counted = bool(self._counted) or bool((found.counts != 0).any())
        self._require_finite(found.values[counted], samples)
        if not bool((found.counts != 0).all()):  # the loss of ignored labels is NaN, and counts as nothing
            for grad in found.grads.values():
                grad[found.counts == 0] = 0
        return SampleGradients(found.grads, found.counts)

    def _evaluate(self, model: nn.Module, chunk: SampleLosses) -> CountedLoss:
        """Return the mean loss of samples, without their weights."""
        return self._objective.evaluate(model, chunk.inputs, chunk.targets, chunk.loss, self._component_name)

    def _map_samples(self, chunk: SampleLosses) -> ChunkGradients | None:
        """Map over samples with vmap; None if the network cannot be mapped, or if that gives other gradients."""

        def with_leaves(leaves: dict[str, Tensor], one: SampleLosses) -> CountedLoss:
            return self._with_tensors(leaves, partial(self._evaluate, chunk=one))

        first = self._maps_samples is None
        found, reason = map_over_samples(with_leaves, dict(self._targets), chunk)
        if found is not None and first and found.deterministic:
            number = chunk.first_counted(found.counts)
            if number is not None and not same_gradients(found.of(number), self._single(chunk.one(number))[1]):
                found, reason = None, "mapping over samples gives another gradient than the sample alone"
        self._maps_samples = found is not None
        if found is None:
            self.notes.reason = reason
        return found

    def _loop_over_samples(self, chunk: SampleLosses) -> ChunkGradients:
        """Differentiate one sample after the other."""
        if self._in_parts:
            self.notes.reason = "its parameters lie in parts in several processes"
        losses, grads = [], list[dict[str, Tensor]]()
        for number in range(len(chunk)):
            value, grad = self._single(chunk.one(number))
            losses.append(value)
            self.notes.uneven = self.notes.uneven or not bool(value.exact)
            grads.append(grad)
        self.notes.samples += len(chunk)
        self.notes.chunks += 1
        return ChunkGradients.stacked(grads, losses, self.device)

    def _single(self, one: SampleLosses) -> tuple[CountedLoss, dict[str, Tensor]]:
        """Return the loss and the gradient of a chunk of one sample; what its forward pass writes is put back."""
        leaves = self._leaves({})
        written = [(buffer, buffer._version, buffer.clone()) for buffer in self._model.buffers()]

        def inside(model: nn.Module) -> tuple[CountedLoss, dict[str, Tensor | None]]:
            found = self._evaluate(model, one)
            value = found.value * one.weights[0]
            grads = self._gradients_of(value, leaves) if value.grad_fn is not None else dict.fromkeys(leaves)
            return replace(found, value=value.detach()), grads

        found, grads = self._with_tensors(leaves, inside)
        with torch.no_grad():
            for buffer, version, value in written:
                if buffer._version != version:
                    buffer.copy_(value)
        return found, self._or_zeros(grads)

    def _require_valid(self, found: CountedLoss, samples: int) -> float:
        """Return the count as a number, after a check that the loss is finite if it counts."""
        number = float(found.count)
        if not math.isfinite(number) or number < 0:
            raise OptionError(f"the weight of a batch's loss is {number}; give a number from 0")
        self._counted = bool(self._counted) or bool(number)
        if number:
            self._require_finite(found.value, samples)
        self.notes.uneven = self.notes.uneven or not bool(found.exact)
        return number

    def _require_finite(self, losses: Tensor, samples: int) -> None:
        wrong = losses.detach()[~losses.detach().isfinite()]
        if len(wrong):
            raise ComponentError(
                f"{self._component_name}: the loss is {float(wrong[0])} on {samples} scoring samples, so "
                "their gradients mean nothing: look for NaN in data and weights, and if labels are ignored let "
                "objective= return (loss, number of labels that count)"
            )

    def require_counted(self) -> None:
        """Raise ``ComponentError`` if losses were computed and none of them averages over anything."""
        if self._counted is False:
            raise ComponentError(
                f"{self._component_name}: the loss averages over nothing on all scoring samples, so it is NaN: their "
                "labels are all ignored, or all of weight 0; give samples whose labels count"
            )

    def _with_tensors(self, leaves: Mapping[str, Tensor], function: Callable[[nn.Module], _Found]) -> _Found:
        """Call ``function(model)`` while ``leaves`` and detached stand-ins replace the model's tensors."""
        if self._in_parts:  # a part has no stand-in: the model runs with its own tensors
            with resharded(self._model):
                return function(self._model)
        tensors = {f"model.{name}": tensor for name, tensor in {**self._rest, **leaves}.items()}
        found: _Found = functional_call(_Called(self._model, function), tensors, ())
        return found


class _Called(nn.Module):
    """A function of a model as a module, so that ``functional_call`` holds for all that the function does."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.model = model
        self._function = function

    def forward(self) -> Any:
        """Call the function."""
        return self._function(self.model)


def _detached(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> LazyTensors:
    """Detach; floats of another precision than ``dtype`` are converted on each access, others share memory."""

    def stand_in(name: str) -> Tensor:
        tensor = tensors[name]
        if type(tensor) is not nn.Parameter and isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
            return tensor  # of a quantised layer, which looks at attributes of its own
        tensor = tensor.detach()
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return LazyTensors(tensors.keys(), stand_in)


class ValidatedScores(Mapping[str, Tensor]):
    """Scores of a criterion, each checked when it is read: shape, dtype, finiteness.

    Args:
        scores: What the criterion returned.
        targets: The parameters that it was to score.
        component_name: The criterion's name in messages.
        allows_ties: Whether the criterion declares that all scores may be equal.
    """

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        component_name: str,
        *,
        allows_ties: bool = False,
    ) -> None:
        self.allows_ties = allows_ties
        if not isinstance(scores, Mapping):
            raise ComponentError(
                f"{component_name} returned {type(scores).__name__}, not a mapping from parameter names to tensors"
            )
        missing, extra = set(targets) - set(scores), set(scores) - set(targets)
        if missing or extra:
            what = [f"no score for '{min(missing)}'"] if missing else []
            what += [f"a score for '{min(extra)}', which is no target"] if extra else []
            raise ComponentError(f"{component_name} gave {' and '.join(what)}")
        self._scores, self._targets, self._component_name = scores, targets, component_name
        self.lazy = not isinstance(scores, dict)
        """Whether a score is computed when it is read, and may differ the next time."""
        self._checked: set[str] = set()
        self._bounds: dict[str, tuple[float, float]] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._checked:
            return cut_like(self._scores[name].detach(), self._targets[name])
        with component_call(f"the importance criterion {self._component_name}"):  # a lazy score is computed here
            score, target = self._scores[name], self._targets[name]
        if not isinstance(score, Tensor) or not score.is_floating_point():
            raise ComponentError(f"{self._component_name}: the score of '{name}' is not a tensor of floats")
        if score.shape != target.shape:
            shapes = f"has shape {tuple(score.shape)}, the parameter {tuple(target.shape)}"
            raise ComponentError(f"{self._component_name}: the score of '{name}' {shapes}")
        score = cut_like(score.detach(), target)
        own = local_of(score)
        if own.numel():
            self._bounds[name] = bounds(own)
            if not all(map(math.isfinite, self._bounds[name])):
                raise ComponentError(f"{self._component_name}: the score of '{name}' holds NaN or infinity")
        if not self.lazy:
            self._checked.add(name)
        return score

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def require_different(self, processes: SelectionGroup) -> None:
        """Raise ``ComponentError`` if all entries of the scores that were read are equal, in all processes."""
        all_bounds = processes.gather(list(self._bounds.values()), "the range of scores")
        lowest, highest = zip(*(pair for own in all_bounds for pair in own), strict=True)
        if min(lowest) == max(highest):
            self.refuse_equal(sum(target.numel() for target in self._targets.values()), min(lowest))

    def refuse_equal(self, entries: int, value: float) -> None:
        """Raise ``ComponentError`` for scores that all equal ``value``, unless ties are allowed or there is one."""
        if entries > 1 and not self.allows_ties:
            raise ComponentError(
                f"{self._component_name} scores all {entries:,} entries {value:g}, so a mask would be a random draw: "
                "look for a loss without gradient (a single output under cross-entropy, labels that are all ignored) "
                "or weights that are all equal; a criterion that means it says allows_ties = True"
            )
