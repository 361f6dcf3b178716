"""Each hook says what it returns."""

from __future__ import annotations

import inspect

import pytest

from forgetkit.registry import hookspecs
from forgetkit.registry.kinds import KIND_INFO


@pytest.mark.parametrize("kind", KIND_INFO)
def test_each_hook_says_what_it_returns(kind: str) -> None:
    assert "\nReturns:\n    " in (inspect.getdoc(getattr(hookspecs, KIND_INFO[kind].hook)) or "")
