"""No line of forgetkit or its plugins runs code from a file or fetches anything, with a few exceptions.

Each exception has its reason; a stale exception fails the test.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])

UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
FETCHING = {"urllib", "http", "socket", "requests", "httpx", "aiohttp", "ftplib", "ssl", "smtplib", "huggingface_hub"}
PROGRAMS = {"eval", "exec", "compile", "__import__"}
NEVER = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"),
    *("extractall", "extract", "shutil.unpack_archive", "download_url", "download_and_extract_archive"),
    *("torch.hub.load", "load_state_dict_from_url", "torch.jit.load", "torch.package.PackageImporter"),
    *("runpy.run_path", "runpy.run_module", "ElementTree.parse", "read_pickle", "fetch_openml", "urlretrieve"),
}
"""Calls by the end of their dotted name."""
CODE = {"import_module", "exec_module", "spec_from_file_location", "load_module"}
"""Calls that run a module, unless its name is a constant or begins with that of the package."""

ALLOWED = {
    ("forgetkit/builtin/executors/local.py", "pickle"): "pipes between our own processes",
    ("forgetkit/builtin/executors/worker.py", "pickle"): "pipes between our own processes",
    ("forgetkit/builtin/datasets/_decode_pool.py", "pickle"): "pipes between our own processes",
    ("forgetkit/builtin/datasets/_decoding.py", "pickle"): "pipes between our own processes",
    ("forgetkit/builtin/datasets/_cifar.py", "pickle"): "checked files alone, by a reader that finds NumPy's arrays",
    ("forgetkit/testing/common.py", "pickle"): "a component's own copy, in memory",
    ("forgetkit/testing/replay.py", "pickle"): "a component's own copy, in memory",
    ("forgetkit/builtin/datasets/_cifar.py", "http"): "download=true",
    ("forgetkit/builtin/datasets/_cifar.py", "urllib"): "download=true",
    ("forgetkit/unlearning/wire.py", "pickle"): "batches between the processes of one torch.distributed job",
    ("forgetkit/integrations/requirements.py", "import_module"): "the installed trainer of the integration in use",
    ("forgetkit/builtin/models/imported.py", "import_module"): "import:MODULE:CALLABLE on the command line",
    ("forgetkit/registry/registry.py", "import_module"): "an installed plugin, or --plugin FILE.py",
    ("forgetkit/registry/registry.py", "exec_module"): "--plugin FILE.py",
    ("forgetkit/registry/registry.py", "spec_from_file_location"): "--plugin FILE.py",
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def constant(call: ast.Call, keyword: str) -> object:
    return next(
        (one.value.value for one in call.keywords if one.arg == keyword and isinstance(one.value, ast.Constant)), None
    )


def known(argument: ast.expr) -> bool:
    """Whether the module's name is a constant or inside the importing package."""
    return isinstance(argument, ast.Constant) or (
        isinstance(argument, ast.JoinedStr) and dotted(getattr(argument.values[0], "value", argument)) == "__name__"
    )


def risky_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each use that needs a reason."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for top in {module.partition(".")[0] for module in modules} & (UNPICKLING | FETCHING):
                yield node.lineno, top
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "os", "subprocess"):
                for alias in node.names:  # calls by another name would be missed
                    if alias.name in ("load", "system", "popen") or f"{node.module}.{alias.name}" in NEVER:
                        yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            if name in PROGRAMS or any(name == never or name.endswith(f".{never}") for never in NEVER):
                yield node.lineno, name
            elif last in CODE and not (last == "import_module" and node.args and known(node.args[0])):
                yield node.lineno, last
            elif name == "torch.load" and constant(node, "weights_only") is not True:
                yield node.lineno, "torch.load without weights_only=True"
            elif name in ("np.load", "numpy.load", "np.lib.format.read_array"):
                if constant(node, "allow_pickle") is not False:
                    yield node.lineno, f"{name} without allow_pickle=False"
            elif any(one.arg == "shell" for one in node.keywords):
                yield node.lineno, "shell="


@pytest.mark.slow
def test_nothing_of_that_kind_is_done_without_a_reason():
    assert len(SOURCES) > 200
    used, found = set(), []
    for path in SOURCES:
        name = path.relative_to(next(up for up in path.parents if up.name == "src")).as_posix()
        for line, use in risky_uses(ast.parse(path.read_text(encoding="utf-8"))):
            if (name, use) in ALLOWED:
                used.add((name, use))
            else:
                found.append(f"{name}:{line}: {use}")
    assert found == []
    assert used == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import urllib.request",
            "from http.client import HTTPException",
        ),
        *("torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "numpy.load(f, allow_pickle=True)"),
        *("eval(text)", "exec(text)", "subprocess.run(text, shell=True)", "os.system(text)", "from os import system"),
        *("tar.extractall(folder)", "importlib.import_module(name)", "spec.loader.exec_module(module)", "import yaml"),
        *("import_module(f'{name}.x')", "from torch import load", "torch.hub.load('a', 'b')"),
    ],
)
def test_it_would_be_found(line):
    assert list(risky_uses(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        *("torch.load(f, weights_only=True)", "np.load(f, allow_pickle=False)", "model.eval()", "json.load(f)"),
        *(
            "import_module('forgetkit.api')",
            "import_module(f'{__name__}.x')",
            "subprocess.run([a, b])",
            "re.compile(x)",
        ),
    ],
)
def test_what_is_harmless_is_not(line):
    assert not list(risky_uses(ast.parse(line)))
