"""``forgetkit reproduce``: what there is, one small table from end to end, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = """
from dataclasses import dataclass

import forgetkit


@dataclass(frozen=True)
class Here:
    \"\"\"In this process.\"\"\"

    def execute(self, work, tasks):
        for position, task in enumerate(tasks):
            with open("tasks", "a") as file:
                print(task.digest, file=file)
            yield position, work(task)


@forgetkit.hookimpl
def forgetkit_executors():
    return {"here": Here}
"""
SMALL = ("--seeds", "0", "--set", "epochs=1", "--set", "threads=1")


@pytest.fixture
def reproduce(cli, plugin):
    """``reproduce("table9")``, without workers and as small as can be."""
    file = plugin("here", HERE)
    return lambda *words: cli("reproduce", "--plugin", file, "--executor", "here", *SMALL, *words)


def carried_out() -> int:
    """How many runs there were since the last look."""
    file = Path("tasks")
    count = len(file.read_text().split()) if file.exists() else 0
    file.unlink(missing_ok=True)
    return count


def test_without_a_name_it_lists_what_there_is(cli):
    said = cli("reproduce")
    names = ["figure2", "figure3-left", "figure3-right", *(f"figure{n}" for n in range(4, 12))]
    names += [f"table{n}" for n in range(1, 11)]
    assert [line.split()[0] for line in said.out.splitlines()[:-1]] == names
    assert list(cli("reproduce", "--json").json["tables"]) == names


@pytest.mark.slow
def test_reproduce_compares_with_paper_and_reuses_finished_cells(reproduce):
    said = reproduce("table9", "--json")
    assert said.status == 0, said.err
    assert carried_out() == 2
    content = said.json
    assert (content["table"], content["scale"], content["seeds"]) == ("table9", "smoke", [0])
    assert "50 → 1 epochs" in content["changed"]
    for row in content["rows"]:
        entry = row["entries"]["test_accuracy"]
        assert entry["paper"]["value"] == pytest.approx({"0.2 |M|": 0.9373, "128": 0.9362}[row["arm"]])
        assert entry["difference"] is None  # a smoke run cannot be held against the paper
        assert 0 <= entry["measured"]["mean"] <= 1
    again = reproduce("table9", "--json")
    assert (carried_out(), again.out) == (0, said.out)
    cells = {file.name for file in Path("reproductions/table9-smoke/cells").glob("*") if file.is_dir()}
    assert len(cells) == 2

    screen = reproduce("table9")
    assert "Table 9" in screen.out
    assert "93.73" in screen.out
    for form in ("markdown", "latex", "csv"):
        text = reproduce("table9", "--format", form)
        assert text.out == reproduce("table9", "--format", form).out
        assert "there already" in text.err
        assert "there already" not in text.out
    assert carried_out() == 0


@pytest.mark.slow
def test_a_figure_of_analyses_asks_its_runs_once(reproduce):
    """Figure 10 asks each run together with that of the baseline at its seed."""
    said = reproduce("figure10")
    assert said.status == 0, said.err
    assert carried_out() == 4
    assert "forgetkit:" not in said.err, "nothing is asked that has no answer"
    asked = [line for line in said.out.splitlines() if ": across in " in line]
    assert [line.partition(",")[0] for line in asked] == [f"learning rate={rate}" for rate in ("0.05", "0.01", "0.005")]
    again = reproduce("figure10", "--json")
    assert (carried_out(), again.err.count(": across in ")) == (0, 0)
    shared = {row["arm"]: row["entries"]["corrected"]["measured"]["mean"] for row in again.json["rows"]}
    assert shared.pop("0.1") is None, "with itself it is not compared"
    assert all(0 < value < 1 for value in shared.values())
    kept = [*Path("reproductions/figure10-smoke/cells").glob("*/analyses/across.json")]
    assert len(kept) == 3
    (together,) = Path("reproductions/figure10-smoke/grids").glob("*.answers/analyses/overlap.json")
    assert {chart["name"] for chart in json.loads(together.read_text())["charts"]} >= {"arms"}
    kept[0].write_text("{")
    damaged = reproduce("figure10", "--json")
    assert damaged.err.count(": across in ") == 1
    assert damaged.json["rows"] == again.json["rows"]


@pytest.mark.slow
def test_the_grid_of_rates_and_decays_is_a_map_for_each_method(reproduce):
    said = reproduce("figure5", "--part", "lr 0.1 wd 0", "--part", "lr 0.005, wd 0.001", "--json")
    assert said.status == 0, said.err
    assert carried_out() == 4
    (file,) = Path("reproductions/figure5-smoke/grids").glob("*.answers/analyses/sensitivity.json")
    methods = json.loads(file.read_text())["details"]["methods"]
    assert sorted(methods) == ["BL", "LURE"]
    measured = {
        (row["part"], row["arm"]): row["entries"]["test_accuracy"]["measured"]["mean"] for row in said.json["rows"]
    }
    for method, found in methods.items():
        means = {(place["lr"], place["weight_decay"]): place["mean"] for place in found["grid"]}
        assert means == {
            (0.1, 0): measured["lr 0.1 wd 0", method],
            (0.005, 0.001): measured["lr 0.005 wd 0.001", method],
        }


@pytest.mark.slow
def test_run_without_models_is_named_and_others_are_analyzed(reproduce):
    assert reproduce("figure6").status == 0
    first = sorted(Path("reproductions/figure6-smoke/cells").glob("*/checkpoints"))[0]
    for file in (*first.glob("*"), *first.parent.glob("analyses/*")):
        file.unlink()
    said = reproduce("figure6", "--json")
    assert said.status == 0
    assert said.err.count("has no model of mega-batch 3: it keeps none") == 1
    lost = [row for row in said.json["rows"] if row["entries"]["ece"]["measured"]["mean"] is None]
    assert len(lost) == 1
    assert lost[0]["entries"]["test_accuracy"]["measured"]["mean"] is not None


def test_a_dry_run_writes_nothing(reproduce):
    said = reproduce("table9", "--dry-run", "--json")
    assert said.status == 0, said.err
    assert (said.json["to_run"], carried_out()) == (2, 0)
    assert not Path("reproductions").exists()


def test_the_list_as_an_object_or_on_the_screen(cli):
    assert cli("reproduce", "--format", "json").out == cli("reproduce", "--json").out
    assert cli("reproduce", "--format", "rich").out == cli("reproduce").out


@pytest.mark.slow
def test_changed_reproduction_keeps_the_first_grid_file(reproduce):
    notes = Path("reproductions/table9-smoke/grids")

    def said(*words):
        result = reproduce("table9", *words, "--json")
        assert result.status == 0, result.err
        return result.json["rows"], {file.name: file.read_bytes() for file in notes.glob("*.json")}

    rows, first = said()
    others, both = said("--set", "lr=0.01")
    assert rows != others
    assert list(first) == ["table9-smoke.json"]
    assert sorted(both) == ["table9-smoke-2.json", "table9-smoke.json"]
    assert both["table9-smoke.json"] == first["table9-smoke.json"]
    assert said() == (rows, both)
    assert carried_out() == 4


MISTAKES = {
    "a name": (("table12",), "there is no 'table12' to reproduce; did you mean 'table"),
    "a scale": (("table9", "--scale", "big"), "--scale big"),
    "a part": (("table1", "--part", "MNIST"), "--part MNIST"),
    "data without a SPEC": (("table1", "--data", "CIFAR10"), "--data CIFAR10: write NAME=SPEC"),
    "data twice": (("table9", "--data", "CIFAR10=digits", "--data", "CIFAR10=digits"), "--data CIFAR10 is given twice"),
    "data that is not used": (("table5", "--data", "CIFAR10=digits"), "--data CIFAR10"),
    "a format": (("table9", "--format", "html"), "there is no format 'html'"),
    "two formats": (("table9", "--format", "csv", "--json"), "contradict each other"),
    "an option": (("table9", "--set", "epoch=1"), "no option is called 'epoch'"),
    "an option that rows decide": (
        ("table7", "--set", "reinit.masked.fraction=0.3"),
        "the row '5' of table7 is importance=snip, reinit=masked:fraction=0.05; leave it out",
    ),
    "a dry run as a text": (("table9", "--dry-run", "--format", "latex"), "--dry-run has no table to print as latex"),
    "models that are asked about and not kept": (
        ("table10", "--keep", "last"),
        "--keep last: table10 asks the runs about models that they would not keep: leave it out, or use --keep all",
    ),
    "no model at all": (("figure6", "--keep", "none"), "leave it out, or use --keep last"),
    "no name and a format": (("--format", "csv"), "--format is for a table and none is named"),
    "no name and a scale": (("--scale", "cpu"), "--scale is for a table"),
    "no name and no jobs": (("--jobs", "0", "--json"), "--jobs is for a table"),
    "no name and parts": (("--part", "CIFAR10"), "--part is for a table"),
    "no name and a dry run": (("--dry-run",), "--dry-run is for a table"),
    "no name and a plugin": (("--no-plugin", "x"), "--no-plugin is for a table"),
    "no data": (("table5", "--scale", "full"), "table5 at scale full needs data"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes(cli, what):
    words, message = MISTAKES[what]
    said = cli("reproduce", *words)
    assert said.status == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not Path("reproductions").exists()


def test_in_a_process_of_its_own_with_a_worker(start):
    """As a user has it."""
    child = start(["reproduce", "table9", *SMALL, "--jobs", "1", "--json"])
    assert child.wait() == 0, Path("stderr").read_text()
    rows = json.loads(Path("stdout").read_text())["rows"]
    assert [row["entries"]["test_accuracy"]["measured"]["n"] for row in rows] == [1, 1]
