"""What a user can get wrong: one line that says so, exit status 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def refused(tiny, workdir):
    """Run with ``words``; check what every refusal has in common; return its line."""

    def call(*words, status=2):
        out = workdir / "fresh"
        said = tiny("--out", out, *words)
        assert said.status == status, said
        assert said.out == ""
        assert said.err.endswith("\n")
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("forgetkit: ")
        assert "Traceback" not in said.err
        assert not out.exists()
        return said.err

    return call


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("--importance", "importance criterion"),
        ("--reinit", "reinit method"),
        ("--replay", "replay strategy"),
        ("--dataset", "dataset"),
        ("--model", "model"),
        ("--intervention", "intervention"),
        ("--metric", "metric"),
        ("--observer", "observer"),
    ],
)
def test_a_component_that_is_unknown(refused, flag, kind):
    line = refused(flag, "nosuch")
    assert f"no {kind} is called 'nosuch'" in line
    assert "there are" in line.lower()


def test_a_name_that_is_nearly_right(refused):
    assert "did you mean 'snip'?" in refused("--importance", "snipp")


def test_a_distribution_that_does_not_offer_it(refused):
    assert "'else/snip'" in refused("--importance", "else/snip")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--importance", "snip:sample=3"], "did you mean 'samples'"),
        (["--importance", "snip:samples=0"], "samples=0"),
        (["--importance", "snip:samples=x"], "samples=x"),
        (["--importance", "snip:samples=1,samples=2"], "twice"),
        (["--importance", "snip:"], "colon"),
        (["--importance", ""], "names no component"),
        (["--importance", ":x=1"], "names no component"),
        (["--importance", "random:3"], "takes no options"),
        (["--importance", "fisher:variant=best"], "variant=best"),
        (["--reinit", "masked:fraction=-0.1"], "fraction=-0.1"),
        (["--reinit", "masked:fraction=1.1"], "fraction=1.1"),
        (["--reinit", "masked:fraction=nan"], "fraction=nan"),
        (["--reinit", "llf:start=1.0"], "start=1.0"),
        (["--reinit", "llf:start=0"], "start=0"),
        (["--reinit", "llf:norm=lose"], "norm=lose"),
        (["--replay", "buffer:size=0"], "size=0"),
        (["--replay", "buffer:rule=lifo"], "rule=lifo"),
        (["--model", "mlp:width=-8"], "width=-8"),
        (["--model", "import:nowhere"], "MODULE:CALLABLE"),
        (["--model", "import:no.such:net"], "there is no module"),
        (["--dataset", "synthetic:samples=2,classes=3"], "samples=2"),
        (["--dataset", "synthetic:noise=inf"], "noise=inf"),
        (["--dataset", "folder"], "needs the option 'path'"),
        (["--method", "lur"], "did you mean 'lure'"),
        (["--reinit", "rifle", "--importance", "snip"], "would be ignored"),
        (["--method", "warm", "--importance", "snip"], "would be ignored"),
    ],
)
def test_an_option_of_a_component(refused, words, hint):
    assert hint in refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", "0"],
        ["--epochs", "-1"],
        ["--epochs", "x"],
        ["--epochs", "1.5"],
        ["--epochs", ""],
        ["--mega-batches", "0"],
        ["--batch-size", "0"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--lr", "0"],
        ["--lr", "-1"],
        ["--gamma", "0"],
        ["--gamma", "1.5"],
        ["--momentum", "1"],
        ["--weight-decay", "-1"],
        ["--weight-decay", "inf"],
        ["--val-fraction", "1"],
        ["--val-fraction", "-0.1"],
        ["--val-fraction", "nan"],
        ["--milestones", "a,b"],
        ["--milestones", "0"],
        ["--milestones", "1.5"],
        ["--milestones", "1;2"],
        ["--milestones", "9"],
        ["--seed", "-1"],
        ["--threads", "0"],
        ["--precision", "fp8"],
        ["--threads", "100000"],
        ["--augment", "mixup"],
        ["--checkpoint-seconds", "0"],
        ["--checkpoint-epochs", "0"],
        ["--checkpoint-seconds", "inf"],
        ["--name", "a/b"],
        ["--name", ".."],
        ["--name", ""],
    ],
)
def test_an_option_out_of_range(refused, words):
    assert f"{words[0]} {words[1]}: " in refused(*words)


def test_more_mega_batches_than_samples(refused):
    assert "use --mega-batches 60 or fewer" in refused("--mega-batches", 61)


def test_features_are_not_augmented(refused, workdir):
    save(workdir / "f.npz", train=np.random.default_rng(0).random((30, 4)))
    assert "holds features" in refused("--dataset", f"npz:{workdir / 'f.npz'}", "--augment", "flip")


@pytest.mark.parametrize("device", ["bogus", "cuda:99", "cuda:x", "xpu"])
def test_a_device_that_is_not_there(refused, device):
    assert f"--device {device}: " in refused("--device", device)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "--nope"], "--nope"),
        (["run", "--epochs"], "--epochs"),
        (["run", "stray"], "stray"),
        (["rum"], "rum"),
        (["--nope"], "--nope"),
        (["show", "kinds"], "no kind of component is called 'kinds'"),
        (["show", "importance", "nosuch"], "no importance criterion is called 'nosuch'"),
        (["show", "importance", "snip", "stray"], "stray"),
    ],
)
def test_a_command_line_that_makes_no_sense(cli, words, hint):
    said = cli(*words)
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("forgetkit: ")
    assert said.err.count("\n") == 1
    assert hint in said.err


# Data


def save(path, *, train=None, labels=None, test_labels=None, **more):
    """An npz file of 30 + 9 tiny grey images in three classes, or what is said otherwise."""
    rng = np.random.default_rng(0)
    train = rng.random((30, 4, 4), dtype=np.float32) if train is None else train
    arrays = {
        "x_train": train,
        "y_train": np.arange(len(train)) % 3 if labels is None else labels,
        "x_test": train[:9],
        "y_test": np.arange(9) % 3 if test_labels is None else test_labels,
        **more,
    }
    np.savez(path, **arrays)
    return path


@pytest.fixture
def photos(workdir):
    """Two classes of three images, for training and for testing."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = workdir / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return workdir / "photos"


