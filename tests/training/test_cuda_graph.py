"""A recorded step gives what the plain step gives, or it is not used. The recorder here repeats by computing again."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from forgetkit import unlearning
from forgetkit.contracts import Intervention, InterventionContext
from forgetkit.data import SamplePool
from forgetkit.seeding import Seeds
from forgetkit.training import Trainer, cuda_graph
from forgetkit.training.cuda_graph import GraphedStep

Compute = Callable[[], tuple[Tensor, Tensor]]


class Tape:
    """Stands for a CUDA graph: repeating writes into the tensors of the first time, gradients too, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.repeated, self.recorded = model, 0, 0

    def __call__(self, compute: Compute) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
        self.recorded += 1
        result = compute()
        grads = [p.grad for p in self.model.parameters()]

        def replay() -> None:
            self.repeated += 1
            before = [p.grad for p in self.model.parameters()]
            for old, new in zip(result, compute(), strict=True):
                old.copy_(new)
            for mine, p in zip(grads, self.model.parameters(), strict=True):
                if mine is not None and p.grad is not None:
                    mine.copy_(p.grad)
            for p, grad in zip(self.model.parameters(), before, strict=True):
                p.grad = grad  # a graph knows nothing of ``.grad``

        return result, replay


def net(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), *extra, nn.Linear(8, 3))


def pool(samples: int = 38) -> SamplePool:
    rng = torch.Generator().manual_seed(1)
    return SamplePool(torch.randn(samples, 6, generator=rng), torch.randint(3, (samples,), generator=rng))


def trainer(model: nn.Module, tape: Tape | None, interventions: tuple[Intervention, ...] = ()) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-3)
    runner = unlearning.InterventionRunner(model, optimizer, list(interventions), Seeds(0))
    return Trainer(model, optimizer, 8, "none", runner, record=tape)


def trained(model: nn.Module, tape: Tape | None) -> tuple[list[float], dict[str, Tensor]]:
    one = trainer(model, tape)
    curve = []
    for epoch in (1, 2, 3):
        ended = one.epoch(pool(), 1, epoch, 0.1, Seeds(5))
        curve += [ended.loss, ended.accuracy]
    return curve, model.state_dict()


def test_recorded_steps_equal_plain_steps_if_last_batch_is_short() -> None:
    model = net()
    tape = Tape(model)
    curve, weights = trained(model, tape)
    plain_curve, plain_weights = trained(net(), None)
    assert curve == plain_curve
    assert all(torch.equal(weights[name], value) for name, value in plain_weights.items())
    assert tape.recorded == 1
    assert tape.repeated == 1 + 3 * 4  # once to be tried; of 38 samples four batches are of 8, the last of 6


def test_network_with_dropout_takes_plain_path_with_same_draws(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "forgetkit"):
        model = net(nn.Dropout(0.5))
        tape = Tape(model)
        curve, weights = trained(model, tape)
    plain_curve, plain_weights = trained(net(nn.Dropout(0.5)), None)
    assert curve == plain_curve
    assert all(torch.equal(weights[name], value) for name, value in plain_weights.items())
    assert tape.recorded == 1  # it is not tried again
    (said,) = [record.message for record in caplog.records]
    assert said.endswith("take the plain path: a recorded step gives other gradients than a plain one")


def test_where_recording_fails_the_plain_path_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def refuses(compute: Compute) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
        compute()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = net()
    one = trainer(model, None)
    object.__setattr__(one, "record", refuses)
    with caplog.at_level(logging.WARNING, "forgetkit"):
        losses = [one.epoch(pool(), 1, epoch, 0.1, Seeds(5)).loss for epoch in (1, 2, 3)]
    assert losses == trained(net(), None)[0][::2]
    assert [record.message for record in caplog.records] == [
        "training steps are not captured, and take the plain path: operation not permitted when stream is capturing"
    ]


def test_a_recording_that_goes_wrong_is_found_out() -> None:
    """Gradients that a repetition leaves as they were are those of another batch."""
    model = net()

    def forgetful(compute: Compute) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
        return compute(), lambda: None

    one = GraphedStep(model, lambda x, y: computed(model, x, y), forgetful)
    x, y = pool().inputs[:8], pool().labels[:8]
    loss, hits = one(x, y)
    expected, right = computed(net(), x, y)
    assert torch.equal(loss, expected)
    assert int(hits) == int(right)
    assert one.recording is None


def test_running_statistics_move_once() -> None:
    model = net()
    one = GraphedStep(model, lambda x, y: computed(model, x, y), Tape(model))
    one(pool().inputs[:8], pool().labels[:8])
    assert int(model[1].num_batches_tracked) == 1
    plain = net()
    computed(plain, pool().inputs[:8], pool().labels[:8])
    assert torch.equal(model[1].running_mean, plain[1].running_mean)


def test_interventions_look_at_steps_and_are_given_plain_ones() -> None:
    class Looks(Intervention):
        """Looks at every step."""

        def before_step(self, moment: InterventionContext) -> None:
            pass

    model = net()
    tape = Tape(model)
    one = trainer(model, tape, (Looks(),))
    one.begin(pool(), 1, Seeds(5))
    one.epoch(pool(), 1, 1, 0.1, Seeds(5))
    assert tape.recorded == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_graph_gives_the_same_curve() -> None:
    def curve(captured: bool) -> list[float]:
        model = net().cuda()
        one = trainer(model, None)
        object.__setattr__(one, "record", cuda_graph if captured else None)
        here = SamplePool(pool().inputs.cuda(), pool().labels.cuda())
        losses = [one.epoch(here, 1, epoch, 0.1, Seeds(5)).loss for epoch in (1, 2, 3)]
        assert captured == (one._captured is not None and one._captured.recording is not None)
        return losses

    assert curve(True) == pytest.approx(curve(False), rel=1e-5)


def computed(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    outputs = model(x)
    loss = nn.functional.cross_entropy(outputs, y)
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach(), (outputs.argmax(-1) == y).sum()
