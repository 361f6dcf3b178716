"""Write the tables of docs/performance.md from the records in docs/results.

A table stands between ``<!-- results/NAME.json -->`` and ``<!-- end -->``. A record of ``benchmarks/bench.py`` is shown
whole; of another record, the columns named after a colon, for the rows that have them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine_text
from comparisons.measure import HEADINGS, Case, Measurement, SkippedCase, row

DOCS = Path(__file__).parents[1] / "docs"
_TABLE = re.compile(r"<!-- (results/\S+\.json)(?:: (.+?))? -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    page = DOCS / "performance.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")


def fill(page: str, folder: Path) -> str:
    """Replace each table of ``page`` by one made from its record in ``folder``."""

    def replacement(found: re.Match[str]) -> str:
        record = json.loads((folder / found[1]).read_text(encoding="utf-8"))
        table = column_table(record, found[2].split(", ")) if found[2] else case_table(record)
        return f"{found[0].splitlines()[0]}\n{table}\n<!-- end -->"

    return _TABLE.sub(replacement, page)


def case_table(record: Mapping[str, Any]) -> str:
    """A row for each case that ``bench.py`` measured, and a line about the machine."""
    rows = [row(read_case(case)) for case in record["cases"]]
    return f"{markdown(HEADINGS, rows)}\n\n{machine_text(record['machine'])}."


def read_case(record: Mapping[str, Any]) -> Measurement | SkippedCase:
    """Rebuild a measured case from its record."""
    words = (record["name"], record["ours"], record["reference"])
    case = Case(*words, _cannot_prepare, record["reading"], record["target"], record["target_rate"], record["unit"])
    if record["skipped"]:
        return SkippedCase(case, record["skipped"])
    seconds = {side: tuple(times) for side, times in record["seconds"].items()}
    return Measurement(case, record["work"], seconds, record["fault"])


def column_table(record: Any, columns: Sequence[str]) -> str:
    """Columns of any record: a list of rows, an object that holds one, or an object that is one row."""
    rows = record if isinstance(record, list) else record.get("cases") or record.get("rows") or [record]
    cells = [[format_value(row[name]) for name in columns] for row in rows if set(columns) <= set(row)]
    return markdown([name.replace("_", " ") for name in columns], cells)


def format_value(value: Any) -> str:
    """Format whole numbers with commas, others with three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("  ", " ")


def _cannot_prepare(device: str) -> Any:
    raise NotImplementedError("a case of a record cannot be measured again")


if __name__ == "__main__":
    main()
