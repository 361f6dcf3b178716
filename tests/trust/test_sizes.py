"""A size that no machine has ends in one line that names what asked for it, before any of it is taken."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from forgetkit.system import memory

TINY = ["--dataset", "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "--mega-batches", "2"]
RUN = ["run", *TINY, "--epochs", "1", "--threads", "1", "--precision", "fp32"]
HUGE = "1" + "0" * 30


@pytest.mark.parametrize(
    "model",
    [f"mlp:width={10**9}", f"mlp:width={HUGE}", f"convnet:width={10**12}"],
)
def test_a_network_larger_than_any_memory_is_refused(cli, model):
    answer = cli(*RUN, "--model", model)
    assert answer.status == 2
    assert re.fullmatch(
        rf"forgetkit: --model {model} does not fit into memory \(.* GiB left\): choose smaller options for it\n",
        answer.err,
    )


def test_network_exceeding_free_memory_is_refused_while_built(cli, monkeypatch):
    """Without its layers being filled first: each takes 4 MiB, and 8 are left."""
    monkeypatch.setattr(memory, "available", lambda device=None: 8 << 20)
    answer = cli(*RUN, "--model", "mlp:width=1024,depth=1000")
    assert (
        answer.status,
        "--model mlp:width=1024,depth=1000 does not fit into memory (0.0 GiB left)" in answer.err,
    ) == (
        2,
        True,
    )


def test_gradients_and_momentum_exceeding_memory_are_refused(cli, monkeypatch):
    """Values of 0.2 MiB fit into 0.3 MiB; gradients and momentum do not."""
    monkeypatch.setattr(memory, "available", lambda device=None: 300 << 10)
    answer = cli(*RUN, "--model", "mlp:width=200,depth=2")
    assert answer.status == 2
    assert "its gradients and the state of --optimizer sgd take" in answer.err
    assert cli(*RUN, "--model", "mlp:width=200,depth=2", "--momentum", "0", "--quiet").status == 0


def test_a_network_of_too_many_layers_is_refused(cli, monkeypatch):
    monkeypatch.setattr(sys.modules["forgetkit.training.network"], "_MOST_TENSORS", 100)
    answer = cli(*RUN, "--model", "mlp:width=1,depth=1000000")
    assert answer.status == 2
    assert "has more than 100 layers with parameters: choose a smaller depth" in answer.err


@pytest.mark.parametrize("command", ["run", "data"])
@pytest.mark.parametrize("option", ["size=1000000", "size=1000000000", f"size={HUGE}", f"samples={HUGE}"])
def test_a_data_set_larger_than_any_memory_is_refused(cli, command, option):
    words = ["run", "--dataset", f"synthetic:{option}"] if command == "run" else ["data", f"synthetic:{option}"]
    answer = cli(*words)
    assert answer.status == 2
    assert re.search(
        rf"the data set synthetic:.*{option}.* does not fit into memory \(.*\): choose smaller", answer.err
    )


@pytest.mark.parametrize("option", ["epochs", "samples", "batch-size", "score-batch", "patience", "shots"])
def test_count_beyond_the_largest_integer_is_refused(cli, option):
    answer = cli(*RUN[:5], f"--{option}", "1" + "0" * 400)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert f"--{option} 1000" in answer.err
    assert "less than or equal to 9223372036854775807" in answer.err


@pytest.mark.parametrize("option", ["epochs", "samples"])
def test_too_little_disk_for_events_asks_for_fewer_epochs(cli, option, monkeypatch, caplog):
    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    monkeypatch.setattr("forgetkit.engine.run._train_over_stream", stopped)
    cli("run", *TINY, "--model", "mlp:width=8", "--threads", "1", f"--{option}", "1000000000000")
    assert caplog.messages[-1].endswith(f": make room, or give fewer --{option}")


def test_impossible_thread_count_is_refused_once_for_all_runs(cli, tmp_path):
    answer = cli("analyze", tmp_path, "calibration", "--threads", HUGE)
    assert (answer.status, answer.err) == (2, f"forgetkit: --threads {HUGE}: at most 1024\n")
