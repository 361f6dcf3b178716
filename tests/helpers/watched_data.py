"""A run under watch: who looks at which sample and when, behind a veil over all that may not be seen.

Every image says in its brightest pixels which sample it is, whatever flips or crops it, so that a network's batches
can be read off. The source tells of each reading. Behind the veil it holds other images and other labels wherever a
sample is not open, and the veil is drawn over again with each mega-batch: what is read too early or too late is
another number in the result.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forgetkit import config
from forgetkit.config.fields import PLAIN
from forgetkit.contracts import (
    Data,
    DataSplit,
    EpochEnded,
    Event,
    Inputs,
    MegaBatchEnded,
    RunEnded,
    RunStarted,
    Samples,
    Unlearned,
)
from forgetkit.data import MegaBatch, few_shots, partition
from forgetkit.engine.run import run_plan
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.storage import RunDirectory
from forgetkit.system.interrupts import StopRequest

Ids = NDArray[np.int64]
OFFERS = registry.load()
ROLES = ("train", "val")
CLASSES = tuple("abc")
MARK = 128
"""The brightness of sample 0's mark; all else is darker."""

READERS = {
    "forgetkit.data.validation": "checks",
    "forgetkit.data.audit": "checks",
    "forgetkit.training.output_audit": "training",  # the audit looks at the batch of the try-out
    "forgetkit.training.evaluation": "evaluator",
    "forgetkit.engine.evaluation": "evaluator",
    "forgetkit.training.trainer": "training",
    "forgetkit.unlearning.pipeline": "forgetting",
}
"""Who reads, by the innermost such module or function on the stack; anybody else is the engine."""


