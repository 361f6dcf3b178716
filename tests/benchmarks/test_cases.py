"""``benchmarks/bench.py``: measuring by a fake clock, the work of both sides of the real cases, the script's output."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import partial

import bench
import pytest
import torch
from comparisons import loading, sharing, startup, training, unlearning
from comparisons.cases import CASES
from comparisons.measure import Case, Sides, measure, row
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from forgetkit.data.batches import pixels

TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=7)


@dataclass
class Clock:
    """Advances by the times of each side, and logs the calls."""

    now: float = 0.0
    log: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def side(self, name, times, work=1):
        """Takes ``times`` in turn, after a slow first call."""
        remaining = [1000.0, *times]

        def call() -> int:
            self.now += remaining.pop(0)
            self.log.append(name)
            return work

        return call


def case(sides, **options):
    return Case("some", "ours", "reference", lambda device: sides, **options)


def timed(ours, reference, excluded=None, fault=None, **options):
    clock = Clock()
    excluded = None if excluded is None else clock.side("excluded", excluded)
    sides = Sides(clock.side("ours", ours), clock.side("reference", reference), excluded, fault=fault)
    return measure(case(sides, **options), "cpu", len(ours), clock), clock.log


def test_sides_alternate_and_the_order_reverses() -> None:
    result, log = timed([1, 1, 1], [2, 2, 2])
    assert log == ["ours", "reference", *("ours", "reference"), *("reference", "ours"), *("ours", "reference")]
    assert result.seconds == {"ours": (1, 1, 1), "reference": (2, 2, 2)}
    _, log = timed([1, 1], [2, 2], [3, 3])
    assert log[3:] == ["ours", "reference", "excluded", "excluded", "reference", "ours"]


@given(st.data(), TIMES)
def test_figures_are_those_of_the_medians(data, ours) -> None:
    as_many = st.lists(st.floats(0.01, 100), min_size=len(ours), max_size=len(ours))
    reference, excluded = data.draw(as_many), data.draw(as_many)
    a, b, c = statistics.median(ours), statistics.median(reference), statistics.median(excluded)
    for reading, figure in {"times as fast": b / a, "of it": a / b, "seconds more": a - b}.items():
        assert timed(ours, reference, reading=reading)[0].figure == pytest.approx(figure, abs=1e-6)
    costly = timed(ours, reference, excluded, reading="times the cost")[0]
    assert costly.figure == pytest.approx((a - c) / b, abs=1e-6)
    each = [(x - z) / y for x, y, z in zip(ours, reference, excluded, strict=True)]
    assert costly.spread == pytest.approx((min(each), max(each)), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "ours", "reference", "met", "target"),
    [
        ({"target": 2}, 1, 2, True, "at least 2"),
        ({"target": 2.5}, 1, 2, False, "at least 2.5"),
        ({"reading": "times the cost", "target": 1.5}, 3, 2, True, "at most 1.5"),
        ({"reading": "times the cost", "target": 1.25}, 3, 2, False, "at most 1.25"),
        ({"reading": "seconds more", "target": 1}, 3, 2, True, "at most 1 s"),
        ({"reading": "seconds more", "target": 0.5}, 3, 2, False, "at most 0.5 s"),
        ({"reading": "of it"}, 3, 2, None, ""),
        ({"target": 5, "rate": 1}, 1, 5, True, "at least 5 and 1/s"),
        ({"target": 5, "rate": 1.1}, 1, 5, False, "at least 5 and 1/s"),
        ({"target": 5, "fault": "torch is imported"}, 1, 5, False, "at least 5"),
    ],
)
def test_targets(options, ours, reference, met, target) -> None:
    result, _ = timed([ours], [reference], **options)
    assert result.met is met
    assert row(result)[-2:] == (target, {True: "met", False: "missed", None: ""}[met])


def test_sides_of_different_work_are_refused() -> None:
    clock, closed = Clock(), []
    sides = Sides(clock.side("o", [1], 64), clock.side("r", [1], 63), close=lambda: closed.append(True))
    with pytest.raises(ValueError, match="compares 64 samples with 63"):
        measure(case(sides), "cpu", 1, clock)
    assert closed == [True]
    sides = Sides(clock.side("o", [1], 64), clock.side("r", [1], 63))
    assert measure(case(sides, reading="of it"), "cpu", 1, clock).work == 64


def test_a_case_that_cannot_run_here_is_not_prepared() -> None:
    skipped = measure(case(None, unavailable=lambda device: f"no {device}"), "cpu", 1)
    assert skipped.as_dict()["skipped"] == "no cpu"
    assert row(skipped)[-1] == "skipped"
    assert {"cuda", "sharing"} == {one.name for one in CASES if one.unavailable("cpu")} - {"auto"}


def test_the_record_holds_every_time() -> None:
    result, _ = timed([1, 2, 4], [3, 3, 3], target=1.5, unit="scores")
    record = json.loads(json.dumps(result.as_dict()))
    assert record["medians"] == {"ours": 2, "reference": 3}
    assert record["seconds"] == {"ours": [1, 2, 4], "reference": [3, 3, 3]}
    expected = {"figure": 1.5, "target": 1.5, "met": True, "work": 1, "unit": "scores", "repetitions": 3, "rate": 0.5}
    assert {name: record[name] for name in expected} == expected
    assert record["spread"] == [0.75, 3]
    assert row(result) == ("some", "2.00 s", "3.00 s", "1.50 ×", "0.75–3.00", "at least 1.5", "met")


@pytest.fixture
def script(monkeypatch, capsys):
    """``script("--json")``: the output and the errors of ``bench.py`` over three made-up cases."""

    def call(*words: str) -> tuple[str, str]:
        side = lambda: 1  # noqa: E731
        cases = (
            Case("good", "one", "another", lambda device: Sides(side, side), target=1e-9),
            Case("bad", "one", "another", lambda device: Sides(side, side, fault="it is bad"), target=0),
            Case("none", "one", "another", lambda device: None, target=2, unavailable=lambda device: "no such thing"),
        )
        monkeypatch.setattr(bench, "CASES", cases)
        monkeypatch.setattr(sys, "argv", ["bench.py", "--repetitions", "1", "--device", "cpu", *words])
        bench.main()
        return capsys.readouterr()

    return call


def test_the_script_prints_a_line_per_case(script) -> None:
    out, err = script()
    machine, good, bad, none = out.splitlines()
    assert re.search(r" threads, .*torch ", machine)
    assert good.startswith("good: ")
    assert good.endswith(", target at least 1e-09: met")
    assert bad.endswith("missed (it is bad)")
    assert (none, err) == ("none: skipped: no such thing", "")


def test_the_script_prints_an_object(script) -> None:
    out, err = script("--json", "bad", "good", "--threads", "1")
    record = json.loads(out)
    assert [one["name"] for one in record["cases"]] == ["good", "bad"]
    assert len(err.splitlines()) == 3
    machine = record["machine"]
    assert (machine["device"], machine["threads"], machine["torch"]) == ("cpu", 1, torch.__version__)
    assert machine["cores"] >= 1
    assert machine["processor"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "there is no case nope; choose from good, bad, none"),
        (["--device", "abacus"], "--device abacus: not a device"),
        (["--repetitions", "0"], "--repetitions and --threads take a number of at least 1"),
    ],
)
def test_mistakes_on_the_command_line(script, capsys, words, message) -> None:
    with pytest.raises(SystemExit, match="2"):
        script(*words)
    assert message in capsys.readouterr().err


def loss(model, inputs, labels) -> float:
    with torch.no_grad():
        return float(cross_entropy(model.train()(inputs), labels))


@pytest.mark.slow
def test_both_sides_start_with_the_same_function_and_learn() -> None:
    sides = training.bare(training.Work.digits("cpu"))
    pool, loop = sides.ours.pool, sides.reference
    views = [(sides.ours.model, pixels(pool.inputs), pool.labels), (loop.model, loop.inputs, loop.labels)]
    with torch.no_grad():
        torch.testing.assert_close(*(model.eval()(inputs) for model, inputs, _ in views))
    before = [loss(*view) for view in views]
    steps = []
    loop.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    sides.ours.trainer.optimizer.register_step_post_hook(lambda *_: steps.append(2))
    assert sides.ours() == sides.reference() == 1437
    assert steps.count(1) == steps.count(2) == 23
    assert all(loss(*view) < 0.8 * old for view, old in zip(views, before, strict=True))


@pytest.mark.children
@pytest.mark.parametrize(
    ("prepare", "layout"),
    [(loading.convnet_by_default, torch.contiguous_format), (loading.resnet18_in_bf16, torch.channels_last)],
)
def test_the_loader_trains_in_its_layout_and_its_workers_end(prepare, layout) -> None:
    sides, layouts = prepare(4, "cpu", workers=1), []
    loop = sides.reference
    weights = [p.detach().clone() for p in loop.model.parameters()]
    loop.model.register_forward_pre_hook(
        lambda module, args: layouts.append(args[0].is_contiguous(memory_format=layout))
    )
    assert sides.ours() == loop() == 4
    assert layouts == [True]
    assert all(p.is_contiguous(memory_format=layout) for p in loop.model.parameters() if p.ndim == 4)
    assert all(not torch.equal(p, old) for p, old in zip(loop.model.parameters(), weights, strict=True))
    workers = loop.loader._iterator._workers
    sides.close()
    assert not any(worker.is_alive() for worker in workers)


def test_samples_are_transformed_to_floats() -> None:
    white = loading.TransformedSamples(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.zeros(1))
    assert white[0][0].shape == (3, 32, 32)
    assert white[0][0].max() == 1


@pytest.mark.slow
def test_the_work_of_unlearning_and_selection() -> None:
    sides = unlearning.selection("cpu")
    assert sides.ours() == 11_173_962
    small = unlearning.beside_an_epoch("cpu")
    before = [p.detach().clone() for p in small.reference.model.parameters()]
    assert small.ours() == 1437
    assert any(not torch.equal(p, old) for p, old in zip(small.reference.model.parameters(), before, strict=True))


@pytest.mark.children
def test_workers_work_at_once_and_in_turn_and_ignore_ctrl_c(capfd) -> None:
    pool = sharing.WorkerPool.start(2, partial(partial, len), "work")
    os.kill(pool.workers[0][0].pid, signal.SIGINT)
    assert pool.at_once() == pool.in_turn() == 4 + 4
    pool.workers[0][1].send("go")  # a worker may still be working when the pool closes
    pool.close()
    assert [process.exitcode for process, _ in pool.workers] == [0, 0]
    assert capfd.readouterr().err == ""


@pytest.mark.children
def test_a_pool_that_fails_to_start_is_closed(monkeypatch) -> None:
    pools, init = [], sharing.WorkerPool.__init__

    def watched(self, workers) -> None:
        init(self, workers)
        pools.append(self)

    monkeypatch.setattr(sharing.WorkerPool, "__init__", watched)
    monkeypatch.setattr(sharing, "_receive", lambda connection: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(sharing, "_GRACE", 0.01)
    with pytest.raises(KeyboardInterrupt):
        sharing.WorkerPool.start(1, partial(partial, time.sleep), 60)
    ((process, connection),) = pools[0].workers
    assert not process.is_alive()
    assert connection.closed


@pytest.mark.children
def test_the_start_runs_in_children_and_looks_for_torch(monkeypatch) -> None:
    sides = startup.help_text("cpu")
    assert sides.fault is None
    assert sides.ours() == sides.reference() == 1
    monkeypatch.setattr(startup, "HELP", "raise SystemExit(1)")
    assert startup.help_text("cpu").fault == "forgetkit --help imports torch"
