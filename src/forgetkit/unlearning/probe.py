"""The guarded probe: what a criterion may ask of a model, with nothing left behind."""

from __future__ import annotations

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
from forgetkit.unlearning.integrity import bounds, component_call, dtype_in
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.selection import count_of

Loss = Callable[[Any, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]

_SAMPLE_GRADS_BYTES = 128 * 2**20
_SAMPLES_AT_ONCE = 64
"""How much memory one chunk of per-sample gradients may take, and how many samples it has at most.

Activations come on top, and what mapping over samples makes of both: for a ResNet-18 three times the gradients. On a
CPU larger chunks are slower, too, since they leave its caches.
"""
_TIMES_ELSEWHERE = 4  # on another device each chunk has its price


class ReplayableBatches:
    """Batches that can be read more than once.

    A list or a DataLoader is simply read again; what can be read only once (a generator) is kept
    as far as it has been read.
    """

    def __init__(self, batches: Batches) -> None:
        self._source = batches
        # Not asked of iter(): a DataLoader's draws from the global random state as soon as it is made.
        self._pending = batches if isinstance(batches, Iterator) else None
        self._kept: list[tuple[Any, Tensor]] = []

    @cached_property
    def samples(self) -> int:
        """How many samples there are; they are read once to find out."""
        return sum(len(targets) for _, targets in self)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        if self._pending is None:
            yield from self._source
            return
        position = 0
        while True:
            if position == len(self._kept):
                try:
                    self._kept.append(next(self._pending))
                except StopIteration:
                    return
            yield self._kept[position]
            position += 1


class GuardedProbe:
    """Implements :class:`forgetkit.contracts.Probe` for any module.

    Gradients are taken with respect to stand-ins for the parameters (``torch.func.functional_call``),
    so ``.grad`` and ``requires_grad`` are never touched. The stand-ins share memory with the
    parameters unless those are half precision, which is scored in float32: then one is made each time it is asked for.

    Each sample that is run through the model is counted in ``passes``; a sample's gradient is a pass backward, a
    product with the Hessian two. Messages name the component that runs the network.
    """

    _who = "examining the network"

    def __init__(
        self, model: nn.Module, batches: ReplayableBatches, names: Sequence[str], loss: Loss, seeds: Seeds
    ) -> None:
        self._model = model
        self._batches = batches
        self._loss = loss
        self._seeds = seeds
        self.passes = PassCounter()
        self._rng = seeds.torch("score")
        parameters = dict(model.named_parameters())
        self._names = tuple(names)
        self._dtype = dtype_in(model)
        self._targets = DetachedTensors({name: parameters[name] for name in self._names}, self._dtype)
        # Every buffer, so that what a forward pass puts in the place of one is gone when it returns.
        others = [*((n, p) for n, p in parameters.items() if n not in self._targets), *model.named_buffers()]
        self._rest = DetachedTensors(dict(others), self._dtype)
        self._device = next(iter(parameters.values())).device

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameters to score, detached, in float32 (float64 where the model is)."""
        return self._targets

    @property
    def rng(self) -> torch.Generator:
        """A CPU generator of the criterion's own."""
        return self._rng

    def rng_for(self, name: str) -> torch.Generator:
        """Another for each name."""
        return self._seeds.torch("score", name)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self._device

    def zeros(self) -> dict[str, Tensor]:
        """One tensor of zeros per target."""
        return {name: self._zero(name) for name in self._names}

    def _zero(self, name: str) -> Tensor:
        return torch.zeros_like(self._targets.originals[name], dtype=self._dtype, requires_grad=False)

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the model's device; the last is cut so that at most ``samples`` come in all.

        A float is a share of what there is, rounded down, but one sample at least.
        """
        left = max(1, count_of(samples, self._batches.samples)) if isinstance(samples, float) else samples
        for batch in self._batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(x, Tensor) for x in batch):
                raise OptionError("batches hold something else than pairs of tensors, (inputs, targets)")
            inputs, targets = batch
            if left is not None:
                inputs, targets = inputs[:left], targets[:left]
                left -= len(targets)
            inputs = inputs.to(self._device, copy=True)  # whoever writes to it writes to nobody's data
            if inputs.is_floating_point():
                inputs = inputs.to(self._dtype)
            if len(targets):
                yield inputs, targets.to(self._device, copy=True)
            if left == 0:
                return

    def module(self, name: str) -> nn.Module:
        """A module by its name."""
        try:
            return self._model.get_submodule(name)
        except AttributeError as error:
            raise OptionError(f"{type(self._model).__name__} has no module '{name}'") from error

    def outputs(self, inputs: Tensor, *, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's outputs, without a graph."""
        self.passes.add(forward=len(inputs))
        with torch.no_grad():
            outputs: Tensor = self._call({**self._targets, **self._known(at)}, inputs)
            return outputs

    def grads(
        self, inputs: Tensor, targets: Tensor, *, loss: Loss | None = None, at: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The gradient of the batch's loss with respect to each target."""
        leaves, number = self._number(inputs, targets, loss, self._known(at))
        self._require_finite(number, len(inputs))
        return {name: self._zero(name) if grad is None else grad
                for name, grad in self._slopes(leaves, number, len(inputs)).items()}  # fmt: skip

    def mean_grads(self, samples: int | float | None = None) -> dict[str, Tensor]:
        """The gradient of the mean loss over all batches; each counts by its size."""
        total, seen = self.zeros(), 0
        for inputs, targets in self.batches(samples):
            seen += len(targets)
            for name, grad in self.grads(inputs, targets).items():
                total[name].lerp_(grad, len(targets) / seen)  # of one batch: its gradient to the bit
        return total

    def reached(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor | None]:
        """As :meth:`grads`, with None for a parameter that the loss does not depend on; the loss may be NaN."""
        return self._slopes(*self._number(inputs, targets, None, {}), len(inputs))

    def _slopes(self, leaves: Mapping[str, Tensor], number: Tensor, samples: int) -> dict[str, Tensor | None]:
        """The gradient of ``number`` with respect to each leaf, None if it does not depend on it."""
        if number.grad_fn is None:
            return dict.fromkeys(self._names)
        self.passes.add(backward=samples)
        grads = torch.autograd.grad(number, list(leaves.values()), allow_unused=True)
        return dict(zip(self._names, grads, strict=True))

    def hvp(
        self, inputs: Tensor, targets: Tensor, vector: Mapping[str, Tensor], *, loss: Loss | None = None
    ) -> dict[str, Tensor]:
        """The Hessian times a vector: the gradient of the gradient's product with it."""
        if set(vector) != set(self._names):
            raise OptionError("hvp() takes a vector with a tensor for each of the targets")
        with sdpa_kernel(SDPBackend.MATH):  # the other ways to attend have no second derivative
            leaves, number = self._number(inputs, targets, loss, {})
            self._require_finite(number, len(inputs))
            places = list(leaves.values())
            self.passes.add(backward=len(inputs))
            grads = torch.autograd.grad(number, places, create_graph=True, allow_unused=True)
            pairs = [(g * vector[name]).sum() for name, g in zip(self._names, grads, strict=True) if g is not None]
            product = torch.stack(pairs).sum() if pairs else number
            if product.grad_fn is None:  # a loss that is linear in the parameters
                return self.zeros()
            self.passes.add(backward=len(inputs))
            again = torch.autograd.grad(product, places, allow_unused=True)
        return {name: self._zero(name) if g is None else g.detach() for name, g in zip(self._names, again, strict=True)}

    def _known(self, at: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        unknown = set(at or ()) - set(self._targets) - set(self._rest)
        if unknown:
            raise OptionError(f"at= holds '{min(unknown)}', which the model does not have")
        return at or {}

    def _number(
        self, inputs: Tensor, targets: Tensor, loss: Loss | None, at: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Leaves in place of the targets, and the loss as a function of them."""
        self.passes.add(forward=len(inputs))
        leaves = {name: at.get(name, tensor).detach().requires_grad_() for name, tensor in self._targets.items()}
        outputs = self._call({**at, **leaves}, inputs)
        try:
            number = (loss or self._loss)(outputs, targets)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OptionError(
                f"the loss cannot take outputs {shape} and targets {tuple(targets.shape)} ({reason}): "
                "pass a loss= that can"
            ) from error
        if not isinstance(number, Tensor):
            raise OptionError(f"the loss of a batch is {type(number).__name__}; give a tensor with one number")
        if number.ndim:
            raise OptionError(f"the loss of a batch has shape {tuple(number.shape)}; give its mean, one number")
        return leaves, number

    def sample_grads(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None, *, loss: Loss | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Gradients of each sample's own loss (times its weight), in chunks that fit memory."""
        if any(isinstance(module, _BatchNorm) and module.training for module in self._model.modules()):
            raise OptionError(
                "gradients of single samples need score-mode=eval: in training mode batch normalisation mixes a batch"
            )
        ones = torch.ones(len(targets), dtype=self._dtype, device=self._device) if weights is None else weights
        own = loss or self._loss

        def one(leaves: dict[str, Tensor], sample: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return own(self._call(leaves, sample.unsqueeze(0)), target.unsqueeze(0)) * weight

        each = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(None, 0, 0, 0), randomness="different")
        bytes_per_sample = sum(t.numel() for t in self._targets.originals.values()) * self._dtype.itemsize
        fitting = min(_SAMPLES_AT_ONCE, _SAMPLE_GRADS_BYTES // max(1, bytes_per_sample))
        chunk = max(1, fitting * (1 if self._device.type == "cpu" else _TIMES_ELSEWHERE))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            self.passes.add(forward=len(targets[part]), backward=len(targets[part]))
            with sdpa_kernel(SDPBackend.MATH):  # torch maps the other ways to attend one sample at a time
                grads, losses = each(dict(self._targets), inputs[part], targets[part], ones[part])
            self._require_finite(losses[ones[part] != 0], len(targets[part]))
            yield grads

    def _require_finite(self, losses: Tensor, samples: int) -> None:
        """``ComponentError`` if a loss that is scored on is NaN or infinite."""
        wrong = losses.detach()[~losses.detach().isfinite()]
        if len(wrong):
            raise ComponentError(
                f"{self._who}: the loss is {float(wrong[0])} on {samples} scoring samples, so their gradients mean "
                "nothing: leave out samples whose labels are all ignored, and look for NaN in data and weights"
            )

    def _call(self, leaves: Mapping[str, Tensor], inputs: Tensor) -> Any:
        """The network's outputs. What goes wrong inside becomes one line with the component and the inputs' shape."""
        try:
            with translate_oom():
                return functional_call(self._model, {**self._rest, **leaves}, (inputs,))
        except ForgetkitError:
            raise
        except Exception as error:  # a stranger's forward may raise anything
            what = f"{self._who}: {type(self._model).__name__} fails on inputs of shape {tuple(inputs.shape)}"
            mixes = any(isinstance(module, _BatchNorm) and module.training for module in self._model.modules())
            if mixes and len(inputs) == 1:
                raise OptionError(
                    f"{what}: in train mode batch normalisation needs two samples in each batch, and this one holds "
                    "a single one: change the number of scoring samples or the batch size, or score in eval mode"
                ) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            mode = "train" if self._model.training else "eval"
            raise ComponentError(f"{what} in {mode} mode: {reason}") from error


class DetachedTensors(Mapping[str, Tensor]):
    """Tensors, detached, in the precision to score in: those that have it share memory, others are made when asked."""

    def __init__(self, originals: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.originals, self._dtype = originals, dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.originals[name].detach()
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.originals

    def __iter__(self) -> Iterator[str]:
        return iter(self.originals)

    def __len__(self) -> int:
        return len(self.originals)


class ValidatedScores(Mapping[str, Tensor]):
    """Scores as a criterion gave them, each checked when it is asked for: shape, dtype, finiteness."""

    def __init__(
        self, scores: Mapping[str, Tensor], targets: Mapping[str, Tensor], who: str, *, allows_ties: bool = False
    ) -> None:
        """``allows_ties``: whether the criterion declares that all scores may be equal."""
        self.allows_ties = allows_ties
        if not isinstance(scores, Mapping):
            raise ComponentError(
                f"{who} returned {type(scores).__name__}, not a mapping from parameter names to tensors"
            )
        missing, extra = set(targets) - set(scores), set(scores) - set(targets)
        if missing or extra:
            what = [f"no score for '{min(missing)}'"] if missing else []
            what += [f"a score for '{min(extra)}', which is no target"] if extra else []
            raise ComponentError(f"{who} gave {' and '.join(what)}")
        self._scores, self._targets, self._who = scores, targets, who
        self.lazy = not isinstance(scores, dict)
        """Whether a score is computed when it is asked for, and may come out otherwise the next time."""
        self._sound: set[str] = set()
        self._bounds: dict[str, tuple[float, float]] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._sound:
            return self._scores[name].detach()
        with component_call(f"the importance criterion {self._who}"):  # a lazy one computes here
            score, target = self._scores[name], self._targets[name]
        if not isinstance(score, Tensor) or not score.is_floating_point():
            raise ComponentError(f"{self._who}: the score of '{name}' is not a tensor of floats")
        if score.shape != target.shape:
            have, want = tuple(score.shape), tuple(target.shape)
            raise ComponentError(f"{self._who}: the score of '{name}' has shape {have}, the parameter {want}")
        score = score.detach()
        if score.numel():
            self._bounds[name] = bounds(score)
            if not all(map(math.isfinite, self._bounds[name])):
                raise ComponentError(f"{self._who}: the score of '{name}' holds NaN or infinity")
        if not self.lazy:
            self._sound.add(name)
        return score

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def require_different(self) -> None:
        """``ComponentError`` if all entries of the scores that were read are equal."""
        lowest, highest = zip(*self._bounds.values(), strict=True)
        if min(lowest) == max(highest):
            self.refuse_equal(sum(target.numel() for target in self._targets.values()), min(lowest))

    def refuse_equal(self, entries: int, value: float) -> None:
        """``ComponentError`` for scores that are all ``value``, unless the criterion allows it or there is only one."""
        if entries > 1 and not self.allows_ties:
            raise ComponentError(
                f"{self._who} scores all {entries:,} entries {value:g}, so a mask would be a random draw: look for a "
                "loss without gradient (a single output under cross-entropy, labels that are all ignored) or weights "
                "that are all equal; a criterion that means it says allows_ties = True"
            )


class LazyScores(Mapping[str, Tensor]):
    """Scores computed a parameter at a time, when they are asked for: for criteria that need no data."""

    def __init__(self, targets: Mapping[str, Tensor], compute: Callable[[Tensor], Tensor]) -> None:
        self._targets, self._compute = targets, compute

    def __getitem__(self, name: str) -> Tensor:
        return self._compute(self._targets[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
