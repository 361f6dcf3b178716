"""What an analysis is shown of a model: the samples, its outputs, copies of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from forgetkit import forgetting, registry
from forgetkit.contracts import DataPart, Labelled, Scope
from forgetkit.errors import ComponentError, DataError, DoesNotApplyError, OptionError, closest
from forgetkit.forgetting.guard import require_gradients_possible
from forgetkit.learn.evaluation import judging
from forgetkit.registry import Registry
from forgetkit.seeding import Seeds, global_state
from forgetkit.stream.batches import Pool
from forgetkit.system.torch_settings import each_under_torch_settings, under_torch_settings

_ROUNDING = 1e-4
_SCORED_IN = 128
"""Samples in a batch that is scored on."""

Pair = tuple[Tensor, Tensor]
Given = Pair | Iterable[Pair]
"""Inputs and labels, or batches of both."""


@dataclass(frozen=True, eq=False)
class Held:
    """Samples in a pool, brought to ``device`` batch by batch."""

    pool: Pool
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


class Examined(ABC):
    """What the evidence of a model and that of a run have in common.

    ``seeds`` are those of the question; ``offers`` are the components that it may name, None: what is installed.
    """

    def __init__(self, seeds: Seeds, offers: Registry | None = None) -> None:
        self.seeds = seeds
        self._offers = offers
        self._remembers = True
        self._held: dict[tuple[DataPart, int | None], Held] = {}
        self._known: dict[Held, Tensor] = {}

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
    def pool(self, part: DataPart) -> Pool:
        """The samples of a part; ``DoesNotApplyError`` where there are none."""

    @property
    def device(self) -> torch.device:
        """That of the first parameter; the CPU where there is none."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @under_torch_settings
    def samples(self, part: DataPart = "test", count: int | None = None) -> Held:
        """The same object each time, so that what was computed of it is known."""
        if part not in get_args(DataPart):
            raise OptionError(f"there is no part '{part}' of the data; {closest(part, get_args(DataPart))}")
        pool = self.pool(part)
        count = None if count is None or count >= len(pool) else count
        if (part, count) not in self._held:
            if count is not None:
                drawn = torch.randperm(len(pool), generator=self.seeds.torch("samples", part))[:count].sort().values
                pool = Pool(pool.inputs[drawn.to(pool.inputs.device)], pool.labels[drawn.to(pool.labels.device)])
            self._held[part, count] = Held(pool, self.device)
        return self._held[part, count]

    @under_torch_settings
    def outputs(self, samples: Labelled | Iterable[Tensor], model: nn.Module | None = None) -> Tensor:
        """Those of its own model on samples of its own are computed once."""
        if model is None and isinstance(samples, Held) and self._remembers:
            if samples not in self._known:
                self._known[samples] = self._computed(samples, self.model)
            return self._known[samples].clone()
        return self._computed(samples, self.model if model is None else model)

    @torch.no_grad()
    def _computed(self, samples: Labelled | Iterable[Tensor], model: nn.Module) -> Tensor:
        batches = samples if not hasattr(samples, "batches") else (inputs for inputs, _ in samples.batches())
        found = []
        with (
            judging(model),
            global_state(self.seeds.number("noise")),
            torch.autocast(self.device.type, enabled=False),
        ):
            for inputs in batches:
                found.append(logits_of(model(inputs.to(self.device))).float().cpu())
        return torch.cat(found) if found else torch.empty(0, len(self.classes))

    @under_torch_settings
    def accuracy(self, samples: Labelled, model: nn.Module | None = None) -> float:
        """Of no samples there is none: ``DoesNotApplyError``."""
        if not len(samples):
            raise DoesNotApplyError("there are no samples to judge on")
        outputs = self.outputs(samples, model)
        if bool(outputs.isnan().any()):
            raise DoesNotApplyError("the network's outputs are NaN, so that it has no answers to count")
        return float((outputs.argmax(1) == samples.labels).double().mean())

    @under_torch_settings
    def twin(self) -> nn.Module:
        """A deep copy; ``DoesNotApplyError`` where the model cannot be copied."""
        try:
            return copy.deepcopy(self.model).eval()
        except (RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DoesNotApplyError(f"the model cannot be copied: {reason}") from error

    @under_torch_settings
    def scores(self, importance: str, params: Scope = "all") -> Mapping[str, Tensor]:
        """On the training samples, in a random order."""
        criterion = (self._offers or registry.load()).make("importance", importance)[1]
        batches = _Again(self.samples("train"), _SCORED_IN, self.seeds)
        seeds, scoring = self.seeds.within("scores", *self.apart), forgetting.Scoring(params)
        return forgetting.score(self.model, batches, importance=criterion, seeds=seeds, scoring=scoring)

    @property
    def apart(self) -> tuple[str | int, ...]:
        """Names for draws that must not be shared: noise in common would look like models that agree."""
        return ()


class Evidence(Examined):
    """A model by itself. ``pools`` gives a part of the data, or raises ``DoesNotApplyError``."""

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        seeds: Seeds,
        pools: Callable[[DataPart], Pool],
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

    def pool(self, part: DataPart) -> Pool:
        """As it was given."""
        return self._pools(part)

    def masks(self) -> Mapping[int, Mapping[str, Tensor]]:
        """None are known."""
        raise DoesNotApplyError("what was forgotten is known of runs alone: ask the directory of one")

    @property
    def mega_batch(self) -> int | None:
        """Of no run."""
        return None

    @property
    def mega_batches(self) -> tuple[int, ...]:
        """Of no run."""
        return ()

    def at(self, mega_batch: int) -> Evidence:
        """There is one model alone."""
        raise DoesNotApplyError("a model by itself has no earlier mega-batches: ask the directory of a run")

    @under_torch_settings
    def initial(self) -> nn.Module:
        """Where it was given."""
        if self._began_as is None:
            raise DoesNotApplyError("it is not known how the model began: give initial=")
        return self._began_as()

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Of no run."""
        raise DoesNotApplyError("how training went is known of runs alone: ask the directory of one")

    @property
    def result(self) -> Mapping[str, Any]:
        """Of no run."""
        return {}


@dataclass(frozen=True, eq=False)
class _Again:
    """Batches of samples in a random order, the same each time they are read."""

    samples: Held
    size: int
    seeds: Seeds

    def __iter__(self) -> Iterator[Pair]:
        pool = self.samples.pool
        order = torch.randperm(len(pool), generator=self.seeds.torch("order"))
        drawn = (order[start : start + self.size] for start in range(0, len(order), self.size))
        for places in drawn:
            inputs = pool.inputs[places.to(pool.inputs.device)]
            batch = Pool(inputs, pool.labels[places.to(pool.labels.device)])
            yield from Held(batch, self.samples.device).batches(self.size)


@under_torch_settings
def of_model(
    model: nn.Module,
    parts: Mapping[DataPart, Given],
    seeds: Seeds,
    *,
    classes: Sequence[str] | None = None,
    initial: nn.Module | Mapping[str, Tensor] | None = None,
    offers: Registry | None = None,
) -> Evidence:
    """The evidence of a plain model with tensors: inputs as the model takes them, or ``uint8`` pixels; int64 labels.

    Raises ``DataError`` where inputs, labels and outputs do not fit each other.
    """
    model = forgetting.plain(model)
    if not isinstance(model, nn.Module):
        raise DataError(f"a torch.nn.Module is asked about, not {type(model).__name__}")
    require_gradients_possible(model)
    pools = {part: _gathered(part, given) for part, given in parts.items()}
    if "test" not in pools:
        raise DataError("give the samples to judge on: test=(inputs, labels)")

    shape = pools["test"].inputs.shape[1:]
    for part, pool in pools.items():
        if pool.inputs.shape[1:] != shape:
            raise DataError(f"{part}= holds inputs of shape {tuple(pool.inputs.shape[1:])}, test= of {tuple(shape)}")

    def pool_of(part: DataPart) -> Pool:
        if part not in pools:
            raise DoesNotApplyError(f"it looks at {part} samples: give {part}=(inputs, labels)")
        return pools[part]

    inputs = pools["test"].inputs[:]
    images = inputs.ndim == 4 and (inputs.dtype == torch.uint8 or are_pixels(float(inputs.min()), float(inputs.max())))
    began_as = None if initial is None else lambda: _begun(model, initial)
    evidence = Evidence(model, tuple(classes or ()), seeds, pool_of, images, began_as, offers)
    few = Pool(inputs[:2], pools["test"].labels[:2])
    try:
        outputs = evidence.outputs(Held(few, evidence.device))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"the model cannot take inputs of shape {tuple(inputs.shape[1:])}: {reason}") from error
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
        return outputs
    takes = "outputs"
    if isinstance(outputs, Mapping):
        key = next((key for key in outputs if key == "logits"), next(iter(outputs), "logits"))
        takes = f"outputs[{key!r}]"
    elif hasattr(outputs, "logits"):
        takes = "outputs.logits"
    elif isinstance(outputs, list | tuple):
        takes = "outputs[0]"
    raise DataError(
        f"the model returns {type(outputs).__name__} and no tensor of logits (n, classes): take them out with "
        f"{_HOOK.format(takes)}"
    )


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


def _begun(model: nn.Module, initial: nn.Module | Mapping[str, Tensor]) -> nn.Module:
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


def _whole(labels: Tensor) -> str:
    """What makes whole numbers of labels, if that can be seen."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return ": give labels[:, 0]" + (".long()" if labels.is_floating_point() else "")
    if labels.ndim == 2 and bool((labels.sum(1) == 1).all()):
        return ": of one-hot rows labels.argmax(1) makes them"
    if labels.ndim == 1 and labels.is_floating_point() and bool((labels == labels.round()).all()):
        return ": give labels.long()"
    return ""


def _gathered(part: DataPart, given: Given) -> Pool:
    pairs: list[Any] = [given] if isinstance(given, tuple) and len(given) == 2 else list(given)
    if not pairs or not all(map(_is_pair, pairs)):
        raise DataError(f"{part}= takes two tensors, inputs and labels, or batches of both")
    if any(not side.ndim for pair in pairs for side in pair):
        raise DataError(f"{part}= gives samples one by one: put a torch.utils.data.DataLoader around it")
    inputs, labels = (torch.cat([pair[side].detach() for pair in pairs]) for side in (0, 1))
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or len(labels) != len(inputs):
        raise DataError(
            f"{part}= has {len(inputs)} inputs and labels of shape {tuple(labels.shape)} in {labels.dtype}; "
            f"a whole number for each is wanted{_whole(labels)}"
        )
    if not len(labels):
        raise DataError(f"{part}= holds no samples")
    return Pool(inputs, labels.long())
