"""Files run no code by themselves: their ``import:`` SPECs need ``--allow-import`` on the command line."""

from __future__ import annotations

import sys

import pytest

NET = """
import pathlib
import torch
pathlib.Path("ran").touch()

def make(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes))
"""
DATA = 'dataset = "synthetic:samples=60,test=20,classes=3,size=4,channels=1"'
RUN = ["--epochs", "1", "--mega-batches", "2", "--threads", "1"]
CONFIGS = {
    "a value": 'model = "import:theirs.net:make"\n' + DATA,
    "spelled out": 'model = "import:target=theirs.net:make"\n' + DATA,
    "spaces": 'model = "  import: theirs.net:make"\n' + DATA,
    "its distribution": 'model = "forgetkit/import:theirs.net:make"\n' + DATA,
    "a table": 'model = "import"\n' + DATA + '\n["model.import"]\ntarget = "theirs.net:make"',
    "nested tables": DATA + '\n[model.import]\ntarget = "theirs.net:make"',
    "a path": 'model = "import"\n"model.import.target" = "theirs.net:make"\n' + DATA,
}
GRIDS = {
    "an axis": '[axes]\nmodel = ["mlp:width=4", "import:theirs.net:make"]\n[base]\n' + DATA,
    "what cells share": '[axes]\nmethod = ["warm"]\n[base]\nmodel = "import:theirs.net:make"\n' + DATA,
    "an arm": '[arms.a]\nmodel = "import:theirs.net:make"\n[arms.b]\nmodel = "mlp"\n[base]\n' + DATA,
}


@pytest.fixture
def theirs(workdir, monkeypatch):
    package = workdir / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(NET)
    yield workdir
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def refused(answer, workdir):
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1), answer.err
    assert "add --allow-import theirs.net" in answer.err
    assert not (workdir / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_a_file_of_options(cli, theirs, text, dry):
    (theirs / "options.toml").write_text(text)
    refused(cli("run", "--config", "options.toml", *RUN, *dry), theirs)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["ablate", "dry"])
@pytest.mark.parametrize("text", GRIDS.values(), ids=GRIDS)
def test_a_grid(cli, theirs, text, dry):
    (theirs / "grid.toml").write_text(text)
    refused(cli("ablate", "grid.toml", "--seeds", "0", *RUN, *dry), theirs)


@pytest.mark.parametrize("allowed", ["theirs.net", "theirs"])
def test_what_is_allowed_runs(cli, theirs, allowed):
    (theirs / "options.toml").write_text(CONFIGS["a value"])
    answer = cli("run", "--config", "options.toml", "--allow-import", allowed, *RUN)
    assert answer.status == 0, answer.err
    assert (theirs / "ran").exists()


@pytest.mark.parametrize("allowed", ["theirs.ne", "their", "net"])
def test_another_module_that_is_allowed_is_another(cli, theirs, allowed):
    (theirs / "options.toml").write_text(CONFIGS["a value"])
    refused(cli("run", "--config", "options.toml", "--allow-import", allowed, *RUN), theirs)


def test_what_the_command_line_says_needs_no_more(cli, theirs):
    (theirs / "options.toml").write_text(DATA)
    answer = cli("run", "--config", "options.toml", "--model", "import:theirs.net:make", *RUN, "--dry-run")
    assert answer.status == 0, answer.err
