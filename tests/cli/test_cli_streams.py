"""Standard streams that are closed, full or only pretend to be a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from forgetkit.cli import screen
from forgetkit.cli.console import Console
from forgetkit.contracts import EpochEnded, MegaBatchEnded, MegaBatchRevealed, MegaBatchRow

MOVES = re.compile(r"\x1b\[(?:[0-9;]*[A-HJKfsu]|\?25[lh])")


def shell(words: list[str], redirection: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'exec "{sys.executable}" -m forgetkit "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, "-", *words, "--out", str(folder), "--name", "it"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_run_goes_on_whatever_becomes_of_its_streams(redirection: str, tiny_words: list[str], tmp_path: Path) -> None:
    if redirection == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    said = shell(tiny_words, redirection, tmp_path)
    lost = "forgetkit: standard output could not be written: No space left on device\n"
    assert (said.returncode, said.stderr) == ((1, lost) if "full" in redirection else (0, ""))
    result = json.loads((tmp_path / "it" / "result.json").read_text())
    events = [json.loads(line) for line in (tmp_path / "it" / "events.jsonl").read_text().splitlines()]
    assert (result["status"], len(result["mega_batches"])) == ("completed", 2)
    assert events


def test_colours_in_a_pipe_move_nothing(tiny_words: list[str], tmp_path: Path) -> None:
    said = shell(tiny_words, "", tmp_path, FORCE_COLOR="1")
    assert "\x1b[1m" in said.stdout
    assert not MOVES.search(said.stdout)
    assert said.stdout.startswith("forgetkit run: loading torch\n")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_word_of_a_bar_is_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    RichConsole.size.fset(console, (width, 30))  # type: ignore[attr-defined]
    view = screen.LiveView(console)
    row = dict.fromkeys(MegaBatchRow.__dataclass_fields__, 0) | {
        "index": 1, "train_samples": 50, "test_accuracy": 0.5, "test_errors": 1234, "seconds": 754.0,
        "carried_epoch": 2, "interventions": {}, "unlearn": None,
    }  # fmt: skip
    view._samples = (150,) * 12
    view.notify(MegaBatchRevealed(1, 50, 50, 5))
    view.notify(EpochEnded(1, 1, 3, 123.4567, 0.5, 0.1, 50, 1.0, None, 0))
    _holds_words_alone(view, width)
    view.notify(MegaBatchEnded(MegaBatchRow(**row)))
    _holds_words_alone(view, width)


def _holds_words_alone(view: screen.LiveView, width: int) -> None:
    lines = view.console.render_lines(view._bars, view.console.options.update(width=width))
    shown = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert "…" not in shown
    assert all(word in shown for word in ("mega-batch 1/12",))
