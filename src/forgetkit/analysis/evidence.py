"""The evidence of a model: samples, its outputs, copies of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from forgetkit import unlearning
from forgetkit.contracts import DataPart, LabelledSamples, Scope
from forgetkit.data.batches import SamplePool
from forgetkit.errors import ComponentError, DataError, InapplicableError, OptionError, suggest
from forgetkit.registry import registry
from forgetkit.registry.registry import Registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import each_under_torch_settings, under_torch_settings
from forgetkit.training.evaluation import eval_mode
from forgetkit.unlearning.support import require_gradients_possible

_ROUNDING = 1e-4
_SCORING_BATCH = 128

Pair = tuple[Tensor, Tensor]
Given = Pair | Iterable[Pair]
"""Inputs and labels, or batches of both."""


@dataclass(frozen=True, eq=False)
class PooledSamples:
    """Samples of a pool, copied to ``device`` batch by batch."""

    pool: SamplePool
    device: torch.device

    @property
    def labels(self) -> Tensor:
        """int64, on the CPU; a copy."""
        return self.pool.labels.cpu().clone()

    def __len__(self) -> int:
        return len(self.pool)

    def batches(self, size: int = 256) -> Iterator[Pair]:
        """Batches of at most ``size`` samples in order, smaller if they need much memory. Tensors are copies."""
        return each_under_torch_settings(self._batches(size))

    def _batches(self, size: int) -> Iterator[Pair]:
        for inputs, labels in self.pool.in_order(self.pool.at_most(size)):
            yield inputs.to(self.device, copy=True), labels.to(self.device, copy=True)


class BaseEvidence(ABC):
    """The common part of the evidence of a model and of a run.

    ``seeds`` are those of the question; ``components`` are the components that it may name, None: all installed ones.
    """

    def __init__(self, seeds: Seeds, components: Registry | None = None) -> None:
        self.seeds = seeds
        self._components = components
        self._caches = True
        self._samples: dict[tuple[DataPart, int | None], PooledSamples] = {}
        self._outputs: dict[PooledSamples, Tensor] = {}

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The analysed model, in eval mode."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    @abstractmethod
    def images(self) -> bool:
        """Whether samples are images."""

    @property
    @abstractmethod
    def mega_batch(self) -> int | None:
        """The mega-batch after which the model was kept; None if it belongs to no run."""

    @abstractmethod
    def pool(self, part: DataPart) -> SamplePool:
        """The samples of a part; raises ``InapplicableError`` if there are none."""

    @property
    def device(self) -> torch.device:
        """The device of the first parameter; the CPU if there is none."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @under_torch_settings
    def samples(self, part: DataPart = "test", count: int | None = None) -> PooledSamples:
        """The samples of a part, the same object at each call, so that its outputs are cached."""
        if part not in get_args(DataPart):
            raise OptionError(f"there is no part '{part}' of the data; {suggest(part, get_args(DataPart))}")
        pool = self.pool(part)
        count = None if count is None or count >= len(pool) else count
        if (part, count) not in self._samples:
            if count is not None:
                drawn = torch.randperm(len(pool), generator=self.seeds.torch("samples", part))[:count].sort().values
                pool = SamplePool(pool.inputs[drawn.to(pool.inputs.device)], pool.labels[drawn.to(pool.labels.device)])
            self._samples[part, count] = PooledSamples(pool, self.device)
        return self._samples[part, count]

    @under_torch_settings
    def outputs(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module | None = None) -> Tensor:
        """Logits; those of the analysed model on samples of this evidence are computed once."""
        if model is None and isinstance(samples, PooledSamples) and self._caches:
            if samples not in self._outputs:
                self._outputs[samples] = self._compute_outputs(samples, self.model)
            return self._outputs[samples].clone()
        return self._compute_outputs(samples, self.model if model is None else model)

    @torch.no_grad()
    def _compute_outputs(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module) -> Tensor:
        batches = samples if not hasattr(samples, "batches") else (inputs for inputs, _ in samples.batches())
        found = []
        with (
            eval_mode(model),
            seeded_rng(self.seeds.number("noise")),
            torch.autocast(self.device.type, enabled=False),
        ):
            for inputs in batches:
                found.append(logits_of(model(inputs.to(self.device))).float().cpu())
        return torch.cat(found) if found else torch.empty(0, len(self.classes))

    @under_torch_settings
    def accuracy(self, samples: LabelledSamples, model: nn.Module | None = None) -> float:
        """The share of correct answers; raises ``InapplicableError`` if there are no samples, or outputs are NaN."""
        if not len(samples):
            raise InapplicableError("there are no samples to evaluate")
        outputs = self.outputs(samples, model)
        if bool(outputs.isnan().any()):
            raise InapplicableError("the network's outputs are NaN, so that it has no answers to count")
        return float((outputs.argmax(1) == samples.labels).double().mean())

    @under_torch_settings
    def copy_model(self) -> nn.Module:
        """A deep copy; raises ``InapplicableError`` if the model cannot be copied."""
        try:
            return copy.deepcopy(self.model).eval()
        except (RuntimeError, TypeError, ValueError) as error:
            raise InapplicableError(f"the model cannot be copied: {_first_line(error)}") from error

    @under_torch_settings
    def scores(self, importance: str, params: Scope = "all") -> Mapping[str, Tensor]:
        """The scores of a criterion on the training samples, in a random order."""
        criterion = (self._components or registry.load()).make("importance", importance)[1]
        batches = _ReplayedBatches(self.samples("train"), _SCORING_BATCH, self.seeds)
        seeds, scoring = self.seeds.within("scores", *self.apart), unlearning.Scoring(params)
        return unlearning.score(self.model, batches, importance=criterion, seeds=seeds, scoring=scoring)

    @property
    def apart(self) -> tuple[str | int, ...]:
        """Names of random streams that models do not share: common noise would look like agreement."""
        return ()


