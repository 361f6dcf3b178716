"""Ablations that are killed, damaged, run twice or short of disk give the table of an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from forgetkit.ablation.progress import ProgressReader
from forgetkit.results.cell_store import CellStore
from forgetkit.results.render import FORMATS, render
from forgetkit.results.table import make_table

HOLD = '''
import dataclasses, os, pathlib, signal, time
import forgetkit
from forgetkit.contracts import EpochEnded, RunStarted

seeds = []


def stopped():
    hold = pathlib.Path("hold")
    return hold.exists() and seeds[-1] in hold.read_text().split()


@dataclasses.dataclass(frozen=True)
class Hold:
    """Pauses cells of the seeds in the file ``hold`` during their run, while it exists and no SIGTERM comes."""

    def notify(self, event):
        if isinstance(event, RunStarted):
            seeds.append(str(event.config["seed"]))
        elif isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (1, 3) and stopped():
            asked, before = [], signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *given: (asked.append(1), before(*given)))
            pathlib.Path(f"held-{os.getpid()}").touch()  # from here on it can be asked
            while stopped() and not asked:
                time.sleep(0.01)
            signal.signal(signal.SIGTERM, before)


@forgetkit.hookimpl
def forgetkit_observers():
    return {"hold": Hold}
'''
SHARED = shlex.split(
    "--dataset synthetic:samples=60,test=20,classes=3,size=4,channels=1 --model mlp:width=8 --epochs 4 "
    "--mega-batches 2 --threads 1"
)
GRID = [*SHARED, *shlex.split("--over importance=snip,random --seeds 0-2 --baseline random --plugin hold.py")]
WORDS = ["ablate", *GRID, "--observer", "hold", "--json"]


def wait_until(true, what, seconds=40):
    until = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < until, f"no {what}"
        time.sleep(0.005)
    return found


def held(number):
    """Wait for ``number`` paused processes; returns their ids in the order of their pauses."""

    def found():
        pids = [int(file.name.partition("-")[2]) for file in sorted(Path().glob("held-*"), key=os.path.getmtime)]
        return pids if len(pids) >= number else None

    return wait_until(found, f"{number} paused cells")


def processes_of(folder):
    """The other processes whose current folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def legs(cell):
    """The mega-batches, and epochs of the next one, done before each start of a cell."""
    lines = (cell / "events.jsonl").read_text().splitlines()
    begun = [json.loads(line) for line in lines if line.startswith('{"event": "run_started"')]
    return [(event["done"], event["done_epochs"]) for event in begun]


def cells(folder="ablations"):
    """The folders of the cells, by arm and seed."""
    note = json.loads(Path(folder, "grids", "importance.json").read_text())
    pool = CellStore(Path(folder))
    return {(cell["arm"]["importance"], cell["seed"]): pool.directory(cell["digest"]) for cell in note["cells"]}


def tables(folder):
    made = make_table(CellStore(Path(folder)).outcomes("importance"))
    return {form: render(made, form) for form in FORMATS}


@pytest.fixture
def bench(start, workdir):
    """``bench(words)``: the command, its standard output and error in files of its own."""
    (workdir / "hold.py").write_text(HOLD)
    number = 0

    def begin(words=WORDS, jobs=2):
        nonlocal number
        number += 1
        with (workdir / f"out-{number}").open("wb") as out, (workdir / f"err-{number}").open("wb") as err:
            child = start([*words, "--jobs", jobs], out=out.fileno(), err=err.fileno())
        child.out, child.err = workdir / f"out-{number}", workdir / f"err-{number}"
        return child

    return begin


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder for the undisturbed ablation and the killed one."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def whole(kept, bench):
    """The folder, the JSON output and the tables of the undisturbed ablation; runs once."""
    if not (kept / "whole").exists():
        child = bench([*WORDS, "--out", kept / "whole"])
        assert child.wait() == 0, child.err.read_text()
        (kept / "whole.json").write_bytes(child.out.read_bytes())
    return kept / "whole", (kept / "whole.json").read_bytes(), tables(kept / "whole")


