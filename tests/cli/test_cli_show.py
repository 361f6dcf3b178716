"""``forgetkit show``, ``--help`` and ``--version``."""

from __future__ import annotations

import subprocess
import sys

import pytest

import forgetkit
from forgetkit import registry
from forgetkit.config import RunConfig


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["show", "--help"], ["--version"]])
def test_asking_what_there_is_does_not_import_torch(words, workdir):
    code = (
        "import sys; from forgetkit.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_version(cli):
    said = cli("--version")
    assert (said.status, said.out, said.err) == (0, f"{forgetkit.__version__}\n", "")


def test_no_words_at_all_are_a_call_for_help(cli):
    said = cli()
    assert (said.status, said.err) == (0, "")
    assert said.out == cli("--help").out


def test_the_help_of_run_names_every_option(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("run", "--help").out
    singular = {"interventions": "intervention", "metrics": "metric", "observers": "observer"}
    for key in RunConfig.model_fields:
        assert f"--{singular.get(key, key).replace('_', '-')} " in text
    for flag in ("--config", "--set", "--resume", "--dry-run", "--json", "--quiet", "--no-plugin", "--plugin"):
        assert f"{flag} " in text


def test_all_there_is(cli):
    said = cli("show")
    assert (said.status, said.err) == (0, "")
    for offer in registry.load(entry_points=False).offers:
        assert offer.name in said.out
        assert offer.summary in said.out


def test_all_there_is_as_an_object(cli):
    listing = cli("show", "--json").json
    offers = registry.load(entry_points=False)
    assert list(listing) == [kind for kind in registry.KINDS if offers.named(kind)]
    assert listing["reinit"]["cold"].startswith("Cold start")


@pytest.mark.parametrize(("kind", "name"), [("importance", "snip"), ("models", "convnet"), ("model", "convnet")])
def test_one_kind(cli, kind, name):
    said = cli("show", kind)
    assert said.status == 0
    assert name in said.out
    assert "masked" not in said.out


def test_a_kind_that_nobody_offers_is_empty(cli):
    said = cli("show", "executors", "--json")
    assert (said.status, said.json) == (0, {"executors": {}})
    assert cli("show", "executors").status == 0


def test_one_component(cli):
    said = cli("show", "reinit", "masked")
    assert said.status == 0
    assert "masked (reinit, from forgetkit)" in said.out
    assert "θ ← M ⊙ θ + (1 − M) ⊙ ξ" in said.out
    row = next(line for line in said.out.splitlines() if line.split()[:1] == ["fraction"] and "float" in line)
    assert row.split() == ["fraction", "float", "≥", "0,", "≤", "1", "0.2"]


def test_one_component_as_an_object(cli):
    about = cli("show", "replay", "buffer", "--json").json
    assert (about["kind"], about["name"], about["from"]) == ("replay", "buffer", "forgetkit")
    assert about["about"].startswith("Keep a few samples")
    assert about["options"] == [
        {"name": "size", "type": "int", "range": "≥ 1", "default": "186"},
        {"name": "rule", "type": "str", "range": "reservoir | grow", "default": "reservoir"},
    ]


def test_every_component_can_be_shown(cli):
    for offer in registry.load(entry_points=False).offers:
        said = cli("show", offer.kind, offer.name)
        assert said.status == 0, said
        assert offer.summary in said.out


def test_a_required_option_says_so(cli):
    assert cli("show", "dataset", "folder", "--json").json["options"][0]["default"] == "required"
