"""What a replay strategy promises, on streams of sample ids."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Role, Samples
from forgetkit.errors import OptionError, UsageError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing
from forgetkit.testing.common import KitCase
from forgetkit.testing.fixtures import SEEDS
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise

ARRIVING: Mapping[Role, tuple[int, ...]] = {"train": (150, 60, 1, 240), "val": (17, 7, 1, 27)}
"""How many samples each mega-batch brings, a single one among them."""

STREAMS = 300
"""How many streams are played through to count how often each sample is kept."""

_SIGMAS = 6.0


@dataclass(frozen=True, eq=False)
class ReplayStep:
    """What a strategy was asked at the end of a mega-batch, and its answer."""

    kept: Samples
    arrived: Samples
    answer: Any

    @property
    def ids(self) -> NDArray[np.int64]:
        """The answer as an array of ids, whatever it is."""
        try:
            return np.asarray(self.answer).ravel().astype(np.int64)
        except (TypeError, ValueError) as error:
            raise NotApplicable("the promise 'types' is broken") from error

    @property
    def at_hand(self) -> NDArray[np.int64]:
        """What there was to choose from."""
        return np.concatenate([self.kept.ids, self.arrived.ids])


def _samples(ids: NDArray[np.int64], seen: int, role: Role) -> Samples:
    return Samples(ids.copy(), ids % 5, seen, role)


def _ids(role: Role, stream: int) -> NDArray[np.int64]:
    """All ids of a stream in the order in which they arrive; those of validation samples are others."""
    total = sum(ARRIVING[role])
    first = 0 if role == "train" else sum(ARRIVING["train"])
    return first + SEEDS.numpy("arriving", role, stream).permutation(total).astype(np.int64)


def play_stream(strategy: Any, role: Role, stream: int = 0) -> Iterator[ReplayStep]:
    """A stream, a mega-batch at a time. What was wrongly kept is left out of what is kept from then on."""
    ids, kept = _ids(role, stream), _samples(np.empty(0, dtype=np.int64), 0, role)
    for index, size in enumerate(ARRIVING[role]):
        arrived = _samples(ids[kept.seen : kept.seen + size], size, role)
        handed = replace(kept, ids=kept.ids.copy(), labels=kept.labels.copy()), _samples(arrived.ids, size, role)
        step = ReplayStep(kept, arrived, strategy.retain(*handed, SEEDS.numpy("replay", role, index, stream)))
        yield step
        sound = step.ids[np.isin(step.ids, step.at_hand)]
        if not getattr(strategy, "may_repeat", False):
            sound = np.unique(sound)
        kept = _samples(sound, kept.seen + size, role)


def _types(strategy: Any, step: ReplayStep) -> None:
    answer = step.answer
    if not isinstance(answer, np.ndarray):
        raise Failure(f"retain() returned {type(answer).__name__}, not an array of ids")
    if answer.dtype != np.int64 or answer.ndim != 1:
        raise Failure(f"retain() returned {answer.dtype} ids of shape {answer.shape}, not int64 of one dimension")


def _subset(strategy: Any, step: ReplayStep) -> None:
    strangers = step.ids[~np.isin(step.ids, step.at_hand)]
    if len(strangers):
        raise Failure(f"it keeps sample {strangers[0]}, which is neither among the kept nor among the arrived")


def _unique(strategy: Any, step: ReplayStep) -> None:
    if not getattr(strategy, "may_repeat", False) and len(np.unique(step.ids)) != len(step.ids):
        raise Failure("it keeps a sample twice; where that is meant, say may_repeat = True")


_LOOKS: Mapping[str, Callable[[Any, ReplayStep], None]] = {"types": _types, "subset": _subset, "unique": _unique}


def _faults(strategy: Any, steps: Iterator[ReplayStep]) -> Mapping[str, str]:
    """The promises about the form of the answers that are broken, and how."""
    found: dict[str, str] = {}
    for step in steps:
        for name, look in _LOOKS.items():
            try:
                look(strategy, step)
            except Failure as broken:
                found.setdefault(name, str(broken))
            except NotApplicable:
                continue
    return found


def _look(case: KitCase, name: str) -> None:
    strategy = case.another()
    for step in play_stream(strategy, "train"):
        _LOOKS[name](strategy, step)


def _answers(strategy: Any, seed: int = 0) -> list[Any]:
    with seeded_rng(seed):
        return [step.answer for role in ARRIVING for step in play_stream(strategy, role)]


def runs(case: KitCase) -> None:
    """`retain(buffer, arrivals, rng)` answers for the training samples of a stream of four mega-batches."""
    try:
        list(play_stream(case.another(), "train"))
    except UsageError as error:
        raise Failure(f"it refuses a stream of {sum(ARRIVING['train'])} samples: {error}") from error


def types(case: KitCase) -> None:
    """The answer is an int64 array of one dimension."""
    _look(case, "types")


def subset(case: KitCase) -> None:
    """Only samples are kept that were kept before or have just arrived."""
    _look(case, "subset")


def unique(case: KitCase) -> None:
    """No sample is kept twice, unless the class says `may_repeat = True`."""
    _look(case, "unique")


def capacity(case: KitCase) -> None:
    """No more training samples are kept than the class says in `capacity`, where it says so."""
    most = getattr(case.component, "capacity", None)
    if most is None:
        raise NotApplicable("it names no capacity")
    kept = max(len(step.ids) for step in play_stream(case.another(), "train"))
    if kept > most:
        raise Failure(f"it keeps {kept} samples, more than its capacity of {most}")


def roles(case: KitCase) -> None:
    """Validation samples are kept by the same rules as training samples."""
    usual = _faults(case.component, play_stream(case.another(), "train"))
    for name, reason in _faults(case.component, play_stream(case.another(), "val")).items():
        if name not in usual:
            raise Failure(f"of validation samples: {reason}")


def empty(case: KitCase) -> None:
    """A stream without samples of a role, and a mega-batch that brings none, are answered."""
    some = _samples(np.arange(9, dtype=np.int64), 9, "train")
    usual = _faults(case.component, play_stream(case.another(), "train"))
    for kept in (_samples(some.ids[:0], 0, "val"), some):
        arrived = _samples(some.ids[:0], 0, kept.role)
        step = ReplayStep(kept, arrived, case.another().retain(kept, arrived, SEEDS.numpy("empty")))
        for name, reason in _faults(case.component, iter([step])).items():
            if name not in usual:
                raise Failure(f"with {len(kept)} kept and none arrived: {reason}")


def leaves_arguments(case: KitCase) -> None:
    """The arrays of ids and labels that it is handed are as before."""
    strategy, ids = case.another(), np.arange(40, dtype=np.int64)
    kept, arrived = _samples(ids[:20], 60, "train"), _samples(ids[20:], 20, "train")
    before = [array.copy() for samples in (kept, arrived) for array in (samples.ids, samples.labels)]
    strategy.retain(kept, arrived, SEEDS.numpy("arguments"))
    after = [array for samples in (kept, arrived) for array in (samples.ids, samples.labels)]
    if not comparing.same_bits(before, after):
        raise Failure("it writes into the ids or labels that it is handed; copy them first")


def checks(case: KitCase) -> None:
    """Where there is a `check(arriving)`, it returns, or raises `OptionError`, whatever arrives."""
    if not hasattr(case.component, "check"):
        raise NotApplicable("it has no check()")
    for arriving in (ARRIVING["train"], (1,), ()):
        sizes = list(arriving)
        with suppress(OptionError):
            case.another().check(sizes)
        if sizes != list(arriving):
            raise Failure("check() changes the sizes that it is handed")


def deterministic(case: KitCase) -> None:
    """Two copies that are asked the same under the same `rng` give the same answers."""
    if not _repeats(case):
        raise Failure("a copy gives another answer to the same question; draw from rng alone")


def _repeats(case: KitCase) -> bool:
    return comparing.same_bits(_answers(case.another()), _answers(case.another()))


def own_randomness(case: KitCase) -> None:
    """The global random state has no part in the answers and is left as it was."""
    if not _repeats(case):
        raise NotApplicable("the promise 'deterministic' is broken")
    if not comparing.same_bits(_answers(case.another(), 1), _answers(case.another(), 2)):
        raise Failure("the answers change with the global random state; draw from the rng that is handed over")
    with comparing.watch_random_state():
        list(play_stream(case.another(), "train"))


def leaves_settings(case: KitCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    with comparing.watch_settings():
        list(play_stream(case.another(), "train"))


def memoryless(case: KitCase) -> None:
    """The answer is a function of the arguments alone: what was asked before has no part in it, nor has pickling."""
    if not _repeats(case):
        raise NotApplicable("the promise 'deterministic' is broken")
    strategy, new = case.another(), _answers(case.another())
    with seeded_rng(0):
        list(play_stream(strategy, "train", stream=1))
    if not comparing.same_bits(_answers(strategy), new):
        raise Failure("after another stream it gives other answers: it remembers what it was asked")
    try:
        copied = pickle.loads(pickle.dumps(strategy))
    except Exception:  # noqa: BLE001 - whether it can be copied is another promise
        return
    if not comparing.same_bits(_answers(copied), new):
        raise Failure("a pickled copy gives other answers")


def uniform(case: KitCase) -> None:
    """With `uniform = True` each sample of a stream is kept with the same probability, whenever it arrived."""
    if not getattr(case.component, "uniform", False):
        raise NotApplicable("it does not say uniform = True")
    sizes = ARRIVING["train"]
    times = np.zeros(sum(sizes))  # by the place in the stream
    for stream in range(STREAMS):
        with seeded_rng(stream):
            *_, last = play_stream(case.another(), "train", stream)
        times += np.isin(_ids("train", stream), last.ids)
    chance = float(times.mean()) / STREAMS
    if chance in (0.0, 1.0):
        return
    spread = STREAMS * chance * (1 - chance)
    squares = ((times - STREAMS * chance) ** 2 / spread).sum()
    for index, part in enumerate(np.split(times, np.cumsum(sizes)[:-1]), start=1):
        away = abs(float(part.sum()) - STREAMS * chance * len(part)) / math.sqrt(spread * len(part))
        if away > _SIGMAS:
            share = float(part.mean()) / STREAMS
            raise Failure(
                f"samples of mega-batch {index} of {len(sizes)} are kept {share:.0%} of the time, all {chance:.0%}"
            )
    if squares > len(times) + _SIGMAS * math.sqrt(2 * len(times)):
        raise Failure("some samples are kept more often than others")


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "replay",
        *(runs, types, subset, unique, capacity, roles, empty, leaves_arguments, checks),
        *(deterministic, own_randomness, leaves_settings, memoryless, uniform),
    )
