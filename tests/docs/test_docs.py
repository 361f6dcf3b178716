"""The documentation matches the code, and every code block of it runs."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.optional_packages import import_or_skip

import forgetkit
from forgetkit.ablation import grid
from forgetkit.analysis.questions import Question
from forgetkit.cli import ablate, analyze, data, options, run
from forgetkit.cli.main import application
from forgetkit.config import RunConfig, resolve
from forgetkit.registry import hookspecs, registry
from forgetkit.registry.spec import options_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLATION = "python -m pip install . && "
THIS_SUITE = "python -m pip install nox && nox"
QUICK_START = "forgetkit run --importance snip --reinit masked"


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def trainers_in(code: str) -> list[str]:
    """The trainers that a block imports: they are extras, and their warnings are no concern of ours."""
    return re.findall(r"^(?:import|from) (accelerate|avalanche|lightning|skorch|transformers)\b", code, re.MULTILINE)


def blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == language:
                line = text[: match.start()].count("\n") + 1
                marks = [pytest.mark.filterwarnings("ignore")] if trainers_in(match[2]) else []
                found.append(pytest.param(page, match[2], id=f"{page.relative_to(ROOT)}:{line}", marks=marks))
    return found


def shell_blocks() -> list[object]:
    """Each block with at most one epoch, and as a long test as it is written."""
    found = []
    for block in blocks("sh"):
        page, code = block.values
        short = re.sub(r"--epochs \d+", "--epochs 1", code)
        if code.rstrip().endswith(QUICK_START):
            short = short.rstrip() + " --epochs 1"
        found.append(pytest.param(page, short, id=block.id))
        if short != code:
            found.append(pytest.param(page, code, id=f"{block.id}-as-written", marks=pytest.mark.long))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for trainer in trainers_in(code):
        import_or_skip(trainer)
    file = tmp_path / "block.py"
    file.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = type(sys)("block")
    monkeypatch.setitem(sys.modules, "block", module)  # dataclasses look their module up
    exec(compile(code, str(file), "exec"), module.__dict__)
    assert set(vars(module)) - {"__builtins__"}


@pytest.mark.parametrize(("page", "code"), shell_blocks())
def test_shell_blocks_run(page: Path, code: str, workdir: Path, start: typing.Any) -> None:
    """Run a block in an empty folder with the files that the page shows; packages go to the folder ``site``."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        named = re.match(r"# ([\w/.-]+\.\w+)\n", match[2])
        if named:
            file = workdir / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(match[2])
    site = workdir / "site"
    for line in code.strip().splitlines():
        if line == THIS_SUITE:
            continue
        words = shlex.split(line.removeprefix(INSTALLATION))
        if words[0] == "forgetkit" and not site.exists():
            status, output = start(words[1:]).wait(), [workdir / name for name in ("stdout", "stderr")]
            assert status == 0, "\n".join([line, *(file.read_text() for file in output)])
            continue
        if words[:4] == ["python", "-m", "pip", "install"]:
            words[4:4] = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
        if words[0] == "forgetkit":  # a fresh interpreter sees the installed packages
            words = ["python", "-m", *words]
        if words[1].startswith("benchmarks/"):
            words[1] = str(ROOT / words[1])
        assert words[:2] == ["python", "-m"] or words[1].startswith(str(ROOT)), line
        paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *words[1:]],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


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


DOCUMENTED_OPTIONS = {
    "run": ("usage.md", "", lambda: flags_of(*options.signature(run.SPECIAL).parameters.values())),
    "ablate": ("ablation.md", "", lambda: [option.default for _, option in ablate.SPECIAL.values()]),
    "analyze": ("analyses.md", "", lambda: [option.default for _, option in analyze.OWN.values()]),
    "data": (
        "usage.md",
        "## `forgetkit data`",
        lambda: flags_of(*inspect.signature(data.command, eval_str=True).parameters.values()),
    ),
}


@pytest.mark.parametrize(("page", "heading", "flags"), DOCUMENTED_OPTIONS.values(), ids=DOCUMENTED_OPTIONS)
def test_every_option_is_documented(page: str, heading: str, flags: Callable[[], list[str]]) -> None:
    text = read(page).partition(heading)[2].partition("\n## ")[0] if heading else read(page)
    assert len(flags()) > 4
    for flag in flags():
        assert re.search(rf"^\| .*`{flag}`.* \|", text, re.MULTILINE), f"{flag} is not documented"


