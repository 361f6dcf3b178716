"""Runs that are killed at random moments, again and again, against the same runs left in peace.

    python tests/faults/kills.py --runs 100 --seed 0
    python tests/faults/kills.py --calls 1 --seed 0
    python tests/faults/kills.py --ablations 1 --seed 0

Each run has a configuration of its own, drawn out of a wide spread, and is first carried out undisturbed. Then it is
begun again, killed in the midst of things, and gone on with, up to five times. What it comes to must be the same to the
bit. With ``--calls`` a small run is killed at every single call that changes a file; with ``--ablations`` the processes
of a grid are killed.
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

from helpers.subprocesses import Child, Nursery, digests, open_nursery, substance

from forgetkit.storage import RunDirectory

HERE = Path(__file__).parent
PLUGIN = ("--plugin", str(HERE.parent / "helpers" / "hostile_plugin.py"))
PATIENCE = 60.0
"""Seconds after which a child that should have ended hangs."""

Before = tuple[str, str, dict[str, Any]]


class BrokenPromiseError(Exception):
    """A run that did not come to what it comes to undisturbed, or was not told of as it should be."""


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
    """Command lines of runs, without end: each criterion comes in its turn, the rest is drawn.

    Some draws contradict each other: these the program itself refuses, and the next is taken.
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
class Bench:
    """A folder to run commands in, and the process that they are forked from."""

    folder: Path
    nursery: Nursery
    children: list[Child] = field(default_factory=list)

    def start(self, words: Sequence[str], before: Before | None = None) -> Child:
        """A command; its output is added to the files ``stdout`` and ``stderr``."""
        asked: dict[str, Any] = {
            "words": list(words),
            "cwd": str(self.folder),
            "env": {"FORGETKIT_CACHE": str(self.folder / "cache")},
        }
        if before is not None:
            asked["before"] = before
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            child = Child(self.nursery.ask(asked, [out.fileno(), err.fileno()]), self.nursery)
        self.children.append(child)
        return child

    def ends(self, child: Child) -> int:
        """Its exit status; BrokenPromiseError where it hangs."""
        if not child.ended_within(PATIENCE):
            child.end()
            raise BrokenPromiseError(f"it hangs: {self.said()}")
        return child.wait()

    def said(self) -> str:
        """What was written to standard error since this was last asked."""
        file = self.folder / "stderr"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        if "Traceback" in text or "unexpected " in text:
            raise BrokenPromiseError(text)
        return text


@dataclass(frozen=True)
class Reference:
    """What a run comes to in peace, how long it takes and how many calls it makes that change a file."""

    result: Mapping[str, Any]
    models: Mapping[str, str]
    seconds: float
    calls: Sequence[str]


def breaking(**how: Any) -> Before:
    """What is done in a child before its command: see ``fault_injection.calls``."""
    return str(HERE.parent / "helpers" / "fault_injection.py"), "calls", {"root": "runs", **how}


def reference(bench: Bench, words: Sequence[str]) -> Reference | None:
    """None where the program finds that the options do not go together."""
    log = bench.folder / "calls"
    log.unlink(missing_ok=True)
    run = bench.folder / "runs" / "r"
    shutil.rmtree(run, ignore_errors=True)
    began = time.monotonic()
    status = bench.ends(bench.start([*words, "--name", "r"], breaking(log=str(log))))
    said = bench.said()
    if status == 2:
        return None
    if status != 0:
        raise BrokenPromiseError(f"undisturbed, it left with {status}: {said}")
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
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise BrokenPromiseError("it hangs")
        time.sleep(0.0005)


