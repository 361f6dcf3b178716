"""Options that contradict each other, or could not act, are refused by name with exit status 2."""

from __future__ import annotations

import pytest

from forgetkit import config
from forgetkit.config import presets
from forgetkit.registry import registry


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
        (["--optimizer-state", "rescaled"], ["--optimizer-state rescaled", "second moments"]),
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
        (["--set", "reinit.llf.start=0.5"], ["reinit.llf.start=0.5 would be ignored", "--reinit masked"]),
        (["--method", "warm", "--set", "importance.snip.samples=0.2"], ["samples=0.2 would be ignored"]),
        (["--set", "reinit.masked.fraction=0.3", "--reinit", "masked:fraction=0.1"], ["fraction=0.3", "once"]),
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


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "lure-code", "alma"])
@pytest.mark.parametrize("method", ["warm", "cold", "rifle", "llf", "shrink-perturb", "lure"])
def test_what_a_preset_sets_for_others_is_no_mistake(tiny, preset, method):
    """Its choices are for every method, data set and network; one that cannot act here stands by."""
    assert tiny("--preset", preset, "--method", method).status == 0


@pytest.mark.parametrize("preset", presets.NAMES)
def test_what_clean_has_may_be_asked_for_under_any_preset(preset):
    """Turning off what a preset has on is no mistake, and saying what is so anyway is none."""
    offers = registry.load(entry_points=False)
    clean = config.RunConfig().model_dump()
    for key, value in clean.items():
        if value is not None:
            for beside in ({}, {"method": "warm"}, {"epochs": 1}, {"patience": 0, "carry": "last"}):
                plan = config.resolve({"preset": preset, **beside, key: value}, offers)
                if value != "auto":  # which a machine answers
                    assert str(getattr(plan.config, key)).partition(":")[0] == str(value)


@pytest.mark.slow
def test_a_table_a_spec_and_a_resumed_run_have_one_name(tiny, cli, workdir):
    """Three ways to say the same, and the last of several layers counts."""
    (workdir / "mine.toml").write_text('reinit = "masked:fraction=0.5"\n')
    (workdir / "nested.toml").write_text("[reinit.masked]\nfraction = 0.3\n")
    said = [
        tiny("--reinit", "masked:fraction=0.3", "--name", "a", "--json"),
        tiny("--set", "reinit.masked.fraction=0.3", "--name", "b", "--json"),
        tiny("--config", "mine.toml", "--set", "reinit.masked.fraction=0.3", "--name", "c", "--json"),
        tiny("--config", "nested.toml", "--name", "d", "--json"),
    ]
    assert [one.status for one in said] == [0] * 4
    for one in said:
        assert one.json["method"] == "snip+masked"
        assert one.json["cer"] == said[0].json["cer"]
        assert one.json["overrides"]["reinit.masked.fraction"] == {"value": 0.3, "preset": 0.2}
    (workdir / "runs/b/result.json").unlink()
    other = cli("run", "--resume", "runs/b", "--set", "reinit.masked.fraction=0.1")
    assert other.status == 2
    assert "fraction=0.3" in other.err
    again = cli("run", "--resume", "runs/b", "--set", "reinit.masked.fraction=0.3", "--json")
    assert again.status == 0, again.err
    assert again.json["method"] == "snip+masked"
    assert again.json["cer"] == said[0].json["cer"]
    (workdir / "twice.toml").write_text("mega-batches = 3\nmega_batches = 4\n")
    twice = tiny("--config", "twice.toml")
    assert (twice.status, "twice" in twice.err) == (2, True)


def test_a_contiguous_cut_of_sorted_classes_is_warned_of(cli, workdir, caplog):
    import numpy as np

    labels = np.repeat(np.arange(4), 20)
    x = np.random.default_rng(0).normal(size=(120, 4)) + np.eye(4)[np.r_[labels, labels[::2]]]
    np.savez("sorted.npz", x_train=x[:80], y_train=labels, x_test=x[80:], y_test=labels[::2])
    words = ["run", "--dataset", "npz:sorted.npz", "--model", "mlp:width=4", "--mega-batches", "2", "--epochs", "1"]
    assert cli(*words, "--split", "contiguous").status == 0
    (record,) = caplog.records
    assert "2 of 2 mega-batches train on no sample of some class (mega-batch 1: none of '2', '3')" in record.message
    assert "is the training set sorted by class? use --split random" in record.message
    caplog.clear()
    assert cli(*words).status == 0
    assert not caplog.records