def reader() -> str:
    """Who is asking for samples right now."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        found = READERS.get(module) or READERS.get(f"{module}.{frame.f_code.co_name}")
        if found is not None:
            return found
        frame = frame.f_back
    return "engine"


@dataclass(frozen=True)
class Reading:
    """Entries of the source that somebody asked for; ``mega_batch`` 0 is before the run.

    ``after`` so many batches had been run through the network.
    """

    who: str
    mega_batch: int
    array: str
    ids: frozenset[int]
    after: int


@dataclass(frozen=True)
class Looked:
    """A batch that was run through the network; ids from the number of training samples on are of the test part."""

    who: str
    mega_batch: int
    epochs: int
    training: bool
    grad: bool
    ids: tuple[int, ...]


class Told(np.ndarray):
    """An array that tells which entries are asked for, and hands out copies without a tongue."""

    tell: Callable[[Ids], None] | None = None

    def __getitem__(self, key: Any) -> Any:
        if self.tell is not None:
            self.tell(np.ravel(np.arange(len(self))[key[0] if isinstance(key, tuple) else key]))
        return self.view(np.ndarray)[key]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **rest: Any) -> Any:
        return getattr(ufunc, method)(*(self._whole(one) for one in inputs), **rest)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return function(*map(self._whole, args), **kwargs)

    @staticmethod
    def _whole(one: Any) -> Any:
        return one[:] if isinstance(one, Told) else one


@dataclass
class Watch:
    """What happens in a run; itself the source of its samples, the builder of its network and an observer.

    ``spoiled``: other validation samples (``val``) or another test part (``test``), from the beginning.
    """

    data: Data
    cut: Sequence[MegaBatch]
    hands: Sequence[Mapping[str, Ids]]
    """What each mega-batch may train and validate on, played through by other lines than the engine's."""
    kept: Sequence[Mapping[str, Ids]]
    """What is left of it once it is closed."""
    score_on: str = "finished"
    veiled: bool = False
    spoiled: Collection[str] = ()
    stop: Callable[[], None] | None = None
    """Called once so many batches were run through the network: ``stop_after``."""
    stop_after: int = 0
    mega_batch: int = 0
    epochs: int = 0
    readings: list[Reading] = field(default_factory=list)
    looked: list[Looked] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    strangers: int = 0
    """How many images went through the network that are no samples."""

    def load(self) -> Data:
        """The samples, told of when they are read."""
        true, test = self.data.train, self.data.test
        inputs, labels = true.inputs.copy(), true.labels.copy()
        self._arrays = inputs, labels
        if "val" in self.spoiled:
            self._spoil(np.concatenate([m.val for m in self.cut]))
        if "test" in self.spoiled:
            test = spoiled(test)
        train = DataSplit(self._told(inputs, "train inputs"), self._told(labels, "train labels"))
        told = DataSplit(self._told(test.inputs.copy(), "test inputs"), self._told(test.labels.copy(), "test labels"))
        return replace(self.data, train=train, test=told)

    def _told(self, array: NDArray[Any], name: str) -> NDArray[Any]:
        def tell(ids: Ids) -> None:
            self.readings.append(Reading(reader(), self.mega_batch, name, frozenset(ids.tolist()), len(self.looked)))

        told = array.view(Told)
        told.tell = tell
        return told

    def _spoil(self, ids: Ids) -> None:
        other = spoiled(self.data.train)
        for array, with_other in zip(self._arrays, (other.inputs, other.labels), strict=True):
            array[ids] = with_other[ids]

    def _veil(self, *open_ids: Ids) -> None:
        if not self.veiled:
            return
        true = self.data.train
        self._spoil(np.arange(len(true)))
        for array, with_true in zip(self._arrays, (true.inputs, true.labels), strict=True):
            array[np.concatenate(open_ids)] = with_true[np.concatenate(open_ids)]
        if "val" in self.spoiled:
            self._spoil(np.concatenate([m.val for m in self.cut]))

    def notify(self, event: Event) -> None:
        """Draw the veil over again, and take note."""
        self.events.append(event)
        if isinstance(event, EpochEnded):
            self.epochs = event.epoch
            if self.score_on in ("incoming", "union") and self.mega_batch < len(self.cut):
                # It arrives after the evaluation, which no event tells of; who reads it is seen all the same.
                self._veil(*self.hands[self.mega_batch - 1].values(), self.cut[self.mega_batch].train)
        if isinstance(event, RunStarted):
            self.mega_batch, self.epochs = event.done + 1, event.done_epochs
        elif isinstance(event, MegaBatchEnded) and event.row.index < len(self.cut):
            self.mega_batch, self.epochs = event.row.index + 1, 0
        else:
            return
        self._veil(*self.hands[self.mega_batch - 1].values())

    def saw(self, module: nn.Module, inputs: Tensor) -> None:
        """A batch comes to the network."""
        if torch.compiler.is_exporting():
            return  # traced: no numbers
        shown = torch.func.debug_unwrap(inputs, recurse=True)  # under vmap: all samples at once
        pixels = inputs.detach().numpy() if shown is inputs else np.array(shown.tolist(), np.float32)
        images = pixels.reshape(-1, *self.data.train.inputs.shape[1:])
        ids = self.ids_in(images)
        self.strangers += len(images) - len(ids)
        seen = Looked(reader(), self.mega_batch, self.epochs, module.training, torch.is_grad_enabled(), ids)
        self.looked.append(seen)
        if self.stop is not None and len(self.looked) == self.stop_after:
            self.stop()

    def ids_in(self, images: NDArray[Any]) -> tuple[int, ...]:
        """The samples that images are of, the test part's after those for training; what is none is left out."""
        pixels = images.reshape(len(images), -1).astype(np.float64)
        marks = pixels.max(1, initial=0) * (1 if images.dtype == np.uint8 else 255) - MARK
        found = marks.round().astype(np.int64)
        known = (abs(marks - found) < 1e-3) & (found >= 0) & (found < self.test_ids.stop)
        return tuple(found[known].tolist())

    @property
    def test_ids(self) -> range:
        """The marks of the test part."""
        return range(len(self.data.train), len(self.data.train) + len(self.data.test))

    def scoring_ids(self, index: int) -> Counter[int]:
        """What there is to score on once mega-batch ``index`` is learned."""
        kept, arriving = self.kept[index - 1]["train"], self.cut[min(index, len(self.cut) - 1)].train
        choices = {
            "finished": [self.cut[index - 1].train],
            "first": [self.cut[0].train],
            "incoming": [arriving],
            "union": [kept, arriving],
        }
        return Counter(np.concatenate(choices[self.score_on]).tolist())

    def at_hand(self, index: int, role: str = "train") -> Counter[int]:
        """What may be trained on (or validated on) while a mega-batch is the newest; before the run as in the first."""
        return Counter(self.hands[max(index, 1) - 1][role].tolist())


