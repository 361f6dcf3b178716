"""A resumed run draws what an uninterrupted one draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import forgetkit
from forgetkit.contracts import EpochEnded
from forgetkit.storage import RunDirectory


def test_draws_of_a_run_are_equal_after_resuming(tmp_path: Path) -> None:
    """However its SPEC is spelled: a record has every option of it."""

    class Stop:
        def notify(self, event: object) -> None:
            if isinstance(event, EpochEnded) and event.mega_batch == 2:
                raise KeyboardInterrupt

    options = {
        "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
        "model": "mlp:width=8",
        "reinit": "knowledge-evolution",
        "mega_batches": 3,
        "epochs": 1,
        "threads": 1,
        "out": str(tmp_path),
    }
    forgetkit.run({**options, "name": "whole"})
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "cut"}, observers=[Stop()])
    forgetkit.run(resume=tmp_path / "cut")
    whole, cut = (RunDirectory(tmp_path / name).model(3) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
