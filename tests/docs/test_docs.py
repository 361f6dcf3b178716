"""The documentation is held against the code, and every block of it is executed."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

from forgetkit.ablation import grid
from forgetkit.config import RunConfig, resolve
from forgetkit.registry import hookspecs, registry
from forgetkit.registry.spec import options_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLATION = ("python -m pip install . && ", "python -m pip install nox && nox")


def blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match[1] == language:
                line = page.read_text(encoding="utf-8")[: match.start()].count("\n") + 1
                found.append(pytest.param(page, match[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "block.py"
    file.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = type(sys)("block")
    monkeypatch.setitem(sys.modules, "block", module)  # dataclasses look their module up
    exec(compile(code, str(file), "exec"), module.__dict__)
    assert set(vars(module)) - {"__builtins__"}


@pytest.mark.parametrize(("page", "code"), blocks("sh"))
def test_shell_blocks_run(page: Path, code: str, workdir: Path, start: typing.Any) -> None:
    """Each block in a folder of its own, with the files that the page shows; what it installs goes into another."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        named = re.match(r"# ([\w/.-]+\.\w+)\n", match[2])
        if named:
            file = workdir / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(match[2])
    site = workdir / "site"
    for line in code.strip().splitlines():
        if line == INSTALLATION[1]:
            continue  # this very suite
        words = shlex.split(line.removeprefix(INSTALLATION[0]))
        if words[0] == "forgetkit" and not site.exists():
            status, said = start(words[1:]).wait(), [workdir / name for name in ("stdout", "stderr")]
            assert status == 0, "\n".join([line, *(file.read_text() for file in said)])
            continue
        if words[:4] == ["python", "-m", "pip", "install"]:
            words[4:4] = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
        if words[0] == "forgetkit":  # with what was installed
            words = ["python", "-m", *words]
        assert words[:2] == ["python", "-m"], line
        paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        run = subprocess.run(
            [sys.executable, *words[1:]],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"


@pytest.mark.parametrize(("page", "code"), blocks("toml"))
def test_toml_blocks_mean_something(page: Path, code: str, tmp_path: Path) -> None:
    content = tomllib.loads(code)
    if page.name == "usage.md":
        assert resolve(content, registry.load(entry_points=False)).config
    elif page.name == "ablation.md":
        (tmp_path / "grid.toml").write_text(code)
        assert grid.plan_cells(grid.read_grid(tmp_path / "grid.toml").cells(), registry.load(entry_points=False))
    else:
        assert content["project"]["entry-points"]["forgetkit"]


def test_every_option_is_documented() -> None:
    from forgetkit.cli import options, run

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    for parameter in options.signature(run.SPECIAL).parameters.values():
        (option,) = parameter.annotation.__metadata__
        (flag,) = [name for name in (option.default, *option.param_decls) if str(name).startswith("--")]
        assert f"| `{flag}` |" in text, f"{flag} is not documented"


def test_every_option_of_an_ablation_is_documented() -> None:
    from forgetkit.cli import ablate

    text = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    for _, option in ablate.SPECIAL.values():
        assert re.search(rf"^\| .*`{option.default}`.* \|", text, re.MULTILINE), f"{option.default} is not documented"


def test_every_option_of_analyze_is_documented() -> None:
    from forgetkit.cli import analyze

    text = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    for _, option in analyze.OWN.values():
        assert re.search(rf"^\| .*`{option.default}`.* \|", text, re.MULTILINE), f"{option.default} is not documented"


def test_every_option_of_data_is_documented() -> None:
    from forgetkit.cli import data

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    section = text.partition("## `forgetkit data`")[2].partition("\n## ")[0]
    hints = typing.get_type_hints(data.command, include_extras=True)
    flags = [flag for hint in hints.values() for one in getattr(hint, "__metadata__", ()) for flag in flags_of(one)]
    assert len(flags) == 5
    for flag in flags:
        assert f"| `{flag}` |" in section, f"{flag} is not documented"


def flags_of(option: typing.Any) -> list[str]:
    names = (getattr(option, "default", None), *(getattr(option, "param_decls", None) or ()))
    return [name for name in names if str(name).startswith("--")]


def test_analyses_that_the_page_shows_can_be_asked() -> None:
    from forgetkit.analysis.questions import Question

    offers = registry.load(entry_points=False)
    text = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines() if "analyze runs/NAME" in line]
    assert len(lines) > 9
    for line in lines:
        words = shlex.split(line)[3:]
        specs = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        assert specs, line
        for spec in specs:
            assert Question.of(offers, spec).analysis, line


