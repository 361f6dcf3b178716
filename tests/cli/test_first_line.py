"""The first line of a command comes before torch, which takes seconds to load on a busy machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch is asked for")

sys.meta_path.insert(0, NoTorch())
from forgetkit.cli import main

for words in sys.argv[1:]:
    main(words.split())
"""


@pytest.mark.children
def test_the_first_line_is_printed_before_torch_is_imported() -> None:
    commands = ["run", "ablate --over reinit=none", "analyze . churn", "reproduce table1 --dry-run", "data digits"]
    said = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *commands], capture_output=True, text=True, check=False)
    assert said.stdout.splitlines() == [f"forgetkit {words.split()[0]}: loading torch" for words in commands]
    assert said.stderr.count("torch is asked for") == len(commands)  # and each does load it then
