"""What an analysis is shown of a model: the samples, its outputs, copies of it."""

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
from forgetkit.unlearning.integrity import require_gradients_possible

_ROUNDING = 1e-4
_SCORED_IN = 128
"""Samples in a batch that is scored on."""

Pair = tuple[Tensor, Tensor]
Given = Pair | Iterable[Pair]
"""Inputs and labels, or batches of both."""


@dataclass(frozen=True, eq=False)
class PooledSamples:
    """Samples in a pool, brought to ``device`` batch by batch."""

    pool: SamplePool
    device: torch.device

    @property
    def labels(self) -> Tensor:
        """int64, on the CPU; a copy."""
        return self.pool.labels.cpu().clone()

    def __len__(self) -> int:
        return len(self.pool)

    def batches(self, size: int = 256) -> Iterator[Pair]:
        """In order, or fewer at a time where ``size`` of them would take much memory. Copies: others get the same."""
        return each_under_torch_settings(self._batches(size))

    def _batches(self, size: int) -> Iterator[Pair]:
        for inputs, labels in self.pool.in_order(self.pool.at_most(size)):
            yield inputs.to(self.device, copy=True), labels.to(self.device, copy=True)


class BaseEvidence(ABC):
    """What the evidence of a model and that of a run have in common.

    ``seeds`` are those of the question; ``offers`` are the components that it may name, None: what is installed.
    """

    def __init__(self, seeds: Seeds, offers: Registry | None = None) -> None:
        self.seeds = seeds
        self._offers = offers
        self._remembers = True
        self._held: dict[tuple[DataPart, int | None], PooledSamples] = {}
        self._known: dict[PooledSamples, Tensor] = {}

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model asked about, in eval mode."""

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
        """The mega-batch after which the model was kept; None where it is of no run."""

    @abstractmethod
    def pool(self, part: DataPart) -> SamplePool:
        """The samples of a part; ``InapplicableError`` where there are none."""

    @property
    def device(self) -> torch.device:
        """That of the first parameter; the CPU where there is none."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @under_torch_settings
    def samples(self, part: DataPart = "test", count: int | None = None) -> PooledSamples:
        """The same object each time, so that what was computed of it is known."""
        if part not in get_args(DataPart):
            raise OptionError(f"there is no part '{part}' of the data; {suggest(part, get_args(DataPart))}")
        pool = self.pool(part)
        count = None if count is None or count >= len(pool) else count
        if (part, count) not in self._held:
            if count is not None:
                drawn = torch.randperm(len(pool), generator=self.seeds.torch("samples", part))[:count].sort().values
                pool = SamplePool(pool.inputs[drawn.to(pool.inputs.device)], pool.labels[drawn.to(pool.labels.device)])
            self._held[part, count] = PooledSamples(pool, self.device)
        return self._held[part, count]

    @under_torch_settings
    def outputs(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module | None = None) -> Tensor:
        """Those of its own model on samples of its own are computed once."""
        if model is None and isinstance(samples, PooledSamples) and self._remembers:
            if samples not in self._known:
                self._known[samples] = self._computed(samples, self.model)
            return self._known[samples].clone()
        return self._computed(samples, self.model if model is None else model)

    @torch.no_grad()
    def _computed(self, samples: LabelledSamples | Iterable[Tensor], model: nn.Module) -> Tensor:
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
        """Of no samples there is none: ``InapplicableError``."""
        if not len(samples):
            raise InapplicableError("there are no samples to judge on")
        outputs = self.outputs(samples, model)
        if bool(outputs.isnan().any()):
            raise InapplicableError("the network's outputs are NaN, so that it has no answers to count")
        return float((outputs.argmax(1) == samples.labels).double().mean())

    @under_torch_settings
    def copy_model(self) -> nn.Module:
        """A deep copy; ``InapplicableError`` where the model cannot be copied."""
        try:
            return copy.deepcopy(self.model).eval()
        except (RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InapplicableError(f"the model cannot be copied: {reason}") from error

    @under_torch_settings
    def scores(self, importance: str, params: Scope = "all") -> Mapping[str, Tensor]:
        """On the training samples, in a random order."""
        criterion = (self._offers or registry.load()).make("importance", importance)[1]
        batches = _ReplayedBatches(self.samples("train"), _SCORED_IN, self.seeds)
        seeds, scoring = self.seeds.within("scores", *self.apart), unlearning.Scoring(params)
        return unlearning.score(self.model, batches, importance=criterion, seeds=seeds, scoring=scoring)

    @property
    def apart(self) -> tuple[str | int, ...]:
        """Names for draws that must not be shared: noise in common would look like models that agree."""
        return ()


class ModelEvidence(BaseEvidence):
    """A model by itself. ``pools`` gives a part of the data, or raises ``InapplicableError``."""

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        seeds: Seeds,
        pools: Callable[[DataPart], SamplePool],
        images: bool,
        began_as: Callable[[], nn.Module] | None = None,
        offers: Registry | None = None,
    ) -> None:
        super().__init__(seeds, offers)
        self._model, self._classes, self._images = model, classes, images
        self._pools, self._began_as = pools, began_as

    @property
    def model(self) -> nn.Module:
        """As it was given."""
        return self._model

    @property
    def classes(self) -> tuple[str, ...]:
        """As they were given."""
        return self._classes

    @property
    def images(self) -> bool:
        """As it was given."""
        return self._images

    def pool(self, part: DataPart) -> SamplePool:
        """As it was given."""
        return self._pools(part)

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """None are known."""
        raise InapplicableError("what was forgotten is known of runs alone: ask the directory of one")

    @property
    def mega_batch(self) -> int | None:
        """Of no run."""
        return None

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """Of no run."""
        return ()

    def at(self, mega_batch: int) -> ModelEvidence:
        """There is one model alone."""
        raise InapplicableError("a model by itself has no earlier mega-batches: ask the directory of a run")

    @under_torch_settings
    def initial(self) -> nn.Module:
        """Where it was given."""
        if self._began_as is None:
            raise InapplicableError("it is not known how the model began: give initial=")
        return self._began_as()

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Of no run."""
        raise InapplicableError("how training went is known of runs alone: ask the directory of one")

    @property
    def result(self) -> Mapping[str, Any]:
        """Of no run."""
        return {}


@dataclass(frozen=True, eq=False)
class _ReplayedBatches:
    """Batches of samples in a random order, the same each time they are read."""

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
    offers: Registry | None = None,
) -> ModelEvidence:
    """The evidence of a plain model with tensors: inputs as the model takes them, or ``uint8`` pixels; int64 labels.

    Raises ``DataError`` where inputs, labels and outputs do not fit each other.
    """
    model = unlearning.unwrap(model)
    if not isinstance(model, nn.Module):
        raise DataError(f"a torch.nn.Module is asked about, not {type(model).__name__}")
    require_gradients_possible(model)
    pools = {part: _gather_part(part, given) for part, given in parts.items()}
    if "test" not in pools:
        raise DataError("give the samples to judge on: test=(inputs, labels)")

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
    began_as = None if initial is None else lambda: _initial_model(model, initial)
    evidence = ModelEvidence(model, tuple(classes or ()), seeds, pool_of, images, began_as, offers)
    few = SamplePool(inputs[:2], pools["test"].labels[:2])
    try:
        outputs = evidence.outputs(PooledSamples(few, evidence.device))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the model cannot take inputs of shape {tuple(inputs.shape[1:])}: {reason}{_input_cast(evidence, few)}"
        ) from error
    count = _classes_of(outputs, len(few))
    if classes is not None and len(classes) != count:
        raise DataError(f"{len(classes)} classes are named, and the model has {count} outputs")
    for part, pool in pools.items():
        _require_classes(part, pool.labels, count)
    evidence._classes = tuple(classes or map(str, range(count)))
    evidence._known.clear()
    return evidence


def are_pixels(lowest: float, highest: float) -> bool:
    """Whether floats between these are in [0, 1], up to what rounding does to a pixel that is resized."""
    return lowest >= -_ROUNDING and highest <= 1 + _ROUNDING


def logits_of(outputs: Any) -> Tensor:
    """The tensor that a model returned; ``DataError`` says how to take one out of anything else."""
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
    """Where the tensor is that looks most like logits: what is called so, then what has a row for each sample."""
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
"""What a hook returns takes the place of a module's outputs, in its copies too."""


def _classes_of(outputs: Tensor, samples: int) -> int:
    """How many classes logits are of; ``DataError`` where they are of none, or of one."""
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
    """``DataError`` names a label that is none of the classes, how many there are and what to do."""
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
    """What brings inputs to the dtype of the model, if it can take them then."""
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
    """The model as it began: as it was given, or a copy with the state that was."""
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
    """What makes whole numbers of labels, if that can be seen."""
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
            f"a whole number for each is wanted{_to_integers(labels)}"
        )
    if not len(labels):
        raise DataError(f"{part}= holds no samples")
    return SamplePool(inputs, labels.long())
