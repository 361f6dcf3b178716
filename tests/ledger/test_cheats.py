"""Components that try all that their arguments offer, to see what they should not.

What is global to a module, the frames of callers and the garbage collector's lists are left out: there everything is,
and no Python program can keep it from code that it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.reachability import reachable
from helpers.watched_data import Network, Small, Source, Watch, assert_nothing_leaked, data_of, history, run, watch_of
from torch import Tensor, nn

from forgetkit.contracts import Change, Data, DataSplit, Event, Inputs, Intervention, InterventionContext, Samples
from forgetkit.data import Ledger, MegaBatch, Stream, VisibleData
from forgetkit.engine.context import RunContext
from forgetkit.engine.run_data import RunData
from forgetkit.engine.state import TrainingState
from forgetkit.errors import ComponentError

OPTIONS = {"mega_batches": 3, "epochs": 1, "batch_size": 8, "lr": 0.05, "val_fraction": 0.2, "replay": "buffer:size=7"}
DATA = data_of(48, 9, seed=0, dtype="float32")
DOORS = (Data, DataSplit, Ledger, Stream, VisibleData, MegaBatch, TrainingState, RunContext, RunData)
"""Through these one comes to samples that are closed."""


@dataclass(init=False, eq=False)
class Curious(Intervention):
    """A component of every kind, which takes along what it can reach. Not through the watch: that is the test's."""

    needs_scores = needs_data = needs_previous = True

    def __init__(self, *, private: bool) -> None:
        self.private, self.watch, self.done = private, None, set()
        self.found: list[tuple[str, int, str, Any]] = []
        """By whom, in which mega-batch and along which path, what."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Curious:
        return self  # a component may remember, too, what it was shown before the run

    def _look(self, who: str, root: Any) -> None:
        """Before the run, while samples are given up and others are still to come, and at the end."""
        if self.watch is None or self.watch.mega_batch == 1 or (who, self.watch.mega_batch) in self.done:
            return
        self.done.add((who, self.watch.mega_batch))
        for path, one in reachable(root, private=self.private, doors=DOORS, closed=TESTS_OWN):
            self.found.append((who, self.watch.mega_batch, path, one))

    def score(self, probe: Any) -> Mapping[str, Tensor]:
        self._look("scoring", probe)
        return {name: target.abs() for name, target in probe.targets.items()}

    def propose(self, context: Any) -> Any:
        self._look("forgetting context", context)
        with context.probe() as probe:
            self._look("forgetting probe", probe)
        return [Change(name, None, target * 0.9) for name, target in context.targets.items()]

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
        self._look(f"replay {arrivals.role}", (buffer, arrivals, rng))
        return np.concatenate([buffer.ids, arrivals.ids])[::2]

    def begin(self, moment: InterventionContext) -> None:
        self._look("training begin", moment)

    def loss(self, moment: InterventionContext) -> None:
        self._look("training loss", moment)

    def after_step(self, moment: InterventionContext) -> None:
        self._look("training after_step", moment)

    def after_epoch(self, moment: InterventionContext) -> None:
        self._look("training after_epoch", moment)

    def compute(self, rows: Sequence[Any]) -> float:
        self._look("metric", rows)
        return 0.0

    def notify(self, event: Event) -> None:
        self._look(f"observer {type(event).__name__}", event)

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        self._look("builder", (inputs, normalize))
        return Small().build(inputs, normalize)


TESTS_OWN = (Watch, Source, Network, Curious)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("private", "lazy"), [(False, False), (False, True), (True, False)], ids=["public", "public, from afar", "private"]
)
def test_no_argument_leads_to_what_is_closed(
    private: bool, lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where samples are read from afar, closures lead to the ledger, which guards them: that is not looked into."""
    if lazy:
        monkeypatch.setattr("forgetkit.data.batches.MEMORY_SHARE", 0)
    one = Curious(private=private)
    options = {**OPTIONS, "replay": one, "importance": one, "reinit": one, "interventions": [one], "metrics": [one]}
    watch = watch_of(DATA, options)
    one.watch = watch
    run(watch, {**options, "model": one}, tmp_path / "run", one)
    assert_nothing_leaked(watch)
    assert {who for who, *_ in one.found} >= {"scoring", "replay val", "training loss", "metric", "builder"}
    for who, index, path, thing in one.found:
        assert not isinstance(thing, DOORS), f"{who}: {path}"
        assert images_in(thing, watch) <= theirs(watch, who, index), f"{who}: {path}"
        if who.startswith("replay") and isinstance(thing, np.ndarray) and thing.dtype == np.int64:
            known = set(watch.at_hand(index, who.removeprefix("replay "))) if index else set(range(len(DATA.train)))
            assert set(thing.tolist()) <= {*known, *range(len(DATA.classes))}, f"{who}: {path}"


