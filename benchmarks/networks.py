"""Resets and scores many people's networks, and judges each call: right, refused, wrong or an error.

python benchmarks/networks.py                       all networks, writes docs/results/networks.md
python benchmarks/networks.py --json PART WORD ...  those whose names contain one of the words, into a record
python benchmarks/networks.py --join PART ...       writes the page from records
"""

from __future__ import annotations

import argparse
import collections
import importlib.metadata
import json
import textwrap
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from network_cases import zoo
from network_cases.judge import COLUMNS, Distribution, Verdict, judge_all, judge_reset

_PAGE = Path(__file__).parents[1] / "docs" / "results" / "networks.md"


@dataclass(frozen=True)
class Row:
    """The verdicts of one network, without ``build=`` and with it."""

    name: str
    outside: str
    plain: Mapping[str, Verdict]
    built: Mapping[str, Verdict]

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Row:
        """Read a row of a record."""
        plain, built = (
            {column: Verdict(**verdict) for column, verdict in record[part].items()} for part in ("plain", "built")
        )
        return cls(record["name"], record["outside"], plain, built)

    def cell(self, column: str) -> str:
        """A cell: the verdict without ``build=``; where that is refused for want of it, the verdict with it."""
        plain = self.plain.get(column)
        if plain is None or (plain.word == "refused" and "build=" in plain.reason):
            word = _word(self.built[column])
            return word if plain is None else f"{word}, with build="
        return _word(plain)

    def verdicts(self) -> list[Verdict]:
        """All verdicts that the table rests on."""
        return [*self.plain.values(), *self.built.values()]


def _word(verdict: Verdict) -> str:
    return verdict.word if verdict.word in ("right", "error", "wrong") else f"refused: {_reason_class(verdict.reason)}"


def _reason_class(message: str) -> str:
    kinds = {
        "build=": "build=",
        "matched no parameter": "nothing to reset",
        "no units": "no units",
        "cannot be found": "not traced",
        "no layer": "no head",
        "no head": "no head",
        "training mode": "training mode",
        "loss": "loss",
    }
    for words, kind in kinds.items():
        if words in message:
            return kind
    return "other"


def measure(name: str, entry: zoo.Entry) -> Row:
    """Judge one network. One that is initialised outside of its classes is judged with ``build=`` alone."""
    subject = entry.subject()
    start = Distribution.of_network(subject.build)
    if entry.outside:
        alone = judge_reset(subject, start, "cold")
        return Row(name, f"yes; without build=: {_word(alone)}", {}, judge_all(subject, start, subject.build))
    plain = judge_all(subject, start)
    refused = [column for column, v in plain.items() if v.word == "refused" and "build=" in v.reason]
    return Row(name, "no", plain, judge_all(subject, start, subject.build, refused))


def _table(rows: list[Row], seconds: float) -> str:
    counts = collections.Counter(row.cell(column).split(":")[0].split(",")[0] for row in rows for column in COLUMNS)
    lines = [
        "# Networks",
        "",
        _wrapped(
            f"`python benchmarks/networks.py` on {len(rows)} networks, one core, {seconds / 60:.0f} minutes. Versions: "
            + ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm", "transformers", "peft"))
            + "."
        ),
        "",
        _wrapped(
            "A cell says what the call does without an option. `right, with build=`: without it the call is refused in "
            "one line that asks for `build=`. `wrong`: the call returned, and its values are not those of a new "
            "network. A network that is initialised outside of its classes is judged with `build=`, and the last "
            "column says what `cold` does without it. Seeds: 0 for the network, 1000 to 1002 for those built "
            "anew, 3 for the calls. How each is judged: "
            "[benchmarks](../../benchmarks/README.md). Cells: "
            + ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
            + "."
        ),
        "",
        "| network | " + " | ".join(COLUMNS) + " | initialised outside its classes |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    lines += [f"| {row.name} | " + " | ".join(map(row.cell, COLUMNS)) + f" | {row.outside} |" for row in rows]
    wrong = [(row, v) for row in rows for v in row.verdicts() if v.word in ("wrong", "error")]
    lines += ["", "## Wrong and errors", ""]
    lines += [_wrapped(f"- {row.name}: {v.word}: {v.reason}") for row, v in wrong] or ["None."]
    lines += ["", "## Reasons of refusals", ""]
    reasons = collections.Counter(
        (_reason_class(v.reason), v.reason) for row in rows for v in row.verdicts() if v.word == "refused"
    )
    shown: dict[str, tuple[int, str]] = {}
    for (kind, reason), count in reasons.items():
        shown[kind] = (shown.get(kind, (0, ""))[0] + count, shown.get(kind, (0, reason))[1] or reason)
    lines += [
        _wrapped(f"- {kind}, {count} call{'s' * (count > 1)}. For example: {reason}")
        for kind, (count, reason) in sorted(shown.items())
    ]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Measure, print a line per network, and write the page if all networks were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only networks whose names contain one of these words")
    parser.add_argument("--json", type=Path, help="write a record in place of the page")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="write the page from these records")
    parser.add_argument("--out", type=Path, default=_PAGE, help="where the page goes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started, rows = time.perf_counter(), []
    if options.join:
        records = [json.loads(path.read_text()) for path in options.join]
        rows = [Row.of_record(row) for record in records for row in record["rows"]]
        options.out.write_text(_table(rows, sum(record["seconds"] for record in records)))
        return
    chosen = {
        name: entry
        for name, entry in zoo.networks().items()
        if not options.words or any(word in name for word in options.words)
    }
    for name, entry in chosen.items():
        at = time.perf_counter()
        try:
            row = measure(name, entry)
        except Exception as error:  # noqa: BLE001 - the others are measured
            print(f"{name}: cannot be measured: {type(error).__name__}: {error}", flush=True)
            continue
        rows.append(row)
        print(
            f"{name:34} {time.perf_counter() - at:5.1f} s  " + " | ".join(map(row.cell, COLUMNS)),
            row.outside,
            flush=True,
        )
        for verdict in row.verdicts():
            if verdict.word in ("wrong", "error"):
                print(f"    {verdict.word}: {verdict.reason}", flush=True)
    seconds = time.perf_counter() - started
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "rows": [asdict(row) for row in rows]}))
    elif not options.words:
        options.out.write_text(_table(rows, seconds))


if __name__ == "__main__":
    main()
