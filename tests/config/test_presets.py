"""The presets: their values are valid, ``clean`` equals the defaults, and each value has a reason."""

from __future__ import annotations

import itertools
import re
from dataclasses import MISSING

import pytest

from forgetkit.config import RunConfig, presets
from forgetkit.errors import ConfigError
from forgetkit.registry import registry
from forgetkit.registry.spec import Spec, build_component, options_of

NOT_PROTOCOL = {
    *("preset", "method", "importance", "reinit", "interventions", "dataset", "model", "init", "seed"),
    *("device", "memory_format", "deterministic", "threads", "metrics", "out", "name", "observers"),
    "checkpoint_seconds",
    "checkpoint_epochs",
    "keep_models",
    "keep_masks",
}
"""Options that are no part of a protocol."""

BY_RULE = {"lr", "milestones", "samples", "shots"}
"""Options that a rule decides by default."""

SOURCES = {
    "clean": "our recommendation",
    "paper": "LURE paper",
    "lure-code": "LURE code",
    "alma": "Caccia et al., 2022",
}

each_preset = pytest.mark.parametrize("name", presets.NAMES)


def stated(name: str) -> dict[str, object]:
    """The values in the file of a preset, under flat names."""
    flat: dict[str, object] = {}
    for key, value in presets.read(name).items():
        flat |= {f"{key}.{option}": v for option, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def component_of(path: str) -> type:
    kind, name = path.split(".")
    return registry.load(entry_points=False).find(kind, name).component


@each_preset
def test_its_options_are_those_of_a_run(name):
    plain = {key: value for key, value in presets.read(name).items() if not isinstance(value, dict)}
    config = RunConfig.model_validate({key.replace("-", "_"): value for key, value in plain.items()})
    for key, value in plain.items():
        assert getattr(config, key.replace("-", "_")) == value
    assert not {key.replace("-", "_") for key in plain} & NOT_PROTOCOL


@each_preset
def test_its_component_options_are_those_of_a_component(name):
    for path, table in presets.read(name).items():
        if isinstance(table, dict):
            given = {key.replace("-", "_"): value for key, value in table.items()}
            component = build_component(path, component_of(path), Spec(path, None, given))
            for key, value in given.items():
                assert getattr(component, key) == (None if value == "none" else value), f"{path}.{key}"


def test_clean_is_the_defaults_of_a_run():
    plain = {key.replace("-", "_"): v for key, v in presets.read("clean").items() if not isinstance(v, dict)}
    assert plain == {
        key: field.default for key, field in RunConfig.model_fields.items() if key not in NOT_PROTOCOL | BY_RULE
    }


def test_clean_is_the_defaults_of_the_components():
    expected = {}
    for entry in registry.load(entry_points=False).components:
        if entry.kind in ("importance", "reinit", "replay"):
            for option in options_of(entry.component):
                assert option.default is not MISSING
                default = "none" if option.default is None else option.default
                expected[f"{entry.kind}.{entry.name}.{option.name.replace('_', '-')}"] = default
    assert {key: value for key, value in stated("clean").items() if "." in key} == expected


def test_what_is_compared_is_no_part_of_a_protocol():
    for name in presets.NAMES:
        assert not set(stated(name)) & {"method", "importance", "reinit", "dataset", "model", "seed", "milestones"}


def test_clean_fills_what_a_preset_does_not_set():
    assert presets.all_values("clean") == stated("clean")
    assert presets.all_values("alma") == {**stated("clean"), **stated("alma")}
    assert presets.all_values("alma")["score-on"] == "finished"
    assert "lr" not in presets.all_values("clean")


@pytest.mark.parametrize("function", [presets.read, presets.all_values, presets.summary])
def test_a_misspelt_name_gets_a_suggestion(function):
    with pytest.raises(ConfigError, match=re.escape("no preset is called 'lure_code'; did you mean 'lure-code'?")):
        function("lure_code")


def test_each_side_of_a_difference_is_checked():
    for pair in (("clean", "papr"), ("papr", "clean")):
        with pytest.raises(ConfigError, match="did you mean 'paper'"):
            presets.differences(*pair)


@each_preset
def test_each_has_a_summary_of_a_line(name):
    assert re.fullmatch(r"[^\n]{20,67}\.", presets.summary(name))


@each_preset
def test_exactly_the_options_of_a_preset_have_a_reason(name):
    assert {option for option, by_preset in presets.reasons().items() if name in by_preset} == set(stated(name))


def test_reasons_name_no_unknown_preset():
    for by_preset in presets.reasons().values():
        assert set(by_preset) <= set(presets.NAMES)


def test_reasons_stand_in_the_order_of_clean():
    own = list(stated("clean"))
    assert [option for option in presets.reasons() if option in own] == own
    for name in presets.NAMES:
        order = list(presets.all_values(name))
        assert order == [option for option in presets.reasons() if option in order]


def test_a_reason_is_a_sentence_with_a_source():
    for option, by_preset in presets.reasons().items():
        for name, reason in by_preset.items():
            assert re.fullmatch(r"[A-Z0-9][^\n]{10,130}\.", reason.says), f"{option}, {name}"
            assert reason.source.startswith(SOURCES[name]), f"{option}, {name}"
            assert not reason.source.endswith(".")


@pytest.mark.parametrize(("name", "other"), [*itertools.product(presets.NAMES, repeat=2)])
def test_a_difference_has_a_reason_on_each_side_that_sets_it(name, other):
    found = presets.differences(name, other)
    assert bool(found) == (name != other)
    for difference in found:
        assert difference.value != difference.other_value
        for side, value, reason in (
            (name, difference.value, difference.reason),
            (other, difference.other_value, difference.other_reason),
        ):
            assert (reason is not None) == (difference.option in stated(side))
            assert value == stated(side).get(difference.option, stated("clean").get(difference.option))
        assert difference.reason or difference.other_reason
        if difference.value is None or difference.other_value is None:
            assert presets.rule(difference.option)
    mirrored = [(d.option, d.other_value, d.value) for d in presets.differences(other, name)]
    assert mirrored == [(d.option, d.value, d.other_value) for d in found]


def test_what_a_rule_says_is_true():
    assert presets.rule("lr") == "0.1 with sgd, 0.001 with adamw"
    assert presets.rule("epochs") == ""
    description = RunConfig.model_fields["lr"].description
    assert description is not None
    assert "0.1" in description
    assert "adamw 0.001" in description


def test_the_paper_rounds_up_as_its_table_10_counts():
    entries, retained = 11_173_962, 8_939_169
    assert presets.all_values("paper")["reinit.masked.round"] == "up"
    assert entries - retained == -(-entries // 5)
