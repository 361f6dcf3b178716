"""What an executor promises, on real runs of a few milliseconds."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from forgetkit.testing.common import Case
from forgetkit.testing.promise import Broken, NotApplicable, Promise, stated


def configurations(folder: str, count: int = 3) -> list[dict[str, Any]]:
    """Runs that differ in their seed."""
    shared = {
        "dataset": "synthetic:samples=40,test=20,classes=2,size=4,channels=1",
        "model": "mlp:width=4,depth=1",
        "reinit": "none",
        "mega_batches": 2,
        "epochs": 1,
        "threads": 1,
        "device": "cpu",
        "out": folder,
    }
    return [{**shared, "seed": 7 + position} for position in range(count)]


@dataclass(frozen=True, eq=False)
class Executed:
    """What an executor yielded, and what it had been given, before and after."""

    yielded: tuple[Any, ...]
    given: list[dict[str, Any]]
    after: list[dict[str, Any]]

    @property
    def pairs(self) -> tuple[tuple[int, Mapping[str, Any]], ...]:
        """What it yielded, for a promise that is not about the form of that."""
        for each in self.yielded:
            if _fault(each):
                raise NotApplicable("the promise 'pairs' is broken")
        return self.yielded


def _fault(each: Any) -> str:
    if not isinstance(each, tuple) or len(each) != 2:
        return f"it yields {type(each).__name__}, not a pair of a position and a result"
    position, result = each
    if isinstance(position, bool) or not isinstance(position, int) or not isinstance(result, Mapping):
        return f"it yields a pair of {type(position).__name__} and {type(result).__name__}, not of int and mapping"
    return ""


@dataclass(frozen=True, eq=False)
class ExecutorCase(Case):
    """An executor under examination."""

    def executed(self, count: int) -> Executed:
        """So many runs."""
        with tempfile.TemporaryDirectory() as folder:
            configs = configurations(folder, count)
            given = copy.deepcopy(configs)
            return Executed(tuple(self.another().execute(configs)), given, configs)

    @cached_property
    def usual(self) -> Executed:
        """Three runs, for every promise that is about those."""
        return self.executed(3)


def runs(case: ExecutorCase) -> None:
    """`execute(configs)` comes to its end for three runs."""
    case.usual.yielded  # noqa: B018 - asking is running


def pairs(case: ExecutorCase) -> None:
    """Each thing that is yielded is a position among the configurations and the result of that run."""
    for each in case.usual.yielded:
        fault = _fault(each)
        if fault:
            raise Broken(fault)


def complete(case: ExecutorCase) -> None:
    """Each configuration is run, and each once."""
    positions = sorted(position for position, _ in case.usual.pairs)
    if positions != [0, 1, 2]:
        raise Broken(f"of three configurations it yields the positions {positions}")


def results(case: ExecutorCase) -> None:
    """The result that stands beside a position is that of the configuration there."""
    for position, result in case.usual.pairs:
        if not 0 <= position < 3:
            raise NotApplicable("the promise 'complete' is broken")
        asked, ran = case.usual.given[position]["seed"], result.get("config", {}).get("seed")
        if asked != ran:
            raise Broken(f"the result beside position {position} is of a run with seed {ran}, not {asked}")


def empty(case: ExecutorCase) -> None:
    """Without configurations nothing is yielded."""
    if case.executed(0).yielded:
        raise Broken("it yields a result without a configuration")


def leaves_configurations(case: ExecutorCase) -> None:
    """The configurations are as before."""
    if case.usual.given != case.usual.after:
        raise Broken("it changes the configurations that it is handed")


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return stated("executors", runs, pairs, complete, results, empty, leaves_configurations)
