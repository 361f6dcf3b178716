"""A run records the plugin of each component; messages name one that clashes, is missing or has changed."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

import forgetkit
from forgetkit.errors import OptionError
from forgetkit.registry import registry

SOURCE = """
from dataclasses import dataclass
import torch
import forgetkit
from forgetkit.contracts import Change

@dataclass(frozen=True)
class Halve:
    "Halve everything."
    by: float = 2.0

    def propose(self, context):
        for name, value in context.targets.items():
            yield Change(name, None, value / self.by)

@forgetkit.hookimpl
def forgetkit_reinit():
    return {'halve': Halve}
"""
METRIC = """
from dataclasses import dataclass
import forgetkit

@dataclass(frozen=True)
class Last:
    "The last accuracy."

    def compute(self, rows):
        return rows[-1].test_accuracy

@forgetkit.hookimpl
def forgetkit_metrics():
    return {'last': Last}
"""


def site_of(workdir: Path, distribution: str) -> Path:
    (info,) = (workdir / "site").glob(f"{distribution.replace('-', '_')}-*.dist-info")
    return info


def require(workdir: Path, distribution: str, *requirements: str) -> None:
    with (site_of(workdir, distribution) / "METADATA").open("a") as file:
        file.writelines(f"Requires-Dist: {requirement}\n" for requirement in requirements)


def uninstall(workdir: Path, distribution: str) -> None:
    shutil.rmtree(site_of(workdir, distribution))
    module = distribution.replace("-", "_") + "_plugin"
    (workdir / "site" / f"{module}.py").unlink()
    sys.modules.pop(module, None)
    importlib.invalidate_caches()


CLASHES = {
    "later": ("forgetkit>=99", ">=99"),
    "pinned": ("forgetkit==0.0.1", "==0.0.1"),
    "spelled": ("ForgetKit (<0.0.5)", "<0.0.5"),
    "marked": ("forgetkit>=7 ; python_version >= '3'", ">=7"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_a_plugin_for_another_version_is_left_out(install, workdir, cli, clash: str) -> None:
    requirement, said = CLASHES[clash]
    install("halve-dist", "halve", "raise SystemExit('imported')")
    install("good-dist", "good", METRIC)
    require(workdir, "halve-dist", "torch>=1", requirement, "not a requirement (")
    reason = f"halve-dist 1.2 needs forgetkit{said}, and this is forgetkit {forgetkit.__version__}: update forgetkit"
    loaded = registry.load()
    (broken,) = map(str, loaded.broken)
    assert broken.startswith(f"plugin 'halve' of halve-dist is left out: {reason}")
    assert loaded.plugins == {"good-dist": "1.2"}
    with pytest.raises(OptionError, match=f"needs forgetkit{said}"):
        loaded.find("reinit", "halve")
    for words in (["plugins", "list"], ["plugins", "list", "--load"]):
        assert f"needs forgetkit{said}" in " ".join(cli(*words).out.split())
    entries = {entry["plugin"]: entry.get("clash") for entry in cli("plugins", "list", "--json").json["plugins"]}
    assert entries["good"] is None
    assert entries["halve"].startswith(reason)


@pytest.mark.parametrize(
    "requirement", ["forgetkit", "forgetkit>=0.0.1", "forgetkit>=99 ; extra == 'new'", "forgetkit-x>9"]
)
def test_a_requirement_that_holds_is_ignored(install, workdir, requirement: str) -> None:
    install("halve-dist", "halve", SOURCE)
    require(workdir, "halve-dist", requirement)
    loaded = registry.load()
    assert not loaded.broken
    assert loaded.plugins == {"halve-dist": "1.2"}


@pytest.fixture
def begun(install, tiny, workdir):
    """A run that was begun with a plugin's method and metric, and beside an unrelated plugin."""
    install("halve-dist", "halve", SOURCE)
    install("last-dist", "last", METRIC, "3.0")
    install("idle-dist", "idle", METRIC.replace("'last'", "'idle'"))
    assert tiny("--reinit", "halve:by=4", "--metric", "last", "--out", ".", "--name", "run").status == 0
    return workdir / "run"


def stopped(run: Path) -> None:
    """Make it look unfinished."""
    (run / "result.json").unlink()


def test_the_manifest_records_distributions(begun) -> None:
    manifest = json.loads((begun / "manifest.json").read_text())
    assert manifest["distributions"] == {"reinit": {"halve": "halve-dist"}, "metrics": {"last": "last-dist"}}


@pytest.mark.slow
def test_an_uninstalled_distribution_is_named(begun, cli, workdir) -> None:
    uninstall(workdir, "halve-dist")
    said = "the reinit method 'halve' came from halve-dist 1.2, which is not installed: pip install 'halve-dist==1.2'"
    # What does not need the method is answered without it.
    assert cli("analyze", begun, "calibration").status == 0
    stopped(begun)
    resumed = cli("run", "--resume", begun)
    assert (resumed.status, resumed.err.splitlines()) == (2, [f"forgetkit: {said}"])


