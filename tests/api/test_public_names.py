"""What the public names say of themselves, and what importing them loads."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys

import pytest
import torch

import forgetkit

FUNCTIONS = [name for name in forgetkit.__all__ if inspect.isfunction(getattr(forgetkit, name))]
METHODS = [forgetkit.RunResult.plot, forgetkit.RunResult.model, forgetkit.Ablation.to_pandas, forgetkit.Ablation.report]
DOCUMENTED = [*(getattr(forgetkit, name) for name in FUNCTIONS), *METHODS]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["forgetkit", "forgetkit.api"])
def test_an_import_loads_no_display(module):
    heavy = "{'rich', 'typer', 'pandas', 'matplotlib', 'IPython'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & sys.modules.keys()) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_examples_run(workdir):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    names = {
        "forgetkit": forgetkit,
        "torch": torch,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "batches": [(torch.rand(8, 1, 8, 8), torch.arange(8))],
    }
    runner = doctest.DocTestRunner()
    for function in DOCUMENTED:
        for example in doctest.DocTestFinder(recurse=False).find(function, globs=names):
            assert runner.run(example, clear_globs=False).failed == 0
            names |= example.globs
    assert runner.tries > len(FUNCTIONS)
