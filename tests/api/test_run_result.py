"""What `forgetkit.run` returns: the dict of before, and what can be done with it."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import forgetkit
from forgetkit.errors import ConfigError, InapplicableError, OptionError, RunDirectoryError
from forgetkit.results.run_result import RunResult

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "epochs": 1,
    "mega_batches": 2,
    "threads": 1,
    "name": "r",
    "keep_models": "last",
}


@pytest.fixture
def result(workdir):
    return forgetkit.run(OPTIONS, model="mlp:width=8")


def test_a_result_is_the_dict_of_its_file(result):
    content = json.loads(Path("runs/r/result.json").read_text())
    assert isinstance(result, Mapping)
    assert json.loads(json.dumps(result)) == result == content
    again = forgetkit.run(resume="runs/r")
    assert (again, again.path) == (content, Path("runs/r").absolute())
    copied = pickle.loads(pickle.dumps(result))
    assert (type(copied), copied, copied.path) == (RunResult, result, result.path)


def test_table_of_one_run_has_mega_batch_rows_and_no_bold(result):
    rows = list(csv.DictReader(io.StringIO(result.table.render("csv"))))
    for row, recorded in zip(rows, result["mega_batches"], strict=True):
        for key in ("train_samples", "test_accuracy", "val_accuracy", "test_errors", "generalization_gap"):
            assert float(row[key]) == recorded[key]
    assert rows[0]["reset"] == str(result["mega_batches"][0]["unlearn"]["reset"])
    assert rows[1]["reset"] == ""
    assert "Bold" not in str(result.table)
    assert result._repr_html_().startswith(f"<p>r: test accuracy {result['test_accuracy']:.2%}, CER ")
    assert result.table.render("html") in result._repr_html_()


def test_the_model_is_the_one_that_was_evaluated(result):
    evaluated = torch.load("runs/r/checkpoints/mega-batch-002.pt", weights_only=True)["model"]
    model = result.model()
    assert not model.training
    assert all(torch.equal(tensor, evaluated[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(InapplicableError, match="no model of mega-batch 1"):
        result.model(1)
    with pytest.raises(RunDirectoryError, match="no mega-batch 3"):
        result.model(3)


@pytest.mark.slow
def test_a_plot_is_a_picture_of_the_report(result):
    assert result.plot().savefig
    with pytest.raises(OptionError, match="no picture 'anytme'; did you mean"):
        result.plot("anytme")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"options": {"epochs": 1}, "epochs": 2}, "epochs is given twice, by itself and in options: leave one out"),
        ({"options": ["epochs"]}, "options= takes a mapping"),
        ({"epoch": 1}, "no option is called 'epoch'"),
        ({"plugins": "mine.py"}, "plugins is a list"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(call, message, workdir):
    with pytest.raises(ConfigError, match=message) as raised:
        forgetkit.run(**call)
    assert "\n" not in str(raised.value)
    assert not Path("runs").exists()
