"""A run that is stopped anywhere, by anything, ends as if it had never been stopped."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

import forgetkit
from forgetkit.contracts import LoadProgress, RunEnded, StepProgress

PULL = """
import dataclasses, forgetkit, torch
from forgetkit.contracts import Intervention

@dataclasses.dataclass(frozen=True)
class Pull(Intervention):
    '''Pull the weights towards their running mean, and shake them: with a state and with draws of its own.'''

    strength: float = 0.01

    def begin(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state.setdefault(name, p.detach().clone())
        moment.state["begun"] = moment.state.get("begun", torch.zeros(())) + 1

    def loss(self, moment):
        return self.strength * sum((p - moment.state[n]).square().sum() for n, p in moment.model.named_parameters())

    @torch.no_grad()
    def after_step(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state[name].lerp_(p, 0.1 / moment.state["begun"].item())

    @torch.no_grad()
    def after_epoch(self, moment):
        for p in moment.model.parameters():
            p.add_(torch.randn(p.shape, generator=moment.rng), alpha=1e-3)

@forgetkit.hookimpl
def forgetkit_interventions():
    return {"pull": Pull}
"""

PLAIN = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "convnet:width=4",
    "mega_batches": 2,
    "epochs": 3,
    "batch_size": 8,
    "threads": 1,
    "augment": "crop-flip",
    "checkpoint_epochs": 1,
}
STATEFUL = {
    **PLAIN,
    "mega_batches": 3,
    "epochs": 2,
    "momentum": 0.95,
    "replay": "buffer:size=9",
    "interventions": ["pull:strength=0.05"],
    "importance": "fisher:variant=sampled,samples=20",
}
COLD = {**PLAIN, "method": "cold", "replay": "buffer:size=5,rule=per-mega-batch", "epochs": 2}
CODE = {
    **PLAIN,
    "preset": "lure-code",
    "mega_batches": 3,
    "replay": "buffer:size=9",  # whose rule repeats samples
    "reinit": "masked:fresh=rewind",
    "label_noise": 0.2,
    "bn_stats": "recalibrate",
    "lr": 0.5,  # so that the best epoch is not always the last
}
PATIENT = {
    **PLAIN,
    "optimizer": "adamw",
    "schedule": "cosine",
    "optimizer_state": "fresh",
    "carry": "best-val",
    "patience": 2,
    "val_fraction": 0.3,
    "lr": 0.05,
    "shots": 18,
    "epochs": 6,
}


class Stop:
    """Interrupts the run at its event ``number``, from 0; the screen's own events do not count."""

    def __init__(self, number=None):
        self.number = number
        self.heard = []

    def notify(self, event):
        if isinstance(event, LoadProgress | StepProgress):
            return
        self.heard.append(type(event).__name__)
        if len(self.heard) - 1 == self.number:
            raise KeyboardInterrupt


@pytest.fixture
def run(plugin):
    """Run or resume in this process."""
    path = plugin("pull", PULL)

    def call(options=None, *, stop=None, resume=None):
        return forgetkit.run(options, observers=[stop or Stop()], plugins=[path], resume=resume)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "every"),
    [(STATEFUL, 2), (COLD, 3), (CODE, 3), (PATIENT, 3)],
    ids=["stateful", "cold", "code", "patient"],
)
def test_stopped_at_any_event(run, workdir, options, every, substance, digests, result_of):
    stop = Stop()
    whole = run({**options, "name": "whole"}, stop=stop)
    events = len(stop.heard)
    assert stop.heard[-1] == "RunEnded"
    epochs = [row["epochs"] for row in whole["mega_batches"]]
    if options is PATIENT:
        assert min(epochs) < options["epochs"], "patience ends nothing, so the test shows less"
    else:
        assert epochs == [options["epochs"]] * options["mega_batches"]
    if options in (CODE, PATIENT):
        assert any(row["carried_epoch"] < row["epochs"] for row in whole["mega_batches"])
    # Events: each epoch ends and, except for the last, writes a checkpoint; each mega-batch is revealed and ends.
    states = sum(done - (done == options["epochs"]) for done in epochs)
    assert events == 2 + sum(epochs) + states + 4 * options["mega_batches"] - 2
    for number in range(0, events, every):
        name = f"{number:02}"
        folder = workdir / "runs" / name
        with pytest.raises(KeyboardInterrupt):
            run({**options, "name": name}, stop=Stop(number))
        if number < events - 1:
            assert not (folder / "result.json").exists()
            assert substance(run(resume=folder)) == substance(whole)
        assert substance(result_of(folder)) == substance(whole)
        assert digests(folder) == digests(workdir / "runs" / "whole")


@pytest.mark.slow
def test_stopped_again_and_again(run, workdir, substance, digests, result_of):
    whole = run({**STATEFUL, "name": "whole"})
    folder = workdir / "runs" / "r"
    with pytest.raises(KeyboardInterrupt):
        run({**STATEFUL, "name": "r"}, stop=Stop(2))
    legs = 1
    while not (folder / "result.json").exists():
        # Far enough to reach the next state, whether it comes after an epoch or after a mega-batch.
        with contextlib.suppress(KeyboardInterrupt):
            run(resume=folder, stop=Stop(5))
        legs += 1
    assert legs >= 4
    assert substance(result_of(folder)) == substance(whole)
    assert digests(folder) == digests(workdir / "runs" / "whole")


