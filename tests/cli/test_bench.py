"""``forgetkit bench``: a real case in a pipe, and made-up ones on a screen."""

from __future__ import annotations

import re

import pytest

from forgetkit import bench
from forgetkit.bench import cases


def test_the_smallest_case_in_json(cli) -> None:
    said = cli("bench", "--case", "convnet", "--repetitions", 1, "--device", "cpu", "--threads", 1, "--json")
    assert said.status == 0
    assert said.json["machine"]["device"] == "cpu"
    assert said.json["machine"]["threads"] == 1
    (case,) = said.json["cases"]
    assert (case["name"], case["work"], case["repetitions"], case["target"]) == ("convnet", 1437, 1, 0.9)
    assert all(seconds > 0 for times in case["seconds"].values() for seconds in times)
    assert case["figure"] == case["medians"]["reference"] / case["medians"]["ours"]
    assert re.search(r"^convnet: [\d,]+/s against [\d,]+/s: [\d.]+ × \(", said.err, re.MULTILINE)


@pytest.fixture
def made_up(monkeypatch):
    def side() -> int:
        return 1

    some = bench.BenchmarkCase("some", "one", "another", lambda setting: bench.Sides(side, side), target=1e-9)
    much = bench.BenchmarkCase(
        "much", "one", "another", lambda setting: bench.Sides(side, side, fault="it is bad"), target=0
    )
    none = bench.BenchmarkCase(
        "none", "one", "another", lambda setting: None, target=2, lacks=lambda setting: "no such thing"
    )
    monkeypatch.setattr(cases, "CASES", (some, much, none))


def test_a_pipe_gets_a_line_a_case(made_up, cli) -> None:
    said = cli("bench", "--repetitions", 3)
    assert (said.status, said.err) == (0, "")
    head, some, much, none = said.out.splitlines()
    assert re.search(r" threads?, .*torch ", head)
    assert some.startswith("some: ")
    assert some.endswith(", target at least 1e-09: met")
    assert much.endswith("missed (it is bad)")
    assert none == "none: skipped: no such thing"


def test_a_terminal_sees_the_table_grow(terminal) -> None:
    status, seen = terminal(["bench", "--case", "start", "--case", "sharing", "--repetitions", 1, "--device", "cpu"])
    assert status == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "1 of 2: start: forgetkit --help" in plain
    assert "(0 of 1 repetitions)" in plain
    end = plain.rpartition("range")[2]
    assert re.search(r"^ *start .*at most 0\.35 s +(met|missed) *$", end, re.MULTILINE)
    assert re.search(r"^ *sharing .*at least 1\.8 +skipped *$", end, re.MULTILINE)
    assert "sharing: it needs a CUDA device" in end
    assert "…" not in plain
    assert "repetitions" not in end


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--case", "nope"], "there is no case 'nope'; there are: augmented, auto, "),
        (["--device", "abacus"], "--device abacus: not a device"),
        (["--repetitions", "0"], "Invalid value for '--repetitions'"),
    ],
)
def test_mistakes_are_one_line(cli, words, said) -> None:
    answer = cli("bench", *words)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
