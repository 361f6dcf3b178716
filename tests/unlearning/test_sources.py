"""Where fresh values come from: builds that are inferred, sources in the report, tied weights, odd scales."""

from __future__ import annotations

import copy
import json
import logging
import sys
import types
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import refused, values
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import forgetkit
from forgetkit.errors import ComponentError
from forgetkit.unlearning.scales import Scale

SIZE = 16
BATCHES = [(torch.randn(6, SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(6) % SIZE)]


class Wide(nn.Module):
    """Initialises its layers in its constructor, from a config."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.first, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.register_buffer("positions", torch.arange(config.positions), persistent=False)
        for layer in (self.first, self.head):
            nn.init.normal_(layer.weight, std=config.std)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.first(inputs).tanh())


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name, whose ``PreTrainedModel`` is :class:`Wide`."""
    module = types.ModuleType("transformers")
    module.PreTrainedModel = Wide  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)


def wide(**config: Any) -> Wide:
    return Wide(types.SimpleNamespace(**{"std": 2.0, "positions": 5, **config}))


class Scaled(Wide):
    """Its constructor takes what no config holds, and no shape shows."""

    def __init__(self, config: Any, scale: float = 1.0) -> None:
        super().__init__(config)
        nn.init.normal_(self.head.weight, std=scale)


def test_a_network_with_more_arguments_than_its_config_is_not_built_from_it(transformers):
    model = Scaled(types.SimpleNamespace(std=2.0, positions=5), scale=50.0)
    with refused(ComponentError, match="pass build=", unchanged=model):
        forgetkit.unlearn(model, BATCHES, reinit="cold")


@pytest.mark.parametrize("wrap", [lambda model: model, AveragedModel, torch.compile])
def test_a_network_with_its_config_is_built_from_it(wrap, transformers):
    model = wide()
    report = forgetkit.unlearn(wrap(model), BATCHES, reinit="cold", seed=1)
    assert 1.6 < float(model.head.weight.detach().std()) < 2.4
    assert set(report.sources.values()) == {"building Wide anew from its own config"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model.config, "positions", 7), "'positions' has shape"),
        (lambda model: model.positions.add_(1), "the buffer 'positions' has other values"),
        (lambda model: setattr(model, "extra", nn.Linear(2, 2)), "'extra.weight' is missing there"),
        (lambda model: delattr(model.config, "std"), "raised AttributeError"),
    ],
)
def test_a_config_that_gives_another_network_is_refused(change, message, transformers):
    model = wide()
    with torch.no_grad():
        change(model)
    with refused(
        ComponentError, match=f"building Wide anew from its own config.*{message}.*pass build=", unchanged=model
    ):
        forgetkit.unlearn(model, BATCHES, reinit="cold")


class Lightning(Wide):
    """What a module of Lightning keeps after ``save_hyperparameters``."""

    def __init__(self, std: float = 2.0, backbone: nn.Module | None = None, *, saved: bool = True) -> None:
        super().__init__(types.SimpleNamespace(std=std, positions=5))
        self.hparams_initial = {"std": std, "backbone": backbone, "saved": saved} if saved else {}


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pytorch_lightning")
    module.LightningModule = Lightning  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_lightning", module)


def test_a_network_with_its_hyperparameters_is_built_from_them(lightning):
    model = Lightning(std=3.0)
    report = forgetkit.unlearn(model, BATCHES, reinit="cold", seed=1)
    assert 2.4 < float(model.head.weight.detach().std()) < 3.6
    assert report.sources["head.weight"] == "building Lightning anew from its own hparams"


@pytest.mark.parametrize("model", [Lightning(saved=False), Lightning(backbone=nn.Linear(2, 2))])
def test_hyperparameters_that_do_not_tell_all_are_not_trusted(model, lightning):
    with refused(ComponentError, match="pass build=", unchanged=model):
        forgetkit.unlearn(model, BATCHES, reinit="cold")


def test_build_may_return_a_wrapped_network():
    model = wide()
    build = lambda: AveragedModel(torch.compile(wide()))  # noqa: E731
    report = forgetkit.unlearn(model, BATCHES, reinit="cold", build=build)
    assert set(report.sources.values()) == {"build"}


@pytest.mark.parametrize("wrap", [lambda model: model, AveragedModel, nn.DataParallel, torch.compile])
def test_initial_may_be_the_state_of_a_wrapped_network(wrap):
    model = wide()
    initial = copy.deepcopy(wrap(model).state_dict())
    with torch.no_grad():
        model.head.weight.add_(1)
    report = forgetkit.unlearn(model, BATCHES, reinit="masked:fraction=1,fresh=rewind", initial=initial)
    assert torch.equal(model.head.weight, initial[next(name for name in initial if name.endswith("head.weight"))])
    assert set(report.sources.values()) == {"initial"}


def test_the_report_names_the_source_of_what_was_reset():
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE))
    report = forgetkit.unlearn(model, BATCHES, reinit="llf:start=0.0", seed=1)
    assert report.sources == dict.fromkeys(["0.weight", "0.bias"], "reset_parameters of Linear")
    assert json.loads(json.dumps(report.as_dict()))["sources"] == report.sources