def theirs(watch: Watch, who: str, index: int) -> set[int]:
    """The samples that a component may find."""
    if who.startswith(("training", "scoring", "forgetting")):
        return set(watch.at_hand(index)) | set(watch.scoring_ids(max(index, 1)))
    return set()


def images_in(thing: Any, watch: Watch) -> set[int]:
    """The samples whose images an array or a tensor holds, or the memory that it is a view of."""
    if isinstance(thing, Tensor) and thing.is_floating_point() and not thing.is_sparse:
        thing = torch.empty(0, dtype=thing.dtype).set_(thing.untyped_storage()).numpy()
    if not isinstance(thing, np.ndarray) or thing.dtype != DATA.train.inputs.dtype or thing.size % 64:
        return set()
    return set(watch.ids_in(thing.reshape(-1, 64)))


@dataclass(init=False, eq=False)
class Writing:
    """A reservoir that first writes validation samples over all that it is handed, and over what that is a view of."""

    def __init__(self, watch: Watch | None, *, honest: bool) -> None:
        self._watch, self._honest = watch, honest

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
        ids = np.concatenate([buffer.ids, arrivals.ids])
        chosen = np.sort(ids[rng.permutation(len(ids))[:9]])
        if not self._honest:
            handed = [buffer.ids, buffer.labels, arrivals.ids, arrivals.labels]
            for array in (*handed, *(array.base for array in handed)):
                if array is not None and array.flags.writeable:
                    array[...] = self._watch.cut[-1].val[0]
        return chosen


@pytest.mark.slow
def test_writing_into_what_is_handed_out_moves_nothing(tmp_path: Path) -> None:
    histories = []
    for honest in (True, False):
        watch = watch_of(DATA, {**OPTIONS, "replay": Writing(None, honest=True)}, veiled=True)
        watch.events.clear()
        run(watch, {**OPTIONS, "replay": Writing(watch, honest=honest)}, tmp_path / str(honest))
        assert_nothing_leaked(watch)
        histories.append(history(watch, tmp_path / str(honest)))
    assert histories[0] == histories[1]


@dataclass(init=False, eq=False)
class Overhearing(Intervention):
    """Hangs a hook on the network and leaves it there, from some mega-batch on, as one of these kinds."""

    needs_data = True

    def __init__(self, kind: str, since: int) -> None:
        self._kind, self._since, self._forgettings = kind, since, 0
        self.heard: list[Tensor] = []

    def _hang(self, kind: str, module: nn.Module, index: int) -> None:
        if (kind, index) == (self._kind, self._since):
            module.register_forward_pre_hook(lambda module, args: self.heard.append(args[0].clone()))

    def after_step(self, moment: InterventionContext) -> None:
        if moment.step == 0:
            self._hang("intervention", moment.model[0], moment.mega_batch)

    def propose(self, context: Any) -> Any:
        self._hang("reinit", context.view.model[0], self._forgettings)
        self._forgettings += 1
        return [Change(name, None, target * 0.9) for name, target in context.targets.items()]


@pytest.mark.parametrize(("kind", "since"), [("intervention", 1), ("intervention", 2), ("reinit", 0), ("reinit", 1)])
def test_nobody_listens_while_the_network_is_judged(kind: str, since: int, tmp_path: Path) -> None:
    watch, one = watch_of(DATA, OPTIONS), Overhearing(kind, since)
    part = {"interventions": [one]} if kind == "intervention" else {"reinit": one}
    with pytest.raises(ComponentError, match=r"a hook was left on '0'.*validation and test samples") as caught:
        run(watch, {**OPTIONS, **part}, tmp_path / "run")
    assert "\n" not in str(caught.value)
    heard = {sample for images in one.heard for sample in watch.ids_in(images.numpy())}
    assert heard <= set(range(len(DATA.train))) - {int(sample) for m in watch.cut for sample in m.val}


class Absorbing(nn.BatchNorm2d):
    """Takes what it sees into its statistics in either mode."""

    def train(self, mode: bool = True) -> nn.BatchNorm2d:
        return super().train(True)


class Counting(nn.Module):
    """Counts what it sees in a buffer, and puts another in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        self.seen = self.seen + x.sum().detach()
        return x


@dataclass(frozen=True)
class Keeping:
    """A network with such layers."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        return nn.Sequential(normalize, Counting(), *Small().build(inputs, Absorbing(1)))


@pytest.mark.slow
def test_judging_leaves_no_trace_in_the_network(tmp_path: Path) -> None:
    """Even where a network keeps something of all that it sees: other samples to judge it on, the same weights."""
    histories = []
    for spoiled in ((), ("val", "test")):
        watch = watch_of(DATA, OPTIONS, spoiled=spoiled)
        run(watch, {**OPTIONS, "model": Keeping()}, tmp_path / f"run{len(spoiled)}")
        histories.append(history(watch, tmp_path / f"run{len(spoiled)}"))
    assert histories[0] == histories[1]
