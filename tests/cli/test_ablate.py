"""The command `forgetkit ablate`, in this process: an executor of the test's own stands in for the workers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from threading import Event, Thread, Timer

import pytest

from forgetkit.ablation.progress import ProgressReader
from forgetkit.display.cell_display import CellDisplay
from forgetkit.display.console import Console
from forgetkit.display.display import PlainDisplay
from forgetkit.results.cell_store import CellStore
from forgetkit.storage import read_with_digest, write_with_digest

SHARED = [
    *("--dataset", "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "--model", "mlp:width=8"),
    *("--epochs", "1", "--mega-batches", "2", "--threads", "1"),
]
HERE = """
from dataclasses import dataclass

import forgetkit
from forgetkit.contracts import WorkerLost


@dataclass(frozen=True)
class Here:
    \"\"\"In this process, the last task first; it loses some of them, and leaves a note of each.\"\"\"

    loses: int = 0

    def execute(self, work, tasks):
        for position, task in reversed(list(enumerate(tasks))):
            with open("tasks", "a") as file:
                print(task.digest, file=file)
            yield position, WorkerLost("the worker was lost") if position < self.loses else work(task)


@forgetkit.hookimpl
def forgetkit_executors():
    return {"here": Here}
"""


@pytest.fixture
def ablate(cli, plugin):
    """``ablate("--over", "importance=snip,random")``."""
    file = plugin("here", HERE)
    return lambda *words, executor="here": cli("ablate", "--plugin", file, "--executor", executor, *SHARED, *words)


def carried_out() -> list[str]:
    """The digests of the cells that were carried out since the last look."""
    file = Path("tasks")
    if not file.exists():
        return []
    digests = file.read_text().split()
    file.unlink()
    return digests


def table(said) -> dict[tuple[str, ...], list[float | None]]:
    return {
        tuple(row["arm"].values()): [cell["values"]["test_accuracy"] for cell in row["cells"]]
        for row in said.json["rows"]
    }


@pytest.mark.slow
def test_a_grid_ends_in_a_table_of_the_runs_that_it_is_made_of(ablate, cli):
    said = ablate("--over", "importance=snip,random", "--over", "replay=full,none", "--seeds", "0-1", "--json")
    assert said.status == 0, said.err
    assert len(carried_out()) == 8
    found = table(said)
    assert list(found) == [("snip", "full"), ("snip", "none"), ("random", "full"), ("random", "none")]
    for (importance, replay), accuracies in found.items():
        for seed, accuracy in enumerate(accuracies):
            run = cli("run", *SHARED, "--importance", importance, "--replay", replay, "--seed", seed, "--json")
            assert run.json["test_accuracy"] == accuracy


@pytest.mark.slow
def test_the_same_again_runs_nothing_and_more_only_what_is_new(ablate):
    words = ("--over", "importance=snip,random", "--json")
    first = ablate(*words, "--seeds", "0-1")
    assert len(carried_out()) == 4
    again = ablate(*words, "--seeds", "0-1")
    assert (carried_out(), again.out) == ([], first.out)
    more = ablate(*words, "--seeds", "0-2")
    assert len(carried_out()) == 2
    assert {arm: values[:2] for arm, values in table(more).items()} == table(first)
    other = ablate("--over", "importance=snip,magnitude", "--seeds", "0-1", "--name", "another", "--json")
    assert len(carried_out()) == 2
    assert table(other)[("snip",)] == table(first)[("snip",)]
    assert {note.stem for note in Path("ablations/grids").iterdir()} == {"importance", "another"}


def test_arms_made_equal_by_the_preset_are_refused_at_once(ablate):
    said = ablate("--over", "importance=snip,snip:samples=0.2", "--preset", "paper", "--json")
    assert (said.status, said.out, carried_out(), Path("ablations").exists()) == (2, "", [], False)
    assert "importance=snip and importance=snip:samples=0.2 are the same run" in said.err


@pytest.mark.slow
def test_models_of_finished_cells_are_removed_if_keep_is_reduced(ablate):
    def kept() -> int:
        return len(list(Path("ablations").glob("cells/*/checkpoints/mega-batch-*.pt")))

    words = ("--over", "importance=snip,random")
    ablate(*words, "--keep", "all")
    assert (len(carried_out()), kept()) == (2, 4)
    for wish, count in (
        (("--keep", "none", "--dry-run"), 4),
        ((), 4),
        (("--keep", "last"), 2),
        (("--keep", "none"), 0),
    ):
        assert ablate(*words, *wish).status == 0
        assert (carried_out(), kept()) == ([], count)


@pytest.mark.slow
def test_what_fails_is_told_and_tried_again(ablate):
    words = ("--over", "importance=snip,random", "--seeds", "0-1")
    said = ablate(*words, "--json", executor="here:loses=1")
    assert said.status == 1
    assert "forgetkit: [4/4] importance=snip, seed 0 failed: the worker was lost" in said.err
    assert table(said)[("snip",)][0] is None
    assert said.json["rows"][0]["note"] == "1 of 2 seeds: seed 0 failed"
    carried_out()
    again = ablate(*words, "--json")
    assert (again.status, len(carried_out())) == (0, 1)
    assert None not in table(again)[("snip",)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [27, 8])
def test_a_run_that_diverges_is_an_outcome(ablate, size):
    """In its only step, so that the outputs tell, or in an earlier one, so that the loss does."""
    words = ("--over", "lr=0.1,1e30", "--batch-size", size, "--json")
    said = ablate(*words)
    assert said.status == 0
    assert [row["cells"][0]["status"] for row in said.json["rows"]] == ["completed", "diverged"]
    assert "lr=1e30, seed 0 diverged: " in said.err
    carried_out()
    assert ablate(*words).out == said.out
    assert carried_out() == []


@pytest.mark.slow
def test_what_is_damaged_is_said_and_made_again(ablate):
    words = ("--over", "importance=snip,random", "--json")
    first = ablate(*words)
    damaged = sorted(Path("ablations/cells").glob("*/result.json"))[0]
    content = damaged.read_text()
    damaged.write_text(content.replace('"cer": ', '"cer": 1'))
    carried_out()
    again = ablate(*words)
    assert f"{damaged.parent}: the result is damaged; forgetkit ablate makes it again" in again.err
    assert len(carried_out()) == 1
    assert again.out == first.out


@pytest.mark.slow
def test_a_dry_run_lists_and_writes_nothing(ablate, workdir):
    words = ("--over", "importance=snip,random", "--seeds", "0-1")
    said = ablate(*words, "--dry-run", "--json")
    assert said.status == 0, said.err
    assert [cell["status"] for cell in said.json["cells"]] == ["missing"] * 4
    assert said.json["to_run"] == 4
    assert said.json["estimated_seconds"] > 0
    assert said.json["estimated_memory_bytes"] > 2**20
    assert not Path("ablations").exists()
    ablate("--over", "importance=snip", "--seeds", "0-1")
    shown = ablate(*words, "--dry-run")
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["snip", "0,", "1", "–"] in lines
    assert ["random", "–", "0,", "1"] in lines
    done = ablate("--over", "importance=snip", "--seeds", "0-1", "--dry-run", "--json")
    assert (done.json["to_run"], done.json["estimated_seconds"]) == (0, 0)


@pytest.mark.slow
def test_a_grid_in_a_file_with_more_on_the_command_line(ablate):
    Path("grid.toml").write_text(
        'title = "A & B"\nseeds = "0"\nbaseline = "b"\n[base]\nreplay = "none"\n[arms.a]\nmethod = "lure"\n'
        '[arms.b]\nmethod = "warm"\n'
    )
    said = ablate("grid.toml", "--seeds", "0,2", "--json")
    assert said.status == 0, said.err
    assert (said.json["title"], said.json["baseline"]) == ("A & B", {"arm": "b"})
    assert [cell["seed"] for cell in said.json["rows"][0]["cells"]] == [0, 2]
    assert Path("ablations/grids/a-b.json").exists()
    record = json.loads(next(Path("ablations/cells").glob("*/result.json")).read_text())
    assert record["config"]["replay"] == "none"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "an ablation needs something that differs: --over"),
        (("--over", "importance=snip,fishe"), "the cell importance=fishe: .*did you mean 'fisher'"),
        (("--over", "importance=snip", "--jobs", "2"), "--jobs 2 is short for --executor local:jobs=2: give one"),
        (("--over", "importance=snip", "--jobs", "0"), "--jobs 0 is short for|--jobs 0: at least one is needed"),
        (("--over", "importance=snip", "--keep", "some"), "--keep some: write all, last or none"),
        (("--over", "importance=snip", "--seeds", "4-1"), "--seeds 4-1: write 0-4"),
        (("--over", "importance=snip", "--baseline", "x"), "--baseline x"),
        (("--over", "importance=snip", "--match", "epochs"), "--match epochs: there is --match samples"),
        (("--over", "importance=snip", "--name", "a/b"), "--name a/b: must be a plain name"),
        (("--over", "importance=snip", "--exclude", "reinit=cold"), "--exclude reinit=cold"),
        (("--over", "seed=1,2"), "'seed' is set by the ablation for each cell: use --seeds"),
        (("--over", "reinit=masked,cold", "--importance", "snip"), "reinit=cold.*looks at no scores"),
        (("nowhere.toml",), "nowhere.toml: No such file"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(ablate, words, says):
    said = ablate(*words)
    assert (said.status, said.out) == (2, "")
    assert re.search(says, said.err)
    assert len(said.err.splitlines()) == 1
    assert not Path("ablations").exists()


@pytest.mark.slow
def test_without_a_terminal_each_cell_is_a_line(ablate):
    said = ablate("--over", "importance=snip,random")
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("importance: 2 cells: 2 arms at 1 seed; 0 there already, 2 to run, in ablations")
    assert lines[1].startswith("augment none (auto) for synthetic:samples=")
    assert lines[2].startswith("[1/2] importance=random, seed 0: test accuracy ")
    assert lines[3].startswith("[2/2] importance=snip, seed 0: test accuracy ")
    quiet = ablate("--over", "importance=snip,random", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.slow
def test_cell_locked_elsewhere_is_waited_for_at_the_end(ablate):
    """It is asked for twice: passed over, and with patience."""
    words = ("--over", "importance=snip,random", "--json")
    digests = [cell["digest"] for cell in ablate(*words, "--dry-run").json["cells"]]
    held, done = Event(), Event()

    def another() -> None:
        with CellStore(Path("ablations")).lock(digests[1]):
            held.set()
            done.wait(20)

    thread = Thread(target=another)
    thread.start()
    held.wait(20)
    Timer(1.0, done.set).start()
    said = ablate(*words)
    thread.join()
    assert said.status == 0, said.err
    assert carried_out() == [digests[1], digests[0], digests[1]]


@pytest.mark.slow
def test_the_report_says_which_command_carries_the_cells_out(ablate, cli, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["forgetkit", "ablate", "--over", "importance=snip,random"])
    ablate("--over", "importance=snip,random")
    assert cli("report", "ablations").status == 0
    assert "forgetkit ablate --over importance=snip,random" in Path("ablations/report.html").read_text()


@pytest.mark.slow
def test_another_question_on_the_same_axes_has_a_name_of_its_own(ablate, cli):
    for words in ((), ("--batch-size", "8"), ("--match", "samples"), ("--seeds", "0-1")):
        assert ablate("--over", "replay=full,none", *words).status == 0
    names = {note.stem for note in Path("ablations/grids").iterdir()}
    assert names == {"replay", "replay-2", "replay-equal-samples"}
    seeds = [
        len(cli("table", "ablations", "--grid", name, "--json").json["rows"][0]["cells"]) for name in sorted(names)
    ]
    assert seeds == [2, 1, 1]
    assert "at equal numbers of training samples" in cli("table", "ablations", "--grid", "replay-equal-samples").out
    said = ablate("--over", "replay=full,none", "--batch-size", "9", "--name", "replay")
    assert (said.status, said.out) == (2, "")
    assert "--name replay: in ablations that is the name of a grid with other cells: choose another" in said.err


@pytest.mark.slow
def test_the_table_is_of_the_cells_that_were_asked_for(cli, plugin):
    """Another command takes the grid's name while this one runs: what is shown in the end is our own."""
    source = HERE.replace(
        "yield position",
        "import forgetkit.results.cell_store as pool; p = pool.CellStore(pool.Path(task.folder)); "
        'p.write_manifest("replay", pool.GridManifest("another", ("replay",), ())); yield position',
    )
    said = cli(
        "ablate",
        "--plugin",
        plugin("here", source),
        "--executor",
        "here",
        *SHARED,
        "--over",
        "replay=full,none",
        "--json",
    )
    assert said.status == 0, said.err
    assert (said.json["title"], len(table(said))) == ("replay", 2)