@pytest.mark.parametrize("shared", ["module", "parameter"])
def test_the_report_names_tied_weights(shared):
    first, second = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
    if shared == "parameter":
        second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), first if shared == "module" else second)
    report = forgetkit.unlearn(model, BATCHES, reinit="llf:start=0.0", seed=1)
    expected = {"0.weight": ("2.weight",)} | ({"0.bias": ("2.bias",)} if shared == "module" else {})
    assert report.aliases == expected
    assert report.as_dict()["aliases"] == {name: list(others) for name, others in expected.items()}


def test_a_tensor_of_two_kinds_of_layers_is_not_guessed():
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE, bias=False))
    table = nn.Embedding(SIZE, SIZE)
    table.weight = model[1].weight
    model.append(nn.Sequential(table))
    model[2].requires_grad_(True)
    model.forward = lambda inputs: model[1](model[0](inputs))
    with refused(ComponentError, match=r"it is '2.0.weight' too.*Linear or of Embedding.*pass build=", unchanged=model):
        forgetkit.unlearn(model, BATCHES, reinit="cold")


def script(model: nn.Module) -> nn.Module:
    """Initialises a network after its constructor, which no code of its classes shows."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=5.0)
    return model


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE))


def scale_warnings(caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    with caplog.at_level(logging.WARNING, "forgetkit"):
        forgetkit.unlearn(importance="random", **{"reinit": "masked:fraction=0.5", **options})
    return [record.getMessage() for record in caplog.records if "scale" in record.getMessage()]


def test_one_warning_where_the_start_shows_another_scale(caplog):
    model = script(plain())
    (line,) = scale_warnings(caplog, model=model, initial=values(model))
    assert "2 of 2 parameters differ more than twofold in scale from initial= ('0.weight': standard deviation" in line


@pytest.mark.parametrize("given", ["initial", "build", "nothing"])
def test_no_warning_where_the_scale_is_right(caplog, given):
    model = plain()
    options: dict[str, Any] = {"initial": {"initial": values(model)}, "build": {"build": plain}, "nothing": {}}[given]
    assert scale_warnings(caplog, model=model, **options) == []


def test_no_warning_where_another_origin_was_asked_for(caplog):
    model = script(plain())
    assert scale_warnings(caplog, model=model, initial=values(model), reinit="masked:fresh=uniform") == []


def test_a_build_that_lacks_the_script_is_warned_of(caplog):
    model = script(plain())
    assert len(scale_warnings(caplog, model=model, initial=values(model), build=plain)) == 1


def test_layers_that_are_trusted_are_compared_with_the_inferred_build(caplog, transformers):
    assert "a network new from its own config" in scale_warnings(caplog, model=wide(), fresh="module")[0]


@pytest.mark.parametrize(
    ("drawn", "there", "differs"),
    [
        (torch.zeros(64), torch.zeros(64), False),
        (torch.ones(64), torch.ones(64), False),
        (torch.ones(64), torch.full((64,), 3.0), True),
        (torch.zeros(64), torch.ones(64), True),
        (torch.randn(64), torch.zeros(64), True),
        (torch.full((64,), 0.1), torch.randn(64), True),
        (torch.randn(64), 1.5 * torch.randn(64), False),
        (torch.randn(4096), 2.5 * torch.randn(4096), True),
        (torch.randn(4096), 0.3 * torch.randn(4096), True),
    ],
)
def test_scales_differ_more_than_twofold_or_in_kind(drawn, there, differs):
    first, second = Scale.of(drawn), Scale.of(there)
    assert first is not None
    assert second is not None
    assert first.differs_from(second) is second.differs_from(first) is differs


def test_few_entries_tell_nothing():
    assert Scale.of(torch.zeros(63)) is None


def test_a_failing_comparison_of_builds_changes_nothing():
    torch.manual_seed(0)
    model, made = nn.Linear(SIZE, SIZE), []

    def build() -> nn.Module:
        made.append(1)
        if len(made) > 1:
            raise RuntimeError("only once")
        return nn.Linear(SIZE, SIZE)

    before = values(model)
    with pytest.raises(RuntimeError, match="only once"):
        forgetkit.unlearn(model, BATCHES, build=build)
    assert all(torch.equal(before[name], value) for name, value in values(model).items())


def test_trusted_layers_are_compared_with_one_build(monkeypatch, transformers):
    model, made, original = wide(), [], Wide.__init__
    monkeypatch.setattr(Wide, "__init__", lambda self, config: (made.append(1), original(self, config))[1])
    forgetkit.unlearn(model, BATCHES, reinit="cold", fresh="module")
    assert len(made) == 1


def test_trusted_layers_need_no_build_that_fits(transformers):
    model = wide()
    model.head = nn.Linear(SIZE, 2 * SIZE)
    assert forgetkit.unlearn(model, BATCHES, reinit="cold", fresh="module").reset
