"""Nasty values for options and files."""

from __future__ import annotations

import datetime
from typing import Any

from hypothesis import strategies as st

NASTY = [
    *("", "none", "None", "null", "nan", "NaN", "inf", "-inf", "1e999", "1e-400", "-0.0", "-1", "0", "1", "2", "0.5"),
    *("9" * 5000, "-" + "9" * 400, "2147483648", "9223372036854775808", "1_000", "0x10", "1e308", "3.0", "true"),
    *("[", "[" * 3000, "[" * 3000 + "]" * 3000, '{"a":' * 500, "{}", "[]", "[1,2", "[1,2]", "[[1,2],[3]]", "[64,64]"),
    *("[NaN]", "[Infinity]", "[1e999]", "[null]", '["a"', "{", "}", ",", ",,", "=", ":", "a,b", "a=b", "a:b", "a,b=c"),
    *("\x00", "a\x00b", "😀", "٣", "²", "１", "\u202e", "\x1b[2J", "\n", "x\ny", " x ", "é", "\ud800", "a\udcffb"),
    *("~nosuchuser/x", "~", "a" * 5000, "/" + "a/" * 3000, "/dev/null", "/", ".", "..", "import:", "os:path", "x:y:z"),
]
"""Texts for a command line."""

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.text("[]{}()=,:.-_'\"\\/ae109", max_size=30))

scalars = st.one_of(
    texts.filter(lambda text: "\x00" not in text and text.isprintable()),  # as TOML may hold them
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**30, -(10**30), 10**400, float("nan"), float("inf"), -0.0, 1e308]),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.just(datetime.time(1, 2)),
)

keys = st.sampled_from(
    ["", "a", "a.b", "seed", "masked", "fraction", "snip", "samples", "reinit", "name", "x y", "é", "replay", "none"]
)

values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
)
"""Values for a TOML file."""


def toml(value: Any) -> str:
    """A value as an inline piece of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else repr(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
