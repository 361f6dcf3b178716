"""Writes the tables of docs/performance.md anew, from the records in docs/results.

A table stands between ``<!-- results/NAME.json -->`` and ``<!-- end -->``: of what ``forgetkit bench --json`` printed
all, of another record the columns that are named after a colon, for the rows that have them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetkit import bench

DOCS = Path(__file__).parents[1] / "docs"
_TABLE = re.compile(r"<!-- (results/\S+\.json)(?:: (.+?))? -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    page = DOCS / "performance.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")


def filled(page: str, folder: Path) -> str:
    """The page, its tables made from the records in ``folder``."""

    def table(found: re.Match[str]) -> str:
        record = json.loads((folder / found[1]).read_text(encoding="utf-8"))
        made = named(record, found[2].split(", ")) if found[2] else measured(record)
        return f"{found[0].splitlines()[0]}\n{made}\n<!-- end -->"

    return _TABLE.sub(table, page)


def measured(record: Mapping[str, Any]) -> str:
    """What ``forgetkit bench`` measured, and where."""
    here = record["machine"]
    device = "" if here["device"] == "cpu" else f", {here['device']}"
    where = (
        f"{here['processor']}{device}, {here['cores']} cores, {here['threads']} threads, {here['instructions']}; "
        f"Python {here['python']}, torch {here['torch']}, forgetkit {here['forgetkit']}"
    )
    rows = [bench.row(result(case)) for case in record["cases"]]
    return f"{table(bench.HEADINGS, rows)}\n\n{where}."


def result(case: Mapping[str, Any]) -> bench.Measurement | bench.SkippedCase:
    """A case of a record as it was when it was measured."""
    words = (case["name"], case["ours"], case["reference"])
    about = bench.BenchmarkCase(*words, _unprepared, case["reading"], case["target"], case["target_rate"], case["unit"])
    if case["skipped"]:
        return bench.SkippedCase(about, case["skipped"])
    seconds = {side: tuple(times) for side, times in case["seconds"].items()}
    return bench.Measurement(about, case["work"], seconds, case["fault"])


def named(record: Any, columns: Sequence[str]) -> str:
    """Columns of the rows of any record: a list, an object that has one, or an object that is one row."""
    rows = record if isinstance(record, list) else record.get("cases") or record.get("rows") or [record]
    texts = [[text(row[name]) for name in columns] for row in rows if set(columns) <= set(row)]
    return table([name.replace("_", " ") for name in columns], texts)


def text(value: Any) -> str:
    """Whole numbers with commas, others with three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("  ", " ")


def _unprepared(setting: bench.BenchmarkOptions) -> bench.Sides:
    raise NotImplementedError("it was measured elsewhere")


if __name__ == "__main__":
    main()
