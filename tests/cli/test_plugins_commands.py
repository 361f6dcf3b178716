"""``forgetkit plugins list``, ``show`` and ``check``; what the help costs; commands that two plugins offer."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from forgetkit.registry import registry

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import forgetkit
from forgetkit.contracts import Intervention

@dataclass(frozen=True)
class Size:
    """Magnitude, to a power.

    Formula: s = |θ|^power.

    power: of the magnitude.

    Cost: little.

    Source: here.
    """

    power: float = 1.0
    needs_data: ClassVar[bool] = False

    def score(self, probe):
        return {name: target.abs() ** self.power for name, target in probe.targets.items()}

@dataclass(frozen=True)
class Needy:
    """Needs to be told."""

    path: Path

    def score(self, probe):
        return probe.zeros()

@dataclass(frozen=True)
class Decay(Intervention):
    """Shrinks."""

    norms: bool = False

    @property
    def touches(self):
        return frozenset({"norm", "weights"} if self.norms else {"weights"})

    def after_step(self, moment):
        pass

    def begin(self, moment):
        pass

@dataclass(frozen=True)
class Zero:
    """Forgets all."""

    touches: ClassVar[frozenset] = frozenset({"biases", "weights"})

    def propose(self, context):
        yield from ()

@forgetkit.hookimpl
def forgetkit_importance():
    return {"size": Size, "needy": Needy}

@forgetkit.hookimpl
def forgetkit_interventions():
    return {"decay": Decay}

@forgetkit.hookimpl
def forgetkit_reinit():
    return {"zero": Zero, "size": Zero}
'''
COMMAND = """
import forgetkit, typer
app = typer.Typer(help="Be polite.")
@app.command()
def hello():
    "Greet."
    print("hello from", __name__)
@app.command()
def bye():
    "Leave."
@forgetkit.hookimpl
def forgetkit_commands():
    return {"greet": app}
"""
NAN = """
from dataclasses import dataclass
import forgetkit
@dataclass(frozen=True)
class Nan:
    "No numbers."
    def score(self, probe):
        print("scoring")
        return {name: target * float("nan") for name, target in probe.targets.items()}
@forgetkit.hookimpl
def forgetkit_importance():
    return {"nan": Nan}
