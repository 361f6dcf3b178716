"""Kill runs at random moments, resume them, and compare them with undisturbed runs.

    python tests/faults/kills.py --runs 100 --seed 0
    python tests/faults/kills.py --calls 1 --seed 0
    python tests/faults/kills.py --ablations 1 --seed 0

Each run has a random configuration and first runs undisturbed. Then it starts again, is killed and resumed up to five
times, and must give the same result to the bit. ``--calls`` kills a small run at every call that changes a file;
``--ablations`` kills processes of a grid.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.subprocesses import Before, Child, ForkServer, digests, start_fork_server, substance

from forgetkit.storage import RunDirectory

HERE = Path(__file__).parent
PLUGIN = ("--plugin", str(HERE.parent / "helpers" / "hostile_plugin.py"))
PATIENCE = 60.0
"""Seconds after which a child counts as hanging."""


Say = Callable[[str], None]


class BrokenPromiseError(Exception):
    """A disturbed run gave another result, or its command printed the wrong message."""


IMPORTANCE = shlex.split(
    "snip snip:reduce=mean-abs,samples=20 random magnitude fisher fisher:variant=sampled,samples=20 fisher-obd "
    "gradient grasp gxd hessian lamp mas movement path-integral snip-sample synflow taylor wanda"
)
MASKED = shlex.split("masked masked:fresh=rewind masked:norm=uniform,ties=stable rewind:epoch=1")
WITHOUT_SCORES = shlex.split("cold dash fire knowledge-evolution llf none redo rifle shrink-perturb")
INTERVENTIONS = shlex.split(
    "pull continual-backprop:maturity=2,rate=0.05 hare-tortoise:every=2 l2-init redo:every=3 "
    "selective-weight:every=3 self-normalized-resets soft-rescale"
)
REPLAY = shlex.split("full none last buffer:size=9 buffer:size=5,rule=per-mega-batch buffer:size=9,rule=lure")
MODELS = shlex.split("convnet:width=4 mlp:width=8 dropnet dropnet:width=6")
OPTIMIZERS = (
    "--momentum 0.95 --lr 0.05",
    "--momentum 0 --lr 0.05",
    "--optimizer adamw --lr 0.01",
    "--lr 0.05 --schedule cosine --optimizer-state fresh",
    "--optimizer adamw --lr 0.01 --optimizer-state keep",
)
LEARNING = ("--epochs 2", "--epochs 4", "--samples 110", "--samples 75 --schedule cosine", "--epochs 2 --batch-size 4")
CARRYING = ("", "", "--carry best-val --val-fraction 0.3", "--patience 1 --val-fraction 0.3")
MORE = (
    "",
    "--augment crop-flip",
    "--augment crop --score-transform train",
    "--bn-stats recalibrate",
    "--label-noise 0.2 --label-noise-draw other",
    "--shots 18",
    "--split contiguous",
    "--score-mode train --score-on union",
    "--score-on incoming",
    "--observer draws",
    "--keep-models last",
    "--keep-models none",
)


CHECKPOINTS = (
    "--checkpoint-seconds 0.01",
    "--checkpoint-seconds 0.03",
    "--checkpoint-epochs 1",
    "--checkpoint-epochs 2 --checkpoint-seconds 0.05",
    "",
)


def configurations(seed: int) -> Iterator[str]:
    """Yield command lines without end: the criteria take turns, the rest is random.

    The program refuses some of them, because their options contradict each other.
    """
    draw = random.Random(seed)
    for number in itertools.count():
        forgetting = f"--importance {IMPORTANCE[number % len(IMPORTANCE)]} --reinit {draw.choice(MASKED)}"
        if draw.random() < 0.3:
            forgetting = f"--reinit {WITHOUT_SCORES[number % len(WITHOUT_SCORES)]}"
        words = [
            forgetting,
            f"--replay {draw.choice(REPLAY)} --model {draw.choice(MODELS)}",
            *(f"--intervention {one}" for one in draw.sample(INTERVENTIONS, draw.choice((0, 0, 1, 2)))),
            *(draw.choice(some) for some in (OPTIMIZERS, LEARNING, CARRYING, MORE, CHECKPOINTS)),
            f"--mega-batches {draw.choice((2, 3))} --seed {draw.randrange(100)}",
        ]
        yield " ".join(word for word in words if word)


SHARED = shlex.split(
    "run --dataset synthetic:samples=108,test=20,classes=3,size=6,channels=1 --threads 1 --batch-size 8 --quiet"
)


@dataclass(eq=False)
class CommandRunner:
    """Runs commands in a folder; their output goes to the files ``stdout`` and ``stderr`` there."""

    folder: Path
    server: ForkServer

    def start(self, words: Sequence[str], before: Before | None = None) -> Child:
        """Start a command."""
        return self.server.start(words, self.folder, before=before)

    def wait(self, child: Child) -> int:
        """Its exit status; BrokenPromiseError if it hangs."""
        if not child.ended_within(PATIENCE):
            child.end()
            raise BrokenPromiseError(f"it hangs: {self.read_stderr()}")
        return child.wait()

    def run(self, words: Sequence[str], before: Before | None = None) -> int:
        """Start a command and wait for it."""
        return self.wait(self.start(words, before))

    def read_stderr(self) -> str:
        """The text written to standard error since the last call; BrokenPromiseError if it has a traceback."""
        file = self.folder / "stderr"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        if "Traceback" in text or "unexpected " in text:
            raise BrokenPromiseError(text)
        return text


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its result, its seconds and its calls that change a file."""

    result: Mapping[str, Any]
    models: Mapping[str, str]
    seconds: float
    calls: Sequence[str]


