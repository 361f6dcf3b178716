"""What shells are offered, by the scripts that typer writes for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from forgetkit import registry
from forgetkit.cli import completion
from forgetkit.config import KIND_OF


@pytest.mark.parametrize("kind", KIND_OF.values())
def test_the_names_read_from_the_source_are_those_on_offer(kind: str) -> None:
    offers = registry.load()
    own = {offer.name for offer in offers.named(kind) if offer.distribution == "forgetkit"}
    assert set(completion.built_in(kind)) == own


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --prec", {"--precision"}),
        ("run --precision ", {"auto", "fp32", "bf16"}),
        ("run --threads ", {"auto"}),
        ("run --model res", {"resnet18", "resnet34", "resnet50"}),
        ("ablate --preset cl", {"clean"}),
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
