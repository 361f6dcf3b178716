"""Replay strategies that each break one promise, and no other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetkit.contracts import Samples
from forgetkit.errors import OptionError


@dataclass(frozen=True)
class Good:
    """A uniform draw from everything seen.

    size: how many.
    """

    size: int = 20
    uniform = True

    @property
    def capacity(self) -> int:
        return self.size

    def check(self, arriving: Sequence[int]) -> None:
        if self.size > sum(arriving):
            raise OptionError(f"size={self.size} is too much")

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        old = len(buffer)
        if buffer.seen + len(arrivals) > self.size:
            old = int(rng.hypergeometric(buffer.seen, len(arrivals), self.size))
        new = min(len(arrivals), self.size - min(old, self.size))
        chosen = [rng.permutation(buffer.ids)[:old], rng.permutation(arrivals.ids)[:new]]
        return np.concatenate(chosen)


class Runs(Good):
    """Raises."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        raise RuntimeError("out of order")


class Types(Good):
    """Gives a list."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return super().retain(buffer, arrivals, rng).tolist()


class NarrowTypes(Good):
    """Gives narrow integers."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return super().retain(buffer, arrivals, rng).astype(np.int32)


class Subset(Good):
    """Counts from one."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        ids = super().retain(buffer, arrivals, rng)
        return np.append(ids[1:], 10**6) if len(ids) else ids


class Unique(Good):
    """Keeps one twice."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        ids = super().retain(buffer, arrivals, rng)
        return np.append(ids[1:], ids[-1:])


class Capacity(Good):
    """Keeps more than it says."""

    @property
    def capacity(self) -> int:
        return self.size - 1


class Roles(Good):
    """Knows no validation samples."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        ids = super().retain(buffer, arrivals, rng)
        return ids if arrivals.role == "train" or not len(ids) else ids - 451


class Empty(Good):
    """Goes class by class."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        np.concatenate([arrivals.ids[arrivals.labels == label] for label in np.unique(arrivals.labels)])
        return super().retain(buffer, arrivals, rng)


class LeavesArguments(Good):
    """Shuffles in place."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        rng.shuffle(arrivals.ids)
        return super().retain(buffer, arrivals, rng)


class Checks(Good):
    """Wants something to arrive."""

    def check(self, arriving: Sequence[int]) -> None:
        if self.size > max(arriving):
            raise OptionError(f"size={self.size} is too much")


class ChecksInPlace(Good):
    """Sorts what it is handed."""

    def check(self, arriving: Sequence[int]) -> None:
        arriving.sort()  # type: ignore[attr-defined]


class Deterministic(Good):
    """Seeds itself from the operating system."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return super().retain(buffer, arrivals, np.random.default_rng(list(os.urandom(4))))


class LeavesSettings(Good):
    """Leaves a setting of NumPy changed."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        np.seterr(divide="ignore")
        return super().retain(buffer, arrivals, rng)


class OwnRandomness(Good):
    """Draws from the global random state."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return super().retain(buffer, arrivals, np.random.default_rng(np.random.randint(2**31)))


class Memoryless(Good):
    """Counts its calls."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        times = vars(self).get("times", 0) + 1
        object.__setattr__(self, "times", times)
        rng.random(times)
        return super().retain(buffer, arrivals, rng)


class Uniform(Good):
    """Prefers the newest."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return np.concatenate([buffer.ids, rng.permutation(arrivals.ids)])[-self.size :]


class UniformWithin(Good):
    """Takes its share of the arrived from the front."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        ids = super().retain(buffer, arrivals, rng)
        new = int(np.isin(ids, arrivals.ids).sum())
        return np.concatenate([ids[: len(ids) - new], arrivals.ids[:new]])


BROKEN: Mapping[str, tuple[type, ...]] = {
    "runs": (Runs,),
    "types": (Types, NarrowTypes),
    "subset": (Subset,),
    "unique": (Unique,),
    "capacity": (Capacity,),
    "roles": (Roles,),
    "empty": (Empty,),
    "leaves-arguments": (LeavesArguments,),
    "checks": (Checks, ChecksInPlace),
    "deterministic": (Deterministic,),
    "own-randomness": (OwnRandomness,),
    "leaves-settings": (LeavesSettings,),
    "memoryless": (Memoryless,),
    "uniform": (Uniform, UniformWithin),
}
"""By the promise that each breaks."""