def data_of(train: int, test: int, seed: int, dtype: str = "uint8") -> Data:
    """Images of 8 × 8 in three classes, each with its own mark in the middle."""
    rng, count = np.random.default_rng(seed), train + test
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
    images = rng.integers(0, 60, (count, 1, 8, 8), dtype=np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        image[0, :, 2 * label : 2 * label + 2] += 60
        image[0, 3:5, 3:5] = MARK + number
    pixels = images if dtype == "uint8" else images.astype(np.float32) / np.float32(255)
    return Data(DataSplit(pixels[:train], labels[:train]), DataSplit(pixels[train:], labels[train:]), CLASSES)


def spoiled(part: DataSplit) -> DataSplit:
    """Other images with the same marks, and other labels."""
    marks = part.inputs.reshape(len(part), -1).max(1)[:, None, None, None]
    return DataSplit(
        np.where(part.inputs == marks, part.inputs, part.inputs.dtype.type(0)), (part.labels + 1) % len(CLASSES)
    )


@dataclass(init=False, eq=False)
class Source:
    """The data set of a watch."""

    def __init__(self, watch: Watch) -> None:
        self.load = lambda context: watch.load()


@dataclass(frozen=True)
class Small:
    """A network with all that components look for: statistics, channels, hidden units, layers of both kinds."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """A convolution and two layers, drawn anew as a whole."""
        seen = nn.Sequential(normalize, nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*seen, nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, inputs.classes))


@dataclass(init=False, eq=False)
class Network:
    """A builder's network, each of whose batches a watch sees."""

    def __init__(self, watch: Watch, builder: Any) -> None:
        self._watch, self._builder = watch, builder
        if hasattr(builder, "initialise"):
            self.initialise = builder.initialise

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """The same network."""
        watch, model = self._watch, self._builder.build(inputs, normalize)
        model.register_forward_pre_hook(lambda module, args: watch.saw(module, args[0]))
        return model


def played(
    data: Data, cut: Sequence[MegaBatch], replay: Any, seed: int
) -> tuple[list[dict[str, Ids]], list[dict[str, Ids]]]:
    """What is at hand in each mega-batch, and what is left of it, in each role: a few lines of dicts and lists."""
    labels, hands, left = data.train.labels, [], []
    kept: dict[str, Ids] = {role: np.empty(0, np.int64) for role in ROLES}
    for m in cut:
        hands.append({role: np.concatenate([kept[role], getattr(m, role)]) for role in ROLES})
        for role in ROLES:
            new = getattr(m, role)
            seen = sum(len(getattr(earlier, role)) for earlier in cut[: m.index - 1])
            old, arrived = (
                Samples(kept[role], labels[kept[role]], seen, role),
                Samples(new, labels[new], len(new), role),
            )
            kept[role] = replay.retain(old, arrived, Seeds(seed).numpy("replay", role, m.index))
        left.append(dict(kept))
    return hands, left


def watch_of(data: Data, options: Mapping[str, Any], **how: Any) -> Watch:
    """A watch over a run with these options."""
    seeds = Seeds(options.get("seed", 0))
    ids = few_shots(data.train.labels, data.classes, options.get("shots"), seeds)
    fraction, split = options.get("val_fraction", 0.1), options.get("split", "random")
    cut = partition(ids, options["mega_batches"], fraction, split, seeds)
    replay = OFFERS.make("replay", options.get("replay", "full"))[1]
    hands, kept = played(data, cut, replay, seeds.seed)
    return Watch(data, cut, hands, kept, options.get("score_on", "finished"), **how)


def run(
    watch: Watch,
    options: Mapping[str, Any],
    folder: Path,
    *others: Any,
    resume: bool = False,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """A run under watch, or the rest of one, called by its folder; ``others`` observe it too."""
    builder = options.get("model", Small())
    made = OFFERS.make("models", builder)[1]
    objects = {"dataset": Source(watch), "model": Network(watch, made)}
    given = {**options, **objects, "threads": 1, "out": folder.parent, "name": folder.name}
    directory = RunDirectory.reopen(folder) if resume else None
    if directory is not None:
        components = {key: value for key, value in options.items() if not isinstance(value, PLAIN)}
        given = config.resumed_options(directory.manifest, {**components, **objects}, OFFERS)
    plan = config.resolve(given, OFFERS)
    result = run_plan(plan, observers=[watch, *others], cache=folder.parent / "cache", resume=directory, stop=stop)
    assert isinstance(watch.events[-1], RunEnded), "the watch was relieved"
    return result


def assert_nothing_leaked(watch: Watch) -> None:
    """Everybody saw and read what is theirs to see, and nothing else."""
    for one in watch.looked:
        assert set(one.ids) <= _theirs(watch, one.who, one.mega_batch), one
        if one.who == "evaluator":
            assert not one.training, one
            assert not one.grad, one
    tested = Counter((one.mega_batch, n) for one in watch.looked for n in one.ids if n in watch.test_ids)
    assert set(tested.values()) <= {1}, "the test part is looked at once in each mega-batch, and chooses no epoch"
    for reading in watch.readings:
        _assert_allowed(watch, reading)


def _theirs(watch: Watch, who: str, index: int) -> set[int]:
    """What may go through the network."""
    if who == "training":
        return set(watch.at_hand(index))
    if who == "forgetting":
        return set(watch.scoring_ids(index) if index else watch.at_hand(0))
    if who == "evaluator" and index:
        return {*watch.at_hand(index), *watch.at_hand(index, "val"), *watch.test_ids}
    return set()


def _assert_allowed(watch: Watch, reading: Reading) -> None:
    who, index, array = reading.who, reading.mega_batch, reading.array
    if who == "checks":
        assert index == 0, reading
    elif array.startswith("test"):
        assert who == "evaluator", reading
        assert index, reading
    elif index == 0:  # labels say how long a run is, which shots are drawn, and which are noisy
        assert array == "train labels" or reading.ids <= set(watch.at_hand(0)), reading
    else:
        own = {"training": {"train"}, "evaluator": set(ROLES), "engine": set(ROLES)}.get(who, set())
        open_ids = {sample for role in own for sample in watch.at_hand(index, role)}
        if index < len(watch.cut) and not reading.ids <= open_ids:
            open_ids |= set(watch.scoring_ids(index))
            assert who in ("engine", "forgetting"), reading
            judged = [n for n, one in enumerate(watch.looked) if (one.who, one.mega_batch) == ("evaluator", index)]
            assert max(judged, default=0) < reading.after, reading
        assert reading.ids <= open_ids, reading


def assert_all_was_seen(watch: Watch, epochs: int) -> None:
    """Each epoch trained on all that is at hand, the evaluator judged all of it, the forgetting looked at some."""
    for index in range(1, len(watch.cut) + 1):
        for epoch in range(epochs):
            assert _ran(watch, "training", index, epoch) >= watch.at_hand(index)  # more: an intervention's own passes
        judged = watch.at_hand(index) + watch.at_hand(index, "val") + Counter(watch.test_ids)
        assert _ran(watch, "evaluator", index, epochs) == judged
        assert bool(_ran(watch, "forgetting", index, epochs)) == (index < len(watch.cut))
    assert {reading.mega_batch for reading in watch.readings} >= set(range(len(watch.cut) + 1))


def _ran(watch: Watch, who: str, index: int, epochs: int) -> Counter[int]:
    """How often each sample went through the network, once so many epochs were done."""
    wanted = (who, index, epochs)
    return Counter(n for one in watch.looked if (one.who, one.mega_batch, one.epochs) == wanted for n in one.ids)


def history(watch: Watch, folder: Path) -> list[Any]:
    """What a run came to, to the bit, but for times and for what was counted on validation and on the test part."""
    told: list[Any] = []
    for event in watch.events:
        match event:
            case EpochEnded():
                told.append(replace(event, seconds=0.0, val_accuracy=None))
            case Unlearned():
                told.append({**event.report, "seconds": 0.0})
            case MegaBatchEnded(row):
                told.append(replace(row, unlearn=None, **dict.fromkeys(JUDGED)))
    files = sorted((folder / "checkpoints").glob("mega-batch-*.pt"))
    return [*told, *(file.name + hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]


JUDGED = ("seconds", "val_accuracy", "generalization_gap", "test_accuracy", "test_errors", "test_samples")
"""Of a mega-batch's row: the time, and what hangs on validation samples and on the test part."""
