"""The one room for torch's settings: what it sets, and that everything is as before afterwards."""

from __future__ import annotations

import pytest
from helpers import hostile_settings

from forgetkit.system.torch_settings import torch_settings


@pytest.mark.parametrize("name", [*hostile_settings.HOSTILE, "all"])
@pytest.mark.parametrize("fails", [False, True])
def test_inside_nothing_shows_and_afterwards_all_is_as_before(name: str, fails: bool) -> None:
    with torch_settings():
        usual = hostile_settings.seen()
    with (hostile_settings.HOSTILE | {"all": hostile_settings.all_at_once})[name]():
        before = hostile_settings.seen()
        try:
            with torch_settings():
                inside = hostile_settings.seen()
                if fails:
                    raise KeyError
        except KeyError:
            pass
        assert hostile_settings.seen() == before
    unlike = 21 if name == "warnings" else None  # a person's wish to be stopped at warnings holds
    assert [a for at, a in enumerate(inside) if at != unlike] == [a for at, a in enumerate(usual) if at != unlike]
