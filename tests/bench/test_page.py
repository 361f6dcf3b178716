"""The tables of docs/performance.md are those of the records, and of the cases there are."""

from __future__ import annotations

import json
import runpy
import statistics
from pathlib import Path

import pytest

from forgetkit import bench

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "page.py"))


def test_the_page_is_as_the_records_have_it(script) -> None:
    assert script["filled"](PAGE, ROOT / "docs") == PAGE


def test_the_figures_are_those_of_the_times() -> None:
    record = json.loads((ROOT / "docs" / "results" / "bench-cpu.json").read_text(encoding="utf-8"))
    table = PAGE.partition("<!-- results/bench-cpu.json -->")[2].partition("<!-- end -->")[0]
    for case in record["cases"]:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {case['name']} |")]
        if not case["skipped"] and case["reading"] == "times as fast":
            ratio = statistics.median(case["seconds"]["reference"]) / statistics.median(case["seconds"]["ours"])
            assert f"| {ratio:.2f} × |" in line
            assert line.endswith("| met |" if ratio >= case["target"] else "| missed |")
    assert record["machine"]["processor"] in table


def test_every_case_is_explained_with_its_target() -> None:
    for case in bench.CASES:
        assert f"`{case.name}`" in PAGE, f"{case.name} is not explained"
        assert case.target is None or f"{case.target:g}" in PAGE, f"the target of {case.name} is not said"


def test_other_records_are_tables_of_the_columns_asked_for(script, tmp_path) -> None:
    rows = [{"a_b": 1234, "c": 0.12345, "d": "x"}, {"a_b": 5}, {"a_b": 1, "c": 12345.6}]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(json.dumps({"cases": rows}))
    page = "before\n<!-- results/one.json: a_b, c -->\nold\n<!-- end -->\nafter\n"
    table = "| a b | c |\n| --- | --- |\n| 1,234 | 0.123 |\n| 1 | 12,346 |"
    wanted = f"before\n<!-- results/one.json: a_b, c -->\n{table}\n<!-- end -->\nafter\n"
    assert script["filled"](page, tmp_path) == wanted == script["filled"](wanted, tmp_path)
    for record in (rows, {"rows": rows}):
        assert script["named"](record, ["a_b", "c"]) == table
    assert script["named"](rows[0], ["d"]) == "| d |\n| --- |\n| x |"