def test_a_folder_of_images_is_fine(tiny, photos):
    said = tiny("--dataset", f"folder:{photos},size=4", "--json")
    assert said.status == 0
    assert said.json["config"]["dataset"].startswith(f"folder:path={photos},size=4")


def test_a_folder_that_is_missing(refused, workdir):
    assert str(workdir / "nowhere") in refused("--dataset", f"folder:{workdir / 'nowhere'}")


def test_a_folder_without_parts(refused, workdir):
    (workdir / "empty").mkdir()
    assert "holds no folder 'train'" in refused("--dataset", f"folder:{workdir / 'empty'}")


def test_a_folder_without_classes(refused, photos):
    for part in ("train", "test"):
        shutil.rmtree(photos / part)
        (photos / part).mkdir()
    assert str(photos / "train") in refused("--dataset", f"folder:{photos}")


def test_a_class_without_images(refused, photos):
    for file in (photos / "train" / "dog").iterdir():
        file.unlink()
    assert "class 'dog' has no images" in refused("--dataset", f"folder:{photos}")


def test_a_class_that_only_the_test_part_has(refused, photos):
    shutil.copytree(photos / "test" / "dog", photos / "test" / "emu")
    assert "emu" in refused("--dataset", f"folder:{photos}")


@pytest.mark.parametrize("damage", [b"", b"no image at all", None])
def test_an_image_that_cannot_be_decoded_is_named(refused, photos, damage):
    bad = photos / "train" / "cat" / "1.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert str(bad) in refused("--dataset", f"folder:{photos}")


