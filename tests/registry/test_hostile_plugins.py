"""Hostile plugins, all installed at once: each gets one line, and no bit of a run changes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import forgetkit
from forgetkit.errors import ComponentError
from forgetkit.registry import registry

HOOK = "@forgetkit.hookimpl\ndef forgetkit_importance():\n    "


def criterion(name: str, body: str, before: str = "", within: str = "") -> str:
    """A module that offers one criterion; its scores are the good one's unless ``body`` returns others."""
    return f"""
import dataclasses, random
import forgetkit, numpy, torch
{before}

@dataclasses.dataclass(frozen=True)
class {name.capitalize()}:
    \"\"\"A criterion of the tests.\"\"\"

    def score(self, probe):
        {body}
        return {{name: target.abs() for name, target in probe.targets.items()}}

@forgetkit.hookimpl
def forgetkit_importance():
    {within}
    return {{"{name}": {name.capitalize()}}}
"""


GOOD = criterion("size", "pass")

DRAWS = (
    "random.seed(1); numpy.random.seed(2); torch.manual_seed(3); random.random(); numpy.random.rand(); torch.rand(9)"
)

AT_LOAD = {
    "raises": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "leaves": ("raise SystemExit('gone')", "SystemExit: gone"),
    "hookraises": ("import forgetkit\n" + HOOK + "return {}[1]", "KeyError: 1"),
    "listing": ("import forgetkit\n" + HOOK + "return ['size']", "forgetkit_importance must return a mapping"),
    "misspelt": (
        "import forgetkit\n@forgetkit.hookimpl\ndef forgetkit_importence():\n    return {}",
        "no hook is called 'forgetkit_importence'; did you mean 'forgetkit_importance'?",
    ),
}
"""Plugins that fail to load: source and reason."""

IN_USE = {
    "mutates": (
        criterion("mutates", "[target.add_(1) for target in probe.targets.values()]"),
        r"mutates \(mutates-dist 1\.2\) changed the parameter",
    ),
    "nan": (
        criterion("nan", "return {n: t * float('nan') for n, t in probe.targets.items()}"),
        r"nan \(nan-dist 1\.2\): the score of .* holds NaN",
    ),
    "shapeless": (
        criterion("shapeless", "return {n: t.flatten()[:1] for n, t in probe.targets.items()}"),
        r"shapeless \(shapeless-dist 1\.2\): the score of .* has shape",
    ),
}
"""Plugins that break a promise if a run names them."""

HARMLESS = {
    "pirate": criterion("snip", "return {n: -t.abs() for n, t in probe.targets.items()}"),
    "twin": criterion("size", "return {n: -t.abs() for n, t in probe.targets.items()}"),
    "gambler": criterion("gambler", DRAWS, before=DRAWS, within=DRAWS),
    "loud": criterion("loud", "print('scoring')", before="print('importing')", within="print('asked')"),
}
"""Plugins that change no run unless it names them; the last two change none at all."""


@pytest.fixture
def hostile(install: Callable[..., str]) -> None:
    for name, source in HARMLESS.items():
        install(f"{name}-dist", name, source)
    for name, (source, _) in {**AT_LOAD, **IN_USE}.items():
        install(f"{name}-dist", name, source)


def lines(err: str) -> list[str]:
    """The lines of forgetkit, without what plugins print."""
    return [line for line in err.splitlines() if line.startswith("forgetkit:")]


def test_all_at_once_change_no_bit_of_a_run(install, tiny, substance, digests, workdir, request) -> None:
    install("good-dist", "good", GOOD)
    words = ("--importance", "good-dist/size", "--json", "--quiet", "--name")
    alone = tiny(*words, "alone")
    assert (alone.status, alone.err) == (0, "")
    request.getfixturevalue("hostile")
    among = tiny(*words, "among")
    assert among.status == 0
    assert substance(among.json) == substance(alone.json)
    assert digests(workdir / "runs" / "among") == digests(workdir / "runs" / "alone") != {}
    in_use = {f"{name}-dist" for name in (*HARMLESS, *IN_USE, "good")}
    assert among.json["versions"]["plugins"].keys() == in_use
    assert alone.json["versions"]["plugins"].keys() == {"good-dist"}


