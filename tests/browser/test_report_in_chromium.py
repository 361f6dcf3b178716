"""The page in a real Chromium: nothing it complains of, nothing it asks for, readable at any width, light and dark.

Screenshots go into the test's folder, and into $FORGETKIT_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers import fake_outcomes
from helpers.fake_outcomes import outcomes as outcomes_of

from forgetkit.analysis.answers import StoredAnswer
from forgetkit.contracts import Answer, Chart, Measure, Series
from forgetkit.results import plots
from forgetkit.results.outcome import Outcomes
from forgetkit.results.report import render_page
from forgetkit.results.table import make_table

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(None in (CHROMIUM, DRIVER), reason="chromium and chromedriver are not installed")

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@dataclass(frozen=True)
class Browser:
    """A Chromium, and what became of the page it shows."""

    driver: webdriver.Chrome

    def show(self, file: Path, width: int = 1400, scheme: str = "light", *, scripts: bool = True) -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(file.as_uri())

    def command(self, name: str, **options: object) -> object:
        return self.driver.execute_cdp_cmd(name, options)

    def ask(self, script: str) -> object:
        return self.driver.execute_script(f"return {script}")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url for url in urls if not url.startswith("data:")}

    def picture(self, file: Path) -> None:
        """The whole page, however long it is."""
        width, height = self.ask("[innerWidth, document.documentElement.scrollHeight]")
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.driver.save_screenshot(str(file))
        if kept := os.environ.get("FORGETKIT_SCREENSHOTS"):
            Path(kept).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)

    def column(self, place: int) -> list[str]:
        """What the rows of the table of results have there, from above."""
        rows = "document.querySelectorAll('.ablation:not(.differences) tbody tr')"
        return self.ask(f"[...{rows}].map(row => row.cells[{place}].dataset.value)")

    def press(self, place: int) -> str | None:
        """Click on a head of that table; which way it sorts then."""
        head = f"document.querySelectorAll('.ablation thead th')[{place}]"
        self.driver.execute_script(f"{head}.querySelector('button').click()")
        return self.ask(f"{head}.getAttribute('aria-sort')")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("profile")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")  # a driver is named, so none is looked for
        patch.setenv("SE_AVOID_STATS", "true")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver)
    driver.quit()


def asked(outcomes: Outcomes) -> Outcomes:
    """With answers that fill a page: nineteen corruptions, many layers, a strength of zero, a map, and a mischief."""
    layers = [f"layer{block}.{unit}.conv1.weight" for block in range(1, 5) for unit in range(5)]

    def answer(seed: int) -> Answer:
        levels = [0.5 + 0.01 * place + 0.05 * seed for place in range(20)]
        corruptions = [f"a_corruption_of_kind_{place}" for place in range(19)]
        severities = [Series(kind, [1, 2, 3], levels[place % 17 :][:3]) for place, kind in enumerate(layers)]
        charts = [
            ("corruptions", [Series("s", corruptions, levels[:19])], "bars", False),
            ("strengths", [Series("s", [0.0, 0.5 / 255, 1 / 255, 8 / 255], levels[:4])], "lines", True),
            ("layers", [Series(kind, layers, levels) for kind in ("one", HOSTILE)], "lines", False),
            ("severities", severities, "lines", False),
            ("map", [Series(kind, ["x", "y"], levels[:2]) for kind in ("one", "two")], "heat", False),
        ]
        numbers = {f"a_rather_long_number_{place}": Measure(0.5 + seed, "higher", "fraction") for place in range(9)}
        return Answer(
            numbers,
            [Chart(name, HOSTILE, HOSTILE, "accuracy", s, kind, "fraction", log) for name, s, kind, log in charts],  # type: ignore[arg-type]
            remarks=[HOSTILE, "a" * 300],
        )

    one = [StoredAnswer("corruption", f"corruption:path={HOSTILE}", HOSTILE, 8, answer(seed)) for seed in range(3)]
    cells = tuple(replace(cell, answers=(one[cell.seed],)) for cell in outcomes.cells)
    return replace(outcomes, cells=cells, answers=(one[0],))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    lost = {**fake_outcomes.LOST, 1: ("failed", HOSTILE)}
    made: dict[str, Outcomes] = {
        "three": outcomes_of(fake_outcomes.THREE, lost=fake_outcomes.LOST, baseline={"importance": "random"}),
        "many": outcomes_of(fake_outcomes.MANY),
        "asked": asked(outcomes_of(fake_outcomes.THREE)),
        "hostile": outcomes_of({HOSTILE: (HOSTILE, "a" * 200, '" onload="alert(1)')}, lost=lost, title=HOSTILE),
    }
    for name, outcomes in made.items():
        text = render_page(replace(outcomes, command=HOSTILE), make_table(outcomes), plots.draw_pictures(outcomes))
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize(("name", "pictures"), [("three", 4), ("many", 4), ("hostile", 4), ("asked", 14)])
def test_the_page_is_quiet_and_fits(browser, pages, name, pictures, tmp_path):
    papers = set()
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            browser.show(pages[name], width, scheme)
            assert browser.complaints() == []
            assert browser.requests() == {pages[name].as_uri()}
            assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), "the document is too wide"
            assert browser.ask("document.querySelectorAll('svg').length") == pictures
            heights = "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)"
            assert browser.ask(f"Math.min(...{heights}.filter(height => height > 0))") >= 7, "too small to be read"
            papers.add(browser.ask("getComputedStyle(document.body).backgroundColor"))
            ink = browser.ask("getComputedStyle(document.querySelector('svg text')).fill")
            assert ink == browser.ask("getComputedStyle(document.body).color")
            browser.picture(tmp_path / f"{name}-{width}-{scheme}.png")
    assert len(papers) == 2
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_what_is_too_wide_scrolls_in_its_own_box(browser, pages):
    browser.show(pages["many"], 400)
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert browser.ask(wide) >= 1


def test_heads_sort_up_down_and_back(browser, pages):
    browser.show(pages["many"])
    assert browser.driver.title == "Which criterion, which reset?"
    before = [browser.column(place) for place in range(7)]
    assert len(before[0]) == 36
    assert browser.press(3) == "ascending"
    numbers = [float(value) for value in browser.column(3)]
    assert numbers == sorted(numbers) != [float(value) for value in before[3]]
    assert browser.press(3) == "descending"
    assert [float(value) for value in browser.column(3)] == numbers[::-1]
    assert browser.press(0) == "ascending"
    assert browser.column(0) == sorted(before[0])
    assert browser.ask("document.querySelectorAll('[aria-sort]').length") == 1
    browser.press(0)
    assert browser.press(0) is None
    assert [browser.column(place) for place in range(7)] == before


def test_the_keyboard_sorts_too(browser, pages):
    browser.show(pages["three"])
    browser.driver.execute_script("document.querySelector('.ablation thead th:nth-child(2) button').focus()")
    browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    numbers = [float(value) for value in browser.column(1)]
    assert numbers == sorted(numbers)
    assert browser.ask("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_without_scripts_all_is_there(browser, pages):
    browser.show(pages["three"], scripts=False)
    try:
        assert browser.complaints() == []
        assert "test accuracy (%) ↑" in browser.driver.page_source
        assert "<button" not in browser.driver.page_source
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)


def test_this_test_hears_complaints_and_requests(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('broken')</script><img src='near.png'>")
    browser.show(bad)
    assert any("broken" in message for message in browser.complaints())
    assert (tmp_path / "near.png").as_uri() in browser.requests()
