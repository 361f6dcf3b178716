"""``forgetkit table``, over folders of cells that were never trained."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from pathlib import Path

import pytest
from helpers import fake_outcomes

from forgetkit.display import table_view
from forgetkit.display.console import Console
from forgetkit.results.cell_store import CellStore, GridManifest
from forgetkit.results.columns import parse_columns
from forgetkit.results.render import FORMATS
from forgetkit.results.table import make_table
from forgetkit.storage import write_with_digest

AXES = {"importance": ("snip", "fisher"), "replay": ("full", "none")}
FINAL = {("snip", "full"): 0.9, ("snip", "none"): 0.8, ("fisher", "full"): 0.7, ("fisher", "none"): 0.6}


@pytest.fixture
def store(workdir):
    """``store("first")``: a grid of four arms in the folder ``here``; ``lost`` says what became of other cells."""

    def call(name="first", *, seeds=2, final=FINAL, axes=AXES, baseline=None, lost=()) -> CellStore:
        pool, cells = CellStore(Path("here")), []
        lost = dict(lost)
        for place, (labels, seed) in enumerate(itertools.product(itertools.product(*axes.values()), range(seeds))):
            digest = f"{place:08x}{name.encode().hex():0<56}"
            status = lost.get((*labels, seed), "completed")
            if status == "completed":
                reached = final[labels] + 0.001 * seed
                pool.directory(digest).mkdir(parents=True)
                write_with_digest(pool.directory(digest) / "result.json", result(reached))
                pool.seal(digest)
            elif status != "missing":
                pool.fail(digest, status, "the loss is nan")
            cells.append({"arm": dict(zip(axes, labels, strict=True)), "seed": seed, "digest": digest})
        pool.write_manifest(name, GridManifest(f"The {name} question", tuple(axes), tuple(cells), baseline))
        return pool

    return call


def result(reached: float) -> dict[str, object]:
    whole = fake_outcomes.result(0, {}, batches=3)
    return {
        **whole,
        "config": {"mega_batches": 3, "lr": reached},
        "test_accuracy": reached,
        "cer": round(1000 * (1 - reached)),
        "generalization_gap": None,
        "samples_seen": 1200,
        "seconds": 1.5,
        "my_metric": 10 * reached,
        "flag": True,
        "mega_batches": [
            {**row, "test_accuracy": reached * row["index"] / 3, "samples_seen": 400} for row in whole["mega_batches"]
        ],
    }


def arms(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if re.search(r"full|none", line) and "=" not in line]


def test_a_pipe_gets_the_whole_table_in_plain_lines(cli, store) -> None:
    store(baseline={"importance": "fisher", "replay": "full"})
    said = cli("table", "here")
    assert (said.status, said.err) == (0, "")
    assert "\x1b" not in said.out
    lines = said.out.splitlines()
    assert lines[0] == "Difference to importance=fisher, replay=full"  # the table itself stays on the screen
    assert lines.index("The first question") > lines.index(lines[0])
    assert arms(said.out) == [
        ["snip", "full", "90.05", "±", "0.07†", "100", "±", "1†", "–", "1,200", "▂▅█"],
        ["none", "80.05", "±", "0.07", "200", "±", "1", "–", "1,200", "▂▄▇"],
        ["▸", "fisher", "full", "70.05", "±", "0.07", "300", "±", "1", "–", "1,200", "▁▄▆"],
        ["none", "60.05", "±", "0.07", "400", "±", "1", "–", "1,200", "▁▃▅"],
    ]
    assert "† the best mean of its column; too few seeds to say which others may be as good." in lines
    assert "anytime: mean test accuracy after each mega-batch, from 20.02 % (lowest) to 90.05 % (highest)." in lines


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_alone_on_standard_output(cli, store, form) -> None:
    store()
    said = cli("table", "here", "--format", form)
    assert (said.status, said.err) == (0, "")
    begin = {
        "markdown": "**The first",
        "latex": "% The first",
        "csv": '"importance","re',
        "json": "{",
        "html": "<table",
    }
    assert said.out.startswith(begin[form])
    assert said.out.endswith("\n")
    assert cli("table", "here", "--format", form) == said


def test_an_object_and_raw_cells(cli, store) -> None:
    store(lost={("snip", "full", 1): "failed"})
    said = cli("table", "here", "--json")
    assert said.json["title"] == "The first question"
    assert cli("table", "here", "--json", "--format", "json") == said
    rows = list(csv.DictReader(io.StringIO(cli("table", "here", "--format", "csv").out)))
    assert len(rows) == 8
    assert [(row["seed"], row["status"], row["reason"], row["test_accuracy"]) for row in rows[:2]] == [
        ("0", "completed", "", "0.9"),
        ("1", "failed", "the loss is nan", ""),
    ]


def test_columns_are_any_numbers_and_rows_are_ordered_by_one(cli, store) -> None:
    store(seeds=1)
    said = cli("table", "here", "--json", "--columns", "my-metric:lower,test_accuracy,seconds", "--order", "my-metric")
    assert [(column["key"], column["higher_is_better"]) for column in said.json["columns"]] == [
        ("my_metric", False),
        ("test_accuracy", True),
        ("seconds", None),
    ]
    assert [row["entries"]["my_metric"]["mean"] for row in said.json["rows"]] == [6, 7, 8, 9]
    assert [row["entries"]["my_metric"]["best"] for row in said.json["rows"]] == [True, False, False, False]
    plain = cli("table", "here", "--json", "--columns", "my_metric", "--order", "my_metric")
    assert plain.json["columns"][0]["higher_is_better"] is None
    assert not any(row["entries"]["my_metric"]["best"] for row in plain.json["rows"])
    assert [row[:2] for row in arms(cli("table", "here", "--order", "test-accuracy").out)] == list(map(list, FINAL))


@pytest.mark.parametrize("text", ["importance=fisher,replay=none", "replay=none,importance=fisher"])
def test_the_baseline_is_one_arm(cli, store, text) -> None:
    store(baseline={"importance": "snip", "replay": "full"})
    named = cli("table", "here", "--json", "--baseline", text).json["baseline"]
    assert named == {"importance": "fisher", "replay": "none"}


def test_one_value_is_enough_where_it_means_one_arm(cli, store) -> None:
    store("arms", axes={"arm": ("warm", "lure")}, final={("warm",): 0.5, ("lure",): 0.6})
    assert cli("table", "here", "--json", "--baseline", "warm").json["baseline"] == {"arm": "warm"}


MISTAKES = {
    ("--format", "markdwon"): "there is no format 'markdwon'; did you mean 'markdown'?",
    ("--json", "--format", "csv"): "--json and --format csv contradict each other: leave one out",
    ("--columns", "my_metrik"): "there is no column 'my_metrik'; did you mean 'my_metric'?",
    ("--columns", "schema"): "there is no column 'schema'",
    ("--columns", "flag"): "there is no column 'flag'",
    ("--columns", "cer:better"): "--columns cer:better: write cer:higher or cer:lower",
    ("--columns", "cer,cer"): "the column 'cer' is asked for twice",
    ("--order", "seconds"): "the table has no column 'seconds' to be ordered by",
    ("--grid", "frist"): "here holds no grid 'frist'; there are first",
    ("--baseline", "snip"): "baseline: importance=snip means 2 arms",
    ("--baseline", "snap"): "--baseline snap: write AXIS=VALUE, with axes importance, replay; did you mean 'snip'?",
    ("--baseline", "importance=snip,replay=nun"): "--baseline importance=snip,replay=nun: 'nun' is no value of replay",
    ("--baseline", "importance=snip,importance=fisher"): "importance has two values there",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(cli, store, words) -> None:
    store()
    said = cli("table", "here", *words)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert MISTAKES[words] in said.err


def test_a_value_of_two_axes_is_no_baseline(cli, store) -> None:
    axes = {"reinit": ("none", "cold"), "replay": ("none", "full")}
    store(axes=axes, final=dict.fromkeys(itertools.product(*axes.values()), 0.5))
    said = cli("table", "here", "--baseline", "none")
    assert said.err == "forgetkit: --baseline none: reinit, replay have that value; write AXIS=VALUE\n"


def test_a_folder_that_is_no_ablations(cli, store) -> None:
    assert cli("table", "nowhere").err == "forgetkit: nowhere is no folder: table takes that of an ablation\n"
    said = cli("table", ".")
    assert (said.status, said.out) == (2, "")
    assert "holds no grid: give the folder of an ablation" in said.err
    store()
    for command in ("table", "report"):
        said = cli(command, ".")
        assert (said.status, said.err) == (2, "forgetkit: . holds no grid; did you mean here?\n")


def test_what_became_of_cells_is_said(cli, store) -> None:
    gone = {("fisher", "none", seed): "diverged" for seed in (0, 1)}
    pool = store(lost={("snip", "none", 1): "missing", ("fisher", "full", 0): "failed", **gone})
    flawed = pool.directory(f"{0:08x}{b'first'.hex():0<56}") / "result.json"
    flawed.write_bytes(flawed.read_bytes() + b" ")
    out = cli("table", "here").out
    assert [row[:4] for row in arms(out)] == [
        ["snip", "full", "90.10†", "99†"],
        ["none", "80.00", "200", "–"],
        ["fisher", "full", "70.10", "299"],
        ["none", "diverged", "–", "–"],
    ]
    assert "- importance=snip, replay=full: 1 of 2 seeds: seed 0 missing" in out
    assert "- diverged: the loss is nan (2 cells)\n- failed: the loss is nan\n" in out


def test_rows_of_fewer_seeds_say_so_in_a_column(cli, store) -> None:
    store(lost={("snip", "none", 1): "missing", ("fisher", "none", 0): "missing", ("fisher", "none", 1): "missing"})
    out = cli("table", "here").out
    assert re.search(r"importance  replay  n  ", out)
    assert [row[row.index("full" if "full" in row else "none") + 1] for row in arms(out)] == ["2", "1", "2", "0"]
    assert "(n=" not in out


def test_nothing_is_there_yet(cli, store) -> None:
    store(lost={(*labels, seed): "missing" for labels in FINAL for seed in (0, 1)})
    said = cli("table", "here")
    assert said.status == 0
    assert "There are no numbers yet." in said.out
    assert "anytime" not in said.out


def test_the_newest_grid_unless_one_is_named(cli, store) -> None:
    for age, name in enumerate(("first", "second")):
        os.utime(store(name).path / "grids" / f"{name}.json", (age, age))
    said = cli("table", "here").out.splitlines()
    assert (said[0], said[-1]) == ("The second question", "The newest grid of this folder; --grid shows first.")
    named = cli("table", "here", "--grid", "first").out
    assert named.startswith("The first question\n")
    assert "newest" not in named
    assert cli("table", "here", "--json").json["title"] == "The second question"


def test_a_reader_may_leave_early(store, start) -> None:
    store()
    for words in (["table", "here"], ["table", "here", "--format", "csv"]):
        theirs, ours = os.pipe()
        os.close(theirs)
        assert start(words, out=ours).wait() == 0
        os.close(ours)
    assert Path("stderr").read_text() == ""


def plain(seen: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).splitlines()


def test_two_axes_and_the_default_columns_fit_eighty_columns(terminal, store) -> None:
    axes = {"importance": ("magnitude", "random"), "reinit": ("masked", "shrink-perturb")}
    store(
        axes=axes,
        final=dict.fromkeys(itertools.product(*axes.values()), 0.5),
        baseline={a: v[0] for a, v in axes.items()},
    )
    status, seen = terminal(["table", "here"])
    lines = plain(seen)
    assert status == 0
    assert max(map(len, lines)) <= 80
    assert "…" not in seen
    assert "\x1b[1m50.05\x1b[0m\x1b[1;2m ± 0.07\x1b[0m" in seen  # the best in bold, its deviation in the background
    assert "†" not in seen
    (row,) = [line for line in lines if line.startswith("▸ magnitude  masked")]
    assert row.split()[3:] == ["50.05", "±", "0.07", "500", "±", "1", "–", "1,200"]
    assert "No room for anytime: widen" in " ".join(lines)


def test_narrow_terminal_drops_curves_folds_labels_drops_columns(terminal, store) -> None:
    spec = "masked:fraction=0.2,fresh=uniform"
    axes = {"importance": ("snip:samples=64,reduce=mean-abs", "random"), "reinit": (spec, "none")}
    store(axes=axes, final=dict.fromkeys(itertools.product(*axes.values()), 0.5))
    status, seen = terminal(["table", "here", "--columns", "test-accuracy,cer,samples-seen"])
    lines = plain(seen)
    assert status == 0
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("No room for anytime:") or lines[-2].startswith("No room for anytime:")
    shown = " ".join(lines)
    for piece in ("snip:", "samples=64,", "reduce=mean-abs", "masked:", "fresh=uniform", "1,200"):
        assert piece in shown
    all_of_them = "test-accuracy,cer,samples-seen,my-metric,seconds,mean-anytime-error"
    _, seen = terminal(["table", "here", "--columns", all_of_them])
    lines = plain(seen)
    assert max(map(len, lines)) <= 80
    assert re.search(r"No room for .*mean anytime error \(%\) ↓, anytime: widen", " ".join(lines))


def test_differences_to_the_baseline_are_whole_on_a_terminal(terminal, store) -> None:
    axes = {"importance": ("snip:samples=64,reduce=mean-abs", "random"), "replay": ("full", "none")}
    arms = list(itertools.product(*axes.values()))
    store(
        axes=axes,
        final=dict(zip(arms, (0.9, 0.8, 0.7, 0.6), strict=True)),
        baseline=dict(zip(axes, arms[2], strict=True)),
        seeds=9,
    )
    status, seen = terminal(["table", "here", "--columns", "test-accuracy,cer,generalization-gap,samples-seen"])
    lines = plain(seen)
    start = lines.index("Difference to importance=random, replay=full")
    block = lines[start:]
    assert status == 0
    assert max(map(len, map(str.rstrip, block))) <= 80
    assert sum(line.startswith("importance=") for line in block) == 3
    shown = [re.search(r"([+-]\S+ \(each seed\))\s+(\S+)\s+(better|worse)", line) for line in block]
    assert [found.groups() for found in shown if found] == [
        ("+20.00 (each seed)", "0.023", "better"),
        ("-200 (each seed)", "0.023", "better"),
        ("+10.00 (each seed)", "0.023", "better"),
        ("-100 (each seed)", "0.023", "better"),
        ("-10.00 (each seed)", "0.023", "worse"),
        ("+100 (each seed)", "0.023", "worse"),
    ]


def test_where_there_is_less_room_names_are_folded_and_no_figure(store, capsys) -> None:
    outcomes = store(seeds=9).outcomes()
    columns = parse_columns("test-accuracy,cer", outcomes)
    console = Console()
    console.width, console.soft_wrap = 60, False
    table_view.show_table(console, make_table(outcomes, columns, {"importance": "snip", "replay": "none"}), outcomes)
    block = capsys.readouterr().out.partition("Difference to ")[2].splitlines()
    assert max(len(line.rstrip()) for line in block) <= 60
    assert any(re.search(r"^  test accuracy +\+10.00 \(each seed\) +0.023  better", line) for line in block)
    assert any(line.rstrip() == "  (%) ↑" for line in block)


def test_without_a_baseline_there_is_no_difference(cli, store) -> None:
    store()
    assert "Difference" not in cli("table", "here").out
    said = cli("table", "here", "--baseline", "importance=snip,replay=full").out
    assert re.search(r"-10\.00 +–  too few seeds", said)


def test_hostile_names_are_text(cli, workdir) -> None:
    pool = CellStore(workdir / "odd")
    cells = [{"arm": {"[b]axis": "[red]x[/red]\x1b[31m"}, "seed": 0, "digest": "0" * 64}]
    pool.write_manifest("g", GridManifest("[bold]t\x1b[2J", ("[b]axis",), tuple(cells)))
    pool.fail("0" * 64, "failed", "[link]\x1b[31m broken")
    out = cli("table", "odd").out
    assert out.startswith("[bold]t [2J\n")
    assert re.search(r"^\[b\]axis ", out, re.MULTILINE)
    assert "[red]x[/red] [31m" in out
    assert "- failed: [link] [31m broken" in out
    assert "\x1b" not in out