@dataclass
class Disturbed:
    """A run that is killed and gone on with."""

    bench: Bench
    words: Sequence[str]
    whole: Reference
    draw: random.Random
    kills: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.bench.folder / "runs" / "r"

    def to_its_end(self, kills: int) -> None:
        """Kill it so often, where it lives that long; the first kill is certain. Then let it finish, and compare."""
        while len(self.kills) < kills and not (self.run / "result.json").exists():
            self._broken_off()
            if (self.run / "result.json").exists() and not self.kills:
                shutil.rmtree(self.run)  # it was too quick for us
        if not (self.run / "result.json").exists():
            status = self.bench.ends(self.begin(None))
            if status != 0:
                raise BrokenPromiseError(f"it left with {status}: {self.bench.said()}")
        self.bench.said()
        if self._has_states() and (self.bench.ends(self.begin(None)) != 0 or self._has_states()):
            raise BrokenPromiseError(f"a finished run has states left: {self.bench.said()}")
        result = json.loads((self.run / "result.json").read_text())
        if substance(result) != self.whole.result:
            raise BrokenPromiseError(f"another result: {_difference(self.whole.result, substance(result))}")
        if digests(self.run) != self.whole.models:
            raise BrokenPromiseError(f"other weights: {self.whole.models} became {digests(self.run)}")

    def _has_states(self) -> bool:
        return any(self.run.glob("checkpoints/resume-*"))

    def begin(self, before: Before | None) -> Child:
        """Anew, or on from where it was."""
        if (self.run / "manifest.json").exists():
            return self.bench.start(["run", "--resume", "runs/r", *PLUGIN, "--quiet"], before)
        if self.run.exists():
            status = self.bench.ends(self.bench.start(["run", "--resume", "runs/r", "--quiet"]))
            said = self.bench.said()
            if (status, said.count("\n")) != (2, 1):
                raise BrokenPromiseError(f"without a manifest it left with {status}: {said}")
            shutil.rmtree(self.run)
        self.run.parent.mkdir(exist_ok=True)
        return self.bench.start([*self.words, "--name", "r"], before)

    def _broken_off(self) -> None:
        manner = self.draw.choices(
            (self._at_a_call, self._at_a_moment, self._at_its_beginning, self._without_power, self._by_a_signal),
            (30, 25, 15, 15, 15),
        )[0]
        child, name = manner()
        status = self.bench.ends(child)
        said = self.bench.said()
        if status not in (0, 130) and status >= 0:
            raise BrokenPromiseError(f"{name}: it left with {status}: {said}")
        if status == 130 and (self.run / "manifest.json").exists() and not (self.run / "result.json").exists():
            self._told_how_to_go_on(said)
        if status != 0:
            self.kills.append(name)

    def _told_how_to_go_on(self, said: str) -> None:
        if not re.search(r"^to go on: forgetkit run --resume runs/r ", said, re.MULTILINE):
            # Before the run itself has begun there is nothing that it could know of.
            raise BrokenPromiseError(f"it does not say how to go on: {said}")

    def _at_a_call(self) -> tuple[Child, str]:
        at = self.draw.randint(1, len(self.whole.calls))
        deed = self.draw.choice(("kill", "tear"))
        return self.begin(breaking(at=at, deed=deed)), f"{deed} at call {at}"

    def _at_a_moment(self) -> tuple[Child, str]:
        return self._sent(signal.SIGKILL, self.draw.uniform(0, self.whole.seconds))

    def _at_its_beginning(self) -> tuple[Child, str]:
        child = self.begin(None)
        when(lambda: self.run.exists() or child.ended)
        seconds = self.draw.uniform(0, 0.02)
        time.sleep(seconds)
        child.signal(signal.SIGKILL)
        return child, f"SIGKILL {seconds * 1000:.1f} ms after the folder was there"

    def _without_power(self) -> tuple[Child, str]:
        at, seed = self.draw.randint(1, len(self.whole.calls)), self.draw.randrange(1 << 30)
        return self.begin(breaking(at=at, deed="power", seed=seed)), f"power lost at call {at}"

    def _by_a_signal(self) -> tuple[Child, str]:
        number = self.draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        if self.draw.random() < 0.5:
            return self._sent(number, self.draw.uniform(0, self.whole.seconds))
        at = self.draw.randint(1, len(self.whole.calls))
        return self.begin(breaking(at=at, deed="signal", number=number)), f"{number.name} at call {at}"

    def _sent(self, number: signal.Signals, seconds: float) -> tuple[Child, str]:
        child = self.begin(None)
        time.sleep(seconds)
        child.signal(number)
        return child, f"{number.name} after {seconds:.3f} s"


