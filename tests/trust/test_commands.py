"""Commands fetch nothing by default, run no code from a record, and print no control characters."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import fake_outcomes, offline
from PIL import Image
from rich.table import Table

import forgetkit
from forgetkit.contracts import Checkpointed, RunStarted
from forgetkit.display.console import Console, print_text
from forgetkit.display.run_display import RunDisplay
from forgetkit.errors import ConfigError
from forgetkit.storage import write_with_digest

GRID = [
    "ablate",
    *("--over", "reinit=cold,rifle", "--epochs", "1", "--mega-batches", "2", "--threads", "1", "--out", "abl"),
    *("--dataset", "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "--model", "mlp:width=8"),
]
HOSTILE = "\x1b]0;EVIL\x07[link=x]a[bold]\x1b[2J\u202e"


# Nothing is fetched


@pytest.fixture
def offline_child(start, workdir):
    """``offline_child(words)``: the exit status, the standard error and the attempted connections."""

    def call(words) -> tuple[int, str, list[str]]:
        log = workdir / "tried"
        log.write_text("")
        (workdir / "stderr").write_text("")
        status = start(words, before=(offline.__file__, "forbid", {"log": str(log)})).wait()
        return status, (workdir / "stderr").read_text(), log.read_text().splitlines()

    return call


@pytest.fixture
def offline_here(workdir, monkeypatch):
    """The same for this process; the file that logs attempts."""
    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in ("getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, getattr(socket, name))
    offline.forbid(str(workdir / "tried-here"))
    return workdir / "tried-here"


def test_nothing_is_fetched_unless_asked_for(offline_child, offline_here, cli, tiny_words, workdir):
    for words in ([*tiny_words, "--name", "one"], GRID):
        status, _, tried = offline_child(words)
        assert (words, status, tried) == (words, 0, [])
    for words in ("table abl", "report abl", "report runs/one", "show datasets cifar10", "plugins list"):
        assert cli(*words.split()).status == 0
    for name in ("cifar10", "cifar100"):
        answer = cli("run", "--dataset", name)
        assert (answer.status, answer.err.count("\n")) == (2, 1)
        assert "or download=true" in answer.err
    assert not offline_here.exists()
    assert not (workdir / "cache" / "torchvision").exists()


def test_what_is_asked_for_is_tried_and_the_failure_is_one_line(offline_child):
    status, answer, tried = offline_child(["run", "--dataset", "cifar10:download=true"])
    assert status == 2
    assert [line.split()[0] for line in tried] == ["look"]
    [answer] = [line for line in answer.splitlines() if line.startswith("forgetkit:")]
    assert "CIFAR10 could not be downloaded" in answer


# No record brings code


EVIL = """
from pathlib import Path
Path("was-run").touch()
from torch import nn

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""


class Stop:
    """Interrupts a run after its first mega-batch."""

    def notify(self, event):
        if isinstance(event, Checkpointed):
            raise KeyboardInterrupt


def interrupted(folder: Path, model: str) -> Path:
    options = {
        "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
        "model": model,
        "mega_batches": 2,
        "epochs": 1,
        "threads": 1,
        "out": str(folder),
        "name": "theirs",
    }
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run(options, observers=[Stop()])
    return folder / "theirs"


@pytest.fixture
def theirs(workdir):
    """An unfinished run from elsewhere whose network is code in a file."""
    (workdir / "stranger.py").write_text(EVIL)
    before = set(sys.modules)
    yield interrupted(workdir / "got", "import:stranger:make")
    for name in set(sys.modules) - before:
        if name == "stranger":
            del sys.modules[name]


def forgotten(workdir: Path) -> Path:
    sys.modules.pop("stranger", None)
    (workdir / "was-run").unlink(missing_ok=True)
    return workdir / "was-run"


