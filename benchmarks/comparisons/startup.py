"""How soon the command line answers."""

from __future__ import annotations

import subprocess
import sys

from comparisons.measure import Sides

HELP = "import sys; from forgetkit.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"


def help_text(device: str) -> Sides:
    """Print the help in child processes of the same interpreter; importing torch for it is a fault."""
    imports_torch = subprocess.run([sys.executable, "-c", HELP], check=False, capture_output=True).returncode
    fault = "forgetkit --help imports torch" if imports_torch else None
    return Sides(lambda: _start("-m", "forgetkit", "--help"), lambda: _start("-c", "pass"), fault=fault)


def _start(*words: str) -> int:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return 1
