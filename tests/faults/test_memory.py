"""Data larger than memory, memory that runs out, and what grows with the number of mega-batches."""

from __future__ import annotations

import errno
import json
import shlex
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from helpers.subprocesses import digests, substance
from PIL import Image

from forgetkit.system import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and figures are as Linux has them")

LOW_MEMORY = str(Path(__file__).parents[1] / "helpers" / "low_memory.py")
SIDE, TRAIN, TEST = 256, 720, 30
MIB = 130
"""What the run may take: less than the pixels, which are 147 MB."""

WATCH = """
import dataclasses, forgetkit, json, os, re
from pathlib import Path
from forgetkit.contracts import Intervention

@dataclasses.dataclass(frozen=True)
class Watch:
    "Note after each mega-batch what the process holds and how large the states on the disk are."

    def notify(self, event):
        if type(event).__name__ == "MegaBatchEnded":
            process, run = Path("/proc/self"), os.environ["RUN"]
            anonymous = int(re.findall(r"RssAnon:\\s*(\\d+) kB", (process / "status").read_text())[0]) << 10
            held = len(os.listdir(process / "fd")), len(os.listdir(process / "task"))
            states = [file.stat().st_size for file in Path("runs", run, "checkpoints").glob("resume-[0-9]*.pt")]
            with open(f"told-{run}", "a") as file:
                print(json.dumps([anonymous, *held, states]), file=file)

@dataclasses.dataclass(frozen=True)
class Lag(Intervention):
    "Hold a running mean of the weights."

    def begin(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state.setdefault(name, p.detach().clone())

    def after_step(self, moment):
        for name, p in moment.model.named_parameters():
            moment.state[name].lerp_(p.detach(), 0.1)

@forgetkit.hookimpl
def forgetkit_observers():
    return {"watch": Watch}

@forgetkit.hookimpl
def forgetkit_interventions():
    return {"lag": Lag}
"""
MANY = {"none": 200, "full": 100}
"""Mega-batches of a run with either replay."""
PARAMETERS = 16 * 128 + 2 * 128 + 128 * 128 + 2 * 128 + 128 * 2 + 2
ALLOWED = 2 * PARAMETERS
"""Bytes that a process may grow by at a mega-batch: a row takes some thousands, weights that leak twice these."""


@pytest.fixture
def photos(workdir):
    """Files of 16 × 16 pixels that are to be blown up: the cheapest way to many pixels."""
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for number in range(count):
            path = workdir / "photos" / part / f"class-{number % 3}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def words(name: str, **options: object) -> list[str]:
    given = {
        "dataset": f"folder:path=photos,size={SIDE}",
        "model": "mlp:width=2,depth=1",
        "mega_batches": 2,
        "epochs": 1,
        "replay": "full",
        "batch_size": 8,
        "score_batch": 8,
        "threads": 1,
        "out": "runs",
        "name": name,
        **options,
    }
    flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["run", *flags, "--quiet"]


def result(name: str) -> dict:
    return json.loads(Path("runs", name, "result.json").read_text())


@pytest.mark.usefixtures("photos")
def test_data_larger_than_memory_trains_and_exhaustion_is_named(start, workdir) -> None:
    """Under a limit that the pixels alone would break the result is the same; a pool that is held breaks it."""
    assert TRAIN * 3 * SIDE**2 > MIB << 20
    within = start(words("within"), before=(LOW_MEMORY, "limited", {"mib": MIB}))
    assert within.wait() == 0, (workdir / "stderr").read_text()
    assert start(words("without")).wait() == 0
    expected = substance(result("without")), digests(Path("runs/without"))
    assert (substance(result("within")), digests(Path("runs/within"))) == expected

    assert start(words("held"), before=(LOW_MEMORY, "limited", {"mib": MIB, "held": True})).wait() == 1
    lines = (workdir / "stderr").read_text().splitlines()
    *_, advice, answer = (
        line for line in lines if "share the score at the threshold" not in line
    )  # most pixels are dead
    assert answer.startswith("forgetkit: this process has no memory left (")
    assert advice == "to go on: forgetkit run --resume runs/held"
    assert not Path("runs/held/result.json").exists()
    assert start([*shlex.split(advice)[4:], "--quiet"]).wait() == 0
    assert (substance(result("held")), digests(Path("runs/held"))) == expected


