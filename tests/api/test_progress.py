"""What ``progress=True`` shows: lines in a pipe, bars on a terminal and below the cell of a notebook."""

from __future__ import annotations

import builtins
import sys
import time
from types import ModuleType

import pytest

import forgetkit
from forgetkit.display import layout
from forgetkit.display.display import LiveDisplay, NotebookDisplay, choose_display

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 1,
    "mega_batches": 2,
    "threads": 1,
}


@pytest.mark.slow
def test_a_run_shows_lines_if_asked_and_nothing_otherwise(workdir, capsys):
    quiet = forgetkit.run(OPTIONS, name="quiet")
    assert capsys.readouterr() == ("", "")
    shown = forgetkit.run(OPTIONS, name="shown", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lure, on synthetic, with mlp")
    assert "\nmega-batch 2: test accuracy " in err
    assert quiet["test_accuracy"] == shown["test_accuracy"]


@pytest.mark.slow
def test_an_ablation_shows_its_cells_and_logs_its_failures(workdir, capsys, caplog):
    forgetkit.ablate(lr=[0.01, 1e30], options=OPTIONS, milestones="none", executor="local:jobs=1", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 cells: 2 arms at 1 seed; 0 there already, 2 to run" in err
    assert "[1/2] lr=0.01, seed 0: test accuracy " in err
    assert any("[2/2] lr=1e+30, seed 0 diverged: " in record.getMessage() for record in caplog.records)


class Output:
    """What ``IPython.display.display`` returns."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page: str) -> None:
        self.pages.append(page)


class ZMQInteractiveShell:
    """The shell of a notebook, by the name that rich knows it by."""


@pytest.fixture
def output(monkeypatch):
    made = Output()
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    display.HTML = str  # type: ignore[attr-defined]
    display.display = lambda page, display_id: made  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    return made


def test_a_notebook_sees_bars_move_and_go(output):
    display = choose_display(quiet=False, as_json=True)
    assert isinstance(display, NotebookDisplay)
    with display.follow(lambda: layout.bars(80, 20, [layout.Bar("<run>", 0.5, ("50 %",))]), per_second=100):
        while not output.pages:
            time.sleep(0.001)
    assert "&lt;run&gt;" in output.pages[0]
    assert "━" in output.pages[0]
    assert "50 %" in output.pages[0]
    assert output.pages[-1] == ""


def test_a_terminal_gets_bars_on_standard_error(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert type(choose_display(quiet=False, as_json=True)) is LiveDisplay
