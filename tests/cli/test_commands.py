"""The modules of the command line."""

from __future__ import annotations

import ast
from pathlib import Path

from forgetkit import cli

FOLDER = Path(cli.__file__).parent


def commands() -> set[str]:
    """The modules whose command or application ``main`` adds."""
    attributes = (
        node for node in ast.walk(ast.parse((FOLDER / "main.py").read_text())) if isinstance(node, ast.Attribute)
    )
    return {
        node.value.id
        for node in attributes
        if node.attr in ("command", "application") and isinstance(node.value, ast.Name) and node.value.id != "app"
    }


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_module_but_main_imports_a_command():
    assert {"run", "ablate", "plugins"} <= commands()
    modules = {f"forgetkit.cli.{name}" for name in commands()}
    found = {path.name: imports(path) & modules for path in FOLDER.glob("*.py") if path.name != "main.py"}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert imports(FOLDER / "main.py") >= modules
