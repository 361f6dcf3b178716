"""Plugins: found by their entry points, isolated from each other, named apart, and held to their promises."""

from __future__ import annotations

import hashlib
import json

import pytest

from forgetkit.registry import registry


def criterion(name, body="return {n: t.abs() for n, t in probe.targets.items()}", before=""):
    """The source of a module that offers one importance criterion."""
    return f"""
import dataclasses, forgetkit, torch

@dataclasses.dataclass(frozen=True)
class Criterion:
    \"\"\"A criterion of the tests.\"\"\"

    samples: int = 8

    def score(self, probe):
        {body}

{before}
@forgetkit.hookimpl
def forgetkit_importance():
    return {{"{name}": Criterion}}
"""


def test_an_installed_criterion_is_found_and_runs(install, tiny):
    install("good-dist", "good", criterion("size"))
    result = tiny("--importance", "size:samples=4", "--json")
    assert (result.status, result.json["status"]) == (0, "completed")
    assert result.json["config"]["importance"] == "size:samples=4"
    assert result.json["method"] == "size+masked"
    assert result.json["versions"]["plugins"] == {"good-dist": "1.2"}


def test_it_is_shown(install, cli):
    install("good-dist", "good", criterion("size"))
    assert cli("show", "importance", "--json").json["importance"]["size"] == "A criterion of the tests."
    assert cli("show", "importance", "size", "--json").json["from"] == "good-dist"


def test_being_installed_changes_no_experiment(install, tiny, substance):
    before = tiny("--json").json
    install("good-dist", "good", criterion("size"))
    after = tiny("--json").json
    assert after["versions"]["plugins"] == {"good-dist": "1.2"}
    assert substance(after) == substance(before)


