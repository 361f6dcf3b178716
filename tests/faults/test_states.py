"""Impossible checkpoints with valid digests: the run resumes from the one before, or a line names the fault."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import forgetkit
from forgetkit.contracts import EpochEnded
from forgetkit.errors import RunDirectoryError
from forgetkit.storage import RunDirectory, load_state, read_with_digest, save_state, write_with_digest

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=4",
    "mega_batches": 3,
    "epochs": 3,
    "replay": "buffer:size=4",
    "carry": "best-val",
    "val_fraction": 0.2,
    "threads": 1,
    "checkpoint_epochs": 1,
}


class StopLate:
    def notify(self, event):
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (2, 3):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An interrupted run, and its uninterrupted result."""
    out = tmp_path_factory.mktemp("made")
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**OPTIONS, "name": "cut", "out": out}, observers=[StopLate()])
    whole = forgetkit.run({**OPTIONS, "name": "whole", "out": out})
    return out / "cut", whole


def first(tensors):
    return next(iter(tensors.values()))


def forge(state, path, value):
    *way, last = path
    for step in way:
        state = state[step]
    state[last] = value(state[last]) if callable(value) else value


FORGED = {
    "no model": (("model",), {}),
    "a model that is a list": (("model",), [1]),
    "weights of another shape": (("model",), lambda model: {n: t[..., None] for n, t in model.items()}),
    "weights that are NaN": (("model",), lambda model: {n: torch.full_like(t, torch.nan) for n, t in model.items()}),
    "another configuration": (("digest",), "0" * 64),
    "a mega-batch beyond the last": (("mega_batch",), 99),
    "a mega-batch below the first": (("mega_batch",), 0),
    "epochs beyond the last": (("epochs_done",), 10**12),
    "negative epochs": (("epochs_done",), -1),
    "a true that is a number": (("skipped",), True),
    "negative passes": (("passes",), [-1, 2]),
    "passes of another kind": (("passes",), "many"),
    "a terabyte of samples": (("shape",), [1, 1 << 20, 1 << 20]),
    "a mean that is NaN": (("mean",), [float("nan")]),
    "no deviation": (("std",), [0.0]),
    "samples of the future": (("stream", "train", "ids"), lambda ids: torch.arange(len(ids) + 40)),
    "samples beyond all": (("stream", "train", "ids"), torch.tensor([10**9])),
    "ids of floats": (("stream", "train", "ids"), lambda ids: ids.float()),
    "no stream": (("stream",), None),
    "an optimizer of another network": (
        ("optimizer", "state"),
        lambda s: {n: {k: torch.ones(7) for k in e} for n, e in s.items()},
    ),
    "another momentum": (("optimizer", "param_groups", 0, "momentum"), 0.0),
    "no groups": (("optimizer", "param_groups"), []),
    "a best epoch to come": (("early_stopping", "epoch"), 77),
    "a best accuracy of two": (("early_stopping", "accuracy"), 2.0),
    "best weights of another network": (("early_stopping", "weights"), {"a": torch.ones(1)}),
    "interventions that are none": (("interventions",), [{"x": 1}]),
    "an epoch that is no epoch": (("epoch_progress",), {"loss": "x"}),
}


def resumed(run, caplog):
    caplog.clear()
    return forgetkit.run(resume=run)


def bare(result):
    rows = [{k: v for k, v in row.items() if k != "seconds" and k != "unlearn"} for row in result["mega_batches"]]
    return result["cer"], rows


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value"), FORGED.values(), ids=FORGED)
def test_the_state_before_is_taken(made, tmp_path, caplog, path, value):
    cut, whole = made
    run = tmp_path / "r"
    shutil.copytree(cut, run)
    newest = RunDirectory(run).newest_state()
    state = copy.deepcopy(load_state(newest))
    forge(state, path, value)
    note = read_with_digest(newest.with_suffix(".json"))
    write_with_digest(newest.with_suffix(".json"), {**note, "state_sha256": save_state(newest, state)})
    assert bare(resumed(run, caplog)) == bare(whole)
    assert f"{newest.with_suffix('.json')} is damaged" in caplog.text
    assert "the run continues from the state before it" in caplog.text


def test_where_all_states_are_forged_a_line_says_so(made, tmp_path):
    cut, _ = made
    run = tmp_path / "r"
    shutil.copytree(cut, run)
    for file in run.glob("checkpoints/resume-*-*.pt"):
        note = read_with_digest(file.with_suffix(".json"))
        state = {**load_state(file), "passes": "many"}
        write_with_digest(file.with_suffix(".json"), {**note, "state_sha256": save_state(file, state)})
    with pytest.raises(RunDirectoryError, match="no state can be resumed") as told:
        forgetkit.run(resume=run)
    assert "\n" not in str(told.value)


def test_an_honest_state_is_taken_as_it_is(made, tmp_path, caplog):
    cut, whole = made
    run = tmp_path / "r"
    shutil.copytree(cut, run)
    assert bare(resumed(run, caplog)) == bare(whole)
    assert "damaged" not in caplog.text
