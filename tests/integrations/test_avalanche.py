"""``ForgetPlugin`` in real strategies of Avalanche."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from helpers.optional_packages import import_or_skip
from torch import nn
from torch.utils.data import TensorDataset

import_or_skip("avalanche")
benchmarks = import_or_skip("avalanche.benchmarks")
checkpointing = import_or_skip("avalanche.checkpointing")
training = import_or_skip("avalanche.training")
evaluation = import_or_skip("avalanche.training.plugins")
logging = import_or_skip("avalanche.logging")
ForgetPlugin = import_or_skip("forgetkit.integrations.avalanche").ForgetPlugin

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OPTIONS = {"importance": "snip", "reinit": "masked:fraction=0.3", "seed": 3}


class Log(logging.BaseLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, Any, int]] = []

    def log_single_metric(self, name, value, x_plot):
        self.rows.append((name, value, x_plot))


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def stream() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(3):
        x = torch.randn(24, 4, generator=generator)
        data = TensorDataset(x, x[:, :3].argmax(1))
        data.targets = x[:, :3].argmax(1)
        sets.append(benchmarks.utils.as_taskaware_classification_dataset(data))
    return list(benchmarks.benchmark_from_datasets(train=sets, test=sets).train_stream)


def make_strategy(plugin: Any, log: Any = None) -> Any:
    torch.manual_seed(0)
    model = make_net()
    return training.Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 0.01),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        eval_mb_size=8,
        plugins=[plugin] if plugin else [],
        evaluator=evaluation.EvaluationPlugin(loggers=[log] if log else []),
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    own, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize(
    ("every", "iterations"),
    [("experience", [6, 12]), ("epoch", [3, 9, 15]), (5, [5, 10, 15]), ("fit_end", [6, 12, 18])],
)
def test_resets_come_when_due_and_reach_the_loggers(every, iterations):
    log = Log()
    plugin = ForgetPlugin(every=every, **OPTIONS)
    strategy = make_strategy(plugin, log)
    for experience in stream():
        strategy.train(experience)
    strategy.eval(stream())
    assert [x for name, _, x in log.rows if name == "forget/reset"] == iterations
    assert [value for name, value, _ in log.rows if name == "forget/number"] == list(range(1, len(iterations) + 1))
    assert {value for name, value, _ in log.rows if name == "forget/changed"} == {20}
    assert strategy.evaluator.get_last_metrics()["forget/number"] == plugin.resets


@pytest.mark.parametrize("every", ["experience", "epoch", 4])
@pytest.mark.parametrize("interventions", [[], ["redo"], ["l2-init"]])
def test_a_resumed_strategy_equals_an_uninterrupted_one(every, interventions):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "every": every, "interventions": interventions}
    experiences = stream()

    def train(strategy, chosen):
        for number, experience in enumerate(chosen, 1 + len(experiences) - len(chosen)):
            torch.manual_seed(number)
            strategy.train(experience)

    whole = make_strategy(ForgetPlugin(**options))
    train(whole, experiences)
    part = make_strategy(ForgetPlugin(**options))
    torch.manual_seed(1)
    part.train(experiences[0])
    saved = pickle.dumps(vars(part))  # what a checkpoint of Avalanche holds
    resumed = make_strategy(ForgetPlugin(**options))
    vars(resumed).update(pickle.loads(saved))
    train(resumed, experiences[1:])
    assert same(whole.model, resumed.model)
    assert resumed.plugins[0].resets == whole.plugins[0].resets > 1


def test_a_checkpoint_of_avalanche_holds_the_plugin(tmp_path):
    file = tmp_path / "strategy.pkl"
    plain, strategy = make_strategy(None), make_strategy(ForgetPlugin(**OPTIONS))
    try:
        checkpointing.save_checkpoint(plain, file)
    except pickle.PicklingError as error:
        pytest.skip(f"Avalanche saves no checkpoint here, with or without the plugin: {error}")
    for experience in stream()[:2]:
        strategy.train(experience)
    checkpointing.save_checkpoint(strategy, file)
    resumed, first = checkpointing.maybe_load_checkpoint(make_strategy(ForgetPlugin(**OPTIONS)), file)
    assert (first, resumed.plugins[0].resets) == (2, 1)


def test_followers_get_the_same_resets():
    ema = make_net()
    before = copy.deepcopy(ema.state_dict())
    strategy = make_strategy(ForgetPlugin(**OPTIONS, every="fit_end", followers=[ema]))
    strategy.train(stream()[0])
    changed = 0
    for name, p in strategy.model.named_parameters():
        mask = ema.state_dict()[name] != before[name]
        changed += int(mask.sum())
        assert torch.equal(p.detach()[mask], ema.state_dict()[name][mask])
    assert changed == 20


def test_a_stream_in_one_call():
    plugin = ForgetPlugin(**OPTIONS)
    make_strategy(plugin).train(stream())
    assert plugin.resets == 2
