"""The precision of a preset, and when another one counts as an override."""

from __future__ import annotations

from typing import Any

import pytest

from forgetkit import config
from forgetkit.registry import registry

COMPONENTS = registry.load(entry_points=False)


@pytest.mark.parametrize("preset", ["paper", "lure-code", "alma"])
def test_a_preset_in_fp32_names_another_precision(preset: str) -> None:
    plan = config.resolve({"preset": preset, "precision": "auto"}, COMPONENTS)
    assert config.resolve({"preset": preset}, COMPONENTS).config.precision == "fp32"
    assert plan.with_resolved(precision="fp32").overrides == {}
    bf16 = {"precision": {"value": "bf16", "preset": "fp32"}}
    assert plan.with_resolved(precision="bf16").overrides == bf16
    assert config.resolve({"preset": preset, "precision": "bf16"}, COMPONENTS).overrides == bf16


@pytest.mark.parametrize("given", [{}, {"precision": "fp32"}, {"precision": "bf16"}, {"deterministic": True}])
def test_auto_stands_for_either(given: dict[str, Any]) -> None:
    assert config.resolve(given, COMPONENTS).overrides == {}