def flags_of(*parameters: inspect.Parameter) -> list[str]:
    options_of_typer = [one for p in parameters for one in getattr(p.annotation, "__metadata__", ())]
    names = [name for option in options_of_typer for name in (option.default, *(option.param_decls or ()))]
    return [name for name in names if str(name).startswith("--")]


def test_analyses_on_the_page_are_valid_questions() -> None:
    components = registry.load(entry_points=False)
    lines = [
        line
        for _, block in BLOCK.findall(read("analyses.md"))
        for line in block.splitlines()
        if "analyze runs/NAME" in line
    ]
    assert len(lines) > 9
    for line in lines:
        words = shlex.split(line)[3:]
        specs = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        assert specs, line
        for spec in specs:
            assert Question.of(components, spec).analysis, line


def test_documented_defaults_are_right() -> None:
    text = read("usage.md")
    for name, field in RunConfig.model_fields.items():
        row = re.search(rf"^\| `--{name.replace('_', '-')}` \|.*\| (.*?) \|$", text, re.MULTILINE)
        if field.default not in (None, ()) and row:
            stated = row[1].strip("`")
            assert stated == str(field.default) or float(stated) == float(field.default), name


def test_every_command_is_documented() -> None:
    commands = application()
    for command in (*commands.registered_commands, *commands.registered_groups):
        assert f"## `forgetkit {command.name}`" in read("usage.md")


def test_every_hook_is_documented() -> None:
    text = read("plugins.md")
    hooks = [name for name in vars(hookspecs) if name.startswith("forgetkit_")]
    assert sorted(hooks) == sorted(f"forgetkit_{kind}" for kind in registry.KINDS)
    for hook in hooks:
        assert f"| `{hook}` |" in text
        assert vars(hookspecs)[hook].__doc__


def test_every_hook_is_tested() -> None:
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__)]
    for kind in registry.KINDS:
        assert any(f"def forgetkit_{kind}(" in source for source in sources), f"no test has a plugin with {kind}"


def test_every_component_and_option_is_documented() -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
    for entry in registry.load(entry_points=False).components:
        text = pages["analyses" if entry.kind == "analyses" else "methods"]
        if entry.kind == "analyses":
            text = re.split(r"^## ", text.partition(f"## `{entry.name}`\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
            text += f"`{entry.name}`" if text else ""
        assert f"`{entry.name}`" in text, f"{entry.kind} {entry.name} is not documented"
        assert entry.summary.endswith((".", ":", "?")), entry.name
        for option in options_of(entry.component):
            written = option.name.replace("_", "-") if entry.kind == "analyses" else option.name
            assert f"`{written}`" in text, f"option {option.name} of {entry.name} is not documented"


PROMISES = read("reliability.md")
NAMED = re.compile(r"`(?:python\s)?([\w/-]+\.py)\b[^`]*`")


def promises() -> list[str]:
    """Each table row, list item and paragraph of the page before its measurements."""
    found = []
    for section in PROMISES.partition("\n## Measured")[0].split("\n## ")[1:]:
        for block in section.split("\n\n")[1:]:
            lines = block.strip()
            found += lines.splitlines()[2:] if lines.startswith("|") else re.split(r"\n(?=- )", lines)
    return found


def test_each_promise_names_its_tests() -> None:
    assert len(promises()) > 30
    assert [promise for promise in promises() if not NAMED.search(promise)] == []


def test_the_tests_named_by_promises_exist() -> None:
    names = set(NAMED.findall(PROMISES))
    assert len(names) > 30
    for name in names:
        beside = [ROOT / "tests" / name, ROOT / name, *(ROOT / "tests").rglob(name)]
        assert any(file.is_file() for file in beside), f"the page on reliability names {name}, which does not exist"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_documented() -> None:
    text = read("usage.md") + read("ablation.md") + read("plugins.md")
    for name in set(forgetkit.__all__) - {"__version__", "hookimpl"}:
        assert getattr(forgetkit, name).__doc__
        assert re.search(rf"\bforgetkit\.{name}\b", text), name
    assert "forgetkit.hookimpl" in text