HOOK = "import forgetkit\n@forgetkit.hookimpl\n"
BROKEN = {
    "raises on import": ("raise ValueError('first\\nsecond')", "ValueError: first"),
    "leaves on import": ("import sys; sys.exit('gone')", "SystemExit: gone"),
    "imports what is not there": ("import nosuchmodule", "No module named 'nosuchmodule'"),
    "is no Python": ("def (", "SyntaxError"),
    "raises in its hook": (HOOK + "def forgetkit_models():\n    raise KeyError('why')", "KeyError: 'why'"),
    "leaves in its hook": (HOOK + "def forgetkit_models():\n    raise SystemExit(3)", "SystemExit: 3"),
    "returns a list": (HOOK + "def forgetkit_models():\n    return [int]", "must return a mapping"),
    "offers what is no class": (
        HOOK + "def forgetkit_models():\n    return {'m': 3}",
        "offers 'm', which is not a class",
    ),
    "misspells a hook": (HOOK + "def forgetkit_model():\n    return {}", "forgetkit_model'"),
    "wants an argument": (HOOK + "def forgetkit_models(inputs):\n    return {}", "forgetkit_models"),
    "does both": (
        HOOK + "def forgetkit_aaa():\n    return {}\n@forgetkit.hookimpl\ndef forgetkit_models(x):\n    return {}",
        "forgetkit_models",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_plugin_is_reported_in_one_line_and_run_goes_on(install, tiny, how):
    source, reason = BROKEN[how]
    install("bad-dist", "bad", source)
    install("good-dist", "good", criterion("size"))
    said = tiny("--importance", "size", "--quiet", "--json")
    assert said.status == 0
    assert said.json["versions"]["plugins"] == {"good-dist": "1.2"}
    assert said.err.count("\n") == 1
    assert said.err.startswith("forgetkit: plugin 'bad' of bad-dist is left out: ")
    assert reason in said.err


def test_all_of_them_at_once(install, tiny, cli):
    for number, (source, _) in enumerate(BROKEN.values()):
        install(f"bad{number}", "bad", source)
    install("zgood", "good", criterion("size"))
    said = tiny("--importance", "size", "--quiet")
    assert said.status == 0
    assert said.err.count("is left out") == said.err.count("\n") == len(BROKEN)
    shown = cli("show", "--json")
    assert "size" in shown.json["importance"]
    assert shown.err == said.err


def test_unknown_component_error_mentions_the_broken_plugin(install, tiny):
    install("bad-dist", "bad", "import nosuchmodule")
    said = tiny("--importance", "theirs", "--quiet")
    assert said.status == 2
    assert "no importance criterion is called 'theirs'" in said.err
    assert said.err.splitlines()[-1].endswith(
        "plugin 'bad' of bad-dist is left out: ModuleNotFoundError: No module named 'nosuchmodule'"
    )


def test_metadata_that_is_gone(install, tiny, workdir):
    install("good-dist", "good", criterion("size"))
    (workdir / "site" / "good_dist-1.2.dist-info" / "METADATA").unlink()
    said = tiny("--importance", "size", "--json")
    assert said.status == 0
    assert said.json["versions"]["plugins"] == {"good_dist_plugin": "unknown"}


@pytest.mark.slow
def test_a_plain_name_means_the_builtin(install, tiny, cli, substance):
    before = substance(tiny("--json").json)
    install("pirate", "p", criterion("snip"))
    assert substance(tiny("--json").json)["mega_batches"] == before["mega_batches"]
    theirs = tiny("--importance", "pirate/snip:samples=4", "--json").json
    assert theirs["config"]["importance"] == "pirate/snip:samples=4"
    assert theirs["mega_batches"] != before["mega_batches"]
    ours = tiny("--importance", "forgetkit/snip", "--json").json
    assert substance(ours)["mega_batches"] == before["mega_batches"]
    listing = cli("show", "importance", "--json").json["importance"]
    assert {"snip", "pirate/snip"} <= listing.keys()


@pytest.mark.slow
def test_a_name_that_two_offer(install, tiny):
    install("one", "a", criterion("same", "return {n: t.abs() for n, t in probe.targets.items()}"))
    install("two", "b", criterion("same", "return {n: -t.abs() for n, t in probe.targets.items()}"))
    said = tiny("--importance", "same", "--quiet")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "two plugins offer the importance criterion 'same': write one/same or two/same" in said.err
    one, two = (tiny("--importance", f"{who}/same", "--json").json for who in ("one", "two"))
    assert one["mega_batches"] != two["mega_batches"]
    alone = tiny("--importance", "same", "--no-plugin", "two", "--json").json
    assert alone["mega_batches"][0]["unlearn"]["layers"] == one["mega_batches"][0]["unlearn"]["layers"]


@pytest.mark.parametrize("name", ["bad", "bad-dist"])
def test_a_plugin_that_is_left_out_is_not_even_imported(install, tiny, name):
    install("bad-dist", "bad", "raise SystemExit('imported')")
    said = tiny("--no-plugin", name, "--json", "--quiet")
    assert (said.status, said.err) == (0, "")
    assert said.json["versions"]["plugins"] == {}


def test_no_plugin_with_an_unknown_name_suggests_installed_ones(install, tiny):
    install("good-dist", "good", criterion("size"))
    said = tiny("--no-plugin", "goood", "--quiet")
    assert said.status == 2
    assert "did you mean 'good'?" in said.err


def test_a_file_is_a_plugin_too(plugin, tiny, workdir):
    said = tiny("--plugin", plugin("mine", criterion("size")), "--importance", "mine/size", "--json")
    digest = hashlib.sha256((workdir / "mine.py").read_bytes()).hexdigest()[:12]
    assert said.json["versions"]["plugins"] == {"mine": f"file {digest}"}


def test_one_broken_plugin_does_not_spoil_the_next(install):
    install("a-dist", "a", BROKEN["does both"][0])
    install("b-dist", "b", criterion("size"))
    offers = registry.load()
    assert [broken.plugin for broken in offers.broken] == ["a"]
    assert offers.find("importance", "size").distribution == "b-dist"


# Commands


COMMAND = """
import forgetkit, typer
app = typer.Typer()
@app.command()
def hello(name: str = "you"):
    "Greet."
    print("hello", name)
@app.command()
def fail():
    raise typer.Exit(7)
@forgetkit.hookimpl
def forgetkit_commands():
    return {"greet": app}
"""


def test_a_plugin_may_add_a_command(install, cli):
    install("polite", "polite", COMMAND)
    said = cli("greet", "hello", "--name", "her")
    assert (said.status, said.out, said.err) == (0, "hello her\n", "")
    assert cli("greet", "fail").status == 7
    assert "Greet." in cli("greet", "--help").out
    assert cli("show", "commands", "--json").json["commands"].keys() == {"greet"}


def test_it_cannot_take_the_place_of_our_own(install, cli):
    install("pirate", "p", COMMAND.replace('"greet"', '"show"'))
    assert "importance" in cli("show", "--json").json


def test_a_command_that_is_none_is_left_out(install, cli):
    install("odd", "odd", HOOK + "def forgetkit_commands():\n    return {'odd': 3}")
    install("polite", "polite", COMMAND)
    said = cli("greet", "hello")
    assert (said.status, said.out) == (0, "hello you\n")
    assert said.err == "forgetkit: the command 'odd' of odd is left out: it is no typer.Typer\n"


def test_a_command_of_a_broken_plugin_says_why_it_is_not_there(install, cli):
    install("bad-dist", "bad", "import nosuchmodule")
    said = cli("theirs")
    assert said.status == 2
    first, second = said.err.splitlines()
    assert first.startswith("forgetkit: plugin 'bad' of bad-dist is left out: ")
    assert "theirs" in second


# Promises


OBSERVER = """
import dataclasses, forgetkit, pathlib
@dataclasses.dataclass(frozen=True)
class Observer:
    path: pathlib.Path
    kinds: str = ""
    def notify(self, event):
        name = type(event).__name__
        with self.path.open("a") as file:
            file.write(name + chr(10))
        if name == self.kinds:
            raise RuntimeError("enough" + chr(10) + "of it")
@forgetkit.hookimpl
def forgetkit_observers():
    return {"listen": Observer}
"""


def test_an_observer_hears_every_event(plugin, tiny, workdir):
    said = tiny("--plugin", plugin("obs", OBSERVER), "--observer", f"listen:{workdir / 'heard'}", "--quiet")
    assert (said.status, said.err) == (0, "")
    heard = (workdir / "heard").read_text().split()
    assert [name for name in heard if name != "StepProgress"] == [
        "RunStarted",
        "MegaBatchRevealed",
        "EpochEnded",
        "Unlearned",
        "MegaBatchEnded",
        "Checkpointed",
        "MegaBatchRevealed",
        "EpochEnded",
        "MegaBatchEnded",
        "RunEnded",
    ]


def test_an_observer_that_raises_is_detached_and_the_run_goes_on(plugin, start, workdir, tiny_words, result_of):
    words = ["--plugin", plugin("obs", OBSERVER), "--observer", f"listen:{workdir / 'heard'},kinds=Unlearned"]
    child = start([*tiny_words, *words, "--observer", f"listen:{workdir / 'all'}", "--quiet", "--name", "r"])
    assert child.wait() == 0
    named = f"listen:{workdir / 'heard'},kinds=Unlearned (obs.py)"
    assert (workdir / "stderr").read_text() == f"forgetkit: observer {named} is detached: RuntimeError: enough\n"
    assert (workdir / "heard").read_text().split()[-1] == "Unlearned"
    assert (workdir / "all").read_text().split()[-1] == "RunEnded"
    assert result_of(workdir / "runs" / "r")["status"] == "completed"


PROMISES = {
    "NaN": ("return {n: t * float('nan') for n, t in probe.targets.items()}", "holds NaN or infinity"),
    "a changed model": (
        "[t.add_(1) for t in probe.targets.values()]; return {n: t.abs() for n, t in probe.targets.items()}",
        "changed the parameter",
    ),
    "too few scores": ("return {}", "gave no score for"),
    "a list": ("return []", "not a mapping"),
    "another shape": ("return {n: t.flatten()[:1] for n, t in probe.targets.items()}", "has shape"),
    "whole numbers": ("return {n: t.int() for n, t in probe.targets.items()}", "not a tensor of floats"),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_criterion_breaking_a_promise_is_refused_before_writing(plugin, tiny, workdir, promise):
    body, reason = PROMISES[promise]
    said = tiny("--plugin", plugin("bad", criterion("bad", body)), "--importance", "bad", "--quiet")
    assert (said.status, said.out) == (1, "")
    assert said.err.count("\n") == 1
    assert said.err.startswith("forgetkit: bad (bad.py)")
    assert reason in said.err
    assert not (workdir / "runs").exists()


@pytest.mark.parametrize("promise", ["NaN", "a changed model", "too few scores"])
def test_one_that_breaks_it_later_stops_the_run(plugin, tiny, workdir, promise):
    body, reason = PROMISES[promise]
    good = "return {n: t.abs() for n, t in probe.targets.items()}"
    late = f"calls.append(1)\n        if len(calls) == 1:\n            {good}\n        {body}"
    said = tiny(
        *("--plugin", plugin("bad", criterion("bad", late, before="calls = []"))),
        *("--importance", "bad", "--quiet", "--name", "r"),
    )
    assert (said.status, said.out) == (1, "")
    assert said.err.count("\n") == 1
    assert said.err.startswith("forgetkit: after mega-batch 1: bad (bad.py)")
    assert reason in said.err
    run = workdir / "runs" / "r"
    assert not (run / "result.json").exists()
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert events == ["run_started", "mega_batch_revealed", "epoch_ended"]
    assert (run / "checkpoints" / "mega-batch-001.pt").exists()


def test_a_run_that_a_plugin_stopped_goes_on_once_it_is_mended(plugin, tiny, workdir, substance, digests):
    good = "return {n: t.abs() for n, t in probe.targets.items()}"
    bad = f"calls.append(1)\n        if len(calls) == 2:\n            return {{}}\n        {good}"
    mended, broken = criterion("mine", good), criterion("mine", bad, before="calls = []")
    whole = tiny("--plugin", plugin("mine", mended), "--importance", "mine", "--json", "--name", "whole").json
    assert tiny("--plugin", plugin("mine", broken), "--importance", "mine", "--name", "r").status == 1
    said = tiny("--plugin", plugin("mine", mended), "--resume", workdir / "runs" / "r", "--json")
    assert said.status == 0, said.err
    assert substance(said.json) == substance(whole)
    assert digests(workdir / "runs" / "r") == digests(workdir / "runs" / "whole")


METRIC = """
import dataclasses, forgetkit, torch
import numpy as np
@dataclasses.dataclass(frozen=True)
class Metric:
    value: str = "1.5"
    def compute(self, rows):
        return eval(self.value)
@forgetkit.hookimpl
def forgetkit_metrics():
    return {"my-number": Metric}
"""


SCALARS = {
    "1.5": 1.5,
    "len(rows)": 2,
    "None": None,
    "np.float32(0.5)": 0.5,
    "np.float64(0.5)": 0.5,
    "np.mean([0.5 for row in rows])": 0.5,
    "np.int64(3)": 3,
    "np.array(0.5)": 0.5,
    "torch.tensor(0.5).requires_grad_()": 0.5,
    "torch.tensor(3)": 3,
    "torch.tensor(0.5).bfloat16()": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("value", SCALARS)
def test_a_metric_of_ones_own(plugin, tiny, value):
    said = tiny("--plugin", plugin("m", METRIC), "--metric", f"my-number:{value}", "--json")
    assert (said.json["my_number"], type(said.json["my_number"])) == (SCALARS[value], type(SCALARS[value]))


@pytest.mark.parametrize("value", ["float('nan')", "np.float32('inf')", "str(1)", "[1]", "1 / 0", "True", "np.ones(1)"])
def test_failing_metric_is_left_empty_and_the_run_completes(plugin, tiny, value, caplog):
    said = tiny("--plugin", plugin("m", METRIC), "--metric", f"my-number:{value}", "--json")
    assert said.status == 0
    assert said.json["my_number"] is None
    assert said.json["status"] == "completed"
    assert caplog.text.count("the metric my-number is left empty: ") == 1


def test_metrics_that_would_hide_something(plugin, tiny):
    path = plugin("m", METRIC)
    said = tiny("--plugin", path, "--metric", "my-number:1", "--metric", "my-number:2", "--quiet")
    assert said.status == 2
    assert "the result has another entry of that name" in said.err
    path.write_text(METRIC.replace("my-number", "mega-batches"))
    assert tiny("--plugin", path, "--metric", "mega-batches", "--quiet").status == 2


def test_name_shared_by_a_plugin_file_means_the_built_in(plugin, tiny):
    said = tiny("--plugin", plugin("mine", criterion("snip")), "--importance", "snip")
    assert said.status == 0
    assert "'snip' means the built-in; write mine/snip for the file's" in said.err


RESETS = """
import dataclasses, forgetkit, torch
from forgetkit.contracts import Change, Intervention
@dataclasses.dataclass(frozen=True)
class Zero(Intervention):
    "Zero three weights at the end of each epoch."
    def after_epoch(self, moment):
        name, weight = next(iter(moment.context.targets.items()))
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask.view(-1)[:3] = True
        moment.apply([Change(name, mask, torch.zeros_like(weight))])
@forgetkit.hookimpl
def forgetkit_interventions():
    return {"zero": Zero}
"""


@pytest.mark.slow
def test_what_an_intervention_resets_is_recorded(plugin, cli, tiny_words):
    words = [w if w != "1" else "2" for w in tiny_words]  # two epochs, two threads
    said = cli(*words, "--plugin", plugin("z", RESETS), "--method", "warm", "--intervention", "zero", "--json")
    assert said.status == 0, said.err
    assert [row["interventions"] for row in said.json["mega_batches"]] == [{"zero": 6}, {"zero": 6}]
    assert "warm+zero" in said.json["run"]
    text = cli(*words, "--plugin", "z.py", "--method", "warm", "--intervention", "zero")
    assert "warm with zero, on synthetic" in text.out + text.err
    assert "6 by zero meanwhile" in text.out + text.err


FAULTS = {
    "raises in propose": (
        "def propose(self, context):\n        raise KeyError('late')\n        yield",
        1,
        "r (r.py) raised KeyError: 'late' in",
    ),
    "raises at once": (
        "def propose(self, context):\n        raise KeyError('now')",
        1,
        "method r (r.py) raised KeyError: 'now' in",
    ),
    "leaves": (
        "def propose(self, context):\n        raise SystemExit(7)",
        1,
        "method r (r.py) raised SystemExit: 7 in",
    ),
    "yields nothing it should": (
        "def propose(self, context):\n        yield None",
        1,
        "r (r.py) proposed NoneType, not a Change",
    ),
    "chooses with a list": (
        "def propose(self, context):\n        return context.reset_units({context.units[0].name: [0]})",
        2,
        "by a bool tensor of shape",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_method_is_one_line_that_names_it(plugin, cli, fault):
    body, status, words = FAULTS[fault]
    source = (
        "import dataclasses, forgetkit\n@dataclasses.dataclass(frozen=True)\nclass R:\n    'A method.'\n"
        f"    {body}\n@forgetkit.hookimpl\ndef forgetkit_reinit():\n    return {{'r': R}}\n"
    )
    data = ["--dataset", "synthetic:samples=60,test=20,size=8", "--model", "convnet:width=4", "--epochs", "1"]
    said = cli("run", *data, "--mega-batches", "2", "--plugin", plugin("r", source), "--reinit", "r", "--quiet")
    assert (said.status, said.err.count("\n")) == (status, 1)
    assert words in said.err


def test_plugin_hook_with_parameters_is_left_out(install, tiny):
    install("asks", "asks", "import forgetkit\n@forgetkit.hookimpl\ndef forgetkit_importance(config):\n    return {}")
    assert "is left out: a hook takes no parameters: write def forgetkit_importance():" in tiny().err


def test_an_intervention_that_never_acts_is_left_out(install, tiny):
    source = RESETS.replace("after_epoch", "after_epochs")
    install("idle", "idle", source)
    assert "never acts: class Zero has none of begin, loss, before_step, after_step, after_epoch" in tiny().err
