"""Single forgeries: impossible content counts as damaged, or an older checkpoint is used."""

from __future__ import annotations

import random

import corruption
import pytest
import torch
from corruption import RUN, TARGETS, Target
from helpers.forgeries import Forgery, forge, forgeable, put
from helpers.fuzz_judging import Answer, command, one_line

from forgetkit.storage import RunDirectory

RESULT = "runs/done/result.json"
MASKS = ("analyze", "runs/done", "--plugin", "pull.py", "--export-masks", "masks.npz")
REPORT = ("report", "runs/done", "--quiet", "--out", "page.html")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("early_stopping", "weights"), {}),
        (("epoch_progress", "samples"), 1),
        (("epoch_progress", "loss"), lambda loss: loss.to(torch.int32)),
        (("epoch_progress", "rate"), "text"),
        (("epoch_progress", "draws", "torch"), torch.zeros(3, dtype=torch.uint8)),
        (("epoch_progress", "draws", "numpy", 2), 10**6),
        (("stream", "train", "seen"), 3),
        (("resets",), [10**400]),
        (("optimizer", "state", 0), {}),
        (("optimizer", "state", 0, "momentum_buffer"), lambda momentum: momentum.to(torch.complex64)),
        (("optimizer", "state", 0, "momentum_buffer"), lambda momentum: momentum.flatten()[:1].expand(10**13)),
        (("model", "head.bias"), lambda bias: bias.to("meta")),
        (("model", "head.bias"), lambda bias: bias.to_sparse()),
    ],
)
def test_a_state_that_no_run_wrote(stage, place, value):
    """The run resumes from the checkpoint before it and gives the undisturbed result."""
    path = RunDirectory(stage.place.here / "runs/midst").newest_state()
    put(path, place, value)
    answer = command([*RUN, "--resume", "runs/midst"])
    assert (answer.status, answer.wrong) == (0, "")
    assert f"/{path.stem}." in answer.err
    assert "is damaged" in answer.err
    target = next(target for target in TARGETS if target.name == "a run in the midst of an epoch")
    assert corruption.runs_are_one(target.outcome(stage.place, answer), stage.references[target.name], True)


def test_samples_that_replay_did_not_keep(stage):
    path = stage.place.here / "runs/cut/checkpoints/resume-003-0000.pt"
    put(path, ("stream", "train", "ids"), lambda ids: ids.flip(0).contiguous())
    answer = command([*RUN, "--resume", "runs/cut"])
    assert (answer.status, answer.wrong) == (0, "")
    assert "its train samples are others" in answer.err


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        (RESULT, ("samples_seen",), 1, REPORT),
        (RESULT, ("test_accuracy",), -0.5, REPORT),
        (RESULT, ("parameters",), 10**400, REPORT),
        (RESULT, ("mega_batches", 0, "epochs"), "2", REPORT),
        (RESULT, ("mega_batches", 0, "unlearn", "layers", "head.bias"), [], REPORT),
        ("runs/done/checkpoints/masks-001.pt", ("masks", "head.bias", "bits"), lambda bits: bits.to("meta"), MASKS),
        ("ablations/grids/warm-or-not.json", ("cells", 0, "digest"), "x" * 64, ("table", "ablations")),
    ],
)
def test_a_record_that_no_run_wrote(stage, file, place, value, words):
    put(stage.place.here / file, place, value)
    line = one_line(command(words))
    assert "damaged" in line
    assert corruption._names(line, corruption.Path(file))


def test_a_manifest_that_no_run_wrote(stage):
    put(stage.place.here / "runs/done/manifest.json", ("run_id",), ["x"])
    line = one_line(command(("analyze", "runs/done", "churn")))
    assert "runs/done/manifest.json is damaged (run_id is list): start a new run" in line


def test_an_answer_that_no_analysis_gave(stage):
    path = min((stage.place.here / "ablations").glob("cells/*/analyses/calibration.json"))
    put(path, ("question", "seed"), "0")
    answer = command(["table", "ablations"])
    assert answer.status == 0
    assert "calibration.json is damaged" in answer.err


def test_nan_in_a_model(stage):
    put(stage.place.here / "runs/done/checkpoints/mega-batch-001.pt", ("model", "head.bias"), lambda b: b * torch.nan)
    with pytest.raises(corruption.RunDirectoryError, match=r"head\.bias"):
        RunDirectory(stage.place.here / "runs/done").model(1)


@pytest.mark.slow
def test_every_kind_of_forgery_is_among_the_thousand(stage):
    found = set()
    for file in sorted(stage.place.here.glob("runs/*/checkpoints/*.pt")):
        content = file.read_bytes()
        for number in range(80):
            found.add(forge(file, random.Random(number)).name)
            file.write_bytes(content)
    assert {"another shape", "another dtype", "not finite", "no memory for it", "a key missing"} <= found
    assert not forgeable(stage.place.here / "data.npz")


def test_the_judge_of_forgeries(stage):
    target: Target = next(target for target in TARGETS if target.name == "a finished run, reported")
    file = corruption.Path("runs/done/result.json")
    refused = "forgetkit: runs/done/result.json is damaged; run it again\n"
    impossible, possible = Forgery("", "", True), Forgery("", "", False)

    def judged(forgery: Forgery, answer: Answer) -> str:
        return corruption._judged_forgery(stage, target, file, forgery, answer)[1]

    command(target.words)
    assert judged(impossible, Answer(2, "", refused)) == ""
    assert judged(impossible, Answer(2, "", refused * 2)) == "2 lines"
    assert judged(impossible, Answer(2, "", "forgetkit: it is damaged; run it again\n")) != ""
    assert judged(impossible, Answer(0, "", "")) == ""
    (stage.place.here / "page.html").write_text("another page")
    assert judged(possible, Answer(0, "", "")) == ""
    assert judged(impossible, Answer(0, "", "")) == "accepted in silence, with another result"
