"""`forgetkit.ablate` and what it returns, beside the command line on the same grid."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import forgetkit
from forgetkit.ablation.grid import grid_from_python
from forgetkit.errors import ConfigError, OptionError, UsageError

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 1,
    "mega_batches": 2,
    "threads": 1,
}
WORDS = [word for key, value in OPTIONS.items() for word in (f"--{key.replace('_', '-')}", value)]
HERE = """
import forgetkit
from dataclasses import dataclass


@dataclass(frozen=True)
class Here:
    def execute(self, work, tasks):
        for position, task in enumerate(tasks):
            yield position, work(task)


@forgetkit.hookimpl
def forgetkit_executors():
    return {"here": Here}
"""


def counting(done: list[str]) -> Any:
    """An executor that runs tasks in this process and lists their digests."""

    @dataclass(frozen=True)
    class Counting:
        def execute(self, work: Any, tasks: Any) -> Any:
            for position, task in enumerate(tasks):
                done.append(task.digest)
                yield position, work(task)

    return Counting()


@dataclass(frozen=True)
class Refusing:
    """Runs nothing: there is nothing to run."""

    def execute(self, work: Any, tasks: Any) -> Any:
        assert not tasks
        yield from ()


@pytest.mark.slow
def test_the_command_line_and_a_call_share_cells_and_tables(cli, plugin, workdir, capsys, monkeypatch):
    done: list[str] = []
    found = forgetkit.ablate(
        importance=["snip", "random"],
        seeds=range(2),
        baseline={"importance": "random"},
        options=OPTIONS,
        executor=counting(done),
    )
    assert (len(done), capsys.readouterr()) == (4, ("", ""))
    command = ["ablate", "--plugin", plugin("here", HERE), "--executor", "here", *WORDS, "--json"]
    grid = ["--over", "importance=snip,random", "--seeds", "0-1", "--baseline", "random"]
    before = {path: path.stat().st_mtime_ns for path in Path("ablations").glob("cells/*/result.json")}
    said = cli(*command, *grid)
    assert said.status == 0, said.err
    assert "4 there already, 0 to run" in said.err
    assert {path: path.stat().st_mtime_ns for path in Path("ablations").glob("cells/*/result.json")} == before
    assert said.json == json.loads(found.table.render("json"))
    for form in ("markdown", "latex", "csv", "json", "html"):
        assert cli("table", "ablations", "--format", form).out == found.table.render(form)
    assert str(found) == found.table.render()
    assert found._repr_html_().startswith(f"<p>4 cells in {found.path}: 4 completed</p>")
    assert found.table.render("html") in found._repr_html_()

    again = forgetkit.ablate(
        {"axes": {"importance": ("snip", "random")}, "seeds": "0-1", "baseline": {"importance": "random"}},
        executor=Refusing(),
        **OPTIONS,
    )
    assert again.table.render("json") == found.table.render("json")
    assert cli("report", "ablations", "--out", "theirs.html").status == 0
    assert again.report(Path("new") / "ours.html").read_bytes() == Path("theirs.html").read_bytes()

    part = forgetkit.ablate(
        over={"importance": np.array(["snip", "random"])},
        seeds=1,
        exclude=["random"],
        executor=Refusing(),
        **OPTIONS,
    )
    assert [(cell.arm, cell.seed) for cell in part.outcomes.cells] == [({"importance": "snip"}, 1)]

    monkeypatch.setattr("forgetkit.results.ablation.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^to_pandas\(\) needs pandas: pip install pandas$"):
        found.to_pandas()
    monkeypatch.setattr("forgetkit.results.ablation.find_spec", lambda name: object())
    pandas = ModuleType("pandas")
    pandas.DataFrame = Frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows = found.to_pandas().records
    for row, line in zip(rows, csv.DictReader(io.StringIO(found.table.render("csv"))), strict=True):
        for key, text in line.items():
            assert row[key] == (text if isinstance(row[key], str) else type(row[key])(text))
    results = [json.loads(Path(f"ablations/cells/{row['digest'][:16]}/result.json").read_text()) for row in rows]
    assert [row["samples_seen"] for row in rows] == [result["samples_seen"] for result in results]


class Frame:
    """Stands in for a data frame."""

    def __init__(self, rows: Any, columns: Any) -> None:
        self.records = [dict(zip(columns, row, strict=True)) for row in rows]

    def astype(self, kinds: Any) -> Frame:
        assert all(kind == "float64" for kind in kinds.values())
        return self


@pytest.mark.slow
def test_a_failed_cell_is_logged_and_the_others_go_on(workdir, caplog):
    with caplog.at_level(logging.WARNING, "forgetkit"):
        found = forgetkit.ablate(
            lr=[0.01, 1e30], options={**OPTIONS, "milestones": "none", "epochs": 3}, executor=counting([])
        )
    assert [cell.status for cell in found.outcomes.cells] == ["completed", "diverged"]
    assert any("lr=1e+30, seed 0 diverged: " in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "something that differs"),
        ({"importance": "snip"}, "something that differs"),
        ({"over": {"importance": "snip"}}, "needs a list of values"),
        ({"over": ["importance"]}, "over= takes a mapping"),
        ({"over": {"lr": [1]}, "lr": [2]}, "lr is given twice, by itself and in over"),
        ({"importance": ["snip", "random"], "epochs": 2}, "epochs is given twice, by itself and in options"),
        ({"importance": ["snip", "random"], "exclude": "snip"}, "exclude is a list"),
        ({"importance": ["snip", "random"], "exclude": ["fisher"]}, "fisher"),
        ({"importance": ["snip", "random"], "name": "a/b"}, "a plain name"),
        ({"importance": ["snip", "random"], "no_plugin": "mine"}, "no_plugin is a list"),
        ({"importance": [object()]}, "object is no value of a grid"),
        ({"importance": ["snip", "random"], "options": {"model": object()}}, "object is no value of a grid"),
        ({"importance": ["snip", "random"], "seeds": -5}, "list of different whole numbers"),
        ({"importance": ["snip", "random"], "seeds": True}, "list of different whole numbers"),
        ({"importance": ["snip", "random"], "seeds": [0, 0]}, "0 is given twice"),
        ({"importance": ["snip", "random"], "seeds": "4-1"}, "write 0-4"),
        ({"importance": ["snip", "random"], "jobs": 0}, "at least one"),
        ({"importance": ["snip", "random"], "jobs": 2, "executor": "local"}, "give one"),
        ({"importance": ["snip", "random"], "keep": "some"}, "all, last or none"),
        ({"importance": ["snip", "random"], "baseline": "fisher"}, "fisher"),
        ({"importance": ["snip", "random"], "match": "epochs"}, "--match samples"),
        ({"importance": ["snip", "snip:samples=1024"]}, "are the same run"),
        ({"importances": ["snip"]}, "no option is called 'importances'"),
        ({"grid": {"importance": ["snip"]}}, "a grid has no entry 'importance': use title"),
        ({"grid": 3}, "a path or a mapping"),
        ({"grid": "missing.toml"}, "missing.toml"),
        ({"importance": ["snip", "random"], "plugins": "mine.py"}, "plugins is a list"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(call, message, workdir):
    with pytest.raises((ConfigError, OptionError), match=message) as raised:
        forgetkit.ablate(**{"options": OPTIONS, **call})
    assert "\n" not in str(raised.value)
    assert not Path("ablations").exists()


def test_values_are_those_of_a_command_line():
    grid = grid_from_python(
        None,
        {"lr": [0.1, np.float64(0.01)], "label-noise": (0, np.int64(1)), "deterministic": [True, None]},
        np.arange(2),
        {"init": PurePosixPath("a/b")},
        None,
    )
    assert grid.axes == {"lr": ("0.1", "0.01"), "label_noise": ("0", "1"), "deterministic": ("true", "none")}
    assert (grid.seeds, grid.base, grid.title) == ((0, 1), {"init": "a/b"}, "lr by label_noise by deterministic")
