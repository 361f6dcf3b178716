"""A stop request finishes the step and writes a checkpoint; the resumed run gives the same bits."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from forgetkit import config
from forgetkit.config import machine
from forgetkit.contracts import EpochEnded, MegaBatchRevealed, Unlearned
from forgetkit.engine.run import run_plan
from forgetkit.registry import registry
from forgetkit.storage import RunDirectory
from forgetkit.system.interrupts import SIGNALS, GracefulStop, StopRequest, handle_signals

DRAWING = """
from torch import nn

def net(shape, classes):
    width = shape[0] * shape[1] * shape[2]
    hidden = [nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, classes))
"""
ACTING = """
import random
import dataclasses, forgetkit, numpy, torch
from forgetkit.contracts import Intervention

@dataclasses.dataclass(frozen=True)
class Shake(Intervention):
    '''Draws from every generator, and keeps a sum of the draws.'''

    def after_step(self, moment):
        drawn = torch.rand(()) + random.random() + numpy.random.rand() + torch.rand((), generator=moment.rng)
        moment.state["sum"] = moment.state.get("sum", torch.zeros(())) + drawn
        with torch.no_grad():
            for p in moment.model.parameters():
                p.mul_(1 - 1e-3 * float(moment.state["sum"]) / (1 + float(moment.state["sum"])))

@forgetkit.hookimpl
def forgetkit_interventions():
    return {"shake": Shake}
