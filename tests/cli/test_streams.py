"""Standard streams that are closed, full or only pretend to be a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as RichConsole
from rich.console import RenderableType

from forgetkit.contracts import EpochEnded, LoadProgress, MegaBatchEnded, MegaBatchResult, MegaBatchRevealed
from forgetkit.display import layout
from forgetkit.display.analysis_display import AnalysisDisplay
from forgetkit.display.console import Console
from forgetkit.display.display import LiveDisplay
from forgetkit.display.run_display import STOPPING, RunDisplay

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


@pytest.mark.children
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


@pytest.mark.children
def test_colours_in_a_pipe_move_nothing(tiny_words: list[str], tmp_path: Path) -> None:
    said = shell(tiny_words, "", tmp_path, FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[1m" in said.stdout
    assert not MOVES.search(said.stdout)
    assert said.stdout.startswith("forgetkit run: loading torch\n")


@pytest.mark.slow
def test_colours_in_a_pipe_move_nothing_in_other_commands(cli, tiny_words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    ablate = ["ablate", *tiny_words[1:], "--over", "reinit=none,masked", "--out", "it"]
    for words in (ablate, ["analyze", "it", "calibration", "--no-report"], ["show", "models"], ["table", "it"]):
        said = cli(*words)
        assert said.status == 0
        assert "\x1b[" in said.out, words
        assert not MOVES.search(said.out + said.err)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in cli("table", "it").out + cli("show", "models").out


@pytest.mark.children
def test_ablation_is_recorded_if_standard_output_is_full(tiny_words: list[str], tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    said = shell(["ablate", *tiny_words[1:], "--over", "reinit=none,masked"], ">/dev/full", tmp_path)
    lost = "forgetkit: standard output could not be written: No space left on device\n"
    assert (said.returncode, said.stderr) == (1, lost)
    assert len(list(tmp_path.glob("cells/*/result.json"))) == 2


def of_width(width: int) -> Console:
    console = Console()
    RichConsole.size.fset(console, (width, 30))  # type: ignore[attr-defined]
    return console


def seen(console: Console, bars: RenderableType) -> str:
    lines = console.render_lines(bars, console.options.update(width=console.width), pad=False)
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


def require_words(console: Console, bars: RenderableType, *phrases: str) -> None:
    """Nothing but these phrases, or their first words, and bars between them; no line as long as the terminal."""
    shown = seen(console, bars)
    assert max(map(len, shown.splitlines())) <= console.width - 2
    assert set(shown.replace("━", " ").replace("╸", " ").replace("╺", " ").split()) <= set(" ".join(phrases).split())


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_word_of_a_bar_of_a_run_is_cut(width: int) -> None:
    console = of_width(width)
    view = RunDisplay(LiveDisplay(console))
    row = dict.fromkeys(MegaBatchResult.__dataclass_fields__, 0) | {
        "index": 1, "train_samples": 50, "test_accuracy": 0.5, "test_errors": 1234, "seconds": 754.0,
        "carried_epoch": 2, "interventions": {}, "unlearn": None,
    }  # fmt: skip
    what = "unpacking a-file-with-a-name-that-is-long.tar.gz and decoding what is in it"
    view.notify(LoadProgress(what, 1, 4))
    require_words(console, view.bars(), what, "25%")
    assert what == " ".join(seen(console, view.bars()).replace("━", "").replace("25%", "").replace("╸", "").split())
    view._samples = (150,) * 12
    view.notify(LoadProgress(what, 4, 4))
    view.notify(MegaBatchRevealed(1, 50, 50, 5))
    view.notify(EpochEnded(1, 1, 3, 123.4567, 0.5, 0.1, 50, 1.0, None, 0))
    said = "mega-batch 1/12 loss 123.4567 accuracy 50.0% run 3 % 1 h 00 min 0.1234567890 s left"
    view._began = time.monotonic() - 100
    view.notify(EpochEnded(1, 1, 3, 123.4567, 0.5, 0.1, 50, 1.0, None, 0))
    require_words(console, view.bars(), said, *(f"{minutes}" for minutes in range(60)))
    assert "mega-batch 1/12" in seen(console, view.bars())
    view.notify(MegaBatchEnded(MegaBatchResult(**row)))
    said += " test 50.0% errors 1234 epoch 2 12 min 34 s 8 %"
    require_words(console, view.bars(), said, *(f"{minutes:02d}" for minutes in range(60)), *map(str, range(60)))
    view.say_stopping()
    assert seen(console, view.bars()).replace("\n", " ").endswith(STOPPING)


NAMES = st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=12).map(", ".join)


@pytest.mark.slow
@given(
    st.lists(st.tuples(NAMES, st.floats(0, 1), st.lists(NAMES, min_size=1, max_size=3)), min_size=1, max_size=9),
    st.sampled_from([40, 60, 80]),
    st.integers(5, 40),
)
def test_no_word_of_any_bar_is_cut(rows, width, height) -> None:
    console = of_width(width)
    shown = [layout.Bar(name, share, [part[:24].rstrip(", ") for part in parts]) for name, share, parts in rows]
    bars = layout.bars(width, height, shown, "a sentence below")
    require_words(console, bars, "a sentence below", *(word for bar in shown for word in (bar.name, *bar.parts)))
    lines = seen(console, bars).splitlines()
    assert len(lines) < max(height, 10)
    assert set(shown[-1].name.split()) <= set(" ".join(lines).split())
    assert any(line.endswith(shown[-1].parts[0]) or shown[-1].parts[0] + "  " in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_word_of_the_bar_of_questions_is_cut(width: int) -> None:
    console = of_width(width)
    view = AnalysisDisplay(LiveDisplay(console))
    view._total, view._done, view._start_time = 12, 3, time.monotonic() - 36
    what = "importance=snip:samples=1024, reinit=masked, seed 0: calibration"
    view.show_question(what)
    require_words(console, view.bars(), what, "3/12 about 1 min 48 s left")
