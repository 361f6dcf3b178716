"""The page about these criteria is held against them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from forgetkit_saliency import forgetkit_importance

PAGE = (Path(__file__).parents[3] / "docs" / "saliency.md").read_text(encoding="utf-8")
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", forgetkit_importance())
def test_each_has_a_section_with_its_options(name: str) -> None:
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"no section about {name}"
    assert f"| `{name}` |" in README
    for option in dataclasses.fields(forgetkit_importance()[name]):
        row = re.search(rf"^\| `{option.name}` \|(.*)$", section[1], re.MULTILINE)
        assert row, f"{name}: no row about {option.name}"
        if option.default is not None and "×" not in row[1]:
            cells = [cell.strip(" `") for cell in row[1].split("|")]
            assert any(_means(cell, option.default) for cell in cells), f"{name}: not the default of {option.name}"


def _means(cell: str, default: object) -> bool:
    try:
        return float(cell) == default
    except ValueError:
        return cell == default