def _difference(one: Any, other: Any, place: str = "") -> str:
    """Where two results part, the first such place."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (here, there) in enumerate(zip(one, other, strict=True)):
            if here != there:
                return _difference(here, there, f"{place}[{number}]")
    return f"{place}: {one!r} became {other!r}"


def killed_runs(bench: Bench, runs: int, seed: int, say: Callable[[str], None], only: int | None = None) -> bool:
    """Whether all of so many runs came to the same as undisturbed."""
    identical, total = 0, 0
    ways: collections.Counter[str] = collections.Counter()
    drawn = configurations(seed)
    number = 0
    while number < runs if only is None else number <= only:
        line = next(drawn)
        draw = random.Random(f"{seed} {number}")
        words = [*SHARED, *shlex.split(line), *PLUGIN]
        if only is not None and number < only:
            number += not _refused(bench, words)
            continue
        kills = draw.choices((1, 2, 3, 4, 5), (45, 20, 15, 10, 10))[0]
        disturbed = None
        try:
            whole = reference(bench, words)
            if whole is None:
                continue
            disturbed = Disturbed(bench, words, whole, draw)
            disturbed.to_its_end(kills)
        except BrokenPromiseError as broken:
            done = [] if disturbed is None else disturbed.kills
            say(
                f"run {number}: {broken}\n  {line}\n  broken off by: {'; '.join(done)}\n"
                f"  again: python tests/faults/kills.py --seed {seed} --only {number}"
            )
        else:
            identical += 1
            say(f"run {number}: the same after {'; '.join(disturbed.kills)}; {line}")
        if disturbed is not None:
            total += len(disturbed.kills)
            ways.update(re.sub(r" [\d.]+( m?s)?", "", kill) for kill in disturbed.kills)
        shutil.rmtree(bench.folder / "runs", ignore_errors=True)
        number += 1
    count = runs if only is None else 1
    by = ", ".join(f"{times} × {way}" for way, times in ways.most_common())
    say(f"{identical} of {count} identical ({total} kills: {by})")
    return identical == count


def _refused(bench: Bench, words: Sequence[str]) -> bool:
    """Whether the program finds that the options do not go together, as cheaply as that can be found out."""
    status = bench.ends(bench.start([*words, "--name", "r"]))
    shutil.rmtree(bench.folder / "runs", ignore_errors=True)
    bench.said()
    return status == 2


SMALL = (
    "--importance fisher:variant=sampled,samples=20 --replay buffer:size=9 --model mlp:width=8 --intervention pull "
    "--epochs 1 --mega-batches 2 --batch-size 20 --checkpoint-seconds 0.0001"
)
FAULTS = {
    "EIO": {"number": errno.EIO},
    "ENOSPC": {"number": errno.ENOSPC, "lasting": True},
    "EDQUOT": {"number": errno.EDQUOT, "lasting": True},
    "EROFS": {"number": errno.EROFS, "lasting": True},
    "EACCES": {"number": errno.EACCES, "lasting": True},
}
"""What a call fails with, and whether all that follow do too."""
DEEDS = ("kill", "tear", "power", "short", "SIGTERM", *FAULTS)


def how_to(deed: str) -> Mapping[str, Any]:
    """What ``fault_injection.calls`` is told."""
    if deed == "SIGTERM":
        return {"deed": "signal", "number": signal.SIGTERM}
    return {"deed": "fail", **FAULTS[deed]} if deed in FAULTS else {"deed": deed}


@dataclass
class Small:
    """A small run with a state after each step, to be broken at each call that changes a file."""

    bench: Bench
    words: Sequence[str]
    whole: Reference

    @property
    def calls(self) -> Sequence[str]:
        return self.whole.calls

    @classmethod
    def of(cls, bench: Bench) -> Small:
        words = [*SHARED, *shlex.split(SMALL), *PLUGIN]
        whole = reference(bench, words)
        if whole is None:
            raise BrokenPromiseError("the small run is refused")
        return cls(bench, words, whole)

    def broken(self, deed: str, at: int, seed: int = 0) -> None:
        """Break it at a call; once the fault is gone it must come to the same. BrokenPromiseError where it does not."""
        shutil.rmtree(self.bench.folder / "runs", ignore_errors=True)
        disturbed = Disturbed(self.bench, self.words, self.whole, random.Random(seed))
        status = self.bench.ends(disturbed.begin(breaking(at=at, seed=seed, **how_to(deed))))
        said = self.bench.said()
        if deed in FAULTS and status != 0:
            self._told(said, status, os.strerror(FAULTS[deed]["number"]))
        elif deed == "SIGTERM" and status != 0:
            self._told_stopped(said, status)
        elif status != 0 and (status != -signal.SIGKILL or deed == "short"):
            raise BrokenPromiseError(f"it left with {status}: {said}")
        if deed == "power" and status != 0:
            self._require_what_was_synced(at)
        disturbed.to_its_end(0)

    def _require_what_was_synced(self, at: int) -> None:
        """The newest state that was complete, its folder synced, when the call was made, or a newer one, is there.

        Once the result is synced, the states are removed.
        """
        noted = synced = ""
        ended = False
        for call in self.calls[: at - 1]:
            _, kind, path = call.split(" ", 2)
            ended |= (kind, path) == ("replace", "r/result.json")
            if ended and (kind, path) == ("fsync", "r"):
                if not RunDirectory(self.bench.folder / "runs/r").finished:
                    raise BrokenPromiseError("the result was synced, and it is not there")
                return
            note = re.fullmatch(r"r/checkpoints/(resume-[\d-]+)\.json", path)
            if kind == "replace" and note:
                noted = note[1]
            elif (kind, path) == ("fsync", "r/checkpoints"):
                synced = noted
        notes = (self.bench.folder / "runs/r/checkpoints").glob("resume-*-*.json")
        left = max((note.stem for note in notes if not note.stem.startswith("resume-row")), default="")
        if left < synced:
            raise BrokenPromiseError(f"the state {synced} was synced, and {left or 'none'} is left")

    def _told(self, said: str, status: int, reason: str) -> None:
        """The file and the reason in one line, and how to go on where the run has come to its first event."""
        *hints, line = said.splitlines()
        if status not in (1, 2) or not re.fullmatch(rf"forgetkit: .*\bruns\b.*{reason}.*", line):
            raise BrokenPromiseError(f"it left with {status} and does not name the file and the reason: {said}")
        self._told_how_to_go_on(hints)

    def _told_stopped(self, said: str, status: int) -> None:
        lines = said.splitlines()
        if status != 130 or lines.count("forgetkit: interrupted") != 1:
            raise BrokenPromiseError(f"it left with {status} and said: {said}")
        self._told_how_to_go_on([line for line in lines if line != "forgetkit: interrupted"])

    def _told_how_to_go_on(self, lines: Sequence[str]) -> None:
        events = self.bench.folder / "runs/r/events.jsonl"
        begun = events.exists() and b"\n" in events.read_bytes()
        hint = f"to go on: forgetkit run --resume runs/r {shlex.join(PLUGIN)}"
        if lines != [hint] * begun:
            raise BrokenPromiseError(f"it does not say how to go on, or not that alone: {lines}")


GRID = shlex.split(
    "--dataset synthetic:samples=108,test=90,classes=3,size=6,channels=1,noise=0.8 --model mlp:width=8 --epochs 4 "
    "--mega-batches 2 --threads 1 --batch-size 16 --baseline importance=random,replay=full"
)
LARGE = shlex.split("--over importance=snip,random,magnitude,gradient --over replay=full,none --seeds 0-2")
FEW = shlex.split("--over importance=snip,random,magnitude --over replay=full --seeds 0-1")
FORMATS = shlex.split("rich csv html json latex markdown")


@dataclass
class Ablated:
    """A grid whose processes are killed, and what it comes to in peace."""

    bench: Bench
    over: Sequence[str]
    draw: random.Random
    kills: list[str] = field(default_factory=list)

    def begin(self, out: str) -> Child:
        words = ["ablate", *GRID, *self.over, *PLUGIN, "--jobs", "2", "--json", "--name", "g", "--out", out]
        (self.bench.folder / "stdout").unlink(missing_ok=True)
        return self.bench.start(words)

    def tables(self, out: str) -> dict[str, bytes]:
        """In every format, by the command that makes them; and what the ablation itself has printed."""
        made = {"ablate": (self.bench.folder / "stdout").read_bytes()}
        for form in FORMATS:
            (self.bench.folder / "stdout").unlink(missing_ok=True)
            if self.bench.ends(self.bench.start(["table", out, "--format", form])) != 0:
                raise BrokenPromiseError(f"no table as {form}: {self.bench.said()}")
            made[form] = (self.bench.folder / "stdout").read_bytes()
        return made

    def check(self, kills: int) -> float:
        """Kill processes of the grid so often. BrokenPromiseError where a table is another then; seconds in peace."""
        began = time.monotonic()
        if self.bench.ends(self.begin("whole")) != 0:
            raise BrokenPromiseError(self.bench.said())
        seconds = time.monotonic() - began
        whole = self.tables("whole")
        while True:
            child = self.begin("ablations")
            while len(self.kills) < kills and not child.ended_within(self.draw.uniform(0, 0.8 * seconds / kills)):
                self._kill_one(child)
            status = self.bench.ends(child)
            said = self.bench.said()
            if status == 0:
                break
            # SIGTERM ends a process that does not listen yet like any other: it has not begun anything.
            if status not in (-signal.SIGKILL, -signal.SIGTERM, 1, 130):
                raise BrokenPromiseError(f"it left with {status}: {said}")
            if status == 1 and "killed by SIGKILL" not in said:
                raise BrokenPromiseError(f"a cell failed that nobody had killed: {said}")
        if len(self.kills) < kills:
            raise BrokenPromiseError(f"it was done before it could be killed {kills} times; take another seed")
        for form, table in self.tables("ablations").items():
            if table != whole[form]:
                raise BrokenPromiseError(f"another table as {form}: {whole[form]!r} became {table!r}")
        return seconds

    def _kill_one(self, child: Child) -> None:
        """A worker, the command, or both; or ask the command to end."""
        workers = _children_of(child.pid)
        target = self.draw.choice(("a worker", "a worker", "the command", "all", "SIGTERM"))
        if target in ("a worker", "all") and not workers:
            return
        self.kills.append(f"{target} at cell {self._done()}")
        if target == "SIGTERM":
            child.signal(signal.SIGTERM)
        elif target == "a worker":
            _kill(self.draw.choice(workers))
        else:
            for pid in (child.pid, *(workers if target == "all" else ())):
                _kill(pid)
        if target != "a worker":
            self.bench.ends(child)

    def _done(self) -> int:
        return len(list(self.bench.folder.glob("ablations/cells/*/seal.json")))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children_of(parent: int) -> list[int]:
    """Processes that another has started and that run."""
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
    """A grid of two cells, to be broken at each call that changes a file, in the command or in its worker."""

    bench: Bench
    table: bytes
    calls: Sequence[str]

    @classmethod
    def of(cls, bench: Bench) -> SmallGrid:
        log = bench.folder / "calls"
        log.unlink(missing_ok=True)
        grid = cls(bench, b"", ())
        status, grid.table = grid.carried_out({"log": str(log)})
        if status != 0:
            raise BrokenPromiseError(bench.said())
        lines = log.read_text().splitlines()
        grid.calls = sorted(lines, key=lambda line: int(line.split()[0]))
        return grid

    def carried_out(self, how: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        (self.bench.folder / "stdout").unlink(missing_ok=True)
        before = None if how is None else breaking(**{"root": "ablations", **how})
        status = self.bench.ends(self.bench.start(TWO, before))
        return status, (self.bench.folder / "stdout").read_bytes()

    def broken(self, deed: str, at: int, seed: int = 0) -> None:
        """Break it at a call; carried out again it must come to the same. BrokenPromiseError where it does not."""
        shutil.rmtree(self.bench.folder / "ablations", ignore_errors=True)
        status, table = self.carried_out({**how_to(deed), "at": at, "seed": seed})
        said = self.bench.said()
        if status == 0 and table != self.table:
            raise BrokenPromiseError(f"it left with 0, as if this were the table: {table!r}; it said: {said}")
        if status in (1, 2) and deed in FAULTS:
            reason = os.strerror(FAULTS[deed]["number"])
            if not re.search(rf"^forgetkit: .*\bablations\b.*{reason}", said, re.MULTILINE):
                raise BrokenPromiseError(f"it does not name the file and the reason: {said}")
        elif status not in {"kill": (-9, 1, 0), "tear": (-9, 1, 0), "SIGTERM": (130, 1, 0)}.get(deed, (0,)):
            raise BrokenPromiseError(f"it left with {status}: {said}")
        status, table = self.carried_out()
        said = self.bench.said()
        if (status, table) != (0, self.table):
            raise BrokenPromiseError(f"carried out again it left with {status}: {said}{table!r}")


def every_call(
    small: Small | SmallGrid, say: Callable[[str], None], deeds: Sequence[str], step: int = 1, seed: int = 0
) -> bool:
    """Whether it comes to the same however it is broken at each ``step``-th call that changes a file."""
    identical = total = 0
    last = max(int(call.split()[0]) for call in small.calls)
    for deed in deeds:
        for at in range(1 + seed % step, last + 1, step):
            total += 1
            try:
                small.broken(deed, at, seed + at)
                identical += 1
            except BrokenPromiseError as broken:
                named = " or ".join(call for call in small.calls if call.startswith(f"{at} "))
                say(f"{deed} at call {named}: {broken}")
    say(f"{identical} of {total} identical ({', '.join(deeds)} at each of {last} calls, step {step})")
    return identical == total


def killed_ablations(bench: Bench, count: int, seed: int, say: Callable[[str], None]) -> bool:
    """Whether grids of 24 cells end in the same tables after ten kills."""
    identical = 0
    for number in range(seed, seed + count):
        for name in ("whole", "ablations"):
            shutil.rmtree(bench.folder / name, ignore_errors=True)
        ablated = Ablated(bench, LARGE, random.Random(number))
        began = time.monotonic()
        try:
            seconds = ablated.check(10)
        except BrokenPromiseError as broken:
            say(f"ablation {number}: {broken}\n  killed: {'; '.join(ablated.kills)}")
        else:
            identical += 1
            disturbed = time.monotonic() - began - seconds
            say(
                f"ablation {number}: {seconds:.1f} s in peace, {disturbed:.1f} s with kills: {'; '.join(ablated.kills)}"
            )
    say(f"{identical} of {count} tables of 24 cells identical")
    return identical == count


def main() -> int:
    """The command line; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=0, help="runs with configurations of their own, killed at random")
    parser.add_argument("--only", type=int, help="of these runs the one of that number alone")
    parser.add_argument("--calls", type=int, default=0, metavar="STEP", help="kill a run at each STEP-th call")
    parser.add_argument("--grid-calls", type=int, default=0, metavar="STEP", help="the same with a grid of two cells")
    parser.add_argument("--deeds", nargs="+", choices=DEEDS, default=DEEDS, help="what happens at a call")
    parser.add_argument("--ablations", type=int, default=0, help="grids of 24 cells, ten kills each")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def say(text: str) -> None:
        print(text, flush=True)

    began, kept = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder, open_nursery() as nursery:
        bench = Bench(Path(folder), nursery)
        if given.runs or given.only is not None:
            kept.append(killed_runs(bench, given.runs, given.seed, say, given.only))
        if given.calls:
            kept.append(every_call(Small.of(bench), say, given.deeds, given.calls, given.seed))
        if given.grid_calls:
            deeds = [deed for deed in given.deeds if deed != "power"]  # which is lost for all processes together
            kept.append(every_call(SmallGrid.of(bench), say, deeds, given.grid_calls, given.seed))
        if given.ablations:
            kept.append(killed_ablations(bench, given.ablations, given.seed, say))
    say(f"{time.monotonic() - began:.0f} seconds")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
