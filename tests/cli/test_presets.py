"""``forgetkit presets``."""

from __future__ import annotations

import re

import pytest

from forgetkit.config import presets
from forgetkit.registry import registry


def test_the_list_marks_the_default(cli):
    said = cli("presets", "list")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == list(presets.NAMES)
    assert [line.endswith(" (default)") for line in lines] == [True, False, False, False]
    for name, line in zip(presets.NAMES, lines, strict=True):
        assert presets.summary(name) in line


def test_without_a_word_they_are_listed(cli):
    assert cli("presets") == cli("presets", "list")


def test_the_list_as_an_object(cli):
    listing = cli("presets", "list", "--json").json
    assert listing == {"default": "clean", "presets": {name: presets.summary(name) for name in presets.NAMES}}


@pytest.mark.parametrize("name", presets.NAMES)
def test_one_preset_says_what_it_sets_and_why(cli, name):
    said = cli("presets", "show", name)
    assert (said.status, said.err) == (0, "")
    heads = dict(line.split(": ") for line in said.out.splitlines() if re.match(r"[\w.-]+: \S+$", line))
    stated = [option for option, by_preset in presets.reasons().items() if name in by_preset]
    assert list(heads) == stated
    for option in stated:
        reason = presets.reasons()[option][name]
        assert f"{option}: {heads[option]}\n  {reason.says} ({reason.source})\n" in said.out


def test_one_preset_as_an_object(cli):
    about = cli("presets", "show", "paper", "--json").json
    assert (about["name"], about["summary"]) == ("paper", presets.summary("paper"))
    by_option = {entry["option"]: entry for entry in about["options"]}
    fresh = by_option["reinit.masked.fresh"]
    assert fresh["value"] == "uniform"
    assert fresh["source"] == "LURE paper, section 3"
    assert by_option["importance.snip.samples"]["value"] == 0.2
    assert "score-transform" not in by_option


def test_two_presets_show_only_what_sets_them_apart(cli):
    said = cli("presets", "show", "paper", "--against", "lure-code")
    assert (said.status, said.err) == (0, "")
    found = presets.differences("paper", "lure-code")
    assert said.out.startswith(f"paper | lure-code: {len(found)} differences\n")
    heads = [line for line in said.out.splitlines()[1:] if line and not line.startswith(" ")]
    assert [head.split(": ")[0] for head in heads] == [difference.option for difference in found]
    assert "score-on: finished | union" in heads
    assert "epochs" not in said.out
    for difference in found:
        for name, reason in (("paper", difference.reason), ("lure-code", difference.other_reason)):
            told = "silent; as clean" if reason is None else f"{reason.says} ({reason.source})"
            assert f"  {name:9}  {told}\n" in said.out


def test_what_nobody_sets_goes_by_a_rule(cli):
    said = cli("presets", "show", "clean", "--against", "alma")
    assert "lr: by rule | 0.01\n  clean  silent; by rule: 0.1 with sgd, 0.001 with adamw\n  alma   " in said.out


def test_two_presets_as_an_object(cli):
    about = cli("presets", "show", "alma", "--against", "lure-code", "--json").json
    assert (about["name"], about["against"]) == ("alma", "lure-code")
    by_option = {entry["option"]: entry for entry in about["differences"]}
    assert by_option["lr"]["alma"]["value"] == 0.01
    assert by_option["score-on"]["alma"] == {"value": "finished", "says": None, "source": None}
    assert by_option["score-on"]["lure-code"]["value"] == "union"
    assert by_option["score-on"]["lure-code"]["source"].startswith("LURE code")


def test_a_preset_does_not_differ_from_itself(cli):
    assert cli("presets", "show", "alma", "--against", "alma").out == "alma | alma: no differences\n"


@pytest.mark.parametrize("words", [["show", "papper"], ["show", "clean", "--against", "papper"]])
def test_an_unknown_preset_is_a_mistake(cli, words):
    said = cli("presets", *words)
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "forgetkit: no preset is called 'papper'; did you mean 'paper'? There are: alma, clean, lure-code, paper\n"
    )


def test_plugins_are_not_asked(cli, monkeypatch):
    monkeypatch.delattr(registry, "load")
    assert cli("presets", "show", "alma").status == 0


def test_it_reads_well_on_a_narrow_terminal(terminal):
    status, seen = terminal(["presets", "show", "clean", "--against", "lure-code"])
    assert status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in seen
    assert len(lines) > 3 * len(presets.differences("clean", "lure-code"))  # sentences wrap
    assert all(not line.strip() or re.match(r"\S|  \S| {13}\S", line) for line in lines)  # under a hanging indent
