"""The page read back by html.parser: whole, policed, deaf to what users and exceptions have written."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from helpers import fake_outcomes
from helpers.odd_outcomes import HOSTILE, made, oddities, stream
from helpers.report_page import read
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.errors import RunDirectoryError
from forgetkit.results import plots
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.render.formatting import one_line
from forgetkit.results.report import render_page, single_run
from forgetkit.results.report.report_data import gather_report_data
from forgetkit.results.table import make_table
from forgetkit.storage import write_with_digest


@pytest.fixture(scope="module")
def ordinary():
    return read(fake_outcomes.outcomes(fake_outcomes.THREE, lost=fake_outcomes.LOST, baseline={"importance": "random"}))


def test_the_page_has_its_sections_and_its_pictures(ordinary):
    sections = [attributes["id"] for tag, attributes in ordinary.elements if tag == "section"]
    assert sections == ["results", "lost", "pictures", "configuration", "overrides", "provenance"]
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


def test_content_policy_allows_only_own_style_and_script(ordinary):
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
    facts = gather_report_data(fake_outcomes.outcomes(fake_outcomes.THREE, lost=fake_outcomes.LOST))
    assert facts.config.differ == ("importance",)
    assert facts.config.rows == tuple((name, (name,)) for name in fake_outcomes.THREE["importance"])
    shared = dict(facts.config.shared)
    assert shared == {
        "preset": "clean",
        "method": "lure",
        "mega_batches": "8",
        "epochs": "10",
        "milestones": "4, 8",
        "shots": "none",
    }
    assert facts.overrides.shared == (("epochs", "10 (50)"),)
    assert facts.overrides.rows[0] == ("snip", ("snip (none)",))


def configured(**options: list) -> Outcomes:
    """An arm per value."""
    arms = [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)]
    return made({f"arm {place}": [{"method": "label", "config": own}] for place, own in enumerate(arms)})


def test_differing_components_show_only_differing_options():
    masked = "masked:fraction={},which={},fresh=original"
    found = [masked.format(0.2, "lowest"), masked.format(0.5, "lowest"), "shrink-perturb:shrink=0.4,noise=0.1", "none"]
    facts = gather_report_data(configured(reinit=found, replay=["buffer:size=5,of=all"] * 4))
    shown = ["masked:fraction=0.2", "masked:fraction=0.5", "shrink-perturb", "none"]
    assert [values for _, values in facts.config.rows] == [(one,) for one in shown]
    assert facts.config.shared == (("replay", "buffer:size=5,of=all"),)


@pytest.mark.parametrize(
    "found", [["m:a=1", "m:a=1 "], ["m:a=1,b=2", "m:b=2,a=1"], ["cuda:0", "cuda:1"], ["", "m:"], ["a,b", "a:"]]
)
def test_values_that_differ_never_look_alike(found):
    rows = gather_report_data(configured(option=found)).config.rows
    assert len({values for _, values in rows}) == len({one_line(one) for one in found}) or not rows


@given(st.lists(st.from_regex(r"[ab](:([xy]=[12],)?z=[12])?", fullmatch=True), min_size=2, max_size=4, unique=True))
def test_shortened_values_tell_arms_apart(found):
    rows = gather_report_data(configured(option=found)).config.rows
    assert len({values for _, values in rows}) == len(found)
    assert all(
        set(re.split("[:,]", short)) <= set(re.split("[:,]", full))
        for full, (_, (short,)) in zip(found, rows, strict=True)
    )


def test_method_without_a_name_is_shown_with_the_result_label():
    facts = gather_report_data(configured(method=["lure", None], importance=["snip", "fisher"]))
    assert [values for _, values in facts.config.rows] == [("lure", "snip"), ("label", "fisher")]


def test_the_differences_are_on_the_page(ordinary):
    text = " ".join(ordinary.texts["results"])
    assert "Difference to importance=random" in text
    assert text.count("– too few seeds") == 6  # two arms by three numbers


def test_cells_of_different_versions_are_told():
    outcomes = fake_outcomes.outcomes({"importance": ("snip",)}, seeds=2)
    outcomes.cells[1].result["versions"]["torch"] = "2.9.0"
    outcomes.cells[1].result["versions"]["plugins"] = {}
    found = dict(gather_report_data(outcomes).versions)
    assert found["torch"] == "2.7.0 | 2.9.0"
    assert found["forgetkit-saliency"] == "0.1.0"


@pytest.mark.slow
def test_page_is_reproducible_and_contains_no_machine_path():
    texts = []
    for _ in range(2):
        outcomes = replace(fake_outcomes.outcomes(fake_outcomes.THREE, seeds=2), command="forgetkit ablate grid.toml")
        texts.append(render_page(outcomes, make_table(outcomes), plots.draw_pictures(outcomes)))
    assert texts[0] == texts[1]
    assert "/secret" not in texts[0]
    assert "forgetkit ablate grid.toml" in texts[0]
    assert not re.search(r"20\d\d-\d\d-\d\d", texts[0])


@pytest.mark.slow
def test_what_is_written_by_others_is_text():
    result = fake_outcomes.result(0, {"method": HOSTILE})
    result["versions"] = {HOSTILE: HOSTILE, "plugins": {HOSTILE: HOSTILE}}
    result["config"] = {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}], "one": HOSTILE}
    result["overrides"] = {HOSTILE: {"value": HOSTILE, "preset": HOSTILE}}
    result["preset"] = HOSTILE
    for row in result["mega_batches"][:-1]:
        row["unlearn"]["layers"][HOSTILE] = {"size": 10, "reset": 5}
    other = fake_outcomes.result(0, {"method": "b"})
    arms = [{HOSTILE: HOSTILE, "x": "1"}, {HOSTILE: "b", "x": "2"}]
    cells = (
        Outcome(arms[0], 0, HOSTILE, "completed", result),
        Outcome(arms[1], 0, "", "completed", other),
        Outcome(arms[1], 1, "", "failed", None, HOSTILE),
    )
    shown = read(Outcomes(HOSTILE, (HOSTILE, "x"), cells, arms[0], HOSTILE))
    assert [tag for tag, _ in shown.elements if tag == "script"] == ["script"]
    assert not any(tag == "x" or "alert(1)" in tag for tag, _ in shown.elements)
    shown_text = one_line(HOSTILE)
    for section in ("", "results", "lost", "configuration", "overrides", "provenance"):
        assert any(shown_text in text for text in shown.texts[section]), section
    assert any(text.startswith("<script>") for text in shown.inside["text"])  # in a picture too, cut where it is long


def test_without_matplotlib_the_page_says_how_to_get_pictures():
    shown = read(fake_outcomes.outcomes(fake_outcomes.THREE), drawn=False)
    assert not any(tag == "svg" for tag, _ in shown.elements)
    assert "pip install 'forgetkit[plot]'" in " ".join(shown.texts["pictures"])


def test_an_ablation_that_has_not_begun_has_a_page():
    cells = fake_outcomes.missing(fake_outcomes.THREE)
    shown = read(Outcomes("", ("importance",), cells))
    assert "3 missing" in " ".join(shown.texts[""])
    assert "There is nothing to draw yet: no cell has a result." in shown.texts["pictures"]


def test_arms_whose_names_look_alike_stay_apart():
    arms = {"a b": [fake_outcomes.result(0, {"x": "1"})], "a\tb": [fake_outcomes.result(0, {"x": "2"})]}
    assert gather_report_data(made(arms)).config.rows == (("a b", ("1",)), ("a b", ("2",)))


def test_a_number_beyond_every_float_is_none():
    shown = read(made({"odd": [{"test_accuracy": 10**400, "cer": -(10**400), "samples_seen": float("nan")}]}))
    assert "One seed each." not in shown.texts["results"]
    assert "There is nothing to draw yet: no cell has a result." in shown.texts["pictures"]


@pytest.mark.slow
@given(st.lists(oddities, min_size=1, max_size=2))
def test_odd_results_do_not_break_the_page(results):
    shown = read(made({"warm": [stream(0.5)], "odd": results}), drawn=False)
    assert "50.00" in " ".join(shown.texts["results"])


def test_a_run_by_itself_is_one_cell(tmp_path):
    result = fake_outcomes.result(3, {"importance": "snip"})
    write_with_digest(tmp_path / "result.json", result)
    outcomes = single_run.single_run_outcomes(tmp_path)
    assert (outcomes.title, outcomes.cells[0].seed, outcomes.cells[0].arm) == ("run-3", 3, {"method": "lure"})
    assert "1 cell: 1 arm, 1 seed (3)." in " ".join(read(outcomes, drawn=False).texts[""])
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"result\.json is damaged.*forgetkit run --resume .* makes it again"):
        single_run.single_run_outcomes(tmp_path)
