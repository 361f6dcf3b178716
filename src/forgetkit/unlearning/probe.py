"""The probe: gradients and outputs of a model for a criterion, with nothing left behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from forgetkit.errors import ComponentError, ForgetkitError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.system.memory import translate_oom
from forgetkit.unlearning.integrity import component_call, first_line, scoring_dtype
from forgetkit.unlearning.lazy_tensors import LazyTensors
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.selection import count_of
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.tensor_checks import bounds
from forgetkit.unlearning.shards import gradients_by_backward, require_gradients
from forgetkit.unlearning.tensor_parts import compute_device, cut_like, is_sharded, local_of, resharded

Loss = Callable[[Any, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]

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
        self._batches = batches

    @cached_property
    def samples(self) -> int:
        """The number of samples; counting reads all batches once."""
        return sum(len(targets) for _, targets in self)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
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
        self, model: nn.Module, batches: ReplayableBatches, names: Sequence[str], loss: Loss, seeds: Seeds
    ) -> None:
        self._model = model
        self._batches = batches
        self._loss = loss
        self._seeds = seeds
        self.passes = PassCounter()
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

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches on the model's device, at most ``samples`` in all; the last one is cut.

        A float is a fraction of the samples, rounded down, but at least one sample.
        """
        left = max(1, count_of(samples, self._batches.samples)) if isinstance(samples, float) else samples
        for batch in self._batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(x, Tensor) for x in batch):
                raise OptionError("batches hold something else than pairs of tensors, (inputs, targets)")
            inputs, targets = batch
            if left is not None:
                inputs, targets = inputs[:left], targets[:left]
                left -= len(targets)
            inputs = inputs.to(self.device, copy=True)  # so that no criterion can write to the caller's data
            if inputs.is_floating_point():
                inputs = inputs.to(self._dtype)
            if len(targets):
                yield inputs, targets.to(self.device, copy=True)
            if left == 0:
                return

    def module(self, name: str) -> nn.Module:
        """Return a module by its name."""
        try:
            return self._model.get_submodule(name)
        except AttributeError as error:
            raise OptionError(f"{type(self._model).__name__} has no module '{name}'") from error

    def outputs(self, inputs: Tensor, *, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the model's outputs, without a graph."""
        self.passes.add(forward=len(inputs))
        with torch.no_grad(), resharded(self._model):
            outputs: Tensor = self._call({**self._targets, **self._known(at)}, inputs)
            return outputs

    def grads(
        self, inputs: Tensor, targets: Tensor, *, loss: Loss | None = None, at: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the gradient of the batch's loss with respect to each target."""
        leaves, value = self._loss_of(inputs, targets, loss, self._known(at))
        self._require_finite(value, len(inputs))
        return self._or_zeros(self._gradients(value, leaves, len(inputs)))

    def mean_grads(self, samples: int | float | None = None) -> dict[str, Tensor]:
        """Return the gradient of the mean loss over all batches; each counts by its size."""
        mean, seen = self.zeros(), 0
        for inputs, targets in self.batches(samples):
            seen += len(targets)
            for name, grad in self.grads(inputs, targets).items():
                mean[name].lerp_(grad, len(targets) / seen)  # of a single batch: its gradient to the bit
        return mean

    def grads_or_none(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor | None]:
        """Like :meth:`grads`, with None for a parameter that the loss does not depend on; the loss may be NaN."""
        leaves, value = self._loss_of(inputs, targets, None, {})
        return self._gradients(value, leaves, len(inputs))

    def hvp(
        self, inputs: Tensor, targets: Tensor, vector: Mapping[str, Tensor], *, loss: Loss | None = None
    ) -> dict[str, Tensor]:
        """Return the Hessian times a vector: the gradient of the gradient's product with it."""
        self._require_whole("hvp()")
        if set(vector) != set(self._parameters):
            raise OptionError("hvp() takes a vector with a tensor for each of the targets")
        with sdpa_kernel(SDPBackend.MATH):  # the other attention kernels have no second derivative
            leaves, value = self._loss_of(inputs, targets, loss, {})
            self._require_finite(value, len(inputs))
            grads = self._gradients(value, leaves, len(inputs), create_graph=True)
            products = [(grad * vector[name]).sum() for name, grad in grads.items() if grad is not None]
            product = torch.stack(products).sum() if products else value.detach()
            second = self._gradients(product, leaves, len(inputs))  # all None if the loss is linear in the parameters
        return {name: tensor.detach() for name, tensor in self._or_zeros(second).items()}

    def _gradients(
        self, value: Tensor, leaves: Mapping[str, Tensor], samples: int, *, create_graph: bool = False
    ) -> dict[str, Tensor | None]:
        """Differentiate ``value``; None for each leaf that it does not depend on."""
        if value.grad_fn is None:
            return dict.fromkeys(leaves)
        self.passes.add(backward=samples)
        if self._in_parts:
            return gradients_by_backward(self._model, value, self._parameters, self._dtype)
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, allow_unused=True)
        return dict(zip(leaves, grads, strict=True))

    def _known(self, at: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        unknown = set(at or ()) - set(self._targets) - set(self._rest)
        if unknown:
            raise OptionError(f"at= holds '{min(unknown)}', which the model does not have")
        if at:
            self._require_whole("at=")
        return at or {}

    def _loss_of(
        self, inputs: Tensor, targets: Tensor, loss: Loss | None, at: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return leaves in place of the targets, and the loss as a function of them."""
        self.passes.add(forward=len(inputs))
        leaves = self._leaves(at)
        outputs = self._call({**at, **leaves}, inputs)
        try:
            value = (loss or self._loss)(outputs, targets)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise OptionError(
                f"the loss cannot take outputs {shape} and targets {tuple(targets.shape)} ({first_line(error)}): "
                "pass a loss= that can"
            ) from error
        if not isinstance(value, Tensor):
            raise OptionError(f"the loss of a batch is {type(value).__name__}; give a tensor with one number")
        if value.ndim:
            raise OptionError(f"the loss of a batch has shape {tuple(value.shape)}; give its mean, one number")
        return leaves, value

    def _leaves(self, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the loss is differentiated by: stand-ins, or parts, which nothing else can stand in for."""
        if self._in_parts:
            require_gradients(self._model)
            return dict(self._parameters)
        return {name: at.get(name, tensor).detach().requires_grad_() for name, tensor in self._targets.items()}

    def _require_whole(self, what: str) -> None:
        """Raise ``OptionError`` if parameters lie in parts."""
        if self._in_parts:
            raise OptionError(
                f"{self._component_name} uses {what}, which needs whole parameters, and those of "
                f"{type(self._model).__name__} lie in parts in several processes (DTensor): choose a component of "
                "first-order gradients"
            )

    def sample_grads(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, *, loss: Loss | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield gradients of each sample's own loss (times its weight), in chunks that fit memory."""
        if self._mixes_samples:
            raise OptionError(
                "gradients of single samples need score-mode=eval: in training mode batch normalisation mixes a batch"
            )
        weights = torch.ones(len(targets), dtype=self._dtype, device=self.device) if weights is None else weights
        batch_loss = loss or self._loss
        if self._in_parts:
            for at in range(len(targets)):
                leaves, value = self._loss_of(inputs[at : at + 1], targets[at : at + 1], loss, {})
                self._require_finite(value if bool(weights[at]) else value.new_zeros(()), 1)
                grads = self._or_zeros(self._gradients(value * weights[at], leaves, 1))
                yield {name: grad.unsqueeze(0) for name, grad in grads.items()}
            return

        def sample_loss(leaves: dict[str, Tensor], sample: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return batch_loss(self._call(leaves, sample.unsqueeze(0)), target.unsqueeze(0)) * weight

        each = torch.func.vmap(torch.func.grad_and_value(sample_loss), in_dims=(None, 0, 0, 0), randomness="different")
        bytes_per_sample = sum(p.numel() for p in self._parameters.values()) * self._dtype.itemsize
        fitting = min(_SAMPLES_AT_ONCE, _SAMPLE_GRADS_BYTES // max(1, bytes_per_sample))
        chunk = max(1, fitting * (1 if self.device.type == "cpu" else _CHUNK_FACTOR))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            samples = len(targets[part])
            self.passes.add(forward=samples, backward=samples)
            with sdpa_kernel(SDPBackend.MATH):  # vmap runs the other attention kernels one sample at a time
                grads, losses = each(dict(self._targets), inputs[part], targets[part], weights[part])
            self._require_finite(losses[weights[part] != 0], samples)
            yield grads

    def _require_finite(self, losses: Tensor, samples: int) -> None:
        wrong = losses.detach()[~losses.detach().isfinite()]
        if len(wrong):
            raise ComponentError(
                f"{self._component_name}: the loss is {float(wrong[0])} on {samples} scoring samples, so "
                "their gradients mean nothing: leave out samples whose labels are all ignored, and look for NaN in "
                "data and weights"
            )

    @property
    def _mixes_samples(self) -> bool:
        """Whether batch normalisation makes a sample's outputs depend on the others in its batch."""
        return any(isinstance(module, _BatchNorm) and module.training for module in self._model.modules())

    def _call(self, leaves: Mapping[str, Tensor], inputs: Tensor) -> Any:
        """Run the network; any error becomes one line with the component and the inputs' shape."""
        try:
            with translate_oom():
                if self._in_parts:
                    return self._model(inputs)
                return functional_call(self._model, {**self._rest, **leaves}, (inputs,))
        except ForgetkitError:
            raise
        except Exception as error:  # a model's forward may raise anything
            what = (
                f"{self._component_name}: {type(self._model).__name__} fails on inputs of shape {tuple(inputs.shape)}"
            )
            if self._mixes_samples and len(inputs) == 1:
                raise OptionError(
                    f"{what}: in train mode batch normalisation needs two samples in each batch, and this one holds "
                    "a single one: change the number of scoring samples or the batch size, or score in eval mode"
                ) from error
            mode = "train" if self._model.training else "eval"
            raise ComponentError(f"{what} in {mode} mode: {first_line(error)}") from error


def _detached(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> LazyTensors:
    """Detach; floats of another precision than ``dtype`` are converted on each access, others share memory."""

    def stand_in(name: str) -> Tensor:
        tensor = tensors[name].detach()
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
        bounds_of_all = [
            pair for own in processes.gather(list(self._bounds.values()), "the range of scores") for pair in own
        ]
        lowest, highest = zip(*bounds_of_all, strict=True)
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
