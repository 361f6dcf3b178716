"""What each preset resolves to, option by option, as it was read through by people: none drifts unseen.

Where a change is meant, change ``golden.json`` with it, and the reason in ``config/presets/reasons.toml``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forgetkit import config
from forgetkit.config import NOT_PROTOCOL, presets
from forgetkit.registry import registry

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
METHODS = ("lure", "llf", "rifle", "shrink-perturb", "cold", "warm")


def resolved(preset: str) -> dict[str, object]:
    """The protocol, and every component of the methods and replay strategies under it."""
    offers = registry.load(entry_points=False)
    plans = {method: config.resolve({"preset": preset, "method": method}, offers).config for method in METHODS}
    found = {k: v for k, v in plans["lure"].model_dump(mode="json").items() if k not in NOT_PROTOCOL}
    found["components"] = {
        "importance": [
            config.resolve({"preset": preset, "importance": name}, offers).config.importance
            for name in ("snip", "fisher", "magnitude", "random")
        ],
        "reinit": [plan.reinit for plan in plans.values()],
        "replay": [
            config.resolve({"preset": preset, "replay": name}, offers).config.replay
            for name in ("full", "none", "last", "buffer")
        ],
    }
    return found


@pytest.mark.parametrize("preset", presets.NAMES)
def test_a_preset_is_what_it_was(preset: str) -> None:
    assert resolved(preset) == GOLDEN[preset]


@pytest.mark.parametrize("preset", presets.NAMES)
def test_a_preset_alone_has_no_overrides(preset: str) -> None:
    offers = registry.load(entry_points=False)
    for method in METHODS:
        assert config.resolve({"preset": preset, "method": method}, offers).overrides == {}


def test_overrides_name_the_option_and_both_values() -> None:
    offers = registry.load(entry_points=False)
    given = {
        "preset": "paper",
        "epochs": 10,
        "reinit": "masked:fraction=0.3",
        "replay": "buffer:size=50",
        "importance": "snip",
        "lr": 0.05,
        "seed": 7,
        "dataset": "synthetic",
    }
    assert config.resolve(given, offers).overrides == {
        "epochs": {"value": 10, "preset": 50},
        "lr": {"value": 0.05, "preset": 0.1},
        "replay": {"value": "buffer", "preset": "full"},
        "reinit.masked.fraction": {"value": 0.3, "preset": 0.2},
        "replay.buffer.size": {"value": 50, "preset": 186},
    }


def test_a_learning_rate_for_sgd_is_not_taken_over_by_adamw() -> None:
    offers = registry.load(entry_points=False)
    for preset in presets.NAMES:
        plan = config.resolve({"preset": preset, "optimizer": "adamw"}, offers)
        assert plan.config.lr == 0.001
        assert plan.overrides["lr"] == {"value": 0.001, "preset": {"alma": 0.01}.get(preset, 0.1)}
        assert set(plan.overrides) == {"optimizer", "lr"}


def test_layers_over_a_preset(tmp_path: Path) -> None:
    """Preset < TOML file < --set < command line, for the options of components too."""
    offers = registry.load(entry_points=False)
    file = tmp_path / "mine.toml"
    file.write_text('preset = "lure-code"\nepochs = 9\n["reinit.masked"]\nfraction = 0.3\nties = "stable"\n')
    assigned = config.parse_assignments(["reinit.masked.fraction=0.4"])
    given = config.merge_layers(config.read_toml(file), assigned, {"reinit": "masked:params=all"})
    plan = config.resolve(given, offers)
    assert plan.config.epochs == 9
    assert plan.config.split == "contiguous"
    assert plan.config.reinit == (
        "masked:fraction=0.4,which=lowest,ties=stable,round=down,params=all,fresh=uniform,norm=uniform"
    )
    assert set(plan.overrides) == {
        "epochs",
        "reinit.masked.fraction",
        "reinit.masked.ties",
        "reinit.masked.params",
    }


def test_the_record_says_the_preset_and_its_overrides(tiny, workdir, substance) -> None:
    said = tiny("--preset", "paper", "--label-noise", "0.5", "--json")
    manifest = json.loads(next(workdir.glob("runs/*/manifest.json")).read_text())
    assert said.status == 0
    for record in (said.json, manifest):
        assert record["preset"] == record["config"]["preset"] == "paper"
        assert record["overrides"]["label-noise"] == {"value": 0.5, "preset": 0.0}
        assert record["overrides"]["epochs"] == {"value": 1, "preset": 50}
        assert 0 < record["noisy_labels"] < 60
    shown = tiny("--preset", "paper", "--label-noise", "0.5").out
    assert "preset paper" in shown.splitlines()[0]
    assert (
        "preset paper; overrides: mega-batches=2 (preset: 8), label-noise=0.5 (preset: 0.0), epochs=1 (preset: 50)"
        in shown
    )
    assert f"{said.json['noisy_labels']} labels of the stream changed by noise" in shown


def test_a_run_under_a_preset_is_resumed_under_it(tiny, cli, workdir, substance) -> None:
    said = tiny("--preset", "lure-code", "--method", "warm", "--json")
    run = next(workdir.glob("runs/*"))
    (run / "result.json").unlink()
    again = cli("run", "--resume", run, "--json")
    assert again.status == 0
    assert substance(again.json) == substance(said.json)
    assert cli("run", "--resume", run, "--preset", "paper").status == 2
