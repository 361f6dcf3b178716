"""What shells are offered, by the scripts that typer writes for them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forgetkit.cli import completion
from forgetkit.config import KIND_OF
from forgetkit.registry import registry


@pytest.mark.parametrize("kind", KIND_OF.values())
def test_the_names_read_from_the_source_are_those_on_offer(kind: str) -> None:
    assert set(completion.components(kind)) == {offer.name for offer in registry.load().named(kind)}


def test_broken_plugins_do_not_stop_shell_completion(install: Any) -> None:
    install("forgetkit-broken", "broken", "def forgetkit_reinit(:")
    install("forgetkit-leaving", "leaving", "raise SystemExit")
    install("forgetkit-mine", "mine", "class Plugin:\n    def forgetkit_reinit(self): return {'mine': 1, **{}}")
    assert {"mine", "masked"} <= set(completion.components("reinit"))


@pytest.mark.children
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --prec", {"--precision"}),
        ("run --precision ", {"auto", "fp32", "bf16"}),
        ("run --threads ", {"auto"}),
        ("run --model res", {"resnet18", "resnet34", "resnet50"}),
        ("run --reinit kn", {"knowledge-evolution"}),
        ("ablate --preset cl", {"clean"}),
        ("show imp", {"importance"}),
        ("show importance sn", {"snip"}),
        ("data fol", {"folder"}),
        ("analyze runs/x cal", {"calibration"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_offered_options_choices_and_components(shell: str, line: str, expected: set[str]) -> None:
    code = (
        "import sys; sys.argv[0] = 'forgetkit'; from forgetkit.cli import main; status = main();"
        "sys.exit('torch is imported' if 'torch' in sys.modules else status)"
    )
    asked = f"forgetkit {line}"
    environment = {
        **os.environ,
        "_FORGETKIT_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": asked,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": asked,
        "COMP_CWORD": str(len(asked.split(" ")) - 1),
    }
    if shell == "bash":
        del environment["_TYPER_COMPLETE_ARGS"]
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "torch is imported" not in said.stderr
    found = {
        word.strip("'\"()") for word in said.stdout.replace("\n", " ").replace(":", " ").replace("\t", " ").split()
    }
    assert expected <= found, said


SCRIPTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(_FORGETKIT_COMPLETE=source_bash forgetkit)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -Uz compinit; compinit -u; eval "$(_FORGETKIT_COMPLETE=source_zsh forgetkit)"',
    ),
    "fish": (["fish", "--no-config", "-i"], "_FORGETKIT_COMPLETE=source_fish forgetkit | source"),
}


@pytest.mark.children
@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_real_shell_completes_folders_and_the_names_of_plugins(shell: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("forgetkit")
    if shutil.which(shell) is None or not program.exists():
        pytest.skip(f"{shell} or the command forgetkit is not installed")
    (tmp_path / "some-runs").mkdir()
    words, script = SCRIPTS[shell]
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "TERM": "dumb",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(words[0], words, environment)
    try:
        os.write(terminal, f"{script}; echo rea''dy\n".encode())
        _read_until(terminal, "ready")
        for line, whole in (
            ("run --resume som", "run --resume some-runs/"),
            ("table som", "table some-runs/"),
            ("run --reinit kn", "run --reinit knowledge-evolution"),
        ):
            os.write(terminal, f"forgetkit {line}\t".encode())
            _read_until(terminal, f"forgetkit {whole}")
            os.write(terminal, b"\x15")  # empties the line
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _read_until(terminal: int, wanted: str) -> None:
    """Fails if the terminal falls silent before."""
    seen = ""
    while wanted not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 65536).decode(errors="replace")