@pytest.mark.parametrize(
    ("arrays", "hint"),
    [
        ({"labels": np.full(30, -1)}, "y_train[0] = -1"),
        ({"labels": np.arange(30) % 3 + 1}, "y_test[0] = 0"),
        ({"test_labels": np.full(9, 3)}, "y_test[0] = 3"),
        ({"labels": np.zeros(29, dtype=int)}, "29 labels"),
        ({"labels": np.arange(30) / 2}, "y_train[1] = 0.5"),
        ({"train": np.full((30, 4, 4), np.nan, dtype=np.float32)}, "not finite"),
        ({"train": np.full((30, 4, 4), 256)}, "0..255"),
        ({"train": np.zeros((0, 4, 4), dtype=np.uint8), "test_labels": np.zeros(0, dtype=int)}, "empty"),
    ],
)
def test_arrays_that_make_no_sense(refused, workdir, arrays, hint):
    path = save(workdir / "bad.npz", **arrays)
    line = refused("--dataset", f"npz:{path}")
    assert str(path) in line
    assert hint in line


def test_arrays_that_are_no_npz_file(refused, workdir):
    path = workdir / "bad.npz"
    assert "cannot be opened" in refused("--dataset", f"npz:{path}")
    path.write_text("x")
    assert "no .npz file" in refused("--dataset", f"npz:{path}")
    np.savez(path, x=np.zeros(3))
    assert "must hold" in refused("--dataset", f"npz:{path}")
    path.unlink()
    path.mkdir()
    assert str(path) in refused("--dataset", f"npz:{path}")


def test_features_suit_the_mlp_alone(tiny, refused, workdir):
    data = f"npz:{save(workdir / 'f.npz', train=np.random.default_rng(0).random((30, 5)))}"
    assert tiny("--dataset", data).status == 0
    assert "use the model mlp" in refused("--dataset", data, "--model", "convnet")


def test_images_too_small_for_vgg(refused):
    assert "at least 32 × 32" in refused("--dataset", "digits", "--model", "vgg16-bn")


# Where the record goes


def test_an_output_folder_below_a_file(cli, tiny_words, workdir):
    (workdir / "file").write_text("mine")
    for out in (workdir / "file", workdir / "file" / "below", "/proc/forgetkit"):
        said = cli(*tiny_words, "--out", out)
        assert said.status == 2
        assert said.err.startswith("forgetkit: cannot make ")
        assert said.err.count("\n") == 1
    assert (workdir / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_an_output_folder_that_is_read_only(cli, tiny_words, workdir):
    out = workdir / "readonly"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", out], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        said = cli(*tiny_words, "--out", out)
    finally:
        subprocess.run(["umount", out], check=True)
    assert said.status == 2
    assert "Read-only file system" in said.err


def test_a_name_that_is_taken(tiny, workdir):
    assert tiny("--name", "mine").status == 0
    before = sorted(path.stat().st_mtime_ns for path in (workdir / "runs").rglob("*"))
    said = tiny("--name", "mine")
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "runs/mine exists already" in said.err
    assert sorted(path.stat().st_mtime_ns for path in (workdir / "runs").rglob("*")) == before


# Configuration


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("epochs = ", "--config bad.toml: "),
        ("epoch = 3", "did you mean 'epochs'"),
        ("[run]\nepochs = 3", "no option is called 'run'"),
        ("epochs = 'many'", "--epochs many: "),
        ("batch-size = [1]", "--batch-size [1]: "),
        ("dataset = 3", "--dataset 3: "),
        ("metrics = 3", "--metric 3: "),
        ("\xff".encode("latin-1"), "--config bad.toml: "),
    ],
)
def test_a_configuration_file(cli, workdir, text, hint):
    path = workdir / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = cli("run", "--config", "bad.toml")
    assert said.status == 2
    assert said.err.startswith("forgetkit: ")
    assert said.err.count("\n") == 1
    assert hint in said.err
    assert not (workdir / "runs").exists()