def test_only_the_record_grows_with_the_number_of_mega_batches(start, workdir) -> None:
    """With no replay and, beside it, with full: memory, files, threads, states, and what an event takes."""
    (workdir / "watch.py").write_text(WATCH)
    small = {"dataset": "synthetic:samples=400,test=10,classes=2,size=4,channels=1", "model": "mlp:width=128"}
    both = {
        "batch_size": 64,
        "score_batch": 64,
        "intervention": "lag",
        "observer": "watch",
        "plugin": "watch.py",
    }
    children = [
        start(words(replay, **{**small, **both, "replay": replay, "mega_batches": many}), RUN=replay)
        for replay, many in MANY.items()
    ]
    assert [child.wait() for child in children] == [0, 0], (workdir / "stderr").read_text()
    for replay, many in MANY.items():
        assert result(replay)["parameters"] == PARAMETERS
        told = [json.loads(line) for line in Path(f"told-{replay}").read_text().splitlines()]
        assert len(told) == many
        resident, files, threads, states = zip(*told, strict=True)
        quarter = many // 4
        grown = (median(resident[-quarter:]) - median(resident[-2 * quarter : -quarter])) / quarter
        assert grown < ALLOWED, f"with replay {replay}, {grown:.0f} bytes at each mega-batch"
        assert len(set(files[2:])) == len(set(threads[2:])) == 1
        assert {len(found) for found in states[2:]} == {2}, "the last two, and no more"
        ids = 8 * 400 if replay == "full" else 0
        assert max(states[-1]) - min(states[2]) <= ids + 512, "but for the ids that replay keeps, a state is the same"

        run = Path("runs", replay)
        kept = 2 * many + 2 * (many - 1)
        assert len(list((run / "checkpoints").iterdir())) == kept, (
            "models and masks: a finished run keeps no checkpoint"
        )
        sizes = defaultdict(list)
        for line in (run / "events.jsonl").read_bytes().splitlines():
            sizes[json.loads(line)["event"]].append(len(line))
        counts = {name: len(found) for name, found in sizes.items() if len(found) > 1}
        assert counts == {
            **dict.fromkeys(("mega_batch_revealed", "epoch_ended", "mega_batch_ended"), many),
            **dict.fromkeys(("unlearned", "checkpointed"), many - 1),
        }
        sizes["mega_batch_ended"].pop()  # nothing is forgotten at the last
        for name, found in sizes.items():
            assert max(found) < 1.25 * min(found) + 40, (
                f"{name} is longer late than early: {min(found)} to {max(found)}"
            )


def test_archive_larger_than_memory_is_refused_before_reading(cli, monkeypatch) -> None:
    """Whoever limits memory kills a process that takes more; an archive says how much that will be."""
    rng = np.random.default_rng(0)
    parts = {"x_train": rng.integers(0, 256, (90, 8, 8), np.uint8), "x_test": rng.integers(0, 256, (9, 8, 8), np.uint8)}
    np.savez_compressed("data.npz", **parts, y_train=np.arange(90) % 3, y_test=np.arange(9) % 3)
    with zipfile.ZipFile("data.npz") as archive:
        wanted = sum(member.file_size for member in archive.infolist())
    monkeypatch.setattr(memory, "available", lambda device=None: wanted - 1)
    answer = cli("run", "--dataset", "npz:path=data.npz", "--out", "runs")
    assert answer.status == 2
    assert answer.err.startswith("forgetkit: ")
    assert f"data.npz holds {wanted:,} bytes and {wanted - 1:,} of memory are free: " in answer.err
    assert "--dataset folder" in answer.err
    monkeypatch.setattr(memory, "available", lambda device=None: wanted)
    assert cli("data", "npz:path=data.npz").status == 0


@pytest.mark.usefixtures("photos")
def test_pixels_that_cannot_be_mapped_are_not_taken_for_damaged(cli, monkeypatch) -> None:
    small = words("r", dataset="folder:path=photos,size=8")
    assert cli(*small, "--dry-run").status == 0

    def load(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(np, "load", load)
    answer = cli(*small)
    assert answer.status == 2
    assert "train.npy cannot be mapped, since address space ran out" in answer.err
    assert "decoded again" not in answer.err
