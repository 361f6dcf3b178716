"""``forgetkit show``, ``--help`` and ``--version``."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

import forgetkit
from forgetkit.config import RunConfig
from forgetkit.contracts import Inputs
from forgetkit.registry import registry

SLOW = ("torch", "numpy", "scipy", "sklearn", "PIL", "torchvision", "asyncio", "concurrent.futures", "multiprocessing")
"""What takes long to import, and nobody needs who asks what there is."""


@pytest.mark.children
@pytest.mark.parametrize(
    ("words", "also"),
    [
        *((words, ["pydantic"]) for words in (["--help"], ["-h"], ["--version"])),
        *((words, []) for words in (["run", "--help"], ["show", "--help"], ["presets", "--help"], ["presets", "list"])),
        (["presets", "show", "paper", "--against", "clean"], []),
    ],
)
def test_asking_what_there_is_imports_nothing_slow(words, also, workdir):
    code = (
        "import sys; from forgetkit.cli import main; status = main(sys.argv[1:]); "
        f"sys.exit(status or ' '.join(sys.modules.keys() & {[*SLOW, *also]}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_version(cli):
    said = cli("--version")
    assert (said.status, said.out, said.err) == (0, f"{forgetkit.__version__}\n", "")


def test_no_words_at_all_are_a_call_for_help(cli):
    said = cli()
    assert (said.status, said.err) == (0, "")
    assert said.out == cli("--help").out


def test_the_help_of_run_names_every_option(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("run", "--help").out
    singular = {"interventions": "intervention", "metrics": "metric", "observers": "observer"}
    for key in RunConfig.model_fields:
        assert f"--{singular.get(key, key).replace('_', '-')} " in text
    for flag in ("--config", "--set", "--resume", "--dry-run", "--json", "--quiet", "--no-plugin", "--plugin"):
        assert f"{flag} " in text


def test_all_there_is(cli):
    said = cli("show")
    assert (said.status, said.err) == (0, "")
    for offer in registry.load(entry_points=False).components:
        assert offer.name in said.out
        assert offer.summary in said.out


def test_all_there_is_as_an_object(cli):
    listing = cli("show", "--json").json
    offers = registry.load(entry_points=False)
    assert list(listing) == [kind for kind in registry.KINDS if offers.named(kind)]
    assert listing["reinit"]["cold"].startswith("Cold start")


@pytest.mark.parametrize(("kind", "name"), [("importance", "snip"), ("models", "convnet"), ("model", "convnet")])
def test_one_kind(cli, kind, name):
    said = cli("show", kind)
    assert said.status == 0
    assert name in said.out
    assert "masked" not in said.out


def test_a_kind_that_nobody_offers_is_empty(cli):
    said = cli("show", "observers", "--json")
    assert (said.status, said.json) == (0, {"observers": {}})
    assert cli("show", "observers").status == 0


def test_one_component(cli):
    said = cli("show", "reinit", "masked")
    assert said.status == 0
    assert "masked (reinit, from forgetkit)" in said.out
    assert "Formula: θ ← M ⊙ θ + (1 − M) ⊙ ξ" in said.out
    row = next(line for line in said.out.splitlines() if line.split()[:1] == ["fraction"])
    assert row.split()[:7] == ["fraction", "float", "≥", "0,", "≤", "1", "0.2"]
    assert "share of the scored entries" in row
    assert re.search(r"^Cost: .*^Source: .*Ramkumar et al., 2023", said.out, re.MULTILINE | re.DOTALL)


def test_one_component_as_an_object(cli):
    about = cli("show", "replay", "buffer", "--json").json
    assert (about["kind"], about["name"], about["from"]) == ("replay", "buffer", "forgetkit")
    assert about["about"].startswith("Keep a few samples")
    assert "Source: " in about["about"]
    assert about["formula"]
    assert about["cost"]
    assert "Vitter" in about["source"]
    size = about["options"][0]
    assert size.pop("meaning").startswith("training samples")
    assert size == {"name": "size", "type": "int", "range": "≥ 1", "default": "186"}


COMPUTING = [o for o in registry.load(entry_points=False).components if o.kind in ("importance", "reinit", "replay")]


@pytest.mark.parametrize("offer", COMPUTING, ids=lambda offer: f"{offer.kind}-{offer.name}")
def test_what_computes_shows_its_formula_its_cost_and_its_source(cli, offer):
    about = cli("show", offer.kind, offer.name, "--json").json
    for key in ("formula", "cost", "source"):
        assert about[key], f"{offer.kind} {offer.name} has no {key}"
        assert about[key].endswith((".", '."'))


@pytest.mark.slow
def test_every_option_has_a_meaning(cli):
    for offer in registry.load(entry_points=False).components:
        for option in cli("show", offer.kind, offer.name, "--json").json["options"]:
            assert option["meaning"], f"{offer.kind} {offer.name}: {option['name']} has no meaning"


@pytest.mark.slow
def test_a_network_has_as_many_parameters_as_it_says(cli):
    for offer in registry.load(entry_points=False).named("models"):
        cost = cli("show", "model", offer.name, "--json").json["cost"]
        if offer.name != "import":
            with torch.device("meta"):
                network = offer.component().build(Inputs((3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3), torch.nn.Identity())
            assert cost.startswith(f"{sum(p.numel() for p in network.parameters()):,} parameters"), offer.name


DESCRIBED = '''
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Optional
import forgetkit
from pydantic import BeforeValidator, Field

@dataclass(frozen=True)
class Mine:
    """What it is.

    Two lines that
    flow.

        a list keeps
        its lines

    Formula: s = a
    + b.

    how_many: a count,
        or a share.
    kind: which.
        one: the first;
        two: the second,
        which is last.
    Cost: much.
    Sources: here; and
    there.

    And more: of ``it``.
    """

    how_many: Annotated[int | float | None, BeforeValidator(lambda v: v), "a count or a share"] = None
    kind: Literal["one", 2] = "one"
    far: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = 0.5
    near: Optional[Annotated[int, Field(ge=1, le=9)]] = 3
    path: Path | None = None
    sure: bool = True
    sizes: list[int] = field(default_factory=lambda: [1, 2])

    def score(self, probe):
        return probe.zeros()

@forgetkit.hookimpl
def forgetkit_importance():
    return {"mine": Mine}
'''


def test_a_docstring_is_taken_apart(cli, plugin):
    file = plugin("described", DESCRIBED)
    about = cli("show", "importance", "mine", "--plugin", file, "--json").json
    assert about["formula"] == "s = a + b."
    assert about["cost"] == "much."
    assert about["source"] == "here; and there."
    shown = {option["name"]: tuple(option.values())[1:] for option in about["options"]}
    assert shown == {
        "how-many": ("int | float | none", "a count or a share", "none", "a count, or a share."),
        "kind": ("str | int", "one | 2", "one", "which.\none: the first;\ntwo: the second, which is last."),
        "far": ("float | str", "> 0 | auto", "0.5", ""),
        "near": ("int | none", "≥ 1, ≤ 9", "3", ""),
        "path": ("Path | none", "", "none", ""),
        "sure": ("bool", "", "true", ""),
        "sizes": ("list[int]", "", "[1, 2]", ""),
    }
    said = cli("show", "importance", "mine", "--plugin", file)
    head, _, rest = said.out.partition("Formula: ")
    assert head.endswith("Two lines that flow.\n\n    a list keeps\n    its lines\n\nAnd more: of it.\n\n")
    assert rest.endswith("Cost: much.\nSource: here; and there.\n")


def test_one_component_reads_well_on_a_narrow_terminal(terminal):
    status, seen = terminal(["show", "reinit", "masked"])
    assert status == 0
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines())) <= 80
    words = " ".join(seen.split())
    assert "…" not in words
    assert "(a control: reset the" in words


@pytest.mark.slow
def test_every_component_can_be_shown(cli):
    for offer in registry.load(entry_points=False).components:
        said = cli("show", offer.kind, offer.name)
        assert said.status == 0, said
        assert offer.summary in said.out


def test_a_required_option_says_so(cli):
    assert cli("show", "dataset", "folder", "--json").json["options"][0]["default"] == "required"
