"""The packages in ``plugins/`` use the public API alone."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = sorted((Path(__file__).parents[2] / "plugins").glob("*/src/*/*.py"))
PUBLIC = ("forgetkit", "forgetkit.contracts", "forgetkit.errors", "forgetkit.unlearning", "forgetkit.seeding")


@pytest.mark.parametrize("file", PACKAGES, ids=lambda file: f"{file.parent.name}.{file.stem}")
def test_a_package_uses_public_names_alone(file: Path) -> None:
    own = file.parent.name
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            assert all(m == "forgetkit" or not m.startswith("forgetkit.") for m in modules), modules
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("forgetkit"):
            module = str(node.module)
            if module == own or module.startswith(f"{own}."):
                continue
            assert module in PUBLIC, f"{file.name} imports from {module}"
            public = getattr(import_module(module), "__all__", None)
            for alias in node.names:
                assert not alias.name.startswith("_"), alias.name
                assert public is None or alias.name in public, f"{file.name} imports {alias.name} from {module}"


def test_both_packages_are_found() -> None:
    assert {file.parent.name for file in PACKAGES} == {"forgetkit_plasticity", "forgetkit_saliency"}