def test_documented_defaults_are_the_true_ones() -> None:
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    for name, field in RunConfig.model_fields.items():
        row = re.search(rf"^\| `--{name.replace('_', '-')}` \|.*\| (.*?) \|$", text, re.MULTILINE)
        if field.default not in (None, ()) and row:
            stated = row[1].strip("`")
            assert stated == str(field.default) or float(stated) == float(field.default), name


def test_every_command_is_documented() -> None:
    from forgetkit.cli.main import application

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    commands = application()
    for command in (*commands.registered_commands, *commands.registered_groups):
        assert f"## `forgetkit {command.name}`" in text


def test_every_hook_is_documented() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if name.startswith("forgetkit_")]
    assert sorted(hooks) == sorted(f"forgetkit_{kind}" for kind in registry.KINDS)
    for hook in hooks:
        assert f"| `{hook}` |" in text
        assert vars(hookspecs)[hook].__doc__


def test_every_hook_is_tested() -> None:
    here = Path(__file__)
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py") if p != here]
    for kind in registry.KINDS:
        assert any(f"def forgetkit_{kind}(" in source for source in sources), f"no test offers {kind}"


def test_every_component_and_option_is_documented() -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
    for offer in registry.load(entry_points=False).components:
        text = pages["analyses" if offer.kind == "analyses" else "methods"]
        if offer.kind == "analyses":
            text = re.split(r"^## ", text.partition(f"## `{offer.name}`\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
            text += f"`{offer.name}`" if text else ""
        assert f"`{offer.name}`" in text, f"{offer.kind} {offer.name} is not documented"
        assert offer.summary.endswith((".", ":", "?")), offer.name
        for option in options_of(offer.component):
            written = option.name.replace("_", "-") if offer.kind == "analyses" else option.name
            assert f"`{written}`" in text, f"option {option.name} of {offer.name} is not documented"


PROMISES = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(?:python\s)?([\w/-]+\.py)\b[^`]*`")


def promises() -> list[str]:
    """Each row of a table, item of a list and paragraph that promises something."""
    found = []
    for section in PROMISES.partition("\n## Measured")[0].split("\n## ")[1:]:
        for block in section.split("\n\n")[1:]:
            lines = block.strip()
            found += lines.splitlines()[2:] if lines.startswith("|") else re.split(r"\n(?=- )", lines)
    return found


def test_each_promise_names_its_tests() -> None:
    assert len(promises()) > 30
    assert [promise for promise in promises() if not NAMED.search(promise)] == []


def test_the_tests_that_promises_name_exist() -> None:
    names = set(NAMED.findall(PROMISES))
    assert len(names) > 30
    for name in names:
        beside = [ROOT / "tests" / name, ROOT / name, *(ROOT / "tests").rglob(name)]
        assert any(file.is_file() for file in beside), f"the page on reliability names {name}, which is not there"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_has_a_docstring_and_stands_in_the_docs() -> None:
    import forgetkit

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8") + (ROOT / "docs" / "plugins.md").read_text(
        encoding="utf-8"
    )
    for name in set(forgetkit.__all__) - {"__version__", "hookimpl"}:
        assert getattr(forgetkit, name).__doc__
        assert f"forgetkit.{name}(" in text
    assert "forgetkit.hookimpl" in text