class ModelEvidence(BaseEvidence):
    """A model that belongs to no run. ``pools`` returns a part of the data, or raises ``InapplicableError``."""

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        seeds: Seeds,
        pools: Callable[[DataPart], SamplePool],
        images: bool,
        make_initial: Callable[[], nn.Module] | None = None,
        components: Registry | None = None,
    ) -> None:
        super().__init__(seeds, components)
        self._model, self._classes, self._images = model, classes, images
        self._pools, self._make_initial = pools, make_initial

    @property
    def model(self) -> nn.Module:
        """The model that was given."""
        return self._model

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that were given."""
        return self._classes

    @property
    def images(self) -> bool:
        """Whether samples are images."""
        return self._images

    def pool(self, part: DataPart) -> SamplePool:
        """The samples of a part."""
        return self._pools(part)

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Raise ``InapplicableError``: only runs have masks."""
        raise InapplicableError("only a run has masks: analyze the directory of one")

    @property
    def mega_batch(self) -> int | None:
        """None: the model belongs to no run."""
        return None

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """Empty: the model belongs to no run."""
        return ()

    def at(self, mega_batch: int) -> ModelEvidence:
        """Raise ``InapplicableError``: there is only one model."""
        raise InapplicableError("a model alone has no earlier mega-batches: analyze the directory of a run")

    @under_torch_settings
    def initial(self) -> nn.Module:
        """The untrained model; raises ``InapplicableError`` if it was not given."""
        if self._make_initial is None:
            raise InapplicableError("the untrained model is unknown: give initial=")
        return self._make_initial()

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Raise ``InapplicableError``: only runs have a history."""
        raise InapplicableError("only a run has a history of its training: analyze the directory of one")

    @property
    def result(self) -> Mapping[str, Any]:
        """Empty: the model belongs to no run."""
        return {}


@dataclass(frozen=True, eq=False)
class _ReplayedBatches:
    """Batches of samples in a random order, the same at each iteration."""

    samples: PooledSamples
    size: int
    seeds: Seeds

    def __iter__(self) -> Iterator[Pair]:
        pool = self.samples.pool
        order = torch.randperm(len(pool), generator=self.seeds.torch("order"))
        drawn = (order[start : start + self.size] for start in range(0, len(order), self.size))
        for places in drawn:
            inputs = pool.inputs[places.to(pool.inputs.device)]
            batch = SamplePool(inputs, pool.labels[places.to(pool.labels.device)])
            yield from PooledSamples(batch, self.samples.device).batches(self.size)


@under_torch_settings
def model_evidence(
    model: nn.Module,
    parts: Mapping[DataPart, Given],
    seeds: Seeds,
    *,
    classes: Sequence[str] | None = None,
    initial: nn.Module | Mapping[str, Tensor] | None = None,
    components: Registry | None = None,
) -> ModelEvidence:
    """The evidence of a plain model and tensors: inputs as the model takes them, or ``uint8`` pixels; int64 labels.

    Raises ``DataError`` if inputs, labels and outputs do not fit each other.
    """
    model = unlearning.unwrap(model)
    if not isinstance(model, nn.Module):
        raise DataError(f"the model is a {type(model).__name__}: pass a torch.nn.Module")
    require_gradients_possible(model)
    pools = {part: _gather_part(part, given) for part, given in parts.items()}
    if "test" not in pools:
        raise DataError("give the samples to evaluate: test=(inputs, labels)")

    shape = pools["test"].inputs.shape[1:]
    for part, pool in pools.items():
        if pool.inputs.shape[1:] != shape:
            raise DataError(f"{part}= holds inputs of shape {tuple(pool.inputs.shape[1:])}, test= of {tuple(shape)}")

    def pool_of(part: DataPart) -> SamplePool:
        if part not in pools:
            raise InapplicableError(f"it looks at {part} samples: give {part}=(inputs, labels)")
        return pools[part]

    inputs = pools["test"].inputs[:]
    floats = inputs.is_floating_point()
    images = inputs.ndim == 4 and (
        inputs.dtype == torch.uint8 or (floats and are_pixels(float(inputs.min()), float(inputs.max())))
    )
    make_initial = None if initial is None else lambda: _initial_model(model, initial)
    evidence = ModelEvidence(model, tuple(classes or ()), seeds, pool_of, images, make_initial, components)
    few = SamplePool(inputs[:2], pools["test"].labels[:2])
    try:
        outputs = evidence.outputs(PooledSamples(few, evidence.device))
    except (RuntimeError, TypeError, ValueError) as error:
        what = f"the model cannot take inputs of shape {tuple(inputs.shape[1:])}"
        raise DataError(f"{what}: {_first_line(error)}{_input_cast(evidence, few)}") from error
    count = _classes_of(outputs, len(few))
    if classes is not None and len(classes) != count:
        raise DataError(f"{len(classes)} classes are named, and the model has {count} outputs")
    for part, pool in pools.items():
        _require_classes(part, pool.labels, count)
    evidence._classes = tuple(classes or map(str, range(count)))
    evidence._outputs.clear()
    return evidence


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def are_pixels(lowest: float, highest: float) -> bool:
    """Whether floats between these are in [0, 1], up to the rounding of resized pixels."""
    return lowest >= -_ROUNDING and highest <= 1 + _ROUNDING


def logits_of(outputs: Any) -> Tensor:
    """The tensor that a model returned; raises ``DataError``, with a remedy, if it returned anything else."""
    if isinstance(outputs, Tensor):
        if outputs.is_complex():
            raise DataError(
                "the model returns complex numbers, and logits are real: return outputs.real or outputs.abs()"
            )
        return outputs
    takes = _find_logits(outputs)
    remedy = f"take them out with {_HOOK.format(takes)}" if takes else "return them from the model's forward()"
    raise DataError(f"the model returns {type(outputs).__name__} and no tensor of logits (n, classes): {remedy}")


def _find_logits(outputs: Any) -> str | None:
    """The expression of the tensor that looks most like logits: by its name, then by two dimensions."""
    if isinstance(getattr(outputs, "logits", None), Tensor):
        return "outputs.logits"
    places: Iterable[tuple[Any, Any]] = ()
    if isinstance(outputs, Mapping):
        places = outputs.items()
    elif isinstance(outputs, list | tuple):
        places = enumerate(outputs)
    tensors = {place: value for place, value in places if isinstance(value, Tensor)}
    rows = (place for place, value in tensors.items() if value.ndim == 2)
    place = "logits" if "logits" in tensors else next(rows, next(iter(tensors), None))
    return None if place is None else f"outputs[{place!r}]"


_HOOK = "model.register_forward_hook(lambda module, inputs, outputs: {})"
"""A forward hook replaces the outputs of a module, and of its copies."""


def _classes_of(outputs: Tensor, samples: int) -> int:
    """The number of classes of logits; raises ``DataError`` if there is only one logit per sample."""
    if tuple(outputs.shape) in ((samples,), (samples, 1)):
        column = "outputs" if outputs.ndim == 2 else "outputs[:, None]"
        two = f"torch.nn.functional.pad({column}, (1, 0))"
        raise DataError(
            f"the model gives one logit for a sample, and each of two classes needs one: put a 0 before it with "
            f"{_HOOK.format(two)}"
        )
    if outputs.ndim != 2 or len(outputs) != samples:
        raise ComponentError(
            f"the model gives outputs of shape {tuple(outputs.shape)} for {samples} samples, not ({samples}, classes)"
        )
    return outputs.shape[1]


def _require_classes(part: DataPart, labels: Tensor, count: int) -> None:
    """Raise ``DataError`` if a label is none of the classes."""
    wrong = (labels < 0) | (labels >= count)
    if not bool(wrong.any()):
        return
    first = int(labels[wrong][0])
    if not bool((labels < 0).any()) and int(labels.min()) == 1 and int(labels.max()) == count:
        remedy = "they count from 1: subtract 1"
    elif first < 0:
        remedy = "a label below 0 is no class: leave such samples out"
    else:
        remedy = "name classes by their place among the outputs, or leave such samples out"
    raise DataError(
        f"a label of {part} is {first}, and the model has {count} outputs, from 0 (so it is with {int(wrong.sum())} of "
        f"{len(labels)} samples): {remedy}"
    )


def _input_cast(evidence: ModelEvidence, few: SamplePool) -> str:
    """The remedy if the model takes inputs of its own dtype; else an empty text."""
    floating = next((p.dtype for p in evidence.model.parameters() if p.is_floating_point()), None)
    inputs = few.inputs[:]
    was = inputs.dtype
    if floating is None or was in (floating, torch.uint8):
        return ""
    try:
        evidence.outputs(PooledSamples(SamplePool(inputs.to(floating), few.labels), evidence.device))
    except (RuntimeError, TypeError, ValueError, DataError):
        return ""
    pixels = inputs.ndim == 4 and not was.is_floating_point
    scaled = ", and scale pixels to [0, 1] or save them as uint8" if pixels else ""
    return f": give inputs.to({floating}){scaled}"


def _initial_model(model: nn.Module, initial: nn.Module | Mapping[str, Tensor]) -> nn.Module:
    """The untrained model: the given module, or a copy with the given state."""
    if isinstance(initial, nn.Module):
        return initial
    begun = copy.deepcopy(model).eval()
    try:
        begun.load_state_dict(initial)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"initial= is not a state of this model: {str(error).splitlines()[-1].strip()}") from error
    return begun


def _is_pair(given: Any) -> bool:
    return isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(side, Tensor) for side in given)


def _to_integers(labels: Tensor) -> str:
    """The remedy that makes integers of labels, if one is evident."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return ": give labels[:, 0]" + (".long()" if labels.is_floating_point() else "")
    if labels.ndim == 2 and bool((labels.sum(1) == 1).all()):
        return ": of one-hot rows labels.argmax(1) makes them"
    if labels.ndim == 1 and labels.is_floating_point() and bool((labels == labels.round()).all()):
        return ": give labels.long()"
    return ""


def _gather_part(part: DataPart, given: Given) -> SamplePool:
    pairs: list[Any] = [given] if isinstance(given, tuple) and len(given) == 2 else list(given)
    if not pairs or not all(map(_is_pair, pairs)):
        raise DataError(f"{part}= takes two tensors, inputs and labels, or batches of both")
    if any(not side.ndim for pair in pairs for side in pair):
        raise DataError(f"{part}= gives samples one by one: put a torch.utils.data.DataLoader around it")
    inputs, labels = (torch.cat([pair[side].detach() for pair in pairs]) for side in (0, 1))
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or len(labels) != len(inputs):
        raise DataError(
            f"{part}= has {len(inputs)} inputs and labels of shape {tuple(labels.shape)} in {labels.dtype}; "
            f"each label must be a whole number{_to_integers(labels)}"
        )
    if not len(labels):
        raise DataError(f"{part}= holds no samples")
    return SamplePool(inputs, labels.long())
