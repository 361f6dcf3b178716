"""``forgetkit plugins new`` writes a working package for each kind."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forgetkit.errors import UsageError
from forgetkit.registry import registry, scaffold

KINDS = [kind for kind in registry.KINDS if kind not in ("commands", "optimizer_state")]


def python(*words: object, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def registered(package: Path) -> Path:
    """The folder of its modules, with the metadata of an installation."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {value}\n" for name, value in project["entry-points"]["forgetkit"].items()]
    (info / "entry_points.txt").write_text("".join(["[forgetkit]\n", *points]))
    return package / "src"


@pytest.mark.children
def test_the_packages_pass_their_own_tests(tmp_path) -> None:
    written = [scaffold.write_package(f"forgetkit-own-{kind}", kind, tmp_path, ()) for kind in KINDS]
    path = os.pathsep.join(str(one.directory / "src") for one in written)  # one child, since it has torch to import
    tests = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", folder=tmp_path, PYTHONPATH=path)
    assert tests.returncode == 0, tests.stdout
    passed = re.search(r"^(\d+) passed", tests.stdout, re.MULTILINE)
    assert passed
    assert int(passed[1]) >= 2 * len(KINDS)  # the promises, and something of its own


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_works(cli, workdir, monkeypatch, kind) -> None:
    name = f"forgetkit-mine-{kind}"
    said = cli("plugins", "new", name, "--kind", kind, "--json")
    assert (said.status, said.err) == (0, "")
    assert said.json["kind"] == kind
    assert said.json["component"] == f"mine-{kind}"
    package = workdir / name
    assert sorted(said.json["files"]) == sorted(str(f.relative_to(package)) for f in package.rglob("*") if f.is_file())
    monkeypatch.syspath_prepend(registered(package))
    entry = registry.load().find(kind, f"mine-{kind}")
    assert (entry.distribution, entry.version) == (name, "0.1.0")
    about = cli("plugins", "show", f"mine-{kind}", "--json").json
    assert about["source"].startswith("a template")
    assert all(option["meaning"] for option in about["options"])
    checked = cli("plugins", "check", name, "--json")
    assert checked.status == 0, checked.out


RUNS = {
    "importance": "--importance",
    "reinit": "--reinit",
    "replay": "--replay",
    "interventions": "--intervention",
    "datasets": "--dataset",
    "models": "--model",
    "metrics": "--metric",
    "observers": "--observer",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_uses_it_as_the_readme_says(cli, tiny, workdir, monkeypatch, kind) -> None:
    cli("plugins", "new", f"forgetkit-run-{kind}", "--kind", kind)
    package = workdir / f"forgetkit-run-{kind}"
    assert f"forgetkit run {RUNS[kind]} run-{kind}\n" in (package / "README.md").read_text()
    monkeypatch.syspath_prepend(registered(package))
    said = tiny(RUNS[kind], f"run-{kind}", "--json", "--quiet")
    assert (said.status, said.err) == (0, "")
    assert said.json["versions"]["plugins"] == {f"forgetkit-run-{kind}": "0.1.0"}
    if kind == "metrics":
        assert said.json["run_metrics"] >= 0
    if kind == "observers":
        assert len((workdir / "run-observers.csv").read_text().splitlines()) == 2


@pytest.mark.children
def test_ruff_finds_nothing_under_any_name(tmp_path) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ruff is None:
        pytest.skip("ruff is not installed")
    for kind in KINDS:
        for name in ("a", "mine", "forgetkit-" + "-".join(["long"] * 6), "abcd-" * 7 + "abcde"):
            written = scaffold.write_package(name, kind, tmp_path / kind, ())
            for file in written.files:
                assert max(map(len, (written.directory / file).read_text().splitlines() or [""])) <= 120, file
    for words in (("check",), ("format", "--check")):
        done = subprocess.run(
            [ruff, *words, "--no-cache", "."], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.children
def test_it_can_be_installed(tmp_path) -> None:
    if None in map(importlib.util.find_spec, ("pip", "setuptools")):
        pytest.skip("pip or setuptools is not installed")
    written = scaffold.write_package("forgetkit-installed", "importance", tmp_path, ())
    site = tmp_path / "site"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", site)
    done = python("-m", "pip", "install", "-q", *options, written.directory, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (site / "forgetkit_installed" / "py.typed").exists()
    listed = python("-m", "forgetkit", "plugins", "list", "--load", folder=tmp_path, PYTHONPATH=str(site))
    (line,) = [line for line in listed.stdout.splitlines() if "forgetkit-installed" in line]
    assert line.split() == [
        *("installed", "forgetkit-installed", "0.1.0", "forgetkit_installed", "installed", "(importance)")
    ]


@pytest.mark.parametrize(
    ("word", "kind"), [("criterion", None), ("intervention", "interventions"), ("analysis", "analyses")]
)
def test_a_kind_in_the_singular(cli, word, kind) -> None:
    said = cli("plugins", "new", "mine-own", "--kind", word, "--json")
    assert said.status == (2 if kind is None else 0)
    if kind:
        assert said.json["kind"] == kind


REFUSED = {
    ("Mine", "importance"): "'Mine' is no valid name",
    ("mine_own", "importance"): "is no valid name",
    ("-mine", "importance"): None,
    ("1st", "importance"): "is no valid name",
    ("../mine", "importance"): "is no valid name",
    ("forgetkit", "importance"): "is no valid name",
    ("forgetkit-", "importance"): "is no valid name",
    ("a" * 41, "importance"): "40 characters at most",
    ("class", "importance"): "'class' means something in Python: write forgetkit-class",
    ("json", "metrics"): "a module is called 'json' already: write forgetkit-json",
    ("torch", "metrics"): "a module is called 'torch' already",
    ("forgetkit-snip", "importance"): "'snip' is the name of a built-in",
    ("snip", "importance"): "'snip' is the name of a built-in",
    ("mine", "commands"): "there is no template for commands; there are: importance, ",
    ("mine", "nothing"): "no kind of component is called 'nothing'",
}


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_an_invalid_name_is_refused_without_a_file(cli, workdir, name, kind) -> None:
    before = sorted(workdir.iterdir())
    said = cli("plugins", "new", name, "--kind", kind)
    assert (said.status, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert (REFUSED[name, kind] or "") in said.err
    assert sorted(workdir.iterdir()) == before


def test_a_built_in_name_of_another_kind_is_free(tmp_path) -> None:
    taken = {entry.name for entry in registry.load(entry_points=False).named("metrics")}
    assert scaffold.write_package("forgetkit-snip", "metrics", tmp_path, taken).component == "snip"


def test_nothing_is_overwritten(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    scaffold.write_package("mine", "metrics", tmp_path, ())
    for _ in range(2):
        with pytest.raises(UsageError, match=r"mine is there already: choose another name or another --out"):
            scaffold.write_package("mine", "metrics", tmp_path, ())
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is there already"):
        scaffold.write_package("file", "metrics", tmp_path, ())
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        scaffold.write_package("mine", "metrics", tmp_path / "file", ())


def test_the_output_names_the_next_command(cli, workdir) -> None:
    said = cli("plugins", "new", "forgetkit-mine", "--kind", "metric", "--out", workdir / "a" / "b")
    assert said.status == 0
    assert (workdir / "a" / "b" / "forgetkit-mine" / "src" / "forgetkit_mine" / "metric.py").exists()
    assert "forgetkit plugins check mine --kind metrics" in said.out