def test_a_run_that_names_code_goes_on_once_it_is_named_again(cli, theirs, workdir):
    mark = forgotten(workdir)
    answer = cli("run", "--resume", theirs)
    assert answer.status == 2
    assert answer.err.endswith("none is run because a record names it: add --model import:target=stranger:make\n")
    assert answer.err.count("\n") == 1
    with pytest.raises(ConfigError, match="because a record names it"):
        forgetkit.run(resume=theirs)
    assert not mark.exists()
    assert cli("run", "--resume", theirs, "--model", "import:other:make").status == 2
    assert not mark.exists()
    assert cli("run", "--resume", theirs, "--model", "import:stranger:make", "--quiet").status == 0
    assert mark.exists()


def test_the_line_that_tells_how_to_go_on_names_it(cli, theirs, workdir, monkeypatch):
    told = RunDisplay.notify

    def stop(self, event):
        told(self, event)
        if isinstance(event, RunStarted):
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDisplay, "notify", stop)
    answer = cli("run", "--resume", theirs, "--model", "import:stranger:make")
    assert answer.status == 130
    assert f"to go on: forgetkit run --resume {theirs} --model import:target=stranger:make" in answer.err


@pytest.mark.slow
def test_a_table_and_a_report_import_nothing(cli, theirs, workdir):
    manifest = json.loads((theirs / "manifest.json").read_text())
    result = fake_outcomes.result(0, {}, batches=manifest["config"]["mega_batches"], run="theirs")
    write_with_digest(theirs / "result.json", {**result, "config": manifest["config"]})
    mark = forgotten(workdir)
    assert cli("report", theirs, "--quiet").status == 0
    assert cli("table", theirs).status == 2  # no ablation
    assert not mark.exists()


# Terminals


def photos(root: Path) -> Path:
    for part in ("train", "test"):
        for label in (f"a{HOSTILE}", "b"):
            (root / part / label).mkdir(parents=True)
            for number in range(6):
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


def test_what_others_wrote_acts_on_no_terminal(terminal, workdir):
    """Output may have colours and cursor moves, but sets no title, opens no link, clears no screen."""
    root = photos(workdir / f"p{HOSTILE}")
    run = ["run", "--model", "mlp:width=8", "--epochs", "1", "--mega-batches", "2", "--threads", "1", "--dataset"]
    (root / "train" / "b" / "9.png").write_bytes(b"no image")
    for status, words in (
        (2, [*run, f"folder:path={root},size=8"]),  # cannot be decoded, and says which
        (2, [*run, f"npz:path={root}"]),
        (2, ["run", "--resume", str(root)]),
        (2, ["table", f"no{HOSTILE}"]),
        (2, ["run", f"--{HOSTILE}"]),
        (2, ["run", "--model", HOSTILE]),
        (2, ["show", "models", HOSTILE]),
    ):
        came, written = terminal(words)
        assert (words, came) == (words, status)
        assert_inert(written)
    (root / "train" / "b" / "9.png").unlink()
    came, written = terminal([*run, f"folder:path={root},size=8", "--out", f"o{HOSTILE}"])
    assert came == 0
    assert "record: o" in written
    assert_inert(written)
    came, written = terminal([*run, f"folder:path={root},size=8", "--dry-run"])
    assert came == 0
    assert_inert(written)


def assert_inert(written: str) -> None:
    for acting in ("\x1b]", "\x07", "\x1b[2J", "\u202e"):
        assert acting not in written


def test_a_csv_is_exact_in_a_pipe_and_harmless_on_a_terminal(capsys, monkeypatch):
    print_text(f"a,{HOSTILE}\nb\t\n")
    assert capsys.readouterr().out == f"a,{HOSTILE}\nb\t\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_text(f"a,{HOSTILE}\nb\t\n")
    shown = capsys.readouterr().out
    assert_inert(shown)
    assert shown.startswith("a,\\x1b]0;EVIL\\x07[link=x]a[bold]")
    assert shown.endswith("\nb\t\n")


def test_brackets_are_no_markup_wherever_they_stand(capsys):
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(f"{HOSTILE}[/no-such-tag]")
    Console().print(table)
    Console().print(HOSTILE)
    shown = capsys.readouterr().out
    assert shown.count("[link=x]a[bold]") == 4
    assert_inert(shown)