def test_each_plugin_that_fails_to_load_gets_one_line(hostile, tiny) -> None:
    said = tiny("--quiet")
    assert (said.status, said.out) == (0, "")
    assert len(lines(said.err)) == len(AT_LOAD)
    for name, (_, reason) in AT_LOAD.items():
        (line,) = [line for line in lines(said.err) if f"'{name}'" in line]
        assert line.startswith(f"forgetkit: plugin '{name}' of {name}-dist is left out: {reason}")


@pytest.mark.parametrize("name", IN_USE)
def test_a_broken_promise_stops_the_run(hostile, tiny, workdir, name) -> None:
    said = tiny("--importance", name, "--quiet")
    assert (said.status, said.out) == (1, "")
    *warnings, line = lines(said.err)
    assert len(warnings) == len(AT_LOAD)
    assert re.match(f"forgetkit: {IN_USE[name][1]}", line)
    assert not (workdir / "runs").exists()


def test_a_name_of_two_plugins_is_refused(hostile, install, tiny) -> None:
    install("good-dist", "good", GOOD)
    said = tiny("--importance", "size", "--quiet")
    assert said.status == 2
    assert lines(said.err)[-1] == (
        "forgetkit: two plugins offer the importance criterion 'size': write good-dist/size or twin-dist/size"
    )


@pytest.mark.slow
def test_the_builtin_keeps_its_name(hostile, tiny, cli, substance) -> None:
    plain = tiny("--importance", "snip", "--json").json
    assert plain["mega_batches"][0]["unlearn"] is not None
    ours = tiny("--importance", "forgetkit/snip", "--json").json
    theirs = tiny("--importance", "pirate-dist/snip", "--json").json
    assert substance(plain)["mega_batches"] == substance(ours)["mega_batches"] != substance(theirs)["mega_batches"]
    assert {"snip", "pirate-dist/snip"} <= cli("show", "--json").json["importance"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gambler", "loud"])
def test_draws_and_output_of_a_plugin_change_no_result(install, hostile, tiny, substance, name) -> None:
    install("good-dist", "good", GOOD)
    good, other = (tiny("--importance", which, "--json") for which in ("good-dist/size", name))
    assert substance(other.json)["mega_batches"] == substance(good.json)["mega_batches"]


def test_loading_keeps_the_global_random_state(hostile) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(1))

    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    expected = drawn()
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    assert len(registry.load().broken) == len(AT_LOAD)
    assert drawn() == expected


@pytest.mark.parametrize(
    "words", [("show", "--json"), ("plugins", "list", "--load", "--json"), ("plugins", "show", "loud", "--json")]
)
def test_output_of_a_plugin_goes_to_standard_error(hostile, cli, words) -> None:
    said = cli(*words)
    assert said.status == 0
    assert json.loads(said.out)
    assert "importing" in said.err.splitlines()


def test_strict_plugins_names_each_broken_plugin(hostile, tiny, cli, workdir) -> None:
    for said in (tiny("--strict-plugins", "--quiet"), cli("show", "--strict-plugins")):
        assert (said.status, said.out) == (2, "")
        (line,) = lines(said.err)
        assert line.startswith("forgetkit: --strict-plugins: ")
        assert all(f"plugin '{name}' of {name}-dist" in line for name in AT_LOAD)
    assert not (workdir / "runs").exists()


def test_disabled_plugins_are_not_imported(hostile, tiny, monkeypatch) -> None:
    monkeypatch.setenv("FORGETKIT_DISABLE_PLUGINS", "1")
    said = tiny("--quiet", "--strict-plugins", "--json")
    assert (said.status, said.err) == (0, "")
    assert said.json["versions"]["plugins"] == {}


# What a criterion may do to the model