"""
BASE = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "import:drawing:net",
    "mega_batches": 2,
    "epochs": 2,
    "batch_size": 8,
    "momentum": 0.9,
    "threads": 1,
    "augment": "crop-flip",
}
ACTED = {**BASE, "interventions": ["shake"], "schedule": "cosine", "replay": "buffer:size=9"}
ACTED = {key: value for key, value in ACTED.items() if key != "epochs"} | {"samples": 70}
WATCHED = {
    **BASE,
    "epochs": 3,
    "carry": "best-val",
    "patience": 1,
    "val_fraction": 0.3,
    "optimizer": "adamw",
    "lr": 0.05,
}


class Counting(StopRequest):
    """Requests a stop at poll ``number``, from 1, and counts the polls."""

    def __init__(self, number=None):
        super().__init__()
        self.number, self.looks = number, 0

    @property
    def requested(self):
        self.looks += self._is_deferred
        self.stopping = self.stopping or self.looks == self.number
        return self._is_deferred and self.stopping

    @requested.setter
    def requested(self, value):
        self.stopping = value


@pytest.fixture
def go(workdir, plugin, monkeypatch):
    """Run or resume, with a stop request."""
    plugin("drawing", DRAWING)
    monkeypatch.syspath_prepend(workdir)
    path = plugin("shake", ACTING)

    def call(options=None, *, resume=None, stop=None, observers=()):
        offers = registry.load(files=[path])
        unfinished = None
        if resume is not None:
            unfinished = RunDirectory.reopen(resume)
            options = config.resumed_options(unfinished.manifest, {"model": BASE["model"]}, offers)
        plan = config.resolve(options, offers)
        return run_plan(plan, observers=observers, cache=machine.cache_folder(), resume=unfinished, stop=stop)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("options", [BASE, ACTED, WATCHED], ids=["drawing", "acted", "watched"])
def test_stopped_at_any_look_it_goes_on_to_the_same_bits(go, workdir, options, every, substance, digests, result_of):
    counted = Counting()
    whole = go({**options, "name": "whole"}, stop=counted)
    assert counted.looks > 20
    stopped = within = 0
    looks = range(1, counted.looks + 1, every)
    for number in looks:
        folder = workdir / "runs" / str(number)
        try:
            result = go({**options, "name": str(number)}, stop=Counting(number))
        except GracefulStop:
            stopped += 1
            within += any(file.stem.count("-") == 3 for file in folder.glob("checkpoints/resume-*.pt"))
            assert not (folder / "result.json").exists()
            result = go(resume=folder)
        assert substance(result) == substance(whole) == substance(result_of(folder))
        assert digests(folder) == digests(workdir / "runs" / "whole")
    assert stopped == len(looks)
    assert within > 2


@pytest.mark.slow
def test_stopped_again_and_again(go, workdir, substance, digests, result_of):
    whole = go({**ACTED, "name": "whole"})
    folder, legs = workdir / "runs" / "r", 0
    with pytest.raises(GracefulStop):
        go({**ACTED, "name": "r"}, stop=Counting(2))
    while not (folder / "result.json").exists():
        legs += 1
        try:
            go(resume=folder, stop=Counting(7))
        except GracefulStop:
            continue
    assert legs >= 4
    assert digests(folder) == digests(workdir / "runs" / "whole")
    assert substance(result_of(folder)) == substance(whole)


def test_states_come_within_an_epoch_once_the_last_is_old(go, workdir, monkeypatch, substance):
    clock = iter(range(10**6))
    monkeypatch.setattr("forgetkit.engine.checkpointing.time.monotonic", lambda: next(clock))
    whole = go({**BASE, "name": "often", "checkpoint_seconds": 4})
    events = (workdir / "runs" / "often" / "events.jsonl").read_text()
    assert '"step": 2' in events or '"step": 3' in events
    seldom = go({**BASE, "name": "seldom", "checkpoint_seconds": 10**6})
    assert (workdir / "runs" / "seldom" / "events.jsonl").read_text().count('"checkpointed"') == 1
    plain, other = substance(whole), substance(seldom)
    plain["config"].pop("checkpoint_seconds"), other["config"].pop("checkpoint_seconds")
    assert plain == other


def test_states_come_after_every_so_many_epochs(go, workdir):
    go({**BASE, "name": "r", "epochs": 5, "checkpoint_epochs": 2})
    events = (workdir / "runs" / "r" / "events.jsonl").read_text()
    files = [f"resume-{t:03}-{e:04}.pt" for t, epochs in ((1, (2, 4)), (2, (0, 2, 4))) for e in epochs]
    assert [file for file in files if file in events] == files
    assert events.count('"checkpointed"') == len(files)


class Ask:
    """Sends a signal to this process at an event of one kind."""

    def __init__(self, kind, number, times=1):
        self.kind, self.number, self.times = kind, number, times

    def notify(self, event):
        if isinstance(event, self.kind):
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_is_heard(go, workdir, name, substance):
    whole = go({**BASE, "name": "whole"})
    halt, noted = StopRequest(), []
    number = getattr(signal, name)
    with pytest.raises(GracefulStop), handle_signals(halt, lambda: noted.append(1)):
        go({**BASE, "name": "r"}, stop=halt, observers=[Ask(MegaBatchRevealed, number)])
    assert signal.getsignal(number) is signal.SIG_IGN  # a second signal would end it
    assert noted == [1]
    assert [file.stem for file in (workdir / "runs/r/checkpoints").glob("*.pt")] == ["resume-001-0000-000001"]
    assert substance(go(resume=workdir / "runs" / "r")) == substance(whole)


@pytest.mark.parametrize("kind", [EpochEnded, Unlearned])
def test_asked_while_it_is_judged_and_forgets(go, workdir, kind, substance, digests):
    whole = go({**BASE, "name": "whole", "epochs": 1})
    halt = StopRequest()
    with pytest.raises(GracefulStop), handle_signals(halt):
        go({**BASE, "name": "r", "epochs": 1}, stop=halt, observers=[Ask(kind, signal.SIGTERM)])
    assert substance(go(resume=workdir / "runs" / "r")) == substance(whole)
    assert digests(workdir / "runs" / "r") == digests(workdir / "runs" / "whole")


def test_asked_twice_it_stops_at_once(go, workdir):
    halt = StopRequest()
    with pytest.raises(KeyboardInterrupt) as stopped, handle_signals(halt):
        go({**BASE, "name": "r"}, stop=halt, observers=[Ask(MegaBatchRevealed, signal.SIGINT, times=2)])
    assert stopped.type is KeyboardInterrupt
    assert not list((workdir / "runs" / "r" / "checkpoints").glob("*.pt"))


def test_where_nothing_could_be_lost_it_stops_at_once():
    halt = StopRequest()
    with pytest.raises(KeyboardInterrupt):
        halt.request()
    halt = StopRequest()
    with halt.deferred():
        halt.request()
        with pytest.raises(GracefulStop):
            halt.check()
    with pytest.raises(KeyboardInterrupt):
        halt.request()


def test_warnings_that_are_repeated_ask_once(monkeypatch):
    """SIGXCPU comes each second of processor time, and schedulers may send two signals for one request."""
    now = [100.0]
    monkeypatch.setattr("forgetkit.system.interrupts.time.monotonic", lambda: now[0])
    halt, noted = StopRequest(), []
    with handle_signals(halt, lambda: noted.append(1)), halt.deferred():
        for number in (signal.SIGXCPU, signal.SIGXCPU, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert noted == [1]
        now[0] += 2
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    for name in SIGNALS:
        os.kill(os.getpid(), getattr(signal, name))  # while the process ends


def test_a_signal_that_is_to_be_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(StopRequest()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_hears_no_signals():
    handlers = []

    def listen():
        with handle_signals(StopRequest()):
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_only_the_state_of_the_epoch_makes_the_bits_the_same(go, workdir, monkeypatch, digests):
    """Break the code once: without the random state of the epoch the weights differ."""
    go({**BASE, "name": "whole"})
    monkeypatch.setattr("forgetkit.training.trainer.restore_rng", lambda draws, device: None)
    with pytest.raises(GracefulStop):
        go({**BASE, "name": "r"}, stop=Counting(2))
    go(resume=workdir / "runs" / "r")
    assert digests(workdir / "runs" / "r") != digests(workdir / "runs" / "whole")
