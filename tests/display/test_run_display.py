"""What a run looks like: on a terminal, in a pipe, quiet, rehearsed, and to a reader who leaves early."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from forgetkit.display import run_tables

ESCAPE = "\x1b"


def plain(seen):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


def test_a_terminal_sees_bars_move_and_then_the_table(terminal, tiny_words):
    status, seen = terminal([*tiny_words, "--epochs", 200])  # long enough to be seen learning
    assert status == 0
    assert ESCAPE in seen
    bars, _, end = plain(seen).rpartition("batch  samples")
    assert "mega-batch 1/2" in bars
    assert "mega-batch 2/2" in bars
    assert "━" in bars
    assert "loss" in bars
    assert re.search(r"\d+ %", bars)
    assert "━" not in end
    assert "…" not in end
    assert re.search(r"^ +1 +27 +", end, re.MULTILINE)
    assert "record: runs/" in end.splitlines()[-1]


def test_a_terminal_sees_no_remains_of_an_error(terminal, tiny_words):
    status, seen = terminal([*tiny_words, "--reinit", "llf", "--model", "mlp:depth=0"])
    assert status == 2
    assert seen.rindex("\x1b[?25l") < seen.rindex("\x1b[?25h")  # the cursor is back
    assert plain(seen).splitlines()[-1].startswith("forgetkit: llf: ")


def test_a_rehearsal_suits_a_terminal(terminal, tiny_words):
    status, seen = terminal([*tiny_words, "--dry-run"])
    assert status == 0
    assert "nothing was written" in " ".join(plain(seen).split())


def test_a_pipe_gets_plain_lines(tiny):
    said = tiny("--name", "p")
    assert said.err == ""
    assert ESCAPE not in said.out
    lines = said.out.splitlines()
    assert lines[0].startswith("lure, on synthetic, with mlp (251 parameters), 2 mega-batches")
    assert lines[1] == "mega-batch 1: 27 samples arrived, training on 27"
    assert re.fullmatch(r"mega-batch 1: test accuracy [\d.]+%, \d+ errors, 50 entries reset, [\d.]+ s", lines[2])
    assert "…" not in said.out
    assert ", preset clean, " in lines[0]
    assert lines[-2] == "preset clean; overrides: mega-batches=2 (preset: 8), epochs=1 (preset: 50)"
    assert lines[-1] == "record: runs/p"


@pytest.mark.slow
def test_the_preset_and_its_overrides_are_named(tiny):
    words = ["--preset", "paper", "--epochs", 50, "--milestones", "none", "--reinit", "rifle:fresh=zero"]
    for more in ([], ["--dry-run"]):
        said = tiny(*words, "--lr", 0.1, *more)
        changed = (
            "mega-batches=2 (preset: 8), milestones=none (preset: 20,40), reinit.rifle.fresh=zero (preset: original)"
        )
        assert f"preset paper; overrides: {changed}\n" in said.out
    assert ", preset paper, " in tiny("--preset", "paper").out.splitlines()[0]
    assert run_tables.provenance("alma", {}) == "preset alma; no overrides"


def test_an_early_end_and_the_weights_carried_on_are_said(tiny):
    said = tiny("--carry", "best-val", "--patience", 1, "--epochs", 9, "--lr", 1e-9, "--json")
    assert [(row["epochs"], row["carried_epoch"]) for row in said.json["mega_batches"]] == [(2, 1), (2, 1)]
    assert said.err.count(", weights of epoch 1 of 2, ") == 2
    plain = tiny("--label-noise", 1, "--label-noise-draw", "other")
    assert "; 60 labels of the stream changed by noise, train and val counted against them\n" in plain.out


def test_quiet_says_nothing(tiny):
    said = tiny("--quiet")
    assert (said.status, said.out, said.err) == (0, "", "")


def test_quiet_leaves_the_object_to_json(tiny):
    said = tiny("--quiet", "--json")
    assert said.json["status"] == "completed"
    assert said.err == ""


def test_brackets_are_no_markup(tiny):
    said = tiny("--out", "[bold]", "--name", "[red]")
    assert "record: [bold]/[red]" in said.out
    rehearsed = tiny("--out", "[/bold]", "--name", "[red]", "--dry-run")
    assert rehearsed.status == 0
    assert "[/bold]" in rehearsed.out


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["full", "none", "last", "buffer:size=7", "buffer:size=7,rule=per-mega-batch"])
def test_a_rehearsal_knows_how_many_samples_will_be_seen(tiny, workdir, replay):
    words = ["--replay", replay, "--epochs", 2, "--mega-batches", 3, "--name", "same"]
    plan = tiny(*words, "--dry-run", "--json").json
    assert not (workdir / "runs").exists()
    ran = tiny(*words, "--json").json
    assert plan["dry_run"] is True
    assert plan["config"] == ran["config"]
    assert plan["parameters"] == ran["parameters"]
    assert plan["samples_to_be_seen"] == ran["samples_seen"]
    assert plan["train_samples"] == [row["train_samples"] for row in ran["mega_batches"]]
    assert plan["estimated_seconds"] > 0
    assert plan["estimated_memory_bytes"] > 0
    assert plan["timed_steps"] >= 1


def test_a_rehearsal_prints_the_plan(tiny, workdir):
    said = tiny("--dry-run")
    assert said.status == 0
    assert re.search(r"--reinit +masked:fraction=0.2", said.out)
    assert re.search(r"--dataset +synthetic:samples=60,test=20,", said.out)
    assert "251 parameters; training on 27, 54 samples per epoch" in said.out
    assert "81 samples to be seen" in said.out
    assert "nothing was written" in said.out
    assert not (workdir / "runs").exists()


@pytest.mark.slow
def test_a_rehearsal_leaves_the_run_as_it_would_have_been(tiny, substance):
    before = tiny("--json").json
    tiny("--dry-run", "--quiet")
    assert substance(tiny("--json").json) == substance(before)


# A reader who leaves early


@pytest.mark.children
def test_the_first_line_is_enough(workdir):
    bash = ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m forgetkit show | head -1"]
    done = subprocess.run(bash, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("words", [["show"], ["show", "--json"]])
def test_nobody_reads_at_all(start, workdir, words):
    reader, writer = os.pipe()
    os.close(reader)
    child = start(words, out=writer)
    os.close(writer)
    assert child.wait() == 0
    assert (workdir / "stderr").read_text() == ""


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_run_goes_on_without_its_reader(start, workdir, tiny_words, words, result_of):
    reader, writer = os.pipe()
    child = start([*tiny_words, "--epochs", 30, "--name", "r", *words], out=writer)
    os.close(writer)
    if not words:
        assert os.read(reader, 4).decode() == "lure"
    os.close(reader)
    assert child.wait() == 0
    assert result_of(workdir / "runs" / "r")["status"] == "completed"
    if not words:
        assert (workdir / "stderr").read_text() == ""


def test_a_stream_that_knows_few_characters(start, workdir, tiny_words):
    assert start(tiny_words, PYTHONIOENCODING="ascii").wait() == 0
    assert "anytime accuracy  ?" in (workdir / "stdout").read_text()
    assert (workdir / "stderr").read_text() == ""


# The small parts


@pytest.mark.parametrize(
    ("values", "drawn"), [([0.0, 1.0], "▁█"), ([3.0], "▄"), ([2.0, 2.0], "▄▄"), ([0.0, 0.5, 1.0], "▁▅█")]
)
def test_a_sparkline(values, drawn):
    assert run_tables.sparkline(values) == drawn


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (86400, "24 h 00 min")],
)
def test_a_duration(seconds, said):
    assert run_tables.duration(seconds) == said
