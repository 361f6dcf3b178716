"""``forgetkit analyze``: what it writes, what it says, and each mistake in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

CELLS = ["--dataset", "synthetic:samples=60,test=20,classes=3,size=8,channels=1", "--model", "mlp:width=8"]
CELLS += ["--epochs", "1", "--mega-batches", "3"]

PLUGIN = '''
from dataclasses import dataclass

import forgetkit
from forgetkit.contracts import Answer, Chart, Measure, Series
from forgetkit.errors import InapplicableError


@dataclass(frozen=True)
class Sure:
    """How sure the network is."""

    def analyze(self, evidence):
        sure = float(evidence.outputs(evidence.samples()).softmax(1).amax(1).mean())
        chart = Chart("sure", "Mean confidence.", "part", "confidence", [Series("test", ["test"], [sure])], "bars")
        return Answer({"mean": Measure(sure, "higher", "fraction")}, [chart], remarks=["of the test part"])


@dataclass(frozen=True)
class Stumbles:
    """Raises."""

    def analyze(self, evidence):
        raise ZeroDivisionError("no luck")


@dataclass(frozen=True)
class Elsewhere:
    """Makes no sense here."""

    def analyze(self, evidence):
        raise InapplicableError("there is no wind here")


@forgetkit.hookimpl
def forgetkit_analyses():
    return {"sure": Sure, "stumbles": Stumbles, "elsewhere": Elsewhere}
'''


@pytest.fixture
def run(tiny):
    """The directory of a small run."""
    return Path(tiny("--mega-batches", 3, "--json").json["directory"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def ablation(cli, workdir, built):
    """A copy of a warm start and LURE at two seeds."""
    if not (built / "ablations").exists():
        words = ["--over", "method=warm,lure", "--seeds", "0-1", "--keep", "all", "--threads", "1"]
        answer = cli("ablate", *words, *CELLS, "--quiet")
        assert answer.status == 0, answer.err
        shutil.copytree("ablations", built / "ablations")
    else:
        shutil.copytree(built / "ablations", "ablations")
    return Path("ablations")


@pytest.fixture
def sure(plugin):
    return plugin("sure", PLUGIN)


def statuses(said):
    return [(one["run"], one["label"], one["status"]) for one in said.json["answers"]]


@pytest.mark.slow
def test_a_run_gets_its_answer_its_picture_and_its_report(cli, run, sure):
    said = cli("analyze", run, "sure", "--plugin", sure)
    assert said.status == 0, said.err
    assert f"[1/1] {run.name}: sure: mean " in said.out
    assert "- of the test part" in said.out
    kept = json.loads((run / "analyses" / "sure.json").read_text())
    assert kept["question"]["analysis"] == "sure"
    assert (kept["question"]["seed"], kept["question"]["mega_batch"]) == (0, 3)
    assert "<svg" in (run / "analyses" / "sure.sure.svg").read_text()
    assert "How sure the network is." in (run / "report.html").read_text()


@pytest.mark.slow
def test_an_ablation_gets_answers_columns_and_a_report(cli, ablation, sure):
    said = cli("analyze", ablation, "sure", "churn", "--plugin", sure, "--json")
    assert said.status == 0, said.err
    runs = [f"method={method}, seed {seed}" for method in ("warm", "lure") for seed in (0, 1)]
    singly = [(name, label, "answered") for name in runs for label in ("sure", "churn")]
    assert statuses(said) == [*singly, ("all 4 runs", "churn", "answered")]
    table = cli("table", ablation, "--columns", "sure_mean", "--json").json
    (column,) = table["columns"]
    assert (column["key"], column["unit"], column["higher_is_better"]) == ("sure_mean", "fraction", True)
    page = (ablation / "report.html").read_text()
    assert "How sure the network is." in page
    assert "of the test part" in page


@pytest.mark.slow
def test_sensitivity_is_answered_once_for_all_runs_together(cli):
    words = ["--over", "lr=0.05,0.1", "--over", "weight-decay=0,0.001", "--threads", "1"]
    assert cli("ablate", *words, *CELLS, "--quiet").status == 0
    said = cli("analyze", "ablations", "sensitivity", "--no-report")
    assert said.status == 0
    assert "does not apply" not in said.out
    assert "all 4 runs: sensitivity: highest" in said.out


@pytest.mark.slow
def test_answers_to_different_questions_have_no_mean_in_common(cli, ablation, caplog):
    assert cli("analyze", ablation, "calibration", "--no-report").status == 0
    means = cli("table", ablation, "--columns", "calibration_ece", "--json").json["rows"]
    cell = next(p for p in (ablation / "cells").iterdir() if (p / "analyses").is_dir())
    assert cli("analyze", cell, "calibration:bins=3", "--no-report").status == 0
    said = cli("table", ablation, "--columns", "calibration_ece", "--json")
    assert "under calibration are answers to different questions" in caplog.text
    assert "those to calibration:bins=3,samples=none by forgetkit" in caplog.text
    counts = [row["entries"]["calibration_ece"]["n"] for row in said.json["rows"]]
    assert sorted(counts) == [1, 2]
    assert [row["entries"]["calibration_ece"]["n"] for row in means] == [2, 2]


@pytest.mark.slow
def test_an_answer_about_fewer_runs_than_there_are_says_so(cli, ablation):
    assert cli("analyze", ablation, "churn").status == 0
    assert "of all runs together" in (ablation / "report.html").read_text()
    words = ["--over", "method=warm,lure", "--seeds", "0-2", "--keep", "all", "--threads", "1"]
    assert cli("ablate", *words, *CELLS, "--quiet").status == 0
    assert cli("report", ablation).status == 0
    page = (ablation / "report.html").read_text()
    assert "Asked of 4 of 6 finished runs and of 4 of 6 runs together" in page


@pytest.mark.slow
def test_a_file_that_no_answer_is_called_by_is_named(cli, run, caplog):
    assert cli("analyze", run, "calibration", "--no-report").status == 0
    (run / "analyses" / "calibration.json").rename(run / "analyses" / "a.b.json")
    assert cli("report", run).status == 0
    assert "a.b.json is no answer of this version of forgetkit" in caplog.text


def test_a_folder_of_runs_is_told_from_one(cli, run):
    said = cli("analyze", "runs", "calibration")
    assert said.status == 2
    assert f"runs holds no grid: analyze takes that of a run or of an ablation; a run is {run}" in said.err


@pytest.mark.slow
def test_what_is_there_is_not_asked_again(cli, run, sure):
    words = ["analyze", run, "sure", "--plugin", sure, "--no-report", "--json"]
    assert statuses(cli(*words))[0][2] == "answered"
    first = (run / "analyses" / "sure.json").read_bytes()
    assert statuses(cli(*words))[0][2] == "cached"
    assert statuses(cli(*words, "--seed", 1))[0][2] == "answered"
    assert statuses(cli(*words))[0][2] == "answered"  # that of seed 1 had taken its place
    assert statuses(cli(*words, "--again"))[0][2] == "answered"
    assert (run / "analyses" / "sure.json").read_bytes() == first
    damaged = first.replace(b'"value": 0', b'"value": 1')
    assert damaged != first
    (run / "analyses" / "sure.json").write_bytes(damaged)
    assert statuses(cli(*words))[0][2] == "answered"
    assert (run / "analyses" / "sure.json").read_bytes() == first
    assert not (run / "report.html").exists()


@pytest.mark.slow
def test_a_plugin_file_that_changed_is_asked_again(cli, run, plugin):
    words = ["analyze", run, "sure", "--no-report", "--json", "--plugin"]
    assert statuses(cli(*words, plugin("mine", PLUGIN)))[0][2] == "answered"
    assert statuses(cli(*words, plugin("mine", PLUGIN)))[0][2] == "cached"
    assert statuses(cli(*words, plugin("mine", PLUGIN.replace("amax(1)", "amin(1)"))))[0][2] == "answered"


def test_a_criterion_of_a_plugin_file_can_be_asked_for(cli, run, plugin):
    source = (
        "from dataclasses import dataclass\n\nimport forgetkit\n\n\n@dataclass(frozen=True)\nclass Big:\n"
        '    """Size."""\n\n    def score(self, probe):\n'
        "        return {name: target.abs() for name, target in probe.targets.items()}\n\n\n"
        "@forgetkit.hookimpl\ndef forgetkit_importance():\n    return {'big': Big}\n"
    )
    said = cli("analyze", run, "overlap:importance=big", "--plugin", plugin("mine", source), "--no-report", "--json")
    assert said.status == 0, said.err
    kept = json.loads((run / "analyses" / "overlap.json").read_text())
    assert kept["question"]["versions"]["plugins"]["mine"].startswith("file ")


def test_what_fails_for_all_runs_together_keeps_the_rest(cli, ablation):
    said = cli("analyze", ablation, "churn", "--mega-batch", 9, "--json", "--no-report")
    assert said.status == 2
    assert {how for _, _, how in statuses(said)} == {"failed"}


def test_labels_and_mega_batches_have_files_of_their_own(cli, run):
    assert cli("analyze", run, "calibration:bins=5", "--as", "coarse", "--no-report").status == 0
    assert cli("analyze", run, "calibration", "--mega-batch", 1, "--no-report").status == 0
    assert sorted(p.name for p in (run / "analyses").iterdir()) == ["calibration-001.json", "coarse.json"]
    early = json.loads((run / "analyses" / "calibration-001.json").read_text())
    assert early["question"]["mega_batch"] == 1


@pytest.mark.slow
def test_the_name_of_another_analysis_answer_is_not_taken(cli, run):
    assert cli("analyze", run, "calibration", "--as", "mine").status == 0
    assert sorted(p.name for p in (run / "analyses").glob("mine.*.svg"))
    said = cli("analyze", run, "churn", "--as", "mine")
    assert said.status == 2
    assert "has an answer of calibration under the name mine: choose another by --as, or --again" in said.err
    assert cli("analyze", run, "churn", "--as", "mine", "--again").status == 0
    assert not list((run / "analyses").glob("mine.reliability.svg"))


def test_a_disk_that_takes_no_answers_ends_the_asking(cli, run):
    (run / "analyses").write_text("")
    said = cli("analyze", run, "calibration", "churn")
    assert said.status == 1
    lines = said.err.splitlines()
    assert lines[0].startswith("to go on: forgetkit")
    assert "cannot make" in lines[1]


def test_failing_or_inapplicable_analysis_does_not_stop_others(cli, run, sure):
    said = cli("analyze", run, "stumbles", "elsewhere", "sure", "--plugin", sure, "--no-report")
    assert said.status == 1
    assert "sure: mean" in said.out
    assert "elsewhere does not apply: there is no wind here" in said.out
    (line,) = said.err.splitlines()
    assert "stumbles: the analysis stumbles (" in line
    assert ") raised ZeroDivisionError: no luck in " in line
    said = cli("analyze", run, "elsewhere", "sure", "--plugin", sure, "--no-report", "--quiet")
    assert said.status == 2  # one that was named has no answer


@pytest.mark.slow
def test_option_all_runs_every_analysis_with_the_given_options(cli, run, sure):
    words = ['corruption:samples=2,corruptions=["contrast"],severities=[1]', "attack:samples=4,steps=1"]
    said = cli("analyze", run, "--all", *words, "--plugin", sure, "--no-report", "--json")
    labels = {one["label"]: one["status"] for one in said.json["answers"]}
    listed = cli("analyze", "--list", "--plugin", sure, "--json").json["analyses"]
    assert labels.keys() == {name.rpartition("/")[2] for name in listed}
    assert {label for label, how in labels.items() if how != "answered"} == {"elsewhere", "sensitivity", "stumbles"}
    assert said.status == 1  # stumbles
    said = cli("analyze", run, "--all", *words, "--no-report", "--quiet")
    assert said.status == 0, said.err


def test_the_list_has_every_analysis_and_its_summary(cli, sure):
    said = cli("analyze", "--list", "--plugin", sure)
    assert said.status == 0
    assert "sure/sure" in said.out or "sure  " in said.out
    assert "How sure the network is." in said.out
    for name in ("attack", "calibration", "churn", "corruption", "flatness", "overlap", "plasticity", "redundancy"):
        assert name in said.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "name the directory of a run or the folder of an ablation"),
        (["RUN"], 2, "name an analysis, or run all of them by --all"),
        (["nowhere", "calibration"], 2, "nowhere is no folder: analyze takes that of a run or of an ablation"),
        (["RUN", "calibration", "calibration:bins=5"], 2, "would both be kept as calibration"),
        (["RUN", "--export-masks", "x.npz", "--as", "x"], 2, "leave out --as"),
        ([".", "--export-masks", "x.npz"], 2, ". is not the directory of a run, which --export-masks takes"),
        (["RUN", "calibraton"], 2, "did you mean 'calibration'?"),
        (["RUN", "calibration:bins=0"], 2, "bins"),
        (["RUN", "attack:strengths=[-1]"], 2, "strengths"),
        (["RUN", "attack:strengths=-1"], 2, "input should be greater than or equal to 0"),
        (["RUN", "attack:strengths=1/255+-0.5"], 2, "input should be greater than or equal to 0"),
        (["RUN", "flatness:sigmas=0.1+x"], 2, "sigmas"),
        (["RUN", "calibration", "--mega-batch", 4], 2, "has 3 mega-batches, and no mega-batch 4"),
        (["RUN", "calibration", "--mega-batch", 0], 2, "has 3 mega-batches, and no mega-batch 0"),
        (["RUN", "calibration", "--as", "../x"], 2, "--as ../x: write small letters, digits"),
        (["RUN", "calibration", "churn", "--as", "x"], 2, "--as x is the name of one answer"),
        (["RUN", "calibration", "--seed", -1], 2, "--seed -1"),
        (["RUN", "calibration", "--grid", "g"], 2, "is the directory of a single run; leave it out"),
        (["RUN", "calibration", "--dataset", "digits"], 2, "digits is not what the run began with"),
        (["RUN", "calibration", "--list"], 2, "--list lists the analyses and runs none"),
        (["RUN", "--export-masks", "x.txt"], 2, "must be the name of an .npz file"),
        (["RUN", "calibration", "--export-masks", "x.npz"], 2, "leave out the analyses"),
        (["RUN", "sensitivity"], 2, "sensitivity does not apply: "),
    ],
)
def test_a_mistake_is_one_line(cli, run, words, status, says):
    said = cli("analyze", *[run if word == "RUN" else word for word in words], "--quiet")
    assert said.status == status, said
    (line,) = said.err.splitlines()
    assert says in line
    assert not said.out


def test_a_run_without_models_or_unfinished_is_said(cli, tiny):
    bare = Path(tiny("--keep-models", "none", "--json").json["directory"])
    said = cli("analyze", bare, "calibration", "flatness", "--no-report")
    assert said.status == 2
    assert said.out.count("no model of mega-batch 2: it keeps none; runs with --keep-models all keep each") == 2
    (bare / "result.json").unlink()
    said = cli("analyze", bare, "calibration")
    assert (said.status, said.out) == (2, "")
    assert said.err == f"forgetkit: {bare} is not finished: resume it with forgetkit run --resume {bare}\n"


def test_data_that_is_gone_is_said_once_for_all_questions(cli, workdir):
    import numpy as np

    labels = np.arange(60) % 3
    arrays = {"x_train": np.random.default_rng(0).random((60, 5), dtype=np.float32), "y_train": labels}
    np.savez("data.npz", **arrays, x_test=arrays["x_train"], y_test=labels)
    said = cli("run", "--dataset", "npz:path=data.npz", *CELLS[2:], "--json")
    Path("data.npz").unlink()
    said = cli("analyze", said.json["directory"], "calibration", "flatness", "--no-report", "--quiet")
    assert said.status == 2
    (line,) = said.err.splitlines()
    assert "data.npz" in line


def test_analyze_without_matplotlib_writes_report_without_plots(cli, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("forgetkit.results.plots.has_matplotlib", lambda: False)
    said = cli("analyze", run, "calibration")
    assert said.status == 0, said.err
    assert "pip install 'forgetkit[plot]'" in said.out
    assert (run / "report.html").exists()
    assert not list((run / "analyses").glob("*.svg"))


@pytest.mark.slow
def test_interrupted_analyze_keeps_its_answers_and_can_go_on(cli, run, sure, plugin):
    stops = plugin("stops", PLUGIN.replace('raise ZeroDivisionError("no luck")', "raise KeyboardInterrupt"))
    said = cli("analyze", run, "calibration", "stumbles", "sure", "--plugin", stops)
    assert said.status == 130
    assert "interrupted" in said.err
    assert sorted(p.name for p in (run / "analyses").glob("*.json")) == ["calibration.json"]
    said = cli("analyze", run, "calibration", "sure", "--plugin", sure, "--json")
    assert [how for _, _, how in statuses(said)] == ["cached", "answered"]


def counted(text: str) -> list[int]:
    return [int(line[1:].partition("/")[0]) for line in text.splitlines() if line.startswith("[")]


@pytest.mark.slow
def test_every_built_in_explains_its_numbers_below_them(cli, ablation):
    """In the legend of a table, and below the lines of a single run; a count leaves no number out."""
    (run, *_) = sorted(ablation.glob("cells/*/manifest.json"))
    words = ["calibration", "churn", "plasticity", "corruption:samples=2,severities=1", "sensitivity", "--no-report"]
    for folder, questions in ((run.parent, 5), (ablation, 20)):
        said = cli("analyze", folder, *words)
        assert "negative log-likelihood: mean cross entropy, in nats." in said.out
        assert "mca: mean accuracy over 19 corruptions at each severity." in said.out
        assert "flips from right to wrong of a test sample, the mean over samples." in said.out
        assert counted(said.out) == list(range(1, questions + 1))
        for file in run.parent.glob("analyses/*.json"):
            numbers = json.loads(file.read_text())["numbers"]
            assert all(number["meaning"] for number in numbers.values()), file.stem
            assert not [number for number in numbers.values() if number["bounds"] is None]
    shown = cli("table", ablation, "--columns", "calibration_nll,calibration_ece")
    assert "negative log-likelihood" in shown.out
    missed = cli("table", ablation, "--columns", "ece")
    assert (missed.status, missed.out) == (2, "")
    assert missed.err.startswith("forgetkit: there is no column 'ece'; did you mean calibration_ece or ")


def test_a_strangers_number_is_explained_by_its_own_words(cli, run, plugin):
    explained = PLUGIN.replace('"fraction")}', '"fraction", meaning="how sure it is on average")}')
    said = cli("analyze", run, "sure", "--plugin", plugin("explained", explained), "--no-report")
    assert "\nmean: how sure it is on average.\n" in said.out
    told = cli("analyze", run, "sure", "--plugin", plugin("explained", explained), "--no-report", "--json")
    assert "how sure it is" not in told.out