@pytest.fixture
def finishes(bench, whole):
    """Run the command again, or take ``child``, and require the undisturbed table."""

    def check(child=None, *, there=None):
        child = child or bench()
        answer = (child.wait(), child.err.read_text())
        assert answer[0] == 0, answer
        assert child.out.read_bytes() == whole[1]
        assert tables("ablations") == whole[2]
        assert "Traceback" not in answer[1]
        if there is not None:
            assert re.search(
                rf"; {there} there already, {6 - there} to run( \(\d of them started\))?, in ablations", answer[1]
            )
        for cell in cells().values():
            assert not list(cell.rglob(".*.tmp"))
        return answer[1].splitlines()

    return check


@pytest.fixture
def severed(kept, bench, workdir):
    """The folder ``ablations`` after the command was killed during two cells."""
    if not (kept / "severed").exists():
        Path("hold").write_text("0 1")
        child = bench()
        held(2)
        assert len(processes_of(workdir)) == 3
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        wait_until(lambda: not processes_of(workdir), "end of the workers")
        assert child.out.read_bytes() == b""
        Path("hold").unlink()
        shutil.copytree("ablations", kept / "severed")
    else:
        shutil.copytree(kept / "severed", "ablations")
    return workdir / "ablations"


def test_the_command_is_killed(severed, finishes):
    cut_short = [cells()["snip", seed] for seed in (0, 1)]
    follower = ProgressReader(CellStore(severed), [cell.name for cell in cut_short])
    assert follower.share() == 0  # work of an earlier process does not count
    lines = finishes(there=0)
    assert not any(line.startswith("forgetkit: ") for line in lines)
    assert [legs(cell) for cell in cut_short] == [[(0, 0), (0, 2)]] * 2
    assert follower.share() == 1


def test_a_worker_is_killed(bench, finishes, whole):
    Path("hold").write_text("0")
    child = bench()  # the first cell is stopped while the other worker comes as far as the fourth
    os.kill(held(1)[0], signal.SIGKILL)
    Path("hold").unlink()
    assert child.wait() == 1
    lost = [
        cell
        for row in json.loads(child.out.read_text())["rows"]
        for cell in row["cells"]
        if cell["status"] != "completed"
    ]
    assert [(cell["seed"], cell["status"], cell["reason"]) for cell in lost] == [
        (0, "failed", "the worker process was killed by SIGKILL")
    ]
    assert (
        child.err.read_text().count("importance=snip, seed 0 failed: the worker process was killed by SIGKILL\n") == 1
    )
    finishes(there=5)
    assert legs(cells()["snip", 0]) == [(0, 0), (0, 2)]
    assert sum(len(legs(cell)) for cell in cells().values()) == 7