def breaking(**how: Any) -> Before:
    """Inject a fault in a child before its command; see ``fault_injection.calls``."""
    return str(HERE.parent / "helpers" / "fault_injection.py"), "calls", {"root": "runs", **how}


def reference(runner: CommandRunner, words: Sequence[str]) -> Reference | None:
    """Run undisturbed; None if the program refuses the options."""
    log = runner.folder / "calls"
    log.unlink(missing_ok=True)
    run = runner.folder / "runs" / "r"
    shutil.rmtree(run, ignore_errors=True)
    began = time.monotonic()
    status = runner.wait(runner.start([*words, "--name", "r"], breaking(log=str(log))))
    stderr = runner.read_stderr()
    if status == 2:
        return None
    if status != 0:
        raise BrokenPromiseError(f"undisturbed, it left with {status}: {stderr}")
    seconds = time.monotonic() - began
    lines = log.read_text().splitlines()
    strange = [line for line in lines if line.startswith("uncounted")]
    if strange:
        raise BrokenPromiseError(f"calls that the harness does not see: {strange}")
    result = json.loads((run / "result.json").read_text())
    found = Reference(substance(result), digests(run), seconds, lines)
    shutil.rmtree(run)
    return found


def when(true: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise BrokenPromiseError("it hangs")
        time.sleep(0.0005)


@dataclass
class KilledRun:
    """A run that is killed and resumed."""

    runner: CommandRunner
    words: Sequence[str]
    whole: Reference
    draw: random.Random
    kills: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.runner.folder / "runs" / "r"

    def finish(self, kills: int) -> None:
        """Kill it up to ``kills`` times, at least once; then let it finish, and compare."""
        while len(self.kills) < kills and not (self.run / "result.json").exists():
            self._interrupt()
            if (self.run / "result.json").exists() and not self.kills:
                shutil.rmtree(self.run)  # it finished before the kill
        if not (self.run / "result.json").exists():
            status = self.runner.wait(self.begin(None))
            if status != 0:
                raise BrokenPromiseError(f"it left with {status}: {self.runner.read_stderr()}")
        self.runner.read_stderr()
        if self._has_states() and (self.runner.wait(self.begin(None)) != 0 or self._has_states()):
            raise BrokenPromiseError(f"a finished run has checkpoints left: {self.runner.read_stderr()}")
        result = json.loads((self.run / "result.json").read_text())
        if substance(result) != self.whole.result:
            raise BrokenPromiseError(f"another result: {_difference(self.whole.result, substance(result))}")
        if digests(self.run) != self.whole.models:
            raise BrokenPromiseError(f"other weights: {self.whole.models} became {digests(self.run)}")

    def _has_states(self) -> bool:
        return any(self.run.glob("checkpoints/resume-*"))

    def begin(self, before: Before | None) -> Child:
        """Start it, or resume it."""
        if (self.run / "manifest.json").exists():
            return self.runner.start(["run", "--resume", "runs/r", *PLUGIN, "--quiet"], before)
        if self.run.exists():
            status = self.runner.run(["run", "--resume", "runs/r", "--quiet"])
            stderr = self.runner.read_stderr()
            if (status, stderr.count("\n")) != (2, 1):
                raise BrokenPromiseError(f"without a manifest it left with {status}: {stderr}")
            shutil.rmtree(self.run)
        self.run.parent.mkdir(exist_ok=True)
        return self.runner.start([*self.words, "--name", "r"], before)

    def _interrupt(self) -> None:
        manner = self.draw.choices(
            (self._at_a_call, self._at_a_moment, self._at_its_beginning, self._without_power, self._by_a_signal),
            (30, 25, 15, 15, 15),
        )[0]
        child, name = manner()
        status = self.runner.wait(child)
        stderr = self.runner.read_stderr()
        if status not in (0, 130) and status >= 0:
            raise BrokenPromiseError(f"{name}: it left with {status}: {stderr}")
        if status == 130 and (self.run / "manifest.json").exists() and not (self.run / "result.json").exists():
            self._check_resume_hint(stderr)
        if status != 0:
            self.kills.append(name)

    def _check_resume_hint(self, stderr: str) -> None:
        if not re.search(r"^to go on: forgetkit run --resume runs/r ", stderr, re.MULTILINE):
            raise BrokenPromiseError(f"it does not say how to resume: {stderr}")

    def _at_a_call(self) -> tuple[Child, str]:
        at = self.draw.randint(1, len(self.whole.calls))
        fault = self.draw.choice(("kill", "tear"))
        return self.begin(breaking(at=at, fault=fault)), f"{fault} at call {at}"

    def _at_a_moment(self) -> tuple[Child, str]:
        return self._sent(signal.SIGKILL, self.draw.uniform(0, self.whole.seconds))

    def _at_its_beginning(self) -> tuple[Child, str]:
        child = self.begin(None)
        when(lambda: self.run.exists() or child.ended)
        seconds = self.draw.uniform(0, 0.02)
        time.sleep(seconds)
        child.signal(signal.SIGKILL)
        return child, f"SIGKILL {seconds * 1000:.1f} ms after the folder existed"

    def _without_power(self) -> tuple[Child, str]:
        at, seed = self.draw.randint(1, len(self.whole.calls)), self.draw.randrange(1 << 30)
        return self.begin(breaking(at=at, fault="power", seed=seed)), f"power lost at call {at}"

    def _by_a_signal(self) -> tuple[Child, str]:
        number = self.draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        if self.draw.random() < 0.5:
            return self._sent(number, self.draw.uniform(0, self.whole.seconds))
        at = self.draw.randint(1, len(self.whole.calls))
        return self.begin(breaking(at=at, fault="signal", number=number)), f"{number.name} at call {at}"

    def _sent(self, number: signal.Signals, seconds: float) -> tuple[Child, str]:
        child = self.begin(None)
        time.sleep(seconds)
        child.signal(number)
        return child, f"{number.name} after {seconds:.3f} s"


def _difference(one: Any, other: Any, place: str = "") -> str:
    """The first difference between two results."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (here, there) in enumerate(zip(one, other, strict=True)):
            if here != there:
                return _difference(here, there, f"{place}[{number}]")
    return f"{place}: {one!r} became {other!r}"


def killed_runs(runner: CommandRunner, runs: int, seed: int, say: Say, only: int | None = None) -> bool:
    """Kill so many runs; True if all give the undisturbed result."""
    identical, total = 0, 0
    ways: collections.Counter[str] = collections.Counter()
    drawn = configurations(seed)
    number = 0
    while number < runs if only is None else number <= only:
        line = next(drawn)
        draw = random.Random(f"{seed} {number}")
        words = [*SHARED, *shlex.split(line), *PLUGIN]
        if only is not None and number < only:
            number += not _refused(runner, words)
            continue
        kills = draw.choices((1, 2, 3, 4, 5), (45, 20, 15, 10, 10))[0]
        disturbed = None
        try:
            whole = reference(runner, words)
            if whole is None:
                continue
            disturbed = KilledRun(runner, words, whole, draw)
            disturbed.finish(kills)
        except BrokenPromiseError as broken:
            done = [] if disturbed is None else disturbed.kills
            say(
                f"run {number}: {broken}\n  {line}\n  interrupted by: {'; '.join(done)}\n"
                f"  again: python tests/faults/kills.py --seed {seed} --only {number}"
            )
        else:
            identical += 1
            say(f"run {number}: the same after {'; '.join(disturbed.kills)}; {line}")
        if disturbed is not None:
            total += len(disturbed.kills)
            ways.update(re.sub(r" [\d.]+( m?s)?", "", kill) for kill in disturbed.kills)
        shutil.rmtree(runner.folder / "runs", ignore_errors=True)
        number += 1
    count = runs if only is None else 1
    by = ", ".join(f"{times} × {way}" for way, times in ways.most_common())
    say(f"{identical} of {count} identical ({total} kills: {by})")
    return identical == count


def _refused(runner: CommandRunner, words: Sequence[str]) -> bool:
    """Whether the program refuses the options."""
    status = runner.run([*words, "--name", "r"])
    shutil.rmtree(runner.folder / "runs", ignore_errors=True)
    runner.read_stderr()
    return status == 2


SMALL = (
    "--importance fisher:variant=sampled,samples=20 --replay buffer:size=9 --model mlp:width=8 --intervention pull "
    "--epochs 1 --mega-batches 2 --batch-size 20 --checkpoint-seconds 0.0001"
)
ERRORS = {
    "EIO": {"number": errno.EIO},
    "ENOSPC": {"number": errno.ENOSPC, "lasting": True},
    "EDQUOT": {"number": errno.EDQUOT, "lasting": True},
    "EROFS": {"number": errno.EROFS, "lasting": True},
    "EACCES": {"number": errno.EACCES, "lasting": True},
}
"""The error of a call, and whether all later calls fail too."""
FAULTS = ("kill", "tear", "power", "short", "SIGTERM", *ERRORS)


def fault_options(fault: str) -> Mapping[str, Any]:
    """Arguments for ``fault_injection.calls``."""
    if fault == "SIGTERM":
        return {"fault": "signal", "number": signal.SIGTERM}
    return {"fault": "fail", **ERRORS[fault]} if fault in ERRORS else {"fault": fault}


@dataclass
class SmallRun:
    """A small run with a checkpoint after each step, for faults at each call that changes a file."""

    runner: CommandRunner
    words: Sequence[str]
    whole: Reference

    @property
    def calls(self) -> Sequence[str]:
        return self.whole.calls

    @classmethod
    def create(cls, runner: CommandRunner) -> SmallRun:
        words = [*SHARED, *shlex.split(SMALL), *PLUGIN]
        whole = reference(runner, words)
        if whole is None:
            raise BrokenPromiseError("the small run is refused")
        return cls(runner, words, whole)

    def break_at(self, fault: str, at: int, seed: int = 0) -> None:
        """Inject a fault at a call, then finish without; BrokenPromiseError if the result differs."""
        shutil.rmtree(self.runner.folder / "runs", ignore_errors=True)
        disturbed = KilledRun(self.runner, self.words, self.whole, random.Random(seed))
        status = self.runner.wait(disturbed.begin(breaking(at=at, seed=seed, **fault_options(fault))))
        stderr = self.runner.read_stderr()
        if fault in ERRORS and status != 0:
            self._check_error(stderr, status, os.strerror(ERRORS[fault]["number"]))
        elif fault == "SIGTERM" and status != 0:
            self._check_interrupted(stderr, status)
        elif status != 0 and (status != -signal.SIGKILL or fault == "short"):
            raise BrokenPromiseError(f"it left with {status}: {stderr}")
        if fault == "power" and status != 0:
            self._require_what_was_synced(at)
        disturbed.finish(0)

    def _require_what_was_synced(self, at: int) -> None:
        """Require the newest checkpoint that was complete and synced at the call, or a newer one.

        Once the result is synced, the checkpoints are removed.
        """
        noted = synced = ""
        ended = False
        for call in self.calls[: at - 1]:
            _, kind, path = call.split(" ", 2)
            ended |= (kind, path) == ("replace", "r/result.json")
            if ended and (kind, path) == ("fsync", "r"):
                if not RunDirectory(self.runner.folder / "runs/r").finished:
                    raise BrokenPromiseError("the result was synced, and it is not there")
                return
            note = re.fullmatch(r"r/checkpoints/(resume-[\d-]+)\.json", path)
            if kind == "replace" and note:
                noted = note[1]
            elif (kind, path) == ("fsync", "r/checkpoints"):
                synced = noted
        notes = (self.runner.folder / "runs/r/checkpoints").glob("resume-*-*.json")
        left = max((note.stem for note in notes if not note.stem.startswith("resume-row")), default="")
        if left < synced:
            raise BrokenPromiseError(f"the state {synced} was synced, and {left or 'none'} is left")

    def _check_error(self, stderr: str, status: int, reason: str) -> None:
        """Require one line with file and reason, and a resume hint if the run has written an event."""
        *hints, line = stderr.splitlines()
        if status not in (1, 2) or not re.fullmatch(rf"forgetkit: .*\bruns\b.*{reason}.*", line):
            raise BrokenPromiseError(f"it left with {status} and does not name the file and the reason: {stderr}")
        self._check_resume_hint(hints)

    def _check_interrupted(self, stderr: str, status: int) -> None:
        lines = stderr.splitlines()
        if status != 130 or lines.count("forgetkit: interrupted") != 1:
            raise BrokenPromiseError(f"it left with {status} and stderr: {stderr}")
        self._check_resume_hint([line for line in lines if line != "forgetkit: interrupted"])

    def _check_resume_hint(self, lines: Sequence[str]) -> None:
        events = self.runner.folder / "runs/r/events.jsonl"
        begun = events.exists() and b"\n" in events.read_bytes()
        hint = f"to go on: forgetkit run --resume runs/r {shlex.join(PLUGIN)}"
        if lines != [hint] * begun:
            raise BrokenPromiseError(f"the resume hint is missing or wrong: {lines}")


GRID = shlex.split(
    "--dataset synthetic:samples=108,test=90,classes=3,size=6,channels=1,noise=0.8 --model mlp:width=8 --epochs 4 "
    "--mega-batches 2 --threads 1 --batch-size 16 --baseline importance=random,replay=full"
)
LARGE = shlex.split("--over importance=snip,random,magnitude,gradient --over replay=full,none --seeds 0-2")
FEW = shlex.split("--over importance=snip,random,magnitude --over replay=full --seeds 0-1")
FORMATS = shlex.split("rich csv html json latex markdown")


@dataclass
class KilledGrid:
    """A grid whose processes are killed, compared with the undisturbed grid."""

    runner: CommandRunner
    over: Sequence[str]
    draw: random.Random
    kills: list[str] = field(default_factory=list)

    def begin(self, out: str) -> Child:
        words = ["ablate", *GRID, *self.over, *PLUGIN, "--jobs", "2", "--json", "--name", "g", "--out", out]
        (self.runner.folder / "stdout").unlink(missing_ok=True)
        return self.runner.start(words)

    def tables(self, out: str) -> dict[str, bytes]:
        """The table in every format, and the output of the ablation itself."""
        made = {"ablate": (self.runner.folder / "stdout").read_bytes()}
        for form in FORMATS:
            (self.runner.folder / "stdout").unlink(missing_ok=True)
            if self.runner.run(["table", out, "--format", form]) != 0:
                raise BrokenPromiseError(f"no table as {form}: {self.runner.read_stderr()}")
            made[form] = (self.runner.folder / "stdout").read_bytes()
        return made

    def check(self, kills: int) -> float:
        """Kill processes of the grid; BrokenPromiseError if a table differs. Returns the undisturbed seconds."""
        began = time.monotonic()
        if self.runner.wait(self.begin("whole")) != 0:
            raise BrokenPromiseError(self.runner.read_stderr())
        seconds = time.monotonic() - began
        whole = self.tables("whole")
        while True:
            child = self.begin("ablations")
            while len(self.kills) < kills and not child.ended_within(self.draw.uniform(0, 0.8 * seconds / kills)):
                self._kill_one(child)
            status = self.runner.wait(child)
            stderr = self.runner.read_stderr()
            if status == 0:
                break
            # A process that does not handle SIGTERM yet has started nothing.
            if status not in (-signal.SIGKILL, -signal.SIGTERM, 1, 130):
                raise BrokenPromiseError(f"it left with {status}: {stderr}")
            if status == 1 and "killed by SIGKILL" not in stderr:
                raise BrokenPromiseError(f"a cell failed without a kill: {stderr}")
        if len(self.kills) < kills:
            raise BrokenPromiseError(f"it was done before it could be killed {kills} times; take another seed")
        for form, table in self.tables("ablations").items():
            if table != whole[form]:
                raise BrokenPromiseError(f"another table as {form}: {whole[form]!r} became {table!r}")
        return seconds

    def _kill_one(self, child: Child) -> None:
        """Kill a worker, the command, or both; or send the command SIGTERM."""
        workers = _children_of(child.pid)
        target = self.draw.choice(("a worker", "a worker", "the command", "all", "SIGTERM"))
        if target in ("a worker", "all") and not workers:
            return
        self.kills.append(f"{target} at cell {self._done()}")
        if target == "SIGTERM":
            child.signal(signal.SIGTERM)
        elif target == "a worker":
            _kill_process(self.draw.choice(workers))
        else:
            for pid in (child.pid, *(workers if target == "all" else ())):
                _kill_process(pid)
        if target != "a worker":
            self.runner.wait(child)

    def _done(self) -> int:
        return len(list(self.runner.folder.glob("ablations/cells/*/seal.json")))


def _kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children_of(parent: int) -> list[int]:
    """The running children of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, above = status.read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z":
                found.append(int(status.parent.name))
    return sorted(found)


TWO = shlex.split(
    "ablate --dataset synthetic:samples=60,test=30,classes=3,size=4,channels=1 --model mlp:width=8 --epochs 1 "
    "--mega-batches 2 --threads 1 --batch-size 30 --over importance=snip,random --json --quiet"
)


@dataclass
class SmallGrid:
    """A grid of two cells, for faults at each call that changes a file, in the command or in its worker."""

    runner: CommandRunner
    table: bytes
    calls: Sequence[str]

    @classmethod
    def create(cls, runner: CommandRunner) -> SmallGrid:
        log = runner.folder / "calls"
        log.unlink(missing_ok=True)
        grid = cls(runner, b"", ())
        status, grid.table = grid.run({"log": str(log)})
        if status != 0:
            raise BrokenPromiseError(runner.read_stderr())
        lines = log.read_text().splitlines()
        grid.calls = sorted(lines, key=lambda line: int(line.split()[0]))
        return grid

    def run(self, how: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        (self.runner.folder / "stdout").unlink(missing_ok=True)
        before = None if how is None else breaking(**{"root": "ablations", **how})
        status = self.runner.run(TWO, before)
        return status, (self.runner.folder / "stdout").read_bytes()

    def break_at(self, fault: str, at: int, seed: int = 0) -> None:
        """Inject a fault at a call, then run again; BrokenPromiseError if the table differs."""
        shutil.rmtree(self.runner.folder / "ablations", ignore_errors=True)
        status, table = self.run({**fault_options(fault), "at": at, "seed": seed})
        stderr = self.runner.read_stderr()
        if status == 0 and table != self.table:
            raise BrokenPromiseError(f"it left with 0, as if this were the table: {table!r}; it stderr: {stderr}")
        if status in (1, 2) and fault in ERRORS:
            reason = os.strerror(ERRORS[fault]["number"])
            if not re.search(rf"^forgetkit: .*\bablations\b.*{reason}", stderr, re.MULTILINE):
                raise BrokenPromiseError(f"it does not name the file and the reason: {stderr}")
        elif status not in {"kill": (-9, 1, 0), "tear": (-9, 1, 0), "SIGTERM": (130, 1, 0)}.get(fault, (0,)):
            raise BrokenPromiseError(f"it left with {status}: {stderr}")
        status, table = self.run()
        stderr = self.runner.read_stderr()
        if (status, table) != (0, self.table):
            raise BrokenPromiseError(f"run again, it left with {status}: {stderr}{table!r}")


def every_call(small: SmallRun | SmallGrid, say: Say, faults: Sequence[str], step: int = 1, seed: int = 0) -> bool:
    """Inject each fault at each ``step``-th call that changes a file; True if every result is the same."""
    identical = total = 0
    last = max(int(call.split()[0]) for call in small.calls)
    for fault in faults:
        for at in range(1 + seed % step, last + 1, step):
            total += 1
            try:
                small.break_at(fault, at, seed + at)
                identical += 1
            except BrokenPromiseError as broken:
                named = " or ".join(call for call in small.calls if call.startswith(f"{at} "))
                say(f"{fault} at call {named}: {broken}")
    say(f"{identical} of {total} identical ({', '.join(faults)} at each of {last} calls, step {step})")
    return identical == total


def killed_ablations(runner: CommandRunner, count: int, seed: int, say: Say) -> bool:
    """Kill grids of 24 cells ten times each; True if all tables are the same."""
    identical = 0
    for number in range(seed, seed + count):
        for name in ("whole", "ablations"):
            shutil.rmtree(runner.folder / name, ignore_errors=True)
        ablated = KilledGrid(runner, LARGE, random.Random(number))
        began = time.monotonic()
        try:
            seconds = ablated.check(10)
        except BrokenPromiseError as broken:
            say(f"ablation {number}: {broken}\n  killed: {'; '.join(ablated.kills)}")
        else:
            identical += 1
            disturbed = time.monotonic() - began - seconds
            say(f"ablation {number}: {seconds:.1f} s, {disturbed:.1f} s more with kills: {'; '.join(ablated.kills)}")
    say(f"{identical} of {count} tables of 24 cells identical")
    return identical == count


def main() -> int:
    """Run the command line; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=0, help="random runs, killed at random")
    parser.add_argument("--only", type=int, help="only the run of this number")
    parser.add_argument("--calls", type=int, default=0, metavar="STEP", help="kill a run at each STEP-th call")
    parser.add_argument("--grid-calls", type=int, default=0, metavar="STEP", help="the same with a grid of two cells")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, help="faults to inject")
    parser.add_argument("--ablations", type=int, default=0, help="grids of 24 cells, ten kills each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def say(text: str) -> None:
        print(text, flush=True)

    began, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder, start_fork_server() as fork_server:
        runner = CommandRunner(Path(folder), fork_server)
        if options.runs or options.only is not None:
            results.append(killed_runs(runner, options.runs, options.seed, say, options.only))
        if options.calls:
            results.append(every_call(SmallRun.create(runner), say, options.faults, options.calls, options.seed))
        if options.grid_calls:
            faults = [fault for fault in options.faults if fault != "power"]  # it would fail for all processes together
            results.append(every_call(SmallGrid.create(runner), say, faults, options.grid_calls, options.seed))
        if options.ablations:
            results.append(killed_ablations(runner, options.ablations, options.seed, say))
    say(f"{time.monotonic() - began:.0f} seconds")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
