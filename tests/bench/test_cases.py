"""How cases are measured: against a clock of our own, and that both sides of the real ones do the same work."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from forgetkit import bench
from forgetkit.bench import loading, sharing, starting, training, unlearning
from forgetkit.bench.words import target
from forgetkit.data.batches import pixels
from forgetkit.errors import ForgetkitError, OptionError

CPU = bench.BenchmarkOptions("cpu")
TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=7)


@dataclass
class Clock:
    """Goes on by what a side is said to take, and writes down who was called."""

    now: float = 0.0
    log: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def side(self, name, times, work=1):
        """Takes ``times`` in turn, after a first call that takes far longer, as a first call does."""
        left = [1000.0, *times]

        def call() -> int:
            self.now += left.pop(0)
            self.log.append(name)
            return work

        return call


def case(sides, **more):
    return bench.BenchmarkCase("some", "ours", "reference", lambda setting: sides, **more)


def measured(ours, reference, beside=None, fault=None, **more):
    clock = Clock()
    beside = None if beside is None else clock.side("beside", beside)
    sides = bench.Sides(clock.side("ours", ours), clock.side("reference", reference), beside, fault=fault)
    return bench.measure(case(sides, **more), CPU, len(ours), clock=clock), clock.log


def test_sides_take_turns_and_the_order_turns_round() -> None:
    result, log = measured([1, 1, 1], [2, 2, 2])
    assert log == ["ours", "reference", *("ours", "reference"), *("reference", "ours"), *("ours", "reference")]
    assert result.seconds == {"ours": (1, 1, 1), "reference": (2, 2, 2)}
    _, log = measured([1, 1], [2, 2], [3, 3])
    assert log[3:] == ["ours", "reference", "beside", "beside", "reference", "ours"]


@given(st.data(), TIMES)
def test_figures_are_those_of_the_medians(data, ours) -> None:
    as_many = st.lists(st.floats(0.01, 100), min_size=len(ours), max_size=len(ours))
    reference, beside = data.draw(as_many), data.draw(as_many)
    a, b, c = statistics.median(ours), statistics.median(reference), statistics.median(beside)
    for reading, wanted in {"times as fast": b / a, "of it": a / b, "seconds more": a - b}.items():
        assert measured(ours, reference, reading=reading)[0].figure == pytest.approx(wanted, abs=1e-6)
    costly = measured(ours, reference, beside, reading="times the cost")[0]
    assert costly.figure == pytest.approx((a - c) / b, abs=1e-6)
    each = [(x - z) / y for x, y, z in zip(ours, reference, beside, strict=True)]
    assert costly.spread == pytest.approx((min(each), max(each)), abs=1e-6)


@pytest.mark.parametrize(
    ("reading", "target", "ours", "reference", "met", "words"),
    [
        ("times as fast", 2, 1, 2, True, "at least 2"),
        ("times as fast", 2.5, 1, 2, False, "at least 2.5"),
        ("times the cost", 1.5, 3, 2, True, "at most 1.5"),
        ("times the cost", 1.25, 3, 2, False, "at most 1.25"),
        ("seconds more", 1, 3, 2, True, "at most 1 s"),
        ("seconds more", 0.5, 3, 2, False, "at most 0.5 s"),
        ("of it", None, 3, 2, None, ""),
    ],
)
def test_which_side_of_a_target_is_the_good_one(reading, target, ours, reference, met, words) -> None:
    result, _ = measured([ours], [reference], reading=reading, target=target)
    assert result.met is met
    assert bench.row(result)[-2:] == (words, {True: "met", False: "missed", None: ""}[met])


def test_a_rate_and_a_promise_are_wanted_besides() -> None:
    for rate, fault, met in ((1, None, True), (1.1, None, False), (1, "torch is imported", False)):
        result, _ = measured([1], [5], target=5, rate=rate, fault=fault)
        assert result.rate == 1
        assert result.met is met
    assert target(result.case) == "at least 5 and 1/s"


def test_sides_that_do_not_do_the_same_are_refused() -> None:
    clock, closed = Clock(), []
    sides = bench.Sides(clock.side("o", [1], 64), clock.side("r", [1], 63), close=lambda: closed.append(True))
    with pytest.raises(ForgetkitError, match="compares 64 samples with 63"):
        bench.measure(case(sides), CPU, 1, clock=clock)
    assert closed == [True]
    sides = bench.Sides(clock.side("o", [1], 64), clock.side("r", [1], 63))
    assert bench.measure(case(sides, reading="of it"), CPU, 1, clock=clock).done == 64


def test_a_case_that_cannot_be_measured_here_is_not_prepared() -> None:
    skipped = bench.measure(case(None, lacks=lambda setting: f"no {setting.device}"), CPU, 1)
    assert skipped.as_dict()["skipped"] == "no cpu"
    assert bench.row(skipped)[-1] == "skipped"
    lacking = [one.name for one in bench.CASES if one.lacks(CPU) and one.name != "auto"]
    assert lacking == ["cuda", "sharing"]


def test_the_record_holds_every_time() -> None:
    result, _ = measured([1, 2, 4], [3, 3, 3], target=1.5, unit="scores")
    record = json.loads(json.dumps(result.as_dict()))
    assert record["medians"] == {"ours": 2, "reference": 3}
    assert record["seconds"] == {"ours": [1, 2, 4], "reference": [3, 3, 3]}
    wanted = {"figure": 1.5, "target": 1.5, "met": True, "work": 1, "unit": "scores", "repetitions": 3, "rate": 0.5}
    assert {name: record[name] for name in wanted} == wanted
    assert record["spread"] == [0.75, 3]
    assert bench.row(result) == ("some", "2.00 s", "3.00 s", "1.50 ×", "0.75–3.00", "at least 1.5", "met")


def test_cases_are_chosen_by_name_in_their_own_order() -> None:
    assert [one.name for one in bench.choose_cases(["start", "convnet"])] == ["convnet", "start"]
    assert bench.choose_cases([]) == bench.CASES
    with pytest.raises(OptionError, match="did you mean 'start'"):
        bench.choose_cases(["stat"])


def loss(model, inputs, labels) -> float:
    with torch.no_grad():
        return float(cross_entropy(model.train()(inputs), labels))


def test_both_sides_begin_with_the_same_function_and_learn() -> None:
    sides = training.bare(training.Work.digits(CPU))
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
def test_the_loader_offers_the_same_images_and_its_workers_end() -> None:
    sides = loading.loaded(65, CPU, workers=1)
    loop = sides.reference
    weights = [p.detach().clone() for p in loop.model.parameters()]
    assert sides.ours() == loop() == 65
    assert all(not torch.equal(p, old) for p, old in zip(loop.model.parameters(), weights, strict=True))
    workers = loop.loader._iterator._workers
    sides.close()
    assert not any(worker.is_alive() for worker in workers)
    white = loading.TransformedSamples(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.zeros(1))
    assert white[0][0].shape == (3, 32, 32)
    assert white[0][0].max() == 1


@pytest.mark.children
@pytest.mark.parametrize(
    ("prepare", "layout"),
    [(loading.loaded, torch.contiguous_format), (loading.on_cuda, torch.channels_last)],
    ids=["as most people write it", "as ours"],
)
def test_the_layout_of_the_other_side(prepare, layout) -> None:
    sides, seen = prepare(4, CPU, workers=1), []
    model = sides.reference.model
    hook = lambda module, given: seen.append(given[0].is_contiguous(memory_format=layout))  # noqa: E731
    model.register_forward_pre_hook(hook)
    sides.reference()
    sides.close()
    assert seen == [True]
    assert all(p.is_contiguous(memory_format=layout) for p in model.parameters() if p.ndim == 4)


def test_the_network_of_unlearning_and_selecting_is_as_it_is_said() -> None:
    sides = unlearning.selection(CPU)
    assert sides.ours() == 11_173_962
    small = unlearning.beside_an_epoch(CPU)
    before = [p.detach().clone() for p in small.reference.model.parameters()]
    assert small.ours() == 1437
    assert any(not torch.equal(p, old) for p, old in zip(small.reference.model.parameters(), before, strict=True))


@pytest.mark.children
def test_a_crew_works_at_once_and_in_turn() -> None:
    crew = sharing.WorkerPool.hired(2, partial(partial, len), "work")
    assert crew.at_once() == crew.in_turn() == 4 + 4
    crew.dismiss()
    assert [process.exitcode for process, _ in crew.workers] == [0, 0]


@pytest.mark.children
def test_an_interruption_is_not_for_the_crew_and_who_is_at_work_leaves_without_a_word(capfd) -> None:
    crew = sharing.WorkerPool.hired(1, partial(partial, time.sleep), 0.2)
    ((process, connection),) = crew.workers
    os.kill(process.pid, signal.SIGINT)
    connection.send("go")
    connection.recv()
    connection.send("go")
    crew.dismiss()
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.children
def test_a_crew_that_cannot_be_hired_is_dismissed(monkeypatch) -> None:
    made, init = [], sharing.WorkerPool.__init__

    def watched(self, workers) -> None:
        init(self, workers)
        made.append(self)

    monkeypatch.setattr(sharing.WorkerPool, "__init__", watched)
    monkeypatch.setattr(sharing, "_receive", lambda connection: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(sharing, "_GRACE", 0.01)
    with pytest.raises(KeyboardInterrupt):
        sharing.WorkerPool.hired(1, partial(partial, time.sleep), 60)
    ((process, connection),) = made[0].workers
    assert not process.is_alive()
    assert connection.closed


@pytest.mark.children
def test_the_start_is_that_of_children_and_torch_is_looked_for(monkeypatch) -> None:
    sides = starting.help_text()
    assert sides.fault is None
    assert sides.ours() == sides.reference() == 1
    monkeypatch.setattr(starting, "_HELP", "raise SystemExit(1)")
    assert starting.help_text().fault == "forgetkit --help imports torch"


def test_the_machine_says_what_it_is() -> None:
    here = bench.describe_machine("cpu").as_dict()
    assert here["torch"] == torch.__version__
    assert here["threads"] == torch.get_num_threads()
    assert here["cores"] >= 1
    assert here["processor"]
