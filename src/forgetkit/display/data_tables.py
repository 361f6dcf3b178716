"""The content of a data set as lines and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forgetkit.data.contact_sheet import ROWS
from forgetkit.display.console import one_line

_ROWS = 60
"""The most classes in the table."""
_COLUMNS = 12
"""The most mega-batches with a column each."""
_LISTED = 6
"""The most entries of a list in the provenance."""


def describe(name: str, content: Mapping[str, Any]) -> Iterator[Text | Table]:
    """Yield the parts of what ``forgetkit data`` prints."""
    train, test, classes = content["train"], content["test"], content["classes"]
    yield Text(name, "bold")
    yield Text(
        f"{len(classes):,} class{'es' * (len(classes) != 1)}, {train['samples']:,} training and {test['samples']:,} "
        f"test samples of {' × '.join(map(str, train['shape']))}"
    )
    yield Text(f"augment {content['augment']} (auto)")
    yield _values(train, test)
    yield _classes(content)
    for line in _facts(content["provenance"]):
        yield Text(one_line(line))
    for remark in content["remarks"]:
        yield Text(one_line(f"- {remark}"))
    found = content["audit"]
    yield Text(f"audit: {len(found)} finding{'s' * (len(found) != 1)}" if found else "audit: nothing found", "bold")
    for finding in found:
        yield Text(one_line(f"- {finding}"))
    if content["sheet"] is not None:
        more = f" ({ROWS} of {len(classes):,} classes)" if len(classes) > ROWS else ""
        yield Text(f"picture sheet: {content['sheet']}{more}")
    elif len(train["shape"]) == 3:
        yield Text("a picture sheet of samples: --sheet FILE.png", "dim")


def _values(train: Mapping[str, Any], test: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("part", "type", "values", "mean ± deviation", "by channel"):
        table.add_column(heading)
    for name, part in (("training", train), ("test", test)):
        channels = part["channel_means"]
        by_channel = ", ".join(f"{mean:.3g}" for mean in channels) if 1 < len(channels) <= 4 else "–"
        values = f"{part['low']:g}..{part['high']:g}"
        table.add_row(name, part["dtype"], values, f"{part['mean']:.3g} ± {part['std']:.3g}", by_channel)
    return table


def _classes(content: Mapping[str, Any]) -> Table:
    """A row for each class: its samples, and the training samples of each mega-batch."""
    counts, classes = content["mega_batches"], content["classes"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class", overflow="fold")
    single = len(counts) <= _COLUMNS
    titles = [f"#{place}" for place in range(1, len(counts) + 1)] if single else ["least", "most"]
    for heading in ("train", "test", *titles):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, name in enumerate(classes[:_ROWS]):
        own = [row[label] for row in counts]
        shown = own if single else [min(own), max(own)]
        parts = [content[part]["by_class"][label] for part in ("train", "test")]
        table.add_row(Text(one_line(name)), *(f"{count:,}" for count in (*parts, *shown)))
    if len(classes) > _ROWS:
        table.add_row(f"and {len(classes) - _ROWS:,} more (--json)", *[""] * (2 + len(titles)))
    which = f"#1 to #{len(counts)}" if single else f"least and most of {len(counts)} mega-batches"
    table.caption = f"{which}: training samples of each mega-batch at seed 0, without validation"
    table.caption_justify = "left"
    return table


def _facts(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield the origin of the samples, the files that were used and ignored: a line each."""
    lines = [line for key, value in provenance.items() for line in _lines(_title(key), value)]
    yield from lines[:_ROWS]
    if len(lines) > _ROWS:
        yield f"and {len(lines) - _ROWS:,} lines more (--json)"


def _lines(title: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and any(_depth(inner) > 1 for inner in value.values()):
        for key, inner in value.items():
            yield from _lines(f"{title}, {_title(key)}", inner)
    elif text := _text(value):
        yield f"{title}: {text}"


def _text(value: Any) -> str:
    """Return an entry in words; nothing if it is empty or 0."""
    if isinstance(value, Mapping):
        inner = [(_title(key), _text(one), isinstance(one, Mapping)) for key, one in value.items()]
        return _join_words([f"{key} ({text})" if deep else f"{key}: {text}" for key, text, deep in inner if text])
    if isinstance(value, list | tuple):
        return _join_words([str(one) for one in value])
    return "" if value in (0, None, "") else str(value)


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, Mapping) else 0


def _title(key: object) -> str:
    return str(key).replace("_", " ") if key in ("passed_over", "on_bad") else str(key)


def _join_words(words: Sequence[str]) -> str:
    more = len(words) - _LISTED
    return ", ".join(words[:_LISTED]) + (f" and {more:,} more (--json)" if more > 0 else "")