def test_interrupted_by_a_terminal(whole, finishes, workdir, bench):
    """By a signal to the process group, in fresh interpreters."""
    Path("hold").write_text("0 1 2")
    command = [sys.executable, "-m", "forgetkit", *WORDS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        held(1)
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate()
    assert (child.returncode, out) == (130, "")
    assert not processes_of(workdir)
    go_on = told_how_to_go_on(err)
    assert go_on[1:] == WORDS
    Path("hold").unlink()
    finishes(bench(go_on[1:], 1), there=0)


def told_how_to_go_on(err):
    *_, hint, last = [line for line in err.splitlines() if not line.startswith("[")]
    first, second = sorted((hint, last))
    assert first == "forgetkit: interrupted"
    assert "Traceback" not in err
    return shlex.split(second.removeprefix("to go on: "))


def test_asked_to_end(bench, finishes, workdir):
    Path("hold").write_text("1")
    child = bench()
    held(1)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 130
    assert child.out.read_bytes() == b""
    assert not processes_of(workdir)
    words = told_how_to_go_on(child.err.read_text())
    assert words == ["forgetkit", *WORDS, "--jobs", "2"]
    for cell in cells().values():
        with CellStore(Path("ablations")).lock(cell.name) as is_free:
            assert is_free
    Path("hold").unlink()
    finishes(bench(words[1:-2]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk(bench, finishes, workdir):
    disk = workdir / "ablations"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this container may not mount")
    try:
        Path("hold").write_text("1")
        child = bench(jobs=1)
        held(1)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"\0" * 4096):
                pass
        Path("hold").unlink()
        assert child.wait() == 1
        assert child.out.read_bytes() == b""
        hint, line = child.err.read_text().splitlines()[-2:]
        assert hint.startswith("to go on: forgetkit ablate ")
        assert line.startswith("forgetkit: cannot write ")
        assert line.endswith(": No space left on device")
        (disk / "filler").unlink()
        finishes(there=1)
    finally:
        subprocess.run(["umount", disk], check=True)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damage_of_many_kinds(severed, whole, finishes, cli):
    """Each cell has damage of its own; two cells are unfinished."""
    for file in (*whole[0].glob("cells/*"), *whole[0].glob("grids/*")):
        target = severed / file.relative_to(whole[0])
        if not target.exists() or target.suffix:
            (shutil.copytree if file.is_dir() else shutil.copy)(file, target)
    found = cells()
    newest = max(found["snip", 0].glob("checkpoints/resume-*.pt"))
    flip(newest)
    (found["snip", 0] / "checkpoints" / ".resume-001-0003.pt.7.tmp").write_text("half")
    log = found["snip", 0] / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    garbage = found["snip", 0].with_suffix(".failed.json")
    garbage.write_bytes(b"\x00{")
    (found["snip", 1] / "manifest.json").unlink()
    flip(found["snip", 2] / "result.json")
    for name in ("result.json", "seal.json"):
        shutil.copy(found["random", 1] / name, found["random", 0] / name)
    (found["random", 1] / "seal.json").unlink()
    (found["random", 2] / "result.json").unlink()
    (found["random", 2] / "result.json" / "below").mkdir(parents=True)

    answer = cli("table", "ablations", "--json")
    values = [cell["values"].values() for row in json.loads(answer.out)["rows"] for cell in row["cells"]]
    assert (answer.status, {value for numbers in values for value in numbers}) == (0, {None})
    note = Path("ablations", "grids", "importance.json")
    note.write_text(note.read_text().replace('"seed": 2', '"seed": 3', 1))
    answer = cli("table", "ablations")
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert f"{note} is damaged" in answer.err

    lines = finishes(there=0)
    for path, says in (
        (note, "is damaged"),
        (newest, "is damaged"),
        (garbage, "is damaged"),
        (found["snip", 1], "holds no manifest.json"),
        (found["snip", 2], "the result is damaged"),
        (found["random", 0], "belongs to another cell"),
        (found["random", 1], "no result with its seal"),
        (found["random", 2], "no result with its seal"),
    ):
        [line] = [line for line in lines if line.startswith("forgetkit: ") and str(path) in line]
        assert says in line, line
    assert sum(line.startswith("forgetkit: ") for line in lines) == 8, lines
    assert legs(found["snip", 0]) == [(0, 0), (0, 1)]
    assert not garbage.exists()


def test_several_at_once_share_their_cells(bench, finishes):
    """The same grid twice, and another grid that shares three cells."""
    Path("hold").write_text("0")
    other = [word.replace("snip,random", "random,magnitude") for word in WORDS]
    children = [bench(jobs=1), bench(jobs=1), bench([*other, "--name", "other"], jobs=1)]
    held(2)
    Path("hold").unlink()
    for child in children[:2]:
        finishes(child)
    assert children[2].wait() == 0
    folders = list(Path("ablations", "cells").glob("*/"))
    assert len(folders) == 9
    assert [legs(folder) for folder in folders] == [[(0, 0)]] * 9
    shared = [
        row["cells"]
        for child in children
        for row in json.loads(child.out.read_text())["rows"]
        if row["arm"]["importance"] == "random"
    ]
    assert shared[0] == shared[1] == shared[2]


HOSTILE = """
import dataclasses, itertools, os
import forgetkit

calls = itertools.count()


@dataclasses.dataclass(frozen=True)
class Breaks:
    allows_ties = True

    def score(self, probe):
        if next(calls) == 2:  # it was tried out, and asked after the first mega-batch
            raise RuntimeError("no more\\nof this")
        return probe.zeros()


@dataclasses.dataclass(frozen=True)
class Leaves:
    def score(self, probe):
        os._exit(7)


@forgetkit.hookimpl
def forgetkit_importance():
    return {"breaks": Breaks, "leaves": Leaves}
"""


def test_components_that_raise_and_that_leave(bench, plugin):
    plugin("hostile", HOSTILE)
    words = [*SHARED[:-3], "3", "--threads", "1", "--plugin", "hostile.py", "--json"]
    child = bench(["ablate", *words, "--over", "importance=leaves,breaks,snip"], jobs=1)
    assert child.wait() == 1
    [leaves], [breaks], [snip] = [row["cells"] for row in json.loads(child.out.read_text())["rows"]]
    assert (leaves["status"], leaves["reason"]) == ("failed", "the worker process left with exit status 7")
    assert breaks["status"] == "failed"
    assert "no more" in breaks["reason"]
    assert snip["status"] == "completed"
    warned = [line for line in child.err.read_text().splitlines() if line.startswith("forgetkit: ")]
    assert warned == [
        f"forgetkit: [{place}/3] importance={name}, seed 0 failed: {cell['reason']}"
        for place, (name, cell) in enumerate((("leaves", leaves), ("breaks", breaks)), 1)
    ]


def test_data_that_is_gone_for_a_while(bench, workdir):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.random((60, 4, 4), dtype=np.float32), "y_train": np.arange(60) % 3}
    np.savez("data.npz", **arrays, x_test=arrays["x_train"][:9], y_test=arrays["y_train"][:9])
    words = ["ablate", "--plugin", "hold.py", "--observer", "hold", "--over", "importance=snip", "--json"]
    words += ["--dataset", "npz:data.npz", *SHARED[2:]]
    whole = bench([*words, "--seeds", "0-2", "--out", "whole"], jobs=1)
    assert whole.wait() == 0, whole.err.read_text()
    Path("hold").write_text("1")
    child = bench([*words, "--seeds", "0-1"], jobs=1)
    held(1)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 130
    Path("hold").unlink()
    Path("data.npz").rename("elsewhere.npz")
    gone = bench([*words, "--seeds", "0-2"], jobs=1)
    assert (gone.wait(), gone.out.read_bytes()) == (2, b"")
    assert len(gone.err.read_text().splitlines()) == 1
    assert "data.npz" in gone.err.read_text()
    np.savez("data.npz", **{**arrays, "y_train": arrays["y_train"][::-1]}, x_test=arrays["x_train"][:9], y_test=[1] * 9)
    other = bench([*words, "--seeds", "0-2"], jobs=1)
    assert (other.wait(), other.out.read_bytes()) == (2, b"")
    assert re.search(r"data\.npz.* is not what the cells in .* were made from", other.err.read_text())
    Path("elsewhere.npz").replace("data.npz")
    back = bench([*words, "--seeds", "0-2"], jobs=1)
    assert (back.wait(), back.out.read_bytes()) == (0, whole.out.read_bytes())
    assert sorted(map(legs, Path("ablations/cells").glob("*/"))) == [[(0, 0)], [(0, 0)], [(0, 0), (0, 3)]]


def test_a_reader_that_leaves_early(start, finishes):
    """The output is closed when a cell fails: the other cells run, and the record has the failure."""
    Path("hold").write_text("0")
    ours, theirs = os.pipe()
    child = start([*WORDS[:-1], "--jobs", 2], out=theirs, err=theirs)
    os.close(theirs)
    worker = held(1)[0]
    assert os.read(ours, 65536).startswith(b"importance: 6 cells: 2 arms at 3 seeds; 0 there already, 6 to run")
    os.close(ours)
    os.kill(worker, signal.SIGKILL)
    Path("hold").unlink()
    assert child.wait() == 1
    finishes(there=5)


def test_folders_that_cannot_be_written_to(cli, workdir):
    (workdir / "file").write_text("mine")
    words = ["ablate", *SHARED, "--over", "importance=snip,random", "--json"]
    for out in (workdir / "file", workdir / "file" / "below", "/proc/forgetkit"):
        answer = cli(*words, "--out", out)
        assert (answer.status, answer.out) == (2, "")
        assert answer.err.splitlines()[-1].startswith("forgetkit: cannot make ")
    assert (workdir / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_folder_that_became_read_only(cli, workdir, whole):
    shutil.copytree(whole[0], "ablations")
    bind = [["mount", "--bind", "ablations", "ablations"], ["mount", "-o", "remount,bind,ro", "ablations"]]
    if subprocess.run(bind[0], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        subprocess.run(bind[1], check=True)
        answer = cli("table", "ablations", "--json")
        assert (answer.status, answer.json) == (0, json.loads(whole[1]))
        answer = cli(*WORDS)
    finally:
        subprocess.run(["umount", "ablations"], check=True)
    assert (answer.status, answer.out) == (2, "")
    assert "may not be written to; choose another --out" in answer.err.splitlines()[-1]
