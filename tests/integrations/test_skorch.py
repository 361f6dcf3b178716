"""``Forget`` in real fits of skorch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from helpers.optional_packages import import_or_skip
from torch import nn

from forgetkit.errors import OptionError

skorch = import_or_skip("skorch")
Forget = import_or_skip("forgetkit.integrations.skorch").Forget

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)
Y = X[:, :3].argmax(1)
OPTIONS = {"importance": "snip", "reinit": "masked:fraction=0.3", "seed": 3}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def make_net(forget: Any, *callbacks: Any, epochs: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    return skorch.NeuralNetClassifier(
        Net,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=epochs,
        lr=0.01,
        batch_size=8,
        train_split=None,
        verbose=0,
        callbacks=[*([forget] if forget else []), *callbacks],
        **options,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    own, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(own[name], theirs[name]) for name in own)


def rows(net: Any) -> list[dict[str, Any]]:
    return [row for epoch in net.history for row in epoch["batches"]]


def numbers(net: Any) -> list[int]:
    return [row["forget_number"] for row in rows(net) if "forget_number" in row]


@pytest.mark.parametrize(("every", "expected"), [("epoch", [1, 2]), (6, [1, 2]), ("fit_end", [1])])
def test_resets_come_when_due_and_are_in_the_history(every, expected):
    forget = Forget(every=every, **OPTIONS)
    net = make_net(forget).fit(X, Y)
    assert numbers(net) == expected
    assert [row["forget_reset"] for row in rows(net) if "forget_number" in row] == [20] * len(expected)
    assert sum(net.history[:, "event_forget"]) == len(expected)
    assert all(row["train_loss"] > 0 for row in net.history)


@pytest.mark.parametrize("every", ["epoch", 4])
def test_a_net_that_loads_parameters_and_history_equals_an_uninterrupted_one(every, tmp_path):
    whole = make_net(Forget(every=every, **OPTIONS), epochs=4).fit(X, Y)
    kept = skorch.callbacks.Checkpoint(dirname=tmp_path, monitor=None)
    make_net(Forget(every=every, **OPTIONS), kept, epochs=2).fit(X, Y)
    forget = Forget(every=every, **OPTIONS)
    net = make_net(forget, epochs=2).initialize()
    net.load_params(checkpoint=skorch.callbacks.Checkpoint(dirname=tmp_path))
    net.partial_fit(X, Y)
    assert same(whole.module_, net.module_)
    assert forget.resets == (3 if every == "epoch" else 5)


@pytest.mark.parametrize("interventions", [[], ["redo"], ["l2-init"]])
@pytest.mark.parametrize("every", ["epoch", 4])
def test_a_pickled_net_goes_on_like_an_uninterrupted_one(every, interventions, tmp_path):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "every": every, "interventions": interventions}
    whole = make_net(Forget(**options), epochs=4).fit(X, Y)
    saved = skorch.callbacks.Checkpoint(dirname=tmp_path, monitor=None, f_pickle="net.pkl")
    short = make_net(Forget(**options), saved, epochs=2).fit(X, Y)
    with (tmp_path / "net.pkl").open("rb") as file:
        net = pickle.load(file)
    net.partial_fit(X, Y)
    assert same(whole.module_, net.module_)
    if not interventions:
        assert same(whole.module_, pickle.loads(pickle.dumps(short)).partial_fit(X, Y).module_)


def test_interventions_without_their_state_are_refused(tmp_path):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "interventions": ["l2-init"]}
    kept = skorch.callbacks.Checkpoint(dirname=tmp_path, monitor=None)
    make_net(Forget(**options), kept, epochs=2).fit(X, Y)
    net = make_net(Forget(**options), epochs=2).initialize()
    net.load_params(checkpoint=skorch.callbacks.Checkpoint(dirname=tmp_path))
    with pytest.raises(OptionError, match="f_pickle"):
        net.partial_fit(X, Y)


def test_fit_begins_anew_and_partial_fit_goes_on():
    forget = Forget(**OPTIONS)
    net = make_net(forget).fit(X, Y)
    assert forget.resets == 2
    net.partial_fit(X, Y)
    assert forget.resets == 5
    net.fit(X, Y)
    assert forget.resets == 2


def test_followers_get_the_same_resets():
    ema = Net()
    before = copy.deepcopy(ema.state_dict())
    net = make_net(Forget(**OPTIONS, every="fit_end", followers=[ema])).fit(X, Y)
    changed = 0
    for name, p in net.module_.named_parameters():
        mask = ema.state_dict()[name] != before[name]
        changed += int(mask.sum())
        assert torch.equal(p.detach()[mask], ema.state_dict()[name][mask])
    assert changed == 20


def test_parameters_are_set_as_in_sklearn():
    net = make_net(Forget(**OPTIONS))
    net.set_params(callbacks__Forget__every=9)
    net.fit(X, Y)
    assert numbers(net) == [1]
    assert "every" in Forget(**OPTIONS).get_params()


def test_gradients_that_accumulate_are_never_cut():
    class Accumulating(skorch.NeuralNetClassifier):
        def train_step(self, batch, **fit_params):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen % 2:
                self._zero_grad_optimizer()
            step = self.train_step_single(batch, **fit_params)
            if self.seen % 2 == 0:
                self.optimizer_.step()
            return step

    forget = Forget(every=1, **OPTIONS)
    Accumulating(
        Net, criterion=nn.CrossEntropyLoss, max_epochs=1, batch_size=8, train_split=None, verbose=0, callbacks=[forget]
    ).fit(X, Y)
    assert forget.resets == 2


def test_a_cloned_net_keeps_all_arguments_and_a_search_sets_them():
    from sklearn.base import clone

    net = make_net(None)
    net.callbacks = [("forget", Forget(**OPTIONS, protect=["last"]))]
    copied = clone(net).set_params(callbacks__forget__reinit="masked:fraction=0.1").fit(X, Y)
    forget = dict(copied.callbacks_)["forget"]
    assert (forget.resets, forget.get_params()) == (
        2,
        {**net.callbacks[0][1].get_params(), "reinit": "masked:fraction=0.1"},
    )
    assert set(forget.last_report.left_out) == {"last.weight", "last.bias"}
    with pytest.raises(OptionError, match="did you mean 'masked'"):
        clone(net).set_params(callbacks__forget__reinit="maskd").fit(X, Y)


def test_two_forgets_are_refused():
    net = make_net(Forget(**OPTIONS), ("another", Forget(**{**OPTIONS, "seed": 4})))
    with pytest.raises(OptionError, match="one Forget"):
        net.fit(X, Y)


def test_a_fit_of_no_epoch_resets_nothing():
    forget = Forget(every="fit_end", **OPTIONS)
    make_net(forget, epochs=0).fit(X, Y)
    assert forget.resets == 0