def test_a_missing_metric_is_named(begun, cli, workdir) -> None:
    uninstall(workdir, "last-dist")
    stopped(begun)
    said = cli("run", "--resume", begun)
    assert said.err == (
        "forgetkit: the metric 'last' came from last-dist 3.0, which is not installed: pip install 'last-dist==3.0'\n"
    )


def test_a_version_without_the_component_is_named(begun, cli, workdir, install) -> None:
    uninstall(workdir, "halve-dist")
    install("halve-dist", "halve", SOURCE.replace("'halve'", "'other'"), "2.0")
    stopped(begun)
    said = cli("run", "--resume", begun)
    assert "came from halve-dist 1.2, and 2.0 does not offer it: pip install 'halve-dist==1.2'" in said.err


def test_a_disabled_distribution_is_named(begun, cli, monkeypatch) -> None:
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "halve-dist")
    stopped(begun)
    said = cli("run", "--resume", begun)
    assert "came from halve-dist 1.2; plugin 'halve' of halve-dist is disabled by FORGETKIT_DISABLE" in said.err


@pytest.mark.slow
def test_a_missing_file_is_named(plugin, tiny, cli, workdir) -> None:
    path = plugin("mine", SOURCE)
    assert tiny("--plugin", path, "--reinit", "halve", "--out", ".", "--name", "run").status == 0
    assert cli("analyze", workdir / "run", "calibration").status == 0
    stopped(workdir / "run")
    said = cli("run", "--resume", workdir / "run")
    assert said.err == (
        "forgetkit: the reinit method 'halve' came from the plugin file mine.py: give it again, with --plugin mine.py\n"
    )
    assert cli("run", "--resume", workdir / "run", "--plugin", path).status == 0


@pytest.mark.slow
def test_an_analysis_names_a_missing_data_set(install, cli, tiny_words, workdir) -> None:
    install(
        "data-dist",
        "data",
        "from dataclasses import dataclass\nimport forgetkit\n"
        "from forgetkit.builtin.datasets.synthetic import Synthetic\n"
        "@dataclass(frozen=True)\nclass Own:\n    'Some.'\n    def load(self, context):\n"
        "        return Synthetic(samples=60, test=20, classes=3, size=4, channels=1).load(context)\n"
        "@forgetkit.hookimpl\ndef forgetkit_datasets():\n    return {'own': Own}\n",
    )
    assert cli(*tiny_words, "--dataset", "own", "--out", ".", "--name", "run").status == 0
    uninstall(workdir, "data-dist")
    said = cli("analyze", "run", "calibration")
    assert said.status == 2
    assert "the dataset 'own' came from data-dist 1.2, which is not installed: pip install 'data-dist==1.2'" in said.out


@pytest.fixture
def warned(cli, caplog):
    """``warned(run)``: the warnings about plugins when a run resumes."""

    def call(run: Path, *words: object) -> list[str]:
        stopped(run)
        caplog.clear()
        said = cli("run", "--resume", run, *words)
        assert said.status == 0, said.err
        return [message for message in caplog.messages if "may differ" in message]

    return call


@pytest.mark.slow
def test_a_resumed_run_names_the_one_plugin_that_changed(begun, warned, workdir, install) -> None:
    assert warned(begun) == []
    uninstall(workdir, "idle-dist")  # which has no part in the run
    install("new-dist", "new", METRIC.replace("'last'", "'new'"))
    assert warned(begun) == []
    uninstall(workdir, "halve-dist")
    install("halve-dist", "halve", SOURCE, "1.3")
    (line,) = warned(begun)
    assert line == "this run was begun with halve-dist 1.2, not 1.3: its numbers may differ"


@pytest.mark.slow
def test_a_file_that_changed_is_named(plugin, tiny, warned, workdir) -> None:
    path = plugin("mine", SOURCE)
    other = plugin("other", METRIC)
    assert tiny("--plugin", path, "--plugin", other, "--reinit", "halve", "--out", ".", "--name", "run").status == 0
    other.write_text(METRIC + "# changed, and not used\n")
    assert warned(workdir / "run", "--plugin", path) == []
    path.write_text(SOURCE + "# changed\n")
    (line,) = warned(workdir / "run", "--plugin", path)
    assert line.startswith("the plugin file mine.py has changed since this run was begun (file ")


def test_a_component_of_another_distribution_is_named(begun, warned, workdir, install) -> None:
    uninstall(workdir, "halve-dist")
    install("twin-dist", "twin", SOURCE, "7")
    (line,) = warned(begun)
    assert line == "this run was begun with 'halve' of halve-dist 1.2, not of twin-dist: its numbers may differ"
