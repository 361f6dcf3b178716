"""The promises of replay strategies, checked on streams of sample ids."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Role, Samples
from forgetkit.errors import OptionError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.fixtures import SEEDS
from forgetkit.testing.promise import Failure, NotApplicable, row

ARRIVING: Mapping[Role, tuple[int, ...]] = {"train": (150, 60, 1, 240), "val": (17, 7, 1, 27)}
"""The number of samples in each mega-batch; one mega-batch has a single sample."""

STREAMS = 300
"""The number of streams over which ``uniform`` counts how often each sample is kept."""

_SIGMAS = 6.0


@dataclass(frozen=True, eq=False)
class ReplayStep:
    """The arguments of ``retain`` at the end of a mega-batch, and its answer."""

    kept: Samples
    arrived: Samples
    answer: Any
    may_repeat: bool

    @property
    def ids(self) -> NDArray[np.int64]:
        """The answer as an array of ids; empty if it cannot be converted."""
        try:
            return np.asarray(self.answer).ravel().astype(np.int64)
        except (TypeError, ValueError):
            return np.empty(0, dtype=np.int64)

    @property
    def candidates(self) -> NDArray[np.int64]:
        """The ids to choose from."""
        return np.concatenate([self.kept.ids, self.arrived.ids])


def _samples(ids: NDArray[np.int64], seen: int, role: Role) -> Samples:
    return Samples(ids.copy(), ids % 5, seen, role)


def _ids(role: Role, stream: int) -> NDArray[np.int64]:
    """Return all ids of a stream in the order of their arrival; the two roles share none."""
    total = sum(ARRIVING[role])
    first = 0 if role == "train" else sum(ARRIVING["train"])
    return first + SEEDS.numpy("arriving", role, stream).permutation(total).astype(np.int64)


def play_stream(strategy: Any, role: Role = "train", stream: int = 0) -> Iterator[ReplayStep]:
    """Yield a step for each mega-batch; ids that were kept by mistake are dropped before the next one."""
    ids, kept = _ids(role, stream), _samples(np.empty(0, dtype=np.int64), 0, role)
    may_repeat = bool(getattr(strategy, "may_repeat", False))
    for index, size in enumerate(ARRIVING[role]):
        arrived = _samples(ids[kept.seen : kept.seen + size], size, role)
        copies = replace(kept, ids=kept.ids.copy(), labels=kept.labels.copy()), _samples(arrived.ids, size, role)
        answer = strategy.retain(*copies, SEEDS.numpy("replay", role, index, stream))
        step = ReplayStep(kept, arrived, answer, may_repeat)
        yield step
        sound = step.ids[np.isin(step.ids, step.candidates)]
        kept = _samples(sound if may_repeat else np.unique(sound), kept.seen + size, role)


def types(steps: Iterable[ReplayStep]) -> None:
    """The answer is an int64 array of one dimension."""
    for answer in (step.answer for step in steps):
        if not isinstance(answer, np.ndarray):
            raise Failure(f"retain() returned {type(answer).__name__}, not an array of ids")
        if answer.dtype != np.int64 or answer.ndim != 1:
            raise Failure(f"retain() returned {answer.dtype} ids of shape {answer.shape}, not int64 of one dimension")


def subset(steps: Iterable[ReplayStep]) -> None:
    """Only samples are kept that were kept before or have just arrived."""
    for step in steps:
        unknown = step.ids[~np.isin(step.ids, step.candidates)]
        if len(unknown):
            raise Failure(f"it keeps sample {unknown[0]}, which is neither among the kept nor among the arrived")


def unique(steps: Iterable[ReplayStep]) -> None:
    """No sample is kept twice, unless the class says `may_repeat = True`."""
    for step in steps:
        if not step.may_repeat and len(np.unique(step.ids)) != len(step.ids):
            raise Failure("it keeps a sample twice; if that is intended, say may_repeat = True")


FORM = tuple(map(row, (types, subset, unique)))


@dataclass(frozen=True, eq=False)
class ReplayCase(KitCase):
    """A replay strategy under examination."""

    generator: ClassVar[str] = "the argument rng"
    form: ClassVar = FORM

    def perform(self, component: Any, given: Any, seed: int) -> list[ReplayStep]:
        """Play a stream of training samples."""
        with seeded_rng(seed):
            return list(play_stream(component))

    def act(self) -> object:
        """Play a stream."""
        return list(play_stream(self.another()))

    @cached_property
    def repeats(self) -> bool:
        """Whether two copies agree on the streams of both roles."""
        return comparing.same_bits(_answers(self.another()), _answers(self.another()))

    def variation(self, given: Any = None) -> str:
        """Return "the answer" if it differs between two global random states, for either role."""
        return "" if comparing.same_bits(_answers(self.another(), 1), _answers(self.another(), 2)) else self.answer


def _answers(strategy: Any, seed: int = 0) -> list[Any]:
    with seeded_rng(seed):
        return [step.answer for role in ARRIVING for step in play_stream(strategy, role)]


def capacity(case: ReplayCase) -> None:
    """At most `capacity` training samples are kept, if the class has that attribute."""
    limit = getattr(case.component, "capacity", None)
    if limit is None:
        raise NotApplicable("it names no capacity")
    kept = max(len(step.ids) for step in case.usual)
    if kept > limit:
        raise Failure(f"it keeps {kept} samples, more than its capacity of {limit}")


def roles(case: ReplayCase) -> None:
    """Validation samples are kept by the same rules as training samples."""
    case.require_as_sound(lambda: list(play_stream(case.another(), "val")), "of validation samples: ")


def empty(case: ReplayCase) -> None:
    """A stream without samples of a role, and a mega-batch that brings none, give a valid answer."""
    some = _samples(np.arange(9, dtype=np.int64), 9, "train")
    for kept in (_samples(some.ids[:0], 0, "val"), some):
        where = f"with {len(kept)} kept and none arrived: "
        case.require_as_sound(partial(_retain_without_arrivals, case.another(), kept), where)


def _retain_without_arrivals(strategy: Any, kept: Samples) -> list[ReplayStep]:
    arrived = _samples(kept.ids[:0], 0, kept.role)
    answer = strategy.retain(kept, arrived, SEEDS.numpy("empty"))
    return [ReplayStep(kept, arrived, answer, bool(getattr(strategy, "may_repeat", False)))]


def leaves_arguments(case: ReplayCase) -> None:
    """The strategy does not write to the arrays of ids and labels."""
    ids = np.arange(40, dtype=np.int64)
    arguments = _samples(ids[:20], 60, "train"), _samples(ids[20:], 20, "train")
    before = [array.copy() for samples in arguments for array in (samples.ids, samples.labels)]
    case.another().retain(*arguments, SEEDS.numpy("arguments"))
    if not comparing.same_bits(before, [array for samples in arguments for array in (samples.ids, samples.labels)]):
        raise Failure("it writes to the ids or labels that it is given; copy them first")


def checks(case: ReplayCase) -> None:
    """If there is a `check(arriving)`, it returns or raises `OptionError` for any sizes."""
    if not hasattr(case.component, "check"):
        raise NotApplicable("it has no check()")
    for arriving in (ARRIVING["train"], (1,), ()):
        sizes = list(arriving)
        with suppress(OptionError):
            case.another().check(sizes)
        if sizes != list(arriving):
            raise Failure("check() changes the sizes that it is given")


def deterministic(case: ReplayCase) -> None:
    """Two copies with the same arguments and `rng` give the same answers."""
    if not case.repeats:
        raise Failure(f"two copies give different answers to the same arguments; draw from {case.generator} alone")


def memoryless(case: ReplayCase) -> None:
    """The answer depends on the arguments alone, not on earlier calls, and a pickled copy gives the same."""
    case.require_repeatable()
    strategy, new = case.another(), _answers(case.another())
    with seeded_rng(0):
        list(play_stream(strategy, "train", stream=1))
    if not comparing.same_bits(_answers(strategy), new):
        raise Failure("after another stream it gives other answers; keep nothing between calls")
    try:
        copied = pickle.loads(pickle.dumps(strategy))
    except Exception:  # noqa: BLE001 - 'pickles' is another promise
        return
    if not comparing.same_bits(_answers(copied), new):
        raise Failure("a pickled copy gives other answers")


def uniform(case: ReplayCase) -> None:
    """With `uniform = True` each sample of a stream is kept with the same probability, whenever it arrived."""
    if not getattr(case.component, "uniform", False):
        raise NotApplicable("it does not say uniform = True")
    sizes = ARRIVING["train"]
    times = np.zeros(sum(sizes))  # by the position in the stream
    for stream in range(STREAMS):
        with seeded_rng(stream):
            *_, last = play_stream(case.another(), "train", stream)
        times += np.isin(_ids("train", stream), last.ids)
    chance = float(times.mean()) / STREAMS
    if chance in (0.0, 1.0):
        return
    variance = STREAMS * chance * (1 - chance)
    for index, part in enumerate(np.split(times, np.cumsum(sizes)[:-1]), start=1):
        distance = abs(float(part.sum()) - STREAMS * chance * len(part)) / math.sqrt(variance * len(part))
        if distance > _SIGMAS:
            rate = float(part.mean()) / STREAMS
            raise Failure(
                f"samples of mega-batch {index} of {len(sizes)} are kept {rate:.0%} of the time, all {chance:.0%}"
            )
    squares = ((times - STREAMS * chance) ** 2 / variance).sum()
    if squares > len(times) + _SIGMAS * math.sqrt(2 * len(times)):
        raise Failure("some samples are kept more often than others")


PROMISES = (
    rows.runs(
        "`retain(buffer, arrivals, rng)` returns for the training samples of a stream of four mega-batches.",
        f"a stream of {sum(ARRIVING['train'])} samples",
    ),
    *rows.of_usual(FORM),
    *map(row, (capacity, roles, empty, leaves_arguments, checks, deterministic)),
    rows.own_randomness("The global random state neither changes the answers nor is changed."),
    rows.LEAVES_SETTINGS,
    row(memoryless),
    row(uniform),
)
