"""The evidence of a run is what the run had: its models, samples, masks and history, held against its own record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import forgetkit
from forgetkit.errors import ConfigError, DataError, InapplicableError, OptionError, RunDirectoryError
from forgetkit.storage import RunDirectory

IMAGES = "synthetic:samples=90,test=30,classes=3,size=8,channels=1"
WORDS = ["--dataset", IMAGES, "--model", "mlp:width=8", "--epochs", 2, "--mega-batches", 3, "--threads", 1]


@pytest.fixture
def made(cli, workdir):
    """A run of a few milliseconds, by more options; its directory."""

    def run(*words: object) -> Path:
        said = cli("run", *WORDS, *words, "--json")
        assert said.status == 0, said.err
        return Path(said.json["directory"])

    return run


def rows(directory: Path) -> list[dict]:
    return json.loads((directory / "result.json").read_text())["mega_batches"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--replay", "buffer:size=10"],
        ["--replay", "none"],
        ["--replay", "last"],
        ["--label-noise", "0.4"],
        ["--shots", "20"],
        ["--model", "convnet:width=4"],
        ["--method", "cold", "--carry", "best-val"],
    ],
    ids=" ".join,
)
def test_checkpoints_evaluated_again_match_the_recorded_figures(made, words):
    directory = made(*words)
    shown = forgetkit.evidence(directory)
    assert shown.mega_batches == (1, 2, 3)
    for row in rows(directory):
        then = shown.at(row["index"])
        train, val = then.samples("train"), then.samples("val")
        assert (len(train), len(val)) == (row["train_samples"], row["val_samples"])
        assert then.accuracy(train) == row["train_accuracy"]
        assert then.accuracy(val) == row["val_accuracy"]
        assert then.accuracy(then.samples()) == row["test_accuracy"]


@pytest.mark.slow
def test_masks_match_the_recorded_reset_counts(made):
    directory = made("--reinit", "masked:fraction=0.3")
    shown = forgetkit.evidence(directory)
    masks = shown.masks()
    assert list(masks) == [1, 2]
    for row in rows(directory)[:2]:
        layers = row["unlearn"]["layers"]
        assert {name: int(mask.sum()) for name, mask in masks[row["index"]].items()} == {
            name: layer["reset"] for name, layer in layers.items()
        }


@pytest.mark.slow
def test_a_mask_says_which_entries_were_reset(made):
    # Learning at a rate of next to nothing, what differs after the next mega-batch is what was reset.
    directory = made("--lr", "1e-30", "--weight-decay", "0", "--reinit", "masked:fraction=0.5")
    shown = forgetkit.evidence(directory)
    before, after = dict(shown.at(1).model.named_parameters()), dict(shown.at(2).model.named_parameters())
    for name, mask in shown.masks()[1].items():
        moved = (before[name] - after[name]).abs() > 1e-20
        assert torch.equal(moved & mask, moved), name
        if before[name].ndim == 2:  # a norm's fresh values are those that it had
            assert torch.equal(moved, mask), name


@pytest.mark.slow
def test_a_cold_start_resets_every_entry(made):
    masks = forgetkit.evidence(made("--method", "cold")).masks()
    assert all(mask.all() for mask in masks[1].values())


@pytest.mark.slow
def test_masks_are_a_thirty_second_of_a_model(made):
    directory = made("--model", "mlp:width=256")
    kept = RunDirectory(directory)
    assert kept.masks == (1, 2)
    model = sum(t.numel() * 4 for t in kept.model(1).values())
    bits = sum(entry["bits"].numel() for entry in kept.masks_of(1).values())
    assert model / 33 < bits < model / 31


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--method", "warm"], r"its method \(warm\) resets nothing between mega-batches"),
        (["--keep-masks", "none"], "it was run with --keep-masks none"),
        (["--mega-batches", "1"], "it has a single mega-batch, after which nothing is forgotten"),
    ],
)
def test_a_run_without_masks_says_why(cli, workdir, words, reason):
    said = cli("run", *WORDS[:-4], *words, "--threads", 1, "--json")
    shown = forgetkit.evidence(said.json["directory"])
    with pytest.raises(InapplicableError, match=reason):
        shown.masks()
    assert not list(Path(said.json["directory"]).glob("checkpoints/masks-*"))


def test_damaged_masks_are_named(made):
    directory = made()
    file = directory / "checkpoints" / "masks-002.pt"
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    masks = forgetkit.evidence(directory).masks()
    assert masks[1]
    with pytest.raises(RunDirectoryError, match=r"masks-002\.pt is damaged .* the same run again makes it"):
        masks[2]


@pytest.mark.slow
def test_exported_masks_are_those_of_the_run(made, cli):
    directory = made()
    said = cli("analyze", directory, "--export-masks", "out.npz", "--json")
    assert said.status == 0, said.err
    with np.load("out.npz", allow_pickle=False) as arrays:
        assert len(arrays) == said.json["arrays"]
        masks = forgetkit.evidence(directory).masks()
        assert set(arrays) == {f"{index}/{name}" for index in masks for name in masks[index]}
        for index, by_name in masks.items():
            for name, mask in by_name.items():
                assert np.array_equal(arrays[f"{index}/{name}"], mask.numpy())
    assert cli("analyze", made("--method", "warm"), "--export-masks", "no.npz").status == 2


def test_the_network_as_it_began_is_the_one_that_was_trained(made):
    directory = made("--lr", "1e-30", "--weight-decay", "0", "--method", "warm")
    shown = forgetkit.evidence(directory)
    for (name, begun), kept in zip(shown.initial().named_parameters(), shown.model.parameters(), strict=True):
        assert torch.allclose(begun, kept, rtol=0, atol=1e-20), name


@pytest.mark.slow
def test_history_has_each_epoch_once_up_to_the_mega_batch(made):
    directory = made()
    shown = forgetkit.evidence(directory, mega_batch=2)
    assert [(e["mega_batch"], e["epoch"]) for e in shown.history()] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    # An epoch that was made again after an interruption counts as it was made last.
    lines = (directory / "events.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "events.jsonl").write_bytes(b"".join([*lines, lines[4]]))
    assert len(forgetkit.evidence(directory).history()) == 6


@pytest.mark.slow
def test_all_runs_and_mega_batches_draw_the_same_test_samples(made):
    one, other = forgetkit.evidence(made("--name", "a")), forgetkit.evidence(made("--name", "b", "--method", "cold"))
    drawn = [e.samples("test", 12) for e in (one, one.at(1), other)]
    for samples in drawn:
        assert len(samples) == 12
        assert torch.equal(samples.labels, drawn[0].labels)
        pairs = zip(samples.batches(), drawn[0].batches(), strict=True)
        assert all(torch.equal(a[0], b[0]) for a, b in pairs)
    again = forgetkit.evidence(Path("runs/a"), seed=1).samples("test", 12)
    assert not torch.equal(next(again.batches())[0], next(drawn[0].batches())[0])


@pytest.mark.slow
def test_data_that_moved_is_found_and_other_data_refused(cli, workdir):
    rng = np.random.default_rng(0)
    arrays = {
        f"{what}_{part}": values
        for part, n in (("train", 60), ("test", 20))
        for what, values in (("x", rng.random((n, 5), dtype=np.float32)), ("y", np.arange(n) % 3))
    }
    np.savez("data.npz", **arrays)
    said = cli("run", "--dataset", "npz:path=data.npz", *WORDS[2:], "--json")
    assert said.status == 0, said.err
    directory = Path(said.json["directory"])
    Path("data.npz").rename("moved.npz")
    with pytest.raises(DataError, match=r"data\.npz"):
        forgetkit.evidence(directory).classes  # noqa: B018
    moved = forgetkit.evidence(directory, dataset="npz:path=moved.npz")
    assert moved.accuracy(moved.samples()) == said.json["test_accuracy"]
    arrays["y_test"] = arrays["y_test"][::-1]
    np.savez("other.npz", **arrays)
    with pytest.raises(RunDirectoryError, match=r"other\.npz.* is not what the run began with"):
        forgetkit.evidence(directory, dataset="npz:path=other.npz").classes  # noqa: B018


def test_a_network_from_outside_is_named_again(cli, workdir, monkeypatch):
    Path("outsidenet.py").write_text(
        "import torch\n\n\ndef small():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    monkeypatch.syspath_prepend(workdir)
    said = cli("run", *WORDS[:2], "--model", "import:outsidenet:small", *WORDS[4:], "--json")
    assert said.status == 0, said.err
    with pytest.raises(ConfigError, match="add --model import:target=outsidenet:small"):
        forgetkit.evidence(said.json["directory"]).model  # noqa: B018
    shown = forgetkit.evidence(said.json["directory"], model="import:outsidenet:small")
    assert shown.accuracy(shown.samples()) == said.json["test_accuracy"]


@pytest.mark.slow
def test_what_is_not_there_is_said(made, cli):
    directory = made("--keep-models", "last", "--val-fraction", "0")
    shown = forgetkit.evidence(directory)
    assert shown.mega_batches == (3,)
    with pytest.raises(InapplicableError, match=r"no model of mega-batch 1: it keeps those of 3; .*--keep-models all"):
        shown.at(1).model  # noqa: B018
    with pytest.raises(InapplicableError, match=r"no val samples in mega-batch 3: a run with .* --val-fraction"):
        shown.samples("val")
    with pytest.raises(RunDirectoryError, match="has 3 mega-batches, and no mega-batch 4"):
        shown.at(4)
    (directory / "result.json").unlink()
    with pytest.raises(RunDirectoryError, match="is not finished: resume it with forgetkit run --resume"):
        forgetkit.evidence(directory)


@pytest.mark.slow
def test_options_that_would_be_ignored_are_refused(made):
    model, test = torch.nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(OptionError, match="mega_batch= is for the directory of a run"):
        forgetkit.evidence(model, test=test, mega_batch=1)
    with pytest.raises(OptionError, match="device= is for the directory of a run"):
        forgetkit.evidence(model, test=test, device="cpu")
    with pytest.raises(OptionError, match="replay= is none of dataset, model, device, which may be others here"):
        forgetkit.analyze(made(), "calibration", replay="none")
    with pytest.raises(OptionError, match="seed -1: a seed is 0 or more"):
        forgetkit.analyze(model, "calibration", test=test, seed=-1)
    with pytest.raises(RunDirectoryError, match="nowhere is not the directory of a run"):
        forgetkit.evidence("nowhere")
    with pytest.raises(OptionError, match="test= is for a model by itself"):
        forgetkit.evidence(made(), test=test)


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ({}, "give the samples to evaluate"),
        ({"test": (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))}, r"3 inputs and labels of shape \(2,\)"),
        ({"test": (torch.zeros(3, 2), torch.zeros(3))}, "each label must be a whole number"),
        ({"test": (torch.zeros(3, 2), torch.full((3,), 2))}, "a label of test is 2, and the model has 2 outputs"),
        ({"test": (torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))}, r"cannot take inputs of shape \(5,\)"),
        ({"test": (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))}, "holds no samples"),
        (
            {"test": (torch.zeros(3, 2), torch.zeros(3).long()), "train": (torch.zeros(3, 5), torch.zeros(3).long())},
            r"train= holds inputs of shape \(5,\), test= of \(2,\)",
        ),
        ({"test": [1, 2]}, "two tensors, inputs and labels, or batches of both"),
        ({"test": (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)), "classes": ["a"]}, "1 classes are named"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_refused_in_a_line(shown, says):
    with pytest.raises(DataError, match=says):
        forgetkit.evidence(torch.nn.Linear(2, 2), **shown)


def test_how_a_model_began_may_be_its_state():
    model, test = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.zeros(4).long())
    state = {name: value + 1 for name, value in model.state_dict().items()}
    begun = forgetkit.evidence(model, test=test, initial=state).initial()
    assert all(torch.equal(a, b + 1) for a, b in zip(begun.parameters(), model.parameters(), strict=True))
    with pytest.raises(DataError, match="initial= is not a state of this model"):
        forgetkit.evidence(model, test=test, initial={"w": torch.zeros(1)}).initial()
    with pytest.raises(OptionError, match="no part 'tests' of the data; did you mean 'test'"):
        forgetkit.evidence(model, test=test).samples("tests")
    one_by_one = torch.utils.data.TensorDataset(*test)
    with pytest.raises(DataError, match=r"gives samples one by one: put a torch\.utils\.data\.DataLoader around it"):
        forgetkit.evidence(model, test=one_by_one)


def test_outputs_that_are_nan_are_no_answers():
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, float("nan"))
    shown = forgetkit.evidence(model, test=(torch.zeros(3, 2), torch.zeros(3).long()))
    with pytest.raises(InapplicableError, match="outputs are NaN"):
        shown.accuracy(shown.samples())


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    [
        torch.zeros(2),
        {"shape": [-5], "bits": None},
        {"shape": "x", "bits": None},
        {"bits": None},
        {"shape": [9], "bits": torch.zeros(1, dtype=torch.uint8)},
        {"shape": [9], "bits": torch.zeros(2)},
        {"shape": [9], "bits": 3},
        {"shape": [1 << 20, 1 << 20], "bits": None},  # a terabyte, out of a few bytes
    ],
    ids=str,
)
def test_masks_that_somebody_made_up_are_refused_in_a_line(made, cli, entry):
    directory = made()
    RunDirectory(directory).save_masks(1, {"head.weight": entry})
    with pytest.raises(RunDirectoryError, match=r"the masks of mega-batch 1 in .* are damaged"):
        forgetkit.evidence(directory).masks()[1]
    said = cli("analyze", directory, "--export-masks", "x.npz")
    assert (said.status, len(said.err.splitlines())) == (2, 1)
    assert "are damaged" in said.err


def test_batches_of_a_loader_are_taken_as_they_come():
    inputs, labels = torch.randn(7, 2), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    model = torch.nn.Linear(2, 2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=3)
    shown = forgetkit.evidence(model, test=loader)
    assert torch.equal(shown.samples().labels, labels)
    assert torch.equal(shown.outputs(shown.samples()), model(inputs).detach())
    assert not shown.images


@pytest.mark.slow
def test_the_same_question_is_answered_from_the_disk(made):
    directory = made()
    answer = forgetkit.analyze(directory, "calibration")
    file = directory / "analyses" / "calibration.json"
    written = file.stat().st_mtime_ns
    assert forgetkit.analyze(directory, "calibration", threads=1) == answer
    assert file.stat().st_mtime_ns == written
    assert forgetkit.analyze(directory, "calibration", again=True) == answer
    assert file.stat().st_mtime_ns > written


@pytest.mark.slow
def test_runs_share_no_noise_in_scores_and_all_other_draws(made):
    # Arms whose criterion draws at random would seem to agree if they drew the same.
    one, other = forgetkit.evidence(made("--name", "a")), forgetkit.evidence(made("--name", "b", "--lr", "0.05"))
    scores = [evidence.scores("random") for evidence in (one, other, one, one.at(1))]
    for name in scores[0]:
        assert torch.equal(scores[0][name], scores[2][name])
        assert not torch.equal(scores[0][name], scores[1][name])
        assert not torch.equal(scores[0][name], scores[3][name])
    assert one.seeds == other.seeds


@pytest.mark.slow
def test_a_run_moved_elsewhere_is_looked_at_there(made, tmp_path):
    directory = made()
    moved = tmp_path / "elsewhere"
    shutil.move(directory, moved)
    shown = forgetkit.evidence(moved)
    assert shown.accuracy(shown.samples()) == shown.result["test_accuracy"]
