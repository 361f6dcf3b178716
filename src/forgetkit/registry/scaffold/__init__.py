"""Write the package of a new plugin from the templates in this folder."""

from __future__ import annotations

import importlib.util
import keyword
import re
import secrets
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from forgetkit._version import __version__
from forgetkit.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*")
_LONGEST = 40
"""Characters of a name; a longer one makes lines of the templates too long."""


@dataclass(frozen=True)
class _Kind:
    """The words of a template that depend on the kind."""

    part: str
    """The module that holds the component."""
    suffix: str
    """The end of the class's name, so that it equals no name that the module imports."""
    flag: str
    """The flag of a run that takes it; empty if there is none."""
    check: str
    """The function of ``forgetkit.testing`` that checks it."""


_KINDS = {
    "importance": _Kind("criterion", "Criterion", "--importance", "check_importance"),
    "reinit": _Kind("method", "Method", "--reinit", "check_reinit"),
    "replay": _Kind("strategy", "Strategy", "--replay", "check_replay"),
    "interventions": _Kind("intervention", "Intervention", "--intervention", "check_intervention"),
    "datasets": _Kind("source", "Source", "--dataset", "check_dataset"),
    "models": _Kind("network", "Network", "--model", "check_model"),
    "metrics": _Kind("metric", "Metric", "--metric", "check_metric"),
    "observers": _Kind("observer", "Observer", "--observer", "check_observer"),
    "analyses": _Kind("analysis", "Analysis", "", "check_analysis"),
    "executors": _Kind("executor", "Executor", "", "check_executor"),
}


@dataclass(frozen=True)
class ScaffoldResult:
    """The folder that was written, the names of component and module, and the files."""

    directory: Path
    component: str
    module: str
    files: tuple[Path, ...]


def write_package(name: str, kind: str, out: Path, builtin_names: Collection[str]) -> ScaffoldResult:
    """Write the package ``out/name`` of a plugin with one component of ``kind``; on failure, write nothing.

    Args:
        name: The distribution, such as ``forgetkit-mine``.
        kind: The kind of component.
        out: The folder to write to.
        builtin_names: Names of built-ins of that kind, which the component cannot have.

    Returns:
        What was written.

    Raises:
        UsageError: The name is invalid or in use, or the folder exists or cannot be written.
    """
    if kind not in _KINDS:
        raise UsageError(f"there is no template for {kind}; there are: {', '.join(_KINDS)}")
    words = _words(name, _KINDS[kind])
    if words["component"] in builtin_names:
        raise UsageError(
            f"'{words['component']}' is the name of a built-in, and it would still mean that one: choose another name"
        )
    directory = out / name
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} is there already: choose another name or another --out")
    package = Path("src") / words["module"]
    contents = {
        Path("pyproject.toml"): "pyproject.toml",
        Path("README.md"): "README.md",
        package / "__init__.py": "init.py",
        package / f"{words['part']}.py": f"{kind}/component.py",
        package / "py.typed": None,
        Path("tests") / f"test_{words['module']}.py": f"{kind}/test.py",
    }
    staging = out / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        for file, template in contents.items():
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).write_text(_fill_template(template, {**words, "kind": kind}), encoding="utf-8")
        staging.replace(directory)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ScaffoldResult(directory, words["component"], words["module"], tuple(contents))


def _words(name: str, kind: _Kind) -> dict[str, str]:
    """The values of the templates' variables; ``UsageError`` if the name is invalid."""
    component = name.removeprefix("forgetkit-")
    module = name.replace("-", "_")
    words = {
        "distribution": name,
        "component": component,
        "module": module,
        "class": "".join(part.capitalize() for part in component.split("-")) + kind.suffix,
        "part": kind.part,
        "check": kind.check,
        "run": f"forgetkit run {kind.flag} {component}" if kind.flag else f"forgetkit show {kind.part} {component}",
        "version": __version__,
    }
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or name == "forgetkit":
        raise UsageError(
            f"'{name}' is no valid name: lower-case words of letters and digits, each with a letter first, "
            f"dashes between them, {_LONGEST} characters at most, like forgetkit-mine"
        )
    if keyword.iskeyword(module):
        raise UsageError(f"'{name}' means something in Python: write forgetkit-{name}")
    if module in sys.stdlib_module_names or _importable(module):
        raise UsageError(f"a module is called '{module}' already: write forgetkit-{name}, or choose another name")
    return words


def _importable(module: str) -> bool:
    """Whether a module of this name is installed; a plain folder on the path is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _fill_template(template: str | None, words: dict[str, str]) -> str:
    if template is None:
        return ""
    text = (files(__package__) / "templates" / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)
