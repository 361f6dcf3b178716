"""How soon the command line answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from forgetkit.bench.measure import Sides

_HELP = "import sys; from forgetkit.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"


def help_text() -> Sides:
    """The help, in child processes of the same interpreter."""
    imports_torch = subprocess.run([sys.executable, "-c", _HELP], check=False, capture_output=True).returncode
    fault = "forgetkit --help imports torch" if imports_torch else None
    return Sides(lambda: _time_start(["-m", "forgetkit", "--help"]), lambda: _time_start(["-c", "pass"]), fault=fault)


def _time_start(words: Sequence[str]) -> int:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return 1
