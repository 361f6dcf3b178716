"""``--init``: weights that a run begins with, given apart from the builder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import forgetkit
from forgetkit import config
from forgetkit.errors import ForgetkitError
from forgetkit.registry import registry
from forgetkit.storage import RunDirectory

SMALL = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "epochs": 1,
    "mega_batches": 3,
    "threads": 1,
    "checkpoint_epochs": 1,
}
NET = """
import torch
from torch import nn

def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))

def loads(shape, classes):
    model = small(shape, classes)
    model.load_state_dict(torch.load("w.pt", weights_only=True))
    return model
"""


@pytest.fixture
def weights(workdir, monkeypatch):
    """A network of the user's own in ``mynet.py``, and its weights in ``w.pt``."""
    (workdir / "mynet.py").write_text(NET)
    monkeypatch.syspath_prepend(str(workdir))
    monkeypatch.delitem(__import__("sys").modules, "mynet", raising=False)
    import mynet

    torch.manual_seed(5)
    state = mynet.small((1, 4, 4), 3).state_dict()
    torch.save(state, "w.pt")
    return state


def run(**options):
    return forgetkit.run({**SMALL, "model": "import:mynet:small", **options})


def kept(result, mega_batch):
    return RunDirectory(Path(result["directory"])).model(mega_batch)


STILL = {"lr": 1e-30, "weight_decay": 0}
"""A rate at which no weight moves, so that what was reset can be told from what was given."""


@pytest.mark.slow
def test_run_starts_from_init_weights_and_rewind_restores_them(weights):
    rewind = "masked:fraction=0.5,fresh=rewind,norm=skip"
    result = run(**STILL, importance="magnitude", reinit=rewind)
    plain = kept(result, 1)
    given = run(**STILL, importance="magnitude", reinit=rewind, init="w.pt")
    for name in ("1.weight", "1.bias", "4.weight"):
        assert torch.equal(kept(given, 1)[f"network.{name}"], weights[name])
        assert torch.equal(kept(given, 3)[f"network.{name}"], weights[name])
        assert not torch.equal(plain[f"network.{name}"], weights[name])


@pytest.mark.slow
def test_fresh_values_are_the_builders_own(weights, caplog):
    cold = kept(run(**STILL, reinit="cold", init="w.pt"), 2)
    of_builder = kept(run(**STILL, reinit="cold"), 2)
    assert not torch.equal(cold["network.1.weight"], weights["1.weight"])
    assert torch.equal(cold["network.1.weight"], of_builder["network.1.weight"])
    same = kept(run(**STILL, reinit="cold:draw=same", init="w.pt"), 2)
    assert torch.equal(same["network.1.weight"], weights["1.weight"])
    assert "two builds" not in caplog.text


def test_builder_that_loads_weights_warns_once_before_training(weights, caplog):
    seen = []

    class Watch:
        """Notes what has been said when the run begins."""

        def notify(self, event):
            if type(event).__name__ == "RunStarted":
                seen.extend(record.getMessage() for record in caplog.records)

    options = {**SMALL, "model": "import:mynet:loads", "reinit": "cold"}
    result = forgetkit.run(options, observers=[Watch()])
    said = [record.getMessage() for record in caplog.records if "two builds" in record.getMessage()]
    assert len(said) == 1
    assert said[0] in seen
    assert "--init FILE" in said[0]
    assert said[0].startswith("4 of 4 random-looking tensors")
    assert [row["unlearn"] and row["unlearn"]["repeated"] for row in result["mega_batches"]] == [*said, *said, None]
    caplog.clear()
    forgetkit.run({**options, "reinit": "none"})
    assert "two builds" not in caplog.text


def test_the_digest_is_that_of_the_content(weights):
    Path("elsewhere").mkdir()
    Path("elsewhere/v.pt").write_bytes(Path("w.pt").read_bytes())
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, "other.pt")
    offers = registry.load()
    options = {**SMALL, "model": "import:mynet:small"}
    here, there, other, none = (
        config.resolve({**options, "init": init}, offers).digest
        for init in ("w.pt", "elsewhere/v.pt", "other.pt", None)
    )
    assert here == there
    assert len({here, other, none}) == 3
    result = run(init="w.pt")
    digest = hashlib.sha256(Path("w.pt").read_bytes()).hexdigest()
    manifest = json.loads(Path(result["directory"], "manifest.json").read_text())
    assert result["init_sha256"] == manifest["init_sha256"] == digest
    assert Path(result["config"]["init"]) == Path("w.pt").absolute()
    assert "init" not in result["overrides"]


