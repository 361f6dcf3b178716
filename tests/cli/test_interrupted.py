"""What a terminal shows after Ctrl-C: the stop message, then the command that resumes, both whole."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios

import pytest

STOPPING = {
    "run": "forgetkit: stopping after this step (again: abort)",
    "ablate": "forgetkit: stopping after these steps (again: abort)",
}


def shown(written: str, width: int) -> list[str]:
    """The lines on a terminal of ``width`` columns; what the terminal itself wrapped is one line, as it is copied."""
    rows: list[list[str]] = [[]]
    wrapped: set[int] = set()
    row = column = 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n", written, re.DOTALL):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
        elif token.endswith("A") and len(token) > 1:
            row = max(0, row - int(token[2:-1] or 1))
        elif token.endswith("K") and len(token) > 1:
            rows[row] = []
            wrapped.discard(row)
        elif len(token) > 1:
            assert token[-1] in "mhl", token
        else:
            if column == width:
                row, column = row + 1, 0
                wrapped.add(row)
            while len(rows) <= row:
                rows.append([])
            rows[row] += [" "] * (column + 1 - len(rows[row]))
            rows[row][column] = token
            column += 1
        while len(rows) <= row:
            rows.append([])
    lines: list[str] = []
    for place, letters in enumerate(rows):
        if place in wrapped:
            lines[-1] += "".join(letters)
        else:
            lines.append("".join(letters))
    return [line.rstrip() for line in lines if line.strip()]


def interrupted(start, words, width: int, moment: str) -> str:
    """All that is written to a terminal until the end of a command that gets Ctrl-C after ``moment`` was seen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    child = start(words, out=theirs, err=theirs, TERM="xterm-256color", COLUMNS=str(width))
    os.close(theirs)
    written, asked = b"", False
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        written += piece
        if not asked and moment.encode() in written and written.endswith((b"m", b" ", b"left")):  # behind a bar
            asked = True
            os.write(ours, b"\x03")  # the terminal echoes it; the child has none that sends signals
            child.signal(signal.SIGINT)
    os.close(ours)
    assert child.wait() == 130
    return written.decode()


@pytest.mark.parametrize(("command", "width"), [("run", 40), ("run", 80), ("ablate", 40), ("ablate", 60)])
def test_after_an_interrupt_the_last_line_is_whole(command, width, start, tiny_words, workdir):
    folder = "a-folder-with-a-name-of-more-than-forty-letters/runs"
    words = [*tiny_words[1:], "--epochs", 20000, "--out", folder]
    if command == "ablate":
        words += ["--over", "reinit=none,masked", "--seeds", "0,1"]
    written = interrupted(start, [command, *words], width, "epoch" if command == "ablate" else "loss")
    lines = shown(written, width)
    assert lines[-2] == "forgetkit: interrupted"
    assert re.fullmatch(rf"to go on: forgetkit {command} .*{folder}.*", lines[-1])
    assert not re.search("━|learning|cells  ", "\n".join(lines))  # nothing of the bars is left
    spoken = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\^C", "", written).split())
    assert STOPPING[command] in spoken
    if command == "run":
        [run] = (workdir / folder).iterdir()
        assert lines[-1] == f"to go on: forgetkit run --resume {folder}/{run.name}"


def test_after_a_signal_the_last_line_in_a_pipe_is_whole(start, tiny_words, workdir):
    reader, writer = os.pipe()
    child = start([*tiny_words, "--epochs", 20000, "--name", "it"], out=writer, err=writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        written = ""
        while "training on" not in written:
            written += pipe.readline()
        child.signal(signal.SIGTERM)
        lines = pipe.read().splitlines()
    assert child.wait() == 130
    assert lines == [STOPPING["run"], "forgetkit: interrupted", "to go on: forgetkit run --resume runs/it"]