WORDS = shlex.split(
    "run --dataset synthetic:samples=90,test=20,classes=3,size=4,channels=1 --model convnet:width=4 --threads 1 "
    "--batch-size 8 --momentum 0.95 --replay buffer:size=9 --intervention pull:strength=0.05 "
    "--checkpoint-epochs 1 --name r --quiet"
)


def wait_for(pattern, folder, seconds=60):
    until = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < until, f"no {pattern} in {folder}"
        time.sleep(0.002)


@pytest.fixture
def interrupted(plugin, cli, workdir, substance, digests, result_of):
    """The command of a run to interrupt, and a check of its message and of the resumed result."""
    (workdir / "my plugins").mkdir()
    path = plugin("my plugins/pull", PULL).relative_to(workdir)
    words = [*WORDS, "--plugin", str(path), "--epochs", "25", "--mega-batches", "2"]
    assert cli(*words, "--out", "whole").status == 0
    run = workdir / "runs" / "r"

    def check(status, err, go_on):
        assert not (run / "result.json").exists()
        assert status == 130
        first, hint = err.splitlines()
        assert first == "forgetkit: interrupted"
        assert hint == "to go on: forgetkit run --resume runs/r --plugin 'my plugins/pull.py'"
        go_on(hint.removeprefix("to go on: "))
        assert substance(result_of(run)) == substance(result_of(workdir / "whole" / "r"))
        assert digests(run) == digests(workdir / "whole" / "r")

    return words, check


@pytest.fixture
def keyboard():
    """A shell that runs the tests in the background has them, and their children, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.children
def test_interrupted_from_the_keyboard(interrupted, workdir, keyboard):
    words, check = interrupted
    with subprocess.Popen(
        [sys.executable, "-m", "forgetkit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_for("runs/r/checkpoints/resume-*.json", workdir)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert out == ""

    def paste(command):
        shell = f'forgetkit() {{ {shlex.quote(sys.executable)} -m forgetkit "$@"; }}\n{command}'
        subprocess.run(["bash", "-c", shell], capture_output=True, check=True)

    check(child.returncode, err, paste)


def test_interrupted_before_it_has_begun(start, workdir, plugin):
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    child = start(["run", "--plugin", plugin("early", source), "--quiet"])
    assert child.wait() == 130
    assert (workdir / "stderr").read_text() == "forgetkit: interrupted\n"
    assert not (workdir / "runs").exists()


def test_the_record_is_only_added_to(run, workdir):
    folder = workdir / "runs" / "r"
    with pytest.raises(KeyboardInterrupt):
        run({**PLAIN, "name": "r"}, stop=Stop(5))
    events = folder / "events.jsonl"
    before = events.read_bytes()
    assert before.endswith(b"\n")
    run(resume=folder)
    assert events.read_bytes().startswith(before)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event"] for line in lines].count("run_started") == 2
    assert lines[-1]["event"] == "run_ended"
    assert all(isinstance(line["time"], float) for line in lines)


def test_a_line_cut_short_is_closed_off(run, workdir):
    folder = workdir / "runs" / "r"
    with pytest.raises(KeyboardInterrupt):
        run({**PLAIN, "name": "r"}, stop=Stop(5))
    events = folder / "events.jsonl"
    whole = events.read_bytes()
    cut = whole[: whole.rindex(b"{") + 17]
    events.write_bytes(cut)
    run(resume=folder)
    after = events.read_bytes()
    assert after.startswith(cut + b"\n")
    for number, line in enumerate(after.splitlines()):
        if number != cut.count(b"\n"):
            json.loads(line)


def test_a_resumed_run_tells_where_it_stands(run, workdir, cli, plugin, terminal):
    path = plugin("pull", PULL)
    for name in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            run({**STATEFUL, "name": name}, stop=Stop(9))
    answer = cli("run", "--resume", "runs/a", "--plugin", path)
    assert "mega-batch 1:" not in answer.out
    assert "mega-batch 2:" in answer.out
    assert len([line for line in answer.out.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"])]) == 3
    status, seen = terminal(["run", "--resume", "runs/b", "--plugin", path])
    assert status == 0
    assert "mega-batch 2/3" in seen
    assert "mega-batch 1/3" not in seen


@pytest.mark.slow
def test_time_goes_on_where_it_stopped(run, workdir):
    class Slow(Stop):
        def notify(self, event):
            super().notify(event)
            if type(event).__name__ == "EpochEnded":
                time.sleep(0.2)

    folder = workdir / "runs" / "r"
    with pytest.raises(KeyboardInterrupt):
        run({**PLAIN, "name": "r"}, stop=Slow(5))
    result = run(resume=folder)
    assert 0.4 <= result["mega_batches"][0]["seconds"] <= result["seconds"] < 20


def test_the_last_event_holds_the_result(run):
    class Last(Stop):
        def notify(self, event):
            self.last = event

    stop = Last()
    result = run({**PLAIN}, stop=stop)
    assert isinstance(stop.last, RunEnded)
    assert stop.last.result == result