def test_a_configuration_file_that_is_missing_or_a_folder(refused, workdir):
    assert "--config nowhere.toml: " in refused("--config", "nowhere.toml")
    assert "--config " in refused("--config", workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--set", "gamma"], "write key=value"),
        (["--set", "gama=1"], "did you mean 'gamma'"),
        (["--set", "=1"], "no option is called ''"),
        (["--set", "epochs=2"], "--set epochs and --epochs are given both"),
        (["--set", "val-fraction=2"], "--val-fraction 2: "),
        (["--set", "gamma=1", "--set", "gamma=0.5"], "twice"),
        (["--set", "metrics=nosuch"], "no metric is called 'nosuch'"),
    ],
)
def test_an_assignment(refused, words, hint):
    assert hint in refused(*words)


# Plugins that are asked for by name


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("raise RuntimeError('no\\nthanks')", "RuntimeError: no"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nosuchmodule", "nosuchmodule"),
        ("def (", "SyntaxError"),
        ("@H\ndef forgetkit_importance():\n    return ['x']", "must return a mapping"),
        ("@H\ndef forgetkit_importance():\n    return {'x': 3}", "not a class"),
        ("@H\ndef forgetkit_importance():\n    return {3: int}", "mapping from names"),
        ("@H\ndef forgetkit_importance():\n    1 / 0", "ZeroDivisionError"),
        ("@H\ndef forgetkit_importanse():\n    return {}", "forgetkit_importanse"),
        ("@H\ndef forgetkit_importance(probe):\n    return {}", "forgetkit_importance"),
    ],
)
def test_a_plugin_file_that_is_broken(refused, plugin, source, hint):
    path = plugin("bad", "import forgetkit\nH = forgetkit.hookimpl\n" + source if "@H" in source else source)
    line = refused("--plugin", path)
    assert f"--plugin {path}: " in line
    assert hint in line


def test_a_plugin_file_that_is_missing(refused, workdir):
    assert "there is no such file" in refused("--plugin", workdir / "nowhere.py")
    (workdir / "text.txt").write_text("")
    assert "not a Python file" in refused("--plugin", workdir / "text.txt")


def test_a_component_that_is_no_dataclass(refused, plugin):
    source = "import forgetkit\n@forgetkit.hookimpl\ndef forgetkit_importance():\n    return {'plain': int}"
    assert "is no dataclass" in refused("--plugin", plugin("plain", source), "--importance", "plain")


def test_leaving_out_a_plugin_that_is_not_installed(refused):
    assert "no plugin 'nosuch' is installed" in refused("--no-plugin", "nosuch")


# Failing on the way


def test_a_run_that_diverges(tiny, workdir):
    said = tiny("--lr", "1e6", "--dataset", "synthetic:samples=600,test=20", "--name", "d", "--quiet")
    assert said.status == 1
    assert said.out == ""
    assert said.err.startswith("forgetkit: the loss is nan in mega-batch 1, epoch 1")
    assert said.err.count("\n") == 1
    assert "smaller --lr" in said.err
    assert not (workdir / "runs" / "d" / "result.json").exists()
    assert json.loads((workdir / "runs" / "d" / "manifest.json").read_text())["config"]["lr"] == 1e6


def test_debug_shows_the_way_there(tiny):
    said = tiny("--epochs", "0", "--debug")
    assert said.status == 2
    assert "Traceback (most recent call last)" in said.err
    assert said.err.endswith("forgetkit: --epochs 0: input should be greater than or equal to 1\n")


def test_what_nobody_foresaw_is_a_line_too(tiny, plugin):
    source = """
import dataclasses, forgetkit
@dataclasses.dataclass(frozen=True)
class Buggy:
    def score(self, probe):
        return {}["nothing"]
@forgetkit.hookimpl
def forgetkit_importance():
    return {"buggy": Buggy}
"""
    path = plugin("buggy", source)
    said = tiny("--plugin", path, "--importance", "buggy", "--quiet")
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert f"buggy (buggy.py) raised KeyError: 'nothing' in {path}:6; repair it there" in said.err
    assert "Traceback" in tiny("--plugin", path, "--importance", "buggy", "--debug").err
