"""``forgetkit data``, and what a run says of its data and of what it chose by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import odd_photos
from PIL import Image

from forgetkit.builtin.datasets.folder import Folder
from forgetkit.data.contact_sheet import ROWS
from forgetkit.registry.spec import options_of


def save(path="x.npz", n=60, classes=3, **arrays):
    """Images that are told apart, with names for labels."""
    rng = np.random.default_rng(0)
    names = np.array([f"class {label:03}" for label in range(classes)])
    held = {
        "x_train": rng.integers(0, 256, (n, 6, 8, 3), dtype=np.uint8),
        "y_train": names[np.arange(n) % classes],
        "x_test": rng.integers(0, 256, (n // 2, 6, 8, 3), dtype=np.uint8),
        "y_test": names[np.arange(n // 2) % classes],
    }
    np.savez(path, **{**held, **arrays})
    return held


def test_all_of_it_in_tables_and_as_an_object(cli):
    save()
    said = cli("data", "npz:x.npz,augment=crop-flip", "--mega-batches", 3)
    assert (said.status, said.err) == (0, "")
    for part in (
        "3 classes, 60 training and 30 test samples of 3 × 6 × 8",
        "augment crop-flip (auto)",
        " training  uint8  0..255",
        "labels: names",
        "channels: last",
        "audit: nothing found",
        "--sheet FILE.png",
    ):
        assert part in said.out
    held = cli("data", "npz:x.npz", "--mega-batches", 3, "--json").json
    assert held["dataset"].startswith("npz:path=/")
    assert held["classes"] == ["class 000", "class 001", "class 002"]
    assert held["train"]["by_class"] == [20, 20, 20]
    assert np.sum(held["mega_batches"], axis=0).tolist() <= [20, 20, 20]
    assert len(held["mega_batches"]) == 3
    x = np.load("x.npz")["x_train"]
    assert held["train"]["mean"] == pytest.approx(x.mean())
    assert held["train"]["channel_stds"] == pytest.approx(x.std((0, 1, 2)))
    assert (held["augment"], held["audit"], held["sheet"]) == ("none", [], None)


def test_findings_and_remarks_are_lines_and_no_failure(cli):
    held = save()
    save(x_test=held["x_train"][:30], x_val=held["x_test"], y_val=held["y_test"])
    said = cli("data", "npz:x.npz", "--mega-batches", 2)
    assert said.status == 0
    assert "- x_val and y_val are ignored" in said.out
    assert "audit: 1 finding\n- 30 of 30 test samples are in the training part too" in said.out
    assert len(cli("data", "npz:x.npz", "--mega-batches", 2, "--json").json["audit"]) == 1


def test_a_sheet_shows_what_the_network_gets(cli):
    left = np.zeros((30, 8, 8), np.uint8)
    left[:, :, :2] = np.arange(100, 130)[:, None, None]
    save(x_train=np.concatenate([left, left[:, :, ::-1]]), y_train=np.repeat(["left", "right"], 30),
         x_test=left[:10] + 40, y_test=np.repeat(["left", "right"], 5))  # fmt: skip
    assert cli("data", "npz:x.npz,augment=flip", "--sheet", "s.png").status == 0
    with Image.open("s.png") as picture:
        sheet = np.asarray(picture.convert("L")).astype(int)
    tiles = sheet[24 : 24 + 64, 176 : 176 + 5 * 68].reshape(64, 5, 68)[:, :, :64]
    assert (tiles[:, :, :16] >= 100).all()  # bright on the left, in whole factors of eight
    assert (tiles[:, :, 16:] == 0).all()
    augmented = sheet[24 : 24 + 64, 176 + 5 * 68 + 16 :][:, : 5 * 68].reshape(64, 5, 68)[:, :, :64]
    mirrored = (augmented[:, :, :16] == 0).all(axis=(0, 2))
    assert set(mirrored) == {True, False}


@pytest.mark.slow
def test_a_sheet_of_many_classes_and_strange_names(cli):
    save(n=120, classes=ROWS + 2)
    said = cli("data", "npz:x.npz", "--sheet", "s.png", "--mega-batches", 20)
    assert f"picture sheet: s.png ({ROWS} of {ROWS + 2} classes)" in said.out
    assert "least and most of 20 mega-batches" in said.out
    grey = np.linspace(-1, 1, 60 * 400 * 300, dtype=np.float32).reshape(60, 1, 400, 300)
    names = np.array(["ein sehr langer Name, der in keine Zeile passt", "日本\u202e", "tab\tname"])[np.arange(60) % 3]
    save(x_train=grey, x_test=grey[::-1][:30] / 2, y_train=names, y_test=names[:30])
    assert cli("data", "npz:x.npz", "--sheet", "s.png").status == 0
    with Image.open("s.png") as sheet:
        assert sheet.size[0] < 2000


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nosuch"], "no dataset is called 'nosuch'"),
        (["npz:nosuch.npz"], "cannot be opened"),
        (["digits", "--sheet", "x.jpg"], "must be the name of a .png file"),
        (["digits", "--sheet", "nowhere/x.png"], "--sheet nowhere/x.png: cannot write"),
        (["npz:f.npz", "--sheet", "x.png"], "features, of which there is no picture"),
        (["digits", "--mega-batches", "9999"], "9999 mega-batches of 1437"),
        (["digits", "--mega-batches", "0"], "--mega-batches"),
        ([], "SPEC"),
    ],
)
def test_mistakes_are_one_line(cli, words, hint):
    save("f.npz", x_train=np.eye(60), x_test=np.eye(60)[:30])
    said = cli("data", *words)
    assert said.status == 2
    assert hint in said.err
    assert said.err.count("\n") == 1


# --- runs ---


@pytest.mark.slow
def test_resolved_defaults_are_in_the_first_line_and_the_record(cli, workdir):
    save()
    words = [
        "run",
        "--dataset",
        "npz:x.npz,augment=flip",
        "--model",
        "mlp:width=4",
        "--mega-batches",
        2,
        "--threads",
        1,
    ]
    said = cli(*words, "--epochs", 3, "--name", "a")
    assert ", lr 0.1 stepped after epoch 1 and 2, augment flip (auto), cpu with 1 thread, fp32, contiguous" in said.out
    assert ", augment crop, " in cli(*words, "--epochs", 1, "--augment", "crop").out
    assert ", lr 0.001 cosine, " in cli(*words, "--epochs", 1, "--optimizer", "adamw", "--schedule", "cosine").out
    assert ", lr 0.1 stepped after 40 % and 80 % of the samples, " in cli(*words, "--samples", 20).out
    assert ", lr 0.1 throughout, " in cli(*words, "--epochs", 1).out
    manifest = json.loads((workdir / "runs/a/manifest.json").read_text())
    assert (manifest["config"]["augment"], manifest["data"]["augment"]) == ("auto", "flip")
    (started,) = [line for line in (workdir / "runs/a/events.jsonl").read_text().splitlines() if "run_started" in line]
    assert json.loads(started)["augment"] == "flip"


@pytest.mark.slow
def test_a_rehearsal_says_it_too(cli):
    save()
    words = ["run", "--dataset", "npz:x.npz,augment=flip", "--model", "mlp:width=4", "--mega-batches", 2, "--dry-run"]
    said = " ".join(cli(*words, "--samples", 20).out.split())
    assert "--augment flip (auto)" in said
    assert "--milestones after 40 % and 80 % of the samples" in said
    assert "--milestones none" in " ".join(cli(*words, "--epochs", 1).out.split())
    planned = cli(*words, "--json").json
    assert (planned["augment"], planned["audit"]) == ("flip", [])


@pytest.mark.slow
def test_an_ablation_says_it_once(cli, caplog):
    held = save()
    save(x_test=held["x_train"][:30])
    words = ["ablate", "--dataset", "npz:x.npz,augment=flip", "--model", "mlp:width=4", "--epochs", 1]
    words += ["--mega-batches", 2, "--over", "method=warm,cold", "--seeds", "0-1"]
    for more in (["--dry-run"], []):
        caplog.clear()
        said = cli(*words, *more)
        assert said.status == 0
        (line,) = [line for line in said.out.splitlines() if line.startswith("augment ")]
        assert line.startswith("augment flip (auto) for npz:path=")
        (record,) = caplog.records
        assert "30 of 30 test samples are in the training part too" in record.message
    assert cli(*words, "--dry-run", "--json").json["augment"] == {}  # nothing is left to run


def test_data_and_model_findings_are_warned_about_and_recorded(cli, workdir, caplog):
    held = save()
    save(x_test=held["x_train"][:30])
    (workdir / "soft.py").write_text(
        "from torch import nn\n"
        "def net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(144, classes), nn.Softmax(1))\n"
    )
    words = ["run", "--dataset", "npz:x.npz", "--model", "import:soft:net", "--mega-batches", 2, "--epochs", 1]
    for more in (["--name", "a"], ["--dry-run", "--json"]):
        caplog.clear()
        said = cli(*words, *more)
        assert said.status == 0
        copies, soft = [record.getMessage() for record in caplog.records]
        assert copies.startswith("npz: 30 of 30 test samples are in the training part too")
        assert soft.startswith("the model import:soft:net: the network's outputs sum to one already")
    recorded = json.loads((workdir / "runs/a/manifest.json").read_text())["audit"]
    assert recorded == said.json["audit"] == [copies.partition(": ")[2], soft.partition("net: ")[2]]


@pytest.mark.slow
def test_noise_on_labels_is_no_finding(cli, caplog):
    assert cli("run", "--epochs", 1, "--mega-batches", 2, "--label-noise", 0.5, "--model", "mlp:width=4").status == 0
    assert not caplog.records


# --- a folder with every oddity ---


@pytest.mark.skipif(
    "on_bad" not in {option.name for option in options_of(Folder)}, reason="the reader is another piece"
)
def test_a_folder_with_every_oddity(cli, workdir):
    root = odd_photos.make(workdir / "photos, odd = yes")
    quoted = f'folder:path="{root}",size={odd_photos.SIZE},on-bad=skip'
    said = cli("data", quoted, "--mega-batches", 2, "--sheet", "odd.png")
    assert (said.status, said.err) == (0, "")
    held = cli("data", quoted, "--mega-batches", 2, "--json").json
    assert held["classes"] == ["aufwärts", "left", "right"]
    assert held["train"]["by_class"] == [2, 12 + 3 + 2 + 2, 12 + 2]
    assert held["test"]["by_class"] == [0, 7, 6]
    assert held["augment"] == "crop-flip"
    for part in (
        "'aufwärts' has no test samples",
        "1 of 13 test samples is in the training part too",
        "training samples are copies of one another under different labels",
        "1 of 35 training samples is one value throughout",
    ):
        assert any(part in line for line in held["audit"]), held["audit"]
        assert part in said.out
    told = json.dumps([held["remarks"], held["provenance"]], ensure_ascii=False)
    for name in ("cut short.png", "empty.jpg", "heic", "bak", "txt", "NFC"):
        assert name in told, told
    refused = cli("data", quoted.replace(",on-bad=skip", ""))
    assert refused.status == 2
    assert "cut short.png" in refused.err
    assert "empty.jpg" in refused.err


def test_names_with_line_ends_and_controls_stay_on_their_line(cli, tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "d\no\x1bg"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{part}{number}.png")
    (tmp_path / "train" / "cat" / "a\nb.png").write_text("no image")
    said = cli("data", f"folder:path={tmp_path},on-bad=skip")
    assert said.status == 0
    lines = said.out.splitlines()
    assert any(line.startswith("skipped: train/cat/a b.png") for line in lines)
    assert any("'cat'" in line and "'d o\\x1bg'" in line for line in lines)
    assert not [line for line in lines if line.startswith(("b.png", "o"))]
