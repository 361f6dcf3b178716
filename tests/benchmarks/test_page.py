"""The tables of docs/performance.md match the records, and the page explains every case."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import page
from comparisons.cases import CASES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_tables_match_the_records() -> None:
    assert page.fill(PAGE, ROOT / "docs") == PAGE


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
    for case in CASES:
        assert f"`{case.name}`" in PAGE, f"the page does not explain {case.name}"
        assert case.target is None or f"{case.target:g}" in PAGE, f"the page does not give the target of {case.name}"


def test_other_records_become_tables_of_named_columns(tmp_path) -> None:
    rows = [{"a_b": 1234, "c": 0.12345, "d": "x"}, {"a_b": 5}, {"a_b": 1, "c": 12345.6}]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(json.dumps({"cases": rows}))
    before = "before\n<!-- results/one.json: a_b, c -->\nold\n<!-- end -->\nafter\n"
    table = "| a b | c |\n| --- | --- |\n| 1,234 | 0.123 |\n| 1 | 12,346 |"
    after = f"before\n<!-- results/one.json: a_b, c -->\n{table}\n<!-- end -->\nafter\n"
    assert page.fill(before, tmp_path) == after == page.fill(after, tmp_path)
    for record in (rows, {"rows": rows}):
        assert page.column_table(record, ["a_b", "c"]) == table
    assert page.column_table(rows[0], ["d"]) == "| d |\n| --- |\n| x |"
