"""The page read back by html.parser: whole, policed, deaf to what users and exceptions have written."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import plausible
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_plots import HOSTILE, made, oddities, stream

from forgetkit.ablate import plots
from forgetkit.ablate.outcome import Outcome, Outcomes
from forgetkit.ablate.render.words import plain
from forgetkit.ablate.report import alone, page
from forgetkit.ablate.report.facts import gather
from forgetkit.ablate.table import make
from forgetkit.errors import RunDirectoryError
from forgetkit.record import write_sealed

VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, texts by the section and by the element they stand in; balanced, or it raises."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.section = ""
        self.goes_on = False
        self.texts: dict[str, list[str]] = {}
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.goes_on = tag == "wbr"
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if data.strip():
            texts = self.texts.setdefault(self.section, [])
            before = texts.pop() if self.goes_on else ""
            texts.append(before + " ".join(data.split()))
            self.goes_on = False
            self.inside.setdefault(self.open[-1], []).append(data)


def read(outcomes: Outcomes, *, drawn: bool = True) -> Page:
    return Page(page(outcomes, make(outcomes), plots.pictures(outcomes) if drawn else None))


@pytest.fixture(scope="module")
def ordinary():
    return read(plausible.outcomes(plausible.THREE, lost=plausible.LOST, baseline={"importance": "random"}))


def test_the_page_has_its_sections_and_its_pictures(ordinary):
    sections = [attributes["id"] for tag, attributes in ordinary.elements if tag == "section"]
    assert sections == ["results", "lost", "pictures", "configuration", "departures", "provenance"]
    assert sum(tag == "svg" for tag, _ in ordinary.elements) == 4
    ids = [attributes["id"] for _, attributes in ordinary.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_the_page_asks_for_nothing(ordinary):
    for tag, attributes in ordinary.elements:
        assert tag not in ("iframe", "object", "embed", "img", "base", "form")
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            assert key != "style", tag
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:,", "data:image/png;")), (tag, value)
    assert "@import" not in "".join(ordinary.inside["style"])
    assert "url(" not in "".join(ordinary.inside["style"])


def test_the_policy_lets_its_own_style_and_script_act_and_nothing_else(ordinary):
    (policy,) = [a["content"] for _, a in ordinary.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for part in ("style", "script"):
        (content,) = ordinary.inside[part]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{part}-src"] == f"'sha256-{digest}'"


def test_the_page_counts_cells_and_says_what_was_lost(ordinary):
    assert ordinary.inside["title"] == ordinary.inside["h1"] == ["Which criterion, which reset?"]
    text = " ".join(ordinary.texts[""])
    assert "9 cells: 3 arms, 3 seeds (0, 1, 2); baseline importance=random." in text
    assert "6 completed 1 failed 1 diverged 1 missing" in text
    lost = " ".join(ordinary.texts["lost"])
    assert "fisher 1 failed loss.backward() ran out of memory" in lost
    assert "random 2 missing not run yet" in lost


def test_options_are_told_apart_by_whether_arms_agree():
    facts = gather(plausible.outcomes(plausible.THREE, lost=plausible.LOST))
    assert facts.config.differ == ("importance",)
    assert facts.config.rows == tuple((name, (name,)) for name in plausible.THREE["importance"])
    shared = dict(facts.config.shared)
    assert shared == {
        "preset": "clean",
        "method": "lure",
        "mega_batches": "8",
        "epochs": "10",
        "milestones": "4, 8",
        "shots": "none",
    }
    assert facts.departures.shared == (("epochs", "10 (50)"),)
    assert facts.departures.rows[0] == ("snip", ("snip (none)",))


def configured(**options: list) -> Outcomes:
    """An arm per value."""
    arms = [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)]
    return made({f"arm {place}": [{"method": "label", "config": own}] for place, own in enumerate(arms)})


def test_of_components_that_differ_only_the_options_that_differ_are_shown():
    masked = "masked:fraction={},which={},fresh=original"
    found = [masked.format(0.2, "lowest"), masked.format(0.5, "lowest"), "shrink-perturb:shrink=0.4,noise=0.1", "none"]
    facts = gather(configured(reinit=found, replay=["buffer:size=5,of=all"] * 4))
    shown = ["masked:fraction=0.2", "masked:fraction=0.5", "shrink-perturb", "none"]
    assert [values for _, values in facts.config.rows] == [(one,) for one in shown]
    assert facts.config.shared == (("replay", "buffer:size=5,of=all"),)


@pytest.mark.parametrize(
    "found", [["m:a=1", "m:a=1 "], ["m:a=1,b=2", "m:b=2,a=1"], ["cuda:0", "cuda:1"], ["", "m:"], ["a,b", "a:"]]
)
def test_values_that_differ_never_look_alike(found):
    rows = gather(configured(option=found)).config.rows
    assert len({values for _, values in rows}) == len({plain(one) for one in found}) or not rows


@given(st.lists(st.from_regex(r"[ab](:([xy]=[12],)?z=[12])?", fullmatch=True), min_size=2, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_shortened_values_tell_arms_apart(found):
    rows = gather(configured(option=found)).config.rows
    assert len({values for _, values in rows}) == len(found)
    assert all(
        set(re.split("[:,]", short)) <= set(re.split("[:,]", full))
        for full, (_, (short,)) in zip(found, rows, strict=True)
    )


def test_a_method_without_a_name_of_its_own_has_the_results_label():
    facts = gather(configured(method=["lure", None], importance=["snip", "fisher"]))
    assert [values for _, values in facts.config.rows] == [("lure", "snip"), ("label", "fisher")]


def test_the_differences_are_on_the_page(ordinary):
    text = " ".join(ordinary.texts["results"])
    assert "Difference to importance=random" in text
    assert text.count("– too few seeds") == 6  # two arms by three numbers


def test_cells_of_different_versions_are_told():
    outcomes = plausible.outcomes({"importance": ("snip",)}, seeds=2)
    outcomes.cells[1].result["versions"]["torch"] = "2.9.0"
    outcomes.cells[1].result["versions"]["plugins"] = {}
    found = dict(gather(outcomes).versions)
    assert found["torch"] == "2.7.0 | 2.9.0"
    assert found["forgetkit-saliency"] == "0.1.0"


def test_the_same_outcomes_are_the_same_bytes_and_no_path_of_the_machine():
    texts = []
    for _ in range(2):
        outcomes = replace(plausible.outcomes(plausible.THREE, seeds=2), command="forgetkit ablate grid.toml")
        texts.append(page(outcomes, make(outcomes), plots.pictures(outcomes)))
    assert texts[0] == texts[1]
    assert "/secret" not in texts[0]
    assert "forgetkit ablate grid.toml" in texts[0]
    assert not re.search(r"20\d\d-\d\d-\d\d", texts[0])


def test_what_is_written_by_others_is_text():
    result = plausible.result(0, {"method": HOSTILE})
    result["versions"] = {HOSTILE: HOSTILE, "plugins": {HOSTILE: HOSTILE}}
    result["config"] = {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}], "one": HOSTILE}
    result["departures"] = {HOSTILE: {"value": HOSTILE, "preset": HOSTILE}}
    result["preset"] = HOSTILE
    for row in result["mega_batches"][:-1]:
        row["unlearn"]["layers"][HOSTILE] = {"size": 10, "reset": 5}
    other = plausible.result(0, {"method": "b"})
    arms = [{HOSTILE: HOSTILE, "x": "1"}, {HOSTILE: "b", "x": "2"}]
    cells = (
        Outcome(arms[0], 0, HOSTILE, "completed", result),
        Outcome(arms[1], 0, "", "completed", other),
        Outcome(arms[1], 1, "", "failed", None, HOSTILE),
    )
    shown = read(Outcomes(HOSTILE, (HOSTILE, "x"), cells, arms[0], HOSTILE))
    assert [tag for tag, _ in shown.elements if tag == "script"] == ["script"]
    assert not any(tag == "x" or "alert(1)" in tag for tag, _ in shown.elements)
    one_line = plain(HOSTILE)
    for section in ("", "results", "lost", "configuration", "departures", "provenance"):
        assert any(one_line in text for text in shown.texts[section]), section
    assert any(text.startswith("<script>") for text in shown.inside["text"])  # in a picture too, cut where it is long


def test_without_matplotlib_the_page_says_how_to_get_pictures():
    shown = read(plausible.outcomes(plausible.THREE), drawn=False)
    assert not any(tag == "svg" for tag, _ in shown.elements)
    assert "pip install 'forgetkit[plot]'" in " ".join(shown.texts["pictures"])


def test_an_ablation_that_has_not_begun_has_a_page():
    cells = plausible.missing(plausible.THREE)
    shown = read(Outcomes("", ("importance",), cells))
    assert "3 missing" in " ".join(shown.texts[""])
    assert "There is nothing to draw yet: no cell has a result." in shown.texts["pictures"]


def test_arms_whose_names_look_alike_stay_apart():
    arms = {"a b": [plausible.result(0, {"x": "1"})], "a\tb": [plausible.result(0, {"x": "2"})]}
    assert gather(made(arms)).config.rows == (("a b", ("1",)), ("a b", ("2",)))


def test_a_number_beyond_every_float_is_none():
    shown = read(made({"odd": [{"test_accuracy": 10**400, "cer": -(10**400), "samples_seen": float("nan")}]}))
    assert "One seed each." not in shown.texts["results"]
    assert "There is nothing to draw yet: no cell has a result." in shown.texts["pictures"]


@given(st.lists(oddities, min_size=1, max_size=2))
@example([{"mega_batches": 1}])
@settings(max_examples=25, deadline=None)
def test_odd_results_do_not_break_the_page(results):
    shown = read(made({"warm": [stream(0.5)], "odd": results}), drawn=False)
    assert "50.00" in " ".join(shown.texts["results"])


def test_a_run_by_itself_is_one_cell(tmp_path):
    result = plausible.result(3, {"importance": "snip"})
    write_sealed(tmp_path / "result.json", result)
    outcomes = alone.outcomes(tmp_path)
    assert (outcomes.title, outcomes.cells[0].seed, outcomes.cells[0].arm) == ("run-3", 3, {"method": "lure"})
    assert "1 cell: 1 arm, 1 seed (3)." in " ".join(read(outcomes, drawn=False).texts[""])
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"result\.json is damaged.*forgetkit run --resume .* makes it again"):
        alone.outcomes(tmp_path)