@dataclass(frozen=True)
class Probing:
    """Does ``harm`` to a network while it scores it."""

    harm: Callable[..., object]

    def score(self, probe):
        with torch.no_grad():
            self.harm(probe)
        return {name: target.abs() for name, target in probe.targets.items()}


def fill(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, 3.0)


CAUGHT = {
    "targets in place": lambda probe: probe.targets["1.weight"].add_(1),
    "one entry": lambda probe: probe.targets["2.bias"][0].add_(1),
    "weight in place": lambda probe: probe.module("0").weight.add_(1),
    "data in place": lambda probe: probe.module("0").weight.data.mul_(2),
    "data replaced": lambda probe: setattr(probe.module("0").weight, "data", fill(probe.module("0").weight)),
    "data of another shape": lambda probe: setattr(probe.module("0").weight, "data", torch.zeros(2)),
    "signs": lambda probe: probe.module("2").weight.neg_(),
}
PUT_BACK = {
    "weight replaced": lambda probe: setattr(probe.module("0"), "weight", nn.Parameter(fill(probe.module("0").weight))),
    "weight taken away": lambda probe: delattr(probe.module("0"), "weight"),
    "requires_grad": lambda probe: probe.module("0").weight.requires_grad_(False),
    "grad": lambda probe: setattr(probe.module("0").weight, "grad", fill(probe.module("0").weight)),
    "buffer in place": lambda probe: probe.module("1").running_mean.add_(1),
    "buffer replaced": lambda probe: setattr(probe.module("1"), "running_var", fill(probe.module("1").running_var)),
    "buffer's data": lambda probe: setattr(probe.module("1").running_var, "data", fill(probe.module("1").running_var)),
    "count": lambda probe: probe.module("1").num_batches_tracked.add_(5),
    "new buffer": lambda probe: probe.module("1").register_buffer("more", torch.ones(1)),
    "forward hook": lambda probe: probe.module("0").register_forward_hook(lambda *given: torch.zeros(8, 5)),
    "pre-hook": lambda probe: probe.module("0").register_forward_pre_hook(lambda *given: None),
    "backward hook": lambda probe: probe.module("0").register_full_backward_hook(lambda *given: None),
    "train": lambda probe: [probe.module(name).train() for name in ("0", "1", "2")],
    "new module": lambda probe: probe.module("0").add_module("more", nn.Linear(1, 1)),
    "an attribute": lambda probe: setattr(probe.module("1"), "eps", 0.5),
    "global randomness": lambda probe: (torch.manual_seed(1), random.seed(1), np.random.seed(1)),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda *given: None)
    model[1].eval()  # a mode of its own, in a network in training mode
    model[2].bias.grad = torch.ones(3)
    return model


def state(model: nn.Module) -> dict[str, object]:
    """What a criterion must not change, as values that compare."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "tensors": {name: (id(tensor), tensor.requires_grad, tensor.tolist()) for name, tensor in tensors},
        "grads": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "modules": {name: (module.training, sorted(vars(module))) for name, module in model.named_modules()},
        "hooks": [
            (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in model.modules()
        ],
        "eps": model[1].eps,
        "randomness": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


BATCHES = [(torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3)]


def test_an_honest_criterion_changes_nothing() -> None:
    model = network()
    before = state(model)
    forgetkit.score(model, BATCHES, importance=Probing(lambda probe: None))
    assert state(model) == before


@pytest.mark.parametrize("harm", CAUGHT)
def test_a_write_to_a_parameter_is_caught(harm) -> None:
    model = network()
    with pytest.raises(ComponentError, match=r"^Probing .*'\d\.\w+'"):
        forgetkit.score(model, BATCHES, importance=Probing(CAUGHT[harm]))


@pytest.mark.parametrize("harm", PUT_BACK)
def test_other_changes_to_a_network_are_undone(harm) -> None:
    model = network()
    before = state(model)
    forgetkit.score(model, BATCHES, importance=Probing(PUT_BACK[harm]))
    assert state(model) == before
