"""``ForgetCallback`` in real fits of ``lightning.pytorch`` and ``pytorch_lightning``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.optional_packages import import_or_skip
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from forgetkit.errors import OptionError

pl = import_or_skip("lightning.pytorch")
torchmetrics = import_or_skip("torchmetrics")
ForgetCallback = import_or_skip("forgetkit.integrations.lightning").ForgetCallback

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.losses: list[Any] = []
        self.counts: list[int] = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        outputs = self(x)
        loss = cross_entropy(outputs, y)
        self.losses.append(loss.detach())
        self.accuracy(outputs, y)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"accuracy": self.accuracy}, on_epoch=True, on_step=False)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def on_train_epoch_end(self):
        self.counts.append(int(self.accuracy.tp.sum() + self.accuracy.fn.sum()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def data(**options: Any) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 4, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8, **options)


class Log(pl.loggers.logger.DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))


def fit(callback, *, epochs=3, folder=None, resume=None, seed=0, log=None, module=None, val=None, **options):
    torch.manual_seed(seed)
    module = module or Net()
    saves = [] if folder is None else [pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=1)]
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[*([callback] if callback else []), *saves],
        logger=log or False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(module, data(), val, ckpt_path=resume, weights_only=False)
    return module, trainer


def same(one: nn.Module, other: nn.Module) -> bool:
    own, theirs = one.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


OPTIONS = {"importance": "snip", "reinit": "masked:fraction=0.3", "seed": 3}


@pytest.mark.parametrize(("every", "steps"), [("epoch", [6, 12]), (5, [5, 10, 15]), ("fit_end", [18])])
def test_resets_come_when_due_and_are_logged(every, steps):
    log = Log()
    callback = ForgetCallback(every=every, **OPTIONS)
    fit(callback, log=log)
    rows = [(step, row) for step, row in log.rows if "forget/reset" in row]
    assert [step for step, _ in rows] == steps
    assert [row["forget/number"] for _, row in rows] == list(range(1, len(steps) + 1))
    assert all(row["forget/reset"] == row["forget/changed"] == 20 for _, row in rows)
    assert callback.resets == len(steps)
    assert callback.last_report.optimizer_cleared > 0


def test_scoring_leaves_metrics_lists_and_logs_of_the_epoch():
    log, plain = Log(), Log()
    module, _ = fit(ForgetCallback(every=2, **OPTIONS), log=log)
    bare, _ = fit(None, log=plain)
    assert module.counts == bare.counts == [48, 48, 48]
    assert len(module.losses) == len(bare.losses) == 18
    assert [step for step, row in log.rows if "loss_step" in row] == [s for s, r in plain.rows if "loss_step" in r]


@pytest.mark.parametrize("val", [None, data()], ids=["no validation", "validation"])
@pytest.mark.parametrize("every", ["epoch", 4])
@pytest.mark.parametrize("interventions", [[], ["redo"]], ids=["alone", "redo"])
def test_a_resumed_fit_equals_an_uninterrupted_one(every, interventions, val, tmp_path):
    pytest.importorskip("forgetkit_plasticity")
    options = {**OPTIONS, "every": every, "interventions": interventions}
    whole, _ = fit(ForgetCallback(**options), epochs=4, val=val)
    fit(ForgetCallback(**options), epochs=2, folder=tmp_path, val=val)
    callback = ForgetCallback(**options)
    (file,) = tmp_path.glob("*epoch=1*")
    resumed, _ = fit(callback, epochs=4, resume=file, seed=9, val=val)
    assert same(whole, resumed)
    assert callback.resets == (3 if every == "epoch" else 5)


def test_each_reset_has_a_seed_of_its_own():
    seeds = []
    for seed in (0, 1):
        module, _ = fit(
            ForgetCallback(**{**OPTIONS, "seed": seed, "every": "fit_end", "reinit": "cold", "importance": None})
        )
        seeds.append(module.net[0].weight)
    assert not torch.equal(*seeds)


def test_followers_get_the_same_resets():
    ema = make_follower = Net()
    callback = ForgetCallback(**{**OPTIONS, "every": "fit_end"}, followers=[ema])
    before = copy.deepcopy(ema.state_dict())
    module, _ = fit(callback)
    moved = [(ema.state_dict()[n] != before[n]) for n in before if n.startswith("net")]
    assert sum(int(m.sum()) for m in moved) == 20
    for name, p in module.net.named_parameters():
        mask = ema.state_dict()[f"net.{name}"] != before[f"net.{name}"]
        assert torch.equal(p[mask], make_follower.state_dict()[f"net.{name}"][mask])


def test_accumulated_gradients_are_never_cut():
    log = Log()
    fit(ForgetCallback(every=1, **OPTIONS), log=log, accumulate_grad_batches=4)
    assert [step for step, row in log.rows if "forget/reset" in row] == [1, 2, 3, 4, 5]


def test_manual_optimization_needs_an_objective():
    class Manual(Net):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    with pytest.raises(OptionError, match="objective=lambda module, batch: loss"):
        fit(ForgetCallback(**OPTIONS), module=Manual())
    callback = ForgetCallback(**OPTIONS, objective=lambda m, batch: cross_entropy(m(batch[0]), batch[1]))
    fit(callback, module=Manual())
    assert callback.resets == 2


@pytest.mark.children
def test_persistent_workers_are_left_alone():
    seen = []

    class Watched(Net):
        def training_step(self, batch, batch_idx):
            if torch.is_grad_enabled() and self.training:
                seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    loader = data(num_workers=1, persistent_workers=True)
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[ForgetCallback(every=2, **OPTIONS)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Watched(), loader)
    assert trainer.global_step == 12
    assert len(seen) == 12


def test_the_other_namespace_works_too():
    other = import_or_skip("pytorch_lightning")

    class Other(other.LightningModule):
        forward, training_step, configure_optimizers = Net.forward, Net.training_step, Net.configure_optimizers
        __init__ = None

    def init(self):
        other.LightningModule.__init__(self)
        self.net, self.losses = make_net(), []
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)

    Other.__init__ = init
    callback = ForgetCallback(**OPTIONS)
    trainer = other.Trainer(
        max_epochs=3,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Other(), data())
    assert callback.resets == 2


def test_another_seed_is_refused_in_a_checkpoint(tmp_path):
    fit(ForgetCallback(**OPTIONS), epochs=2, folder=tmp_path)
    callback = ForgetCallback(**OPTIONS)
    with pytest.raises(OptionError, match="seed=9, not 3"):
        callback.load_state_dict({**callback.state_dict(), "seed": 9})


def test_a_fit_does_not_resume_with_another_seed(tmp_path):
    fit(ForgetCallback(seed=3), epochs=2, folder=tmp_path)
    checkpoint = sorted(tmp_path.rglob("*.ckpt"))[-1]
    with pytest.raises(OptionError, match="give the same to resume"):
        fit(ForgetCallback(seed=4), epochs=3, resume=checkpoint)


def test_a_checkpoint_that_is_only_tested_is_not_gone_on_with(tmp_path):
    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", cross_entropy(self(batch[0]), batch[1]))

    first = ForgetCallback(**OPTIONS)
    fit(first, epochs=2, folder=tmp_path, module=Tested())
    checkpoint = sorted(tmp_path.rglob("*.ckpt"))[0]
    callback = ForgetCallback(**{**OPTIONS, "seed": 4})
    module, trainer = fit(callback, epochs=3, module=Tested())
    trainer.test(module, data(), ckpt_path=checkpoint, weights_only=False, verbose=False)
    assert callback.resets == 2


def test_a_checkpoint_without_the_callback_is_gone_on_with_on_schedule(tmp_path):
    fit(None, epochs=1, folder=tmp_path)
    log = Log()
    callback = ForgetCallback(**{**OPTIONS, "every": 4})
    fit(callback, epochs=3, resume=sorted(tmp_path.rglob("*.ckpt"))[0], log=log)
    assert [step for step, row in log.rows if "forget/reset" in row] == [8, 12, 16]