"""


# What the help costs


@pytest.mark.children
@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["plugins", "list"], ["plugins"], ["plugins", "list", "--json"], ["plugins", "--help"]],
)
def test_the_help_and_the_list_read_metadata_only(install, workdir, words):
    modules = [install(f"dist-{number}", f"entry-{number}", "raise SystemExit('imported')") for number in range(3)]
    heavy = [
        "torch",
        "numpy",
        "forgetkit.registry.registry",
        "forgetkit.registry.spec",
        "forgetkit.config.plan",
        *modules,
    ]
    if words[0] != "plugins":
        heavy.append("pydantic")  # which typer itself takes to read arguments
    code = (
        "import sys, json; from forgetkit.cli import main; status = main(sys.argv[1:]); "
        f"print(json.dumps([m for m in {heavy} if m in sys.modules]), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(workdir / "site")},
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert ("dist-2" in done.stdout) == ("--help" not in words and "-h" not in words)


# list


def test_the_list_of_none(cli):
    said = cli("plugins", "list")
    assert (said.status, said.err) == (0, "")
    assert said.out == "no plugin is installed; forgetkit plugins new NAME --kind KIND begins one\n"
    assert cli("plugins", "list", "--json").json == {"plugins": []}


def test_the_list(install, cli, monkeypatch):
    module = install("b-dist", "b", "raise RuntimeError('now')", version="3.0")
    install("a-dist", "a", PLUGIN)
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "b")
    entries = cli("plugins", "list", "--json").json["plugins"]
    assert [entry["distribution"] for entry in entries] == ["a-dist", "b-dist"]
    assert entries[1] == {"plugin": "b", "distribution": "b-dist", "version": "3.0", "module": module, "disabled": True}
    assert not entries[0]["disabled"]
    said = cli("plugins", "list")
    (line,) = [line for line in said.out.splitlines() if "b-dist" in line]
    assert line.split() == ["b", "b-dist", "3.0", module, "disabled", "by", "FORGETKIT_DISABLE_PLUGINS"]
    assert cli("plugins").out == said.out


def test_the_list_of_what_each_offers(install, cli, monkeypatch):
    install("a-dist", "a", PLUGIN)
    install("b-dist", "b", "raise RuntimeError('now')")
    install("c-dist", "c", "raise RuntimeError('never')")
    install("d-dist", "d", NAN.replace('"nan"', '"snip"'))
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "c")
    said = cli("plugins", "list", "--load", "--json")
    assert (said.status, said.err) == (0, "")
    a, b, c, d = said.json["plugins"]
    assert {(offer["kind"], offer["name"]) for offer in a["offers"]} == {
        ("importance", "size"),
        ("importance", "needy"),
        ("interventions", "decay"),
        ("reinit", "zero"),
        ("reinit", "size"),
    }
    assert (a["left_out"], b["left_out"], b["offers"]) == (None, "RuntimeError: now", [])
    assert (c["disabled"], c["left_out"], c["offers"]) == (True, None, [])
    assert d["offers"] == [{"kind": "importance", "name": "d-dist/snip"}]
    text = cli("plugins", "list", "--load").out
    assert "zero (reinit)" in text
    assert "left out: RuntimeError: now" in text


# show


def test_a_component_without_its_kind_is_what_show_shows(cli):
    for words in (("--json",), ()):
        assert cli("plugins", "show", "masked", *words).out == cli("show", "reinit", "masked", *words).out
    assert cli("plugins", "show", "forgetkit/masked", "--json").json["name"] == "masked"


def test_the_facts_of_an_intervention(install, cli):
    install("a-dist", "a", PLUGIN)
    about = cli("plugins", "show", "decay", "--json").json
    assert (about["from"], about["version"], about["kind"]) == ("a-dist", "1.2", "interventions")
    assert list(about["acts"]) == ["begin", "after_step"]
    assert about["touches"] == ["weights"]
    assert about["needs_data"] is None
    said = cli("plugins", "show", "decay").out
    assert "decay (interventions, from a-dist 1.2)" in said
    assert "Touches: weights." in said
    assert "begin: act before the first step of each mega-batch" in said


def test_the_facts_of_criteria_and_ways_of_forgetting(install, cli):
    install("a-dist", "a", PLUGIN)
    size = cli("plugins", "show", "size", "--kind", "importance", "--json").json
    assert (size["needs_data"], size["touches"], size["acts"]) == (False, None, None)
    assert cli("plugins", "show", "snip", "--json").json["needs_data"] is True
    zero = cli("plugins", "show", "zero", "--json").json
    assert (zero["needs_data"], zero["touches"], zero["acts"]) == (False, ["weights", "biases"], None)
    assert "Data: looks at no samples.\nCost: little.\nSource: here.\n" in cli("show", "importance", "size").out
    assert "Touches: weights, biases." in cli("show", "reinit", "zero").out


@pytest.mark.parametrize("name", ["a", "a-dist"])
def test_all_that_a_plugin_offers(install, cli, name):
    install("a-dist", "a", PLUGIN)
    content = cli("plugins", "show", name, "--json").json
    assert content["name"] == name
    assert [about["name"] for about in content["components"]] == ["size", "needy", "zero", "size", "decay"]
    some = cli("plugins", "show", name, "--kind", "reinit", "--json").json
    assert [about["name"] for about in some["components"]] == ["zero", "size"]
    assert cli("plugins", "show", name).out.count("from a-dist 1.2)") == 5


def test_a_single_file_is_shown_too(plugin, cli):
    file = plugin("mine", PLUGIN)
    assert cli("plugins", "show", "decay", "--plugin", file, "--json").json["from"] == "mine"
    assert len(cli("plugins", "show", "mine", "--plugin", file, "--json").json["components"]) == 5


MISTAKES = {
    ("show", "xyz"): "no component and no plugin is called 'xyz'; there are: ",
    ("show", "maskd"): "did you mean 'masked'?",
    ("show", "size"): "'size' is a name in several kinds: write --kind importance or --kind reinit",
    ("show", "masked", "--kind", "importance"): "no importance criterion is called 'masked'; ",
    ("show", "masked", "--kind", "nothing"): "no kind of component is called 'nothing'",
    ("show", "bad"): "plugin 'bad' of bad-dist is left out: RuntimeError: now",
    ("show", "idle-dist"): "plugin 'idle' of idle-dist is disabled by FORGETKIT_DISABLE_PLUGINS",
    ("check", "snip:samples=4", "--option", "samples=5"): "the option 'samples' is given twice",
    ("check", "snip", "--option", "samples=4", "--option", "samples=5"): "--option samples is given twice",
    ("check", "snip:4", "--option", "samples=5"): "both set 'samples'",
    ("check", "snip", "--option", "samples"): "--option samples: write KEY=VALUE",
    ("check", "snip", "--option", "sample=3"): "snip has no option 'sample'; did you mean 'samples'?",
    ("check", "a", "--option", "power=3"): "'a' is a plugin: options are given to one of its components",
    ("check", "needy"): "needy needs the option 'path'",
    ("check", "magnitude", "--expect", "runz"): "--expect: no promise is called 'runz'; did you mean 'runs'?",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_said_in_one_line(install, cli, monkeypatch, words):
    install("a-dist", "a", PLUGIN)
    install("bad-dist", "bad", "raise RuntimeError('now')")
    install("idle-dist", "idle", PLUGIN)
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "idle")
    said = cli("plugins", *words)
    assert (said.status, said.out) == (2, "")
    warning, line = said.err.splitlines()
    assert warning == "forgetkit: plugin 'bad' of bad-dist is left out: RuntimeError: now"
    assert MISTAKES[words] in line


# check


def test_a_sound_component_keeps_every_promise(cli):
    said = cli("plugins", "check", "magnitude", "--json")
    assert (said.status, said.err) == (0, "")
    (one,) = said.json["components"]
    assert (one["kind"], one["name"], one["not_checked"]) == ("importance", "magnitude", None)
    assert {promise["status"] for promise in one["promises"]} <= {"kept", "not applicable"}
    assert said.json["counts"]["kept"] == sum(promise["status"] == "kept" for promise in one["promises"]) > 10
    text = cli("plugins", "check", "magnitude")
    assert text.status == 0
    lines = text.out.splitlines()
    assert lines[0] == f"{one['spec']} (importance)"
    # Those of an intervention, which it is not, stand in one line.
    watching = [promise for promise in one["promises"] if promise["promise"].startswith("while-training-")]
    others = [promise for promise in one["promises"] if promise not in watching]
    (folded,) = [line for line in lines if "while-training-" in line]
    assert f"while-training-runs to {watching[-1]['promise']}, {len(watching)} promises: " in folded
    assert folded.endswith(watching[0]["reason"])
    rest = [line for line in lines[1:-1] if line != folded]
    for line, promise in zip(rest, others, strict=True):
        assert line.startswith(f"  {promise['status']:<14}  {promise['promise']}: ")
        assert line.endswith(promise["reason"] or promise["text"])
    assert lines[-1].startswith(f"{said.json['counts']['kept']} kept")


@pytest.mark.slow
def test_check_reports_broken_promise_by_reason_and_exit_status(plugin, cli):
    file = plugin("bad", NAN)
    said = cli("plugins", "check", "nan", "--plugin", file, "--json")
    assert said.status == 1
    broken = {p["promise"]: p["reason"] for p in said.json["components"][0]["promises"] if p["status"] == "broken"}
    assert "finite" in broken
    assert all(broken.values())
    assert said.json["counts"]["broken"] == len(broken)
    assert "scoring" in said.err
    text = cli("plugins", "check", "nan", "--plugin", file)
    assert text.status == 1
    assert f"  broken          finite: {broken['finite']}" in text.out.splitlines()
    assert f", {len(broken)} broken" in text.out.splitlines()[-1]
    expected = [word for promise in broken for word in ("--expect", promise)]
    said = cli("plugins", "check", "nan", "--plugin", file, *expected, "--json")
    assert said.status == 0
    assert said.json["counts"]["expected"] == len(broken)
    assert "broken" not in said.json["counts"]


@pytest.mark.parametrize("words", [("size:power=2",), ("size", "--option", "power=2"), ("size:2",)])
def test_options_of_what_is_checked(plugin, cli, words):
    name, *options = words
    file = plugin("mine", PLUGIN)
    said = cli("plugins", "check", name, *options, "--kind", "importance", "--plugin", file, "--json")
    assert said.json["components"][0]["spec"] == "size:power=2.0"


@pytest.mark.slow
def test_check_covers_a_whole_plugin_and_lists_what_it_skips(plugin, cli):
    file = plugin("mine", PLUGIN + COMMAND)
    said = cli("plugins", "check", "mine", "--plugin", file, "--json")
    about = {(one["kind"], one["name"]): one for one in said.json["components"]}
    assert about["importance", "needy"]["not_checked"] == "it needs the option 'path': check it by itself"
    assert about["commands", "greet"]["not_checked"] == "commands make no promises"
    assert about["importance", "size"]["promises"]
    assert said.json["counts"]["not checked"] >= 2
    text = cli("plugins", "check", "mine", "--plugin", file, "--kind", "commands")
    assert (text.status, text.out) == (
        0,
        "greet (commands)\n  not checked: commands make no promises\n1 not checked\n",
    )


# Commands


def test_a_command_is_shown(install, cli):
    install("polite", "polite", COMMAND)
    about = cli("show", "commands", "greet", "--json").json
    assert about == {
        "kind": "commands",
        "name": "greet",
        "from": "polite",
        "version": "1.2",
        "about": "Be polite.",
        "commands": {"hello": "Greet.", "bye": "Leave."},
    }
    said = cli("plugins", "show", "greet")
    assert said.out == cli("show", "commands", "greet").out
    assert "Its options: forgetkit greet --help" in said.out
    assert "hello  Greet." in said.out
    assert cli("show", "commands", "--json").json == {"commands": {"greet": "Be polite."}}


def test_two_commands_of_one_name_are_told_apart(install, cli):
    one = install("one", "one", COMMAND)
    two = install("two", "two", COMMAND)
    said = cli("greet", "hello")
    assert (said.status, said.out) == (2, "")
    assert "two plugins offer the command 'greet': write one/greet or two/greet" in said.err
    assert cli("one/greet", "hello").out == f"hello from {one}\n"
    assert cli("two/greet", "hello").out == f"hello from {two}\n"


def test_plugin_command_has_two_names_and_replaces_no_built_in(install, cli):
    module = install("one", "one", COMMAND)
    assert cli("one/greet", "hello").out == cli("greet", "hello").out == f"hello from {module}\n"
    pirate = install("pirate", "pirate", COMMAND.replace('"greet"', '"plugins"'))
    assert cli("pirate/plugins", "hello").out == f"hello from {pirate}\n"
    assert cli("plugins", "hello").status == 2


def test_kinds_may_be_named_in_the_singular():
    singular = {"importance": "importance", "replay": "replay", "analyses": "analysis", "commands": "command"}
    for kind in registry.KINDS:
        assert registry.parse_kind(kind) == registry.parse_kind(singular.get(kind, kind.removesuffix("s"))) == kind


@pytest.mark.parametrize(
    "words", [("show", "decay"), ("check", "size", "--kind", "importance"), ("list", "--load")], ids=" ".join
)
def test_the_answer_is_one_object_whatever_a_plugin_prints(install, cli, words):
    install("loud", "loud", "print('importing')\n" + PLUGIN)
    said = cli("plugins", *words, "--json")
    assert json.loads(said.out)
    assert said.err == "importing\n"
