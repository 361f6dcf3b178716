"""Options that contradict each other, or could not act, are refused by name with exit status 2."""

from __future__ import annotations

import pytest

SIZE = "synthetic:samples=60,test=20,classes=3,size=4,channels=1"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--carry", "best-val", "--val-fraction", "0"], ["--carry best-val", "--val-fraction 0"]),
        (["--patience", "1", "--epochs", "3", "--val-fraction", "0"], ["--patience 1", "--val-fraction 0"]),
        (["--preset", "lure-code", "--val-fraction", "0"], ["--carry best-val"]),
        (
            ["--carry", "best-val", "--epochs", "2", "--val-fraction", "0.01"],
            ["--carry best-val", "--val-fraction 0.01"],
        ),
        (["--bn-stats", "recalibrate"], ["recalibrate", "batch normalisation"]),
        (["--bn-stats", "reset"], ["bn-stats=reset", "batch normalisation"]),
        (["--replay", "buffer:size=1000"], ["size=1000", "54 training samples"]),
        (["--shots", "1000"], ["--shots 1000", "has "]),
        (["--shots", "0"], ["--shots 0"]),
        (["--label-noise", "1.1"], ["--label-noise 1.1"]),
        (["--score-on", "first", "--replay", "none", "--mega-batches", "3"], ["--score-on first", "--replay"]),
        (["--method", "warm", "--score-on", "first"], ["--score-on first", "none looks at no scores"]),
        (["--method", "cold", "--score-params", "weights"], ["--score-params weights", "cold"]),
        (
            ["--method", "warm", "--bn-stats", "reset", "--model", "convnet:width=4"],
            ["--bn-stats reset", "changes nothing"],
        ),
        (["--importance", "magnitude", "--score-on", "incoming"], ["--score-on incoming", "magnitude"]),
        (["--score-transform", "train"], ["--score-transform train", "--augment"]),
        (["--val-transform", "train"], ["--val-transform train", "--augment"]),
        (["--label-noise-val", "clean"], ["--label-noise-val clean", "--label-noise is 0"]),
        (["--label-noise-draw", "other"], ["--label-noise-draw other", "--label-noise is 0"]),
        (["--min-delta", "0.1"], ["--min-delta 0.1", "--patience"]),
        (["--patience", "7"], ["--patience 7", "epochs"]),
        (["--patience", "2", "--epochs", "3"], ["--patience 2", "3 epochs"]),
        (["--carry", "best-val"], ["--carry best-val", "one epoch"]),
        (["--mega-batches", "1", "--score-on", "first"], ["--score-on first", "only mega-batch"]),
        (["--mega-batches", "1", "--optimizer-state", "keep"], ["--optimizer-state keep", "only mega-batch"]),
        (["--method", "warm", "--optimizer-state", "keep"], ["--optimizer-state keep", "changes nothing"]),
        (["--set", "preset="], ["no preset is called ''"]),
        (["--schedule", "cosine", "--gamma", "0.5"], ["--gamma 0.5", "--schedule is cosine"]),
        (["--schedule", "constant", "--epochs", "5", "--milestones", "2"], ["--milestones", "--schedule is constant"]),
        (["--milestones", "none", "--gamma", "0.5"], ["--gamma 0.5", "no milestones"]),
        (["--optimizer", "adamw", "--momentum", "0.5"], ["--momentum 0.5", "--optimizer is adamw"]),
        (["--importance", "fisher", "--score-mode", "train", "--model", "convnet:width=4"], ["score-mode=eval"]),
        (["--preset", "papre"], ["'papre'", "did you mean 'paper'?"]),
        (["--set", "reinit.masked.fractoin=0.3"], ["fractoin"]),
        (["--set", "reinit.masked.fraction=3"], ["fraction=3"]),
        (["--set", "reinit.nothing.fraction=0.3"], ["'nothing'", "There are"]),
        (["--set", "fraction.masked=0.3"], ["'fraction.masked'", "reinit.masked.fraction"]),
        (["--importance", "snip:samples=1.5"], ["samples=1.5", "share"]),
        (["--importance", "snip:samples=0"], ["samples=0", "count from 1"]),
        (["--reinit", "llf:start=0"], ["start=0", "layer"]),
        (["--reinit", "llf:start=99"], ["start=99", "keeps all"]),
        (["--reinit", "masked:which=middle"], ["which=middle"]),
        (["--score-params", "some"], ["--score-params some"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused(tiny, workdir, words, named):
    said = tiny(*words)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    for part in named:
        assert part in said.err, said.err
    assert not list(workdir.glob("runs/*"))


@pytest.mark.parametrize("preset", ["paper", "lure-code", "alma"])
@pytest.mark.parametrize("method", ["warm", "cold", "rifle", "llf", "shrink-perturb", "lure"])
def test_what_a_preset_sets_for_others_is_no_mistake(tiny, preset, method):
    """Its choices are for every method, data set and network; one that cannot act here stands by."""
    assert tiny("--preset", preset, "--method", method).status == 0


def test_a_contiguous_cut_of_sorted_classes_is_warned_of(cli, workdir, caplog):
    import numpy as np

    labels = np.repeat(np.arange(4), 20)
    np.savez("sorted.npz", x_train=np.eye(4)[labels], y_train=labels, x_test=np.eye(4)[labels], y_test=labels)
    words = ["run", "--dataset", "npz:sorted.npz", "--model", "mlp:width=4", "--mega-batches", "2", "--epochs", "1"]
    assert cli(*words, "--split", "contiguous").status == 0
    assert any("2 of 4 classes" in record.message for record in caplog.records)
    caplog.clear()
    assert cli(*words).status == 0
    assert not caplog.records