class Stops:
    """Breaks off after the first mega-batch."""

    def notify(self, event):
        if type(event).__name__ == "Checkpointed" and event.mega_batch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_file_alone(weights):
    options = {"init": "w.pt", "reinit": "masked:fresh=rewind", "seed": 1}
    whole = run(**options)
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**SMALL, "model": "import:mynet:small", **options, "name": "r"}, observers=[Stops()])
    content = Path("w.pt").read_bytes()
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, "w.pt")
    again = {"model": "import:mynet:small"}
    with pytest.raises(ForgetkitError, match=r"w\.pt holds other weights than those that the run began with"):
        forgetkit.run(again, resume="runs/r")
    Path("w.pt").unlink()
    with pytest.raises(ForgetkitError, match=r"--init .*w\.pt cannot be read"):
        forgetkit.run(again, resume="runs/r")
    Path("w.pt").write_bytes(content)
    result = forgetkit.run(again, resume="runs/r")
    assert result["cer"] == whole["cer"]
    assert all(torch.equal(t, kept(whole, 3)[name]) for name, t in kept(result, 3).items())
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, "w.pt")
    shown = forgetkit.evidence("runs/r", model="import:mynet:small")
    assert shown.model is not None  # a model that was kept needs the file no more
    with pytest.raises(ForgetkitError, match="other weights"):
        shown.initial()


@pytest.mark.slow
def test_the_model_of_another_run_will_do(workdir):
    """With its normalisation, which other data would give another."""
    first = forgetkit.run({**SMALL, "model": "mlp:width=8", "name": "a"})
    given = kept(first, 3)
    torch.save(given, "a.pt")
    second = forgetkit.run({**SMALL, **STILL, "model": "mlp:width=8", "init": Path("a.pt"), "seed": 4})
    begun = kept(second, 1)
    assert all(torch.equal(begun[name], given[name]) for name in given)


def spoilt(state, how):
    """What a file holds that cannot be taken, and what is said of it."""
    first = next(iter(state))
    return {
        "nested": ({"model": state}, "holds something else than tensors by their names"),
        "a list": ([1, 2], "holds something else than tensors"),
        "missing": ({k: v for k, v in state.items() if k != first}, "missing network.1.weight"),
        "unexpected": ({**state, "head.weight": state[first]}, "unexpected network.head.weight"),
        "shape": ({**state, "4.bias": torch.zeros(5)}, r"network.4.bias of shape \(5,\), not \(3,\)"),
        "NaN": ({**state, first: state[first] * torch.nan}, f"'{first}' holds NaN"),
        "another network": (
            {f"x{n}": torch.zeros(1) for n in range(9)},
            "missing .* and 6 more; unexpected .* and 6 more",
        ),
        "empty": ({}, "missing"),
        "sparse": ({**state, first: state[first].detach().to_sparse()}, "is sparse|no file of tensors"),
        "meta": ({**state, first: state[first].to("meta")}, f"'{first}' is sparse, quantized or without values"),
        "integers": ({**state, first: state[first].int()}, "it has no floating-point numbers for network.1.weight"),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("nested", "a list", "missing", "unexpected", "shape", "NaN", "another network", "empty"),
        *("sparse", "meta", "integers"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(weights, how):
    content, said = spoilt(weights, how)
    torch.save(content, "bad.pt")
    with pytest.raises(ForgetkitError, match=said) as caught:
        run(init="bad.pt")
    assert "--init" in str(caught.value)
    assert "bad.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_what_is_no_state_dict_is_named(weights):
    import mynet

    torch.save(mynet.small((1, 4, 4), 3), "module.pt")
    Path("text.pt").write_text("weights")
    Path("none.pt").write_bytes(b"")
    for file, said in (
        ("module.pt", "no file of tensors alone"),
        ("text.pt", "no file of tensors alone"),
        ("none.pt", "no file of tensors alone"),
        ("gone.pt", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ForgetkitError, match=said):
            run(init=file)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_it_is_an_option_of_the_command_line(tiny, workdir):
    first = tiny("--name", "a")
    assert first.status == 0
    file = workdir / "a.pt"
    torch.save(RunDirectory(workdir / "runs/a").model(2), file)
    said = tiny("--init", file, "--json")
    assert said.status == 0
    assert said.json["init_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    wrong = tiny("--init", workdir / "nowhere.pt")
    assert wrong.status == 2
    assert "nowhere.pt cannot be read" in wrong.err
