"""What the page on reliability says that each kind of file takes on the disk, and no more."""

from __future__ import annotations

import json

import pytest

import forgetkit
from forgetkit.contracts import Checkpointed

OPTIONS = {
    "dataset": "synthetic:samples=60,test=10,classes=3,size=8,channels=1",
    "model": "mlp:width=256",
    "mega_batches": 2,
    "epochs": 2,
    "checkpoint_epochs": 1,
    "threads": 1,
    "name": "r",
}
AROUND = 16_000
"""Bytes around the tensors of a file, and the numbers of the samples that replay keeps."""


class Sizes:
    """Measures the newest state each time that one is written."""

    def __init__(self, run):
        self.run, self.found, self.count = run, [], 0

    def notify(self, event):
        if isinstance(event, Checkpointed):
            states = sorted((self.run / "checkpoints").glob("resume-[0-9]*.pt"))
            self.count = max(self.count, len(states))
            self.found.append(max(states, key=lambda file: file.stat().st_mtime_ns).stat().st_size)


def size(file):
    return file.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({}, 8),
        ({"optimizer": "adamw", "lr": 0.01}, 12),
        ({"carry": "best-val", "val_fraction": 0.2}, 12),
    ],
    ids=["sgd", "adamw", "a copy"],
)
def test_a_state_takes_so_many_bytes_a_parameter(tmp_path, options, each):
    sizes = Sizes(tmp_path / "r")
    parameters = forgetkit.run({**OPTIONS, **options, "out": tmp_path}, observers=[sizes])["parameters"]
    assert sizes.count == 2
    assert each * parameters < max(sizes.found) < each * parameters + AROUND


def test_models_masks_rows_and_events(tmp_path):
    result = forgetkit.run({**OPTIONS, "out": tmp_path})
    run, parameters = tmp_path / "r", result["parameters"]
    for file in (run / "checkpoints").glob("mega-batch-*.pt"):
        assert 4 * parameters < size(file) < 4 * parameters + AROUND
    masks = list((run / "checkpoints").glob("masks-*.pt"))
    assert len(masks) == 1
    assert all(parameters / 8 < size(file) < parameters / 8 + AROUND for file in masks)
    assert max(len(json.dumps(row)) for row in result["mega_batches"]) < 2_000
    events = [json.loads(line) | {"bytes": len(line)} for line in (run / "events.jsonl").read_text().splitlines()]
    epochs = result["config"]["epochs"] * result["config"]["mega_batches"]
    assert sum(one["bytes"] for one in events if one["event"] == "epoch_ended") < 400 * epochs


@pytest.mark.parametrize(("keep", "models"), [("last", 1), ("none", 0)])
def test_models_and_masks_that_are_not_kept(tmp_path, keep, models):
    forgetkit.run({**OPTIONS, "keep_models": keep, "keep_masks": "none", "out": tmp_path})
    checkpoints = tmp_path / "r" / "checkpoints"
    assert len(list(checkpoints.glob("mega-batch-*.pt"))) == models
    assert not list(checkpoints.glob("masks-*"))