CRITERION = """
from dataclasses import dataclass

import forgetkit


@dataclass(frozen=True)
class Mine:
    \"\"\"A criterion.\"\"\"

    def score(self, probe):
        return {{name: {sign}p.abs() for name, p in probe.targets.items()}}


@forgetkit.hookimpl
def forgetkit_importance():
    return {{"mine": Mine}}
"""


@pytest.mark.slow
def test_another_version_of_a_plugin_makes_other_cells(ablate, plugin):
    """Those that do not use it stay what they are."""
    tables = []
    for sign in ("", "-"):
        file = plugin("mine", CRITERION.format(sign=sign))
        tables.append(
            table(ablate("--over", "importance=mine,magnitude", "--plugin", file, "--seeds", "0-2", "--json"))
        )
        assert len(carried_out()) == (3 if sign else 6)
    assert tables[0]["magnitude",] == tables[1]["magnitude",] == tables[0]["mine",]
    assert tables[1]["mine",] != tables[0]["mine",]


@pytest.mark.slow
def test_cells_made_with_another_library_are_said(ablate):
    words = ("--over", "importance=snip,random")
    ablate(*words)
    for file in Path("ablations/cells").glob("*/result.json"):
        write_with_digest(file, {**read_with_digest(file), "versions": {"forgetkit": "0.0", "torch": "1.0"}})
        seal = json.loads((file.parent / "seal.json").read_text())
        CellStore(Path("ablations")).seal(seal["digest"])
    said = ablate(*words)
    assert "forgetkit: 2 of 2 cells were made with torch 1.0, not " in said.err


def test_a_data_set_that_is_missing_is_said_before_anything_runs(cli):
    said = cli("ablate", "--over", "dataset=digits,folder:path=/nowhere/at/all", "--epochs", "1")
    assert (said.status, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert "/nowhere/at/all" in said.err
    assert not Path("ablations").exists()


def test_stopping_message_appears_only_while_workers_run(capfd):
    view = CellDisplay(PlainDisplay(Console(stderr=True)))
    view.say_stopping()
    with view.progress_context(None, ProgressReader(CellStore(Path()), ["0" * 64])):
        assert capfd.readouterr().err == ""
        view.say_stopping()
        said = capfd.readouterr().err
        assert "stopping after these steps" in said
        assert len(f"^C{said}") <= 60, "bars are drawn over what goes on in the next line"
    view.say_stopping()
    assert capfd.readouterr().err == ""
