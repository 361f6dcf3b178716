"""``ForgetCallback`` in real trainings of a Hugging Face ``Trainer``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.optional_packages import import_or_skip
from torch import nn

from forgetkit.errors import OptionError

transformers = import_or_skip("transformers")
import_or_skip("accelerate")
ForgetCallback = import_or_skip("forgetkit.integrations.transformers").ForgetCallback

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def make_model() -> Any:
    config = transformers.BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(16, (32, 6), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 3} for row in tokens]


def train(callback, folder, *, steps=12, resume=None, log=None, model=None, trainer=None, **options):
    transformers.set_seed(0)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=2,
        **{"save_strategy": "no", **options},
    )
    kind = trainer or transformers.Trainer
    run = kind(model or make_model(), arguments, train_dataset=rows(), callbacks=[callback] if callback else [])
    run.train(resume_from_checkpoint=resume)
    return run


def same(one: nn.Module, other: nn.Module) -> bool:
    own, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(own[name], theirs[name]) for name in own)


OPTIONS = {"importance": "snip:samples=16", "reinit": "masked:fraction=0.3", "seed": 3}


@pytest.mark.parametrize(("every", "steps"), [("epoch", [4, 8]), (5, [5, 10]), ("fit_end", [12])])
def test_resets_come_when_due_and_are_logged(every, steps, tmp_path):
    callback = ForgetCallback(every=every, **OPTIONS)
    run = train(callback, tmp_path)
    logged = [row for row in run.state.log_history if "forget/reset" in row]
    assert [row["step"] for row in logged] == steps
    assert [row["forget/number"] for row in logged] == list(range(1, len(steps) + 1))
    assert all(row["forget/changed"] > 100 for row in logged)
    assert callback.last_report.optimizer_cleared > 0


@pytest.mark.parametrize("save", [4, 3], ids=["at the end of an epoch", "within an epoch"])
@pytest.mark.parametrize("every", ["epoch", 3])
@pytest.mark.parametrize("interventions", [[], ["l2-init"]], ids=["alone", "l2-init"])
def test_a_resumed_training_equals_an_uninterrupted_one(every, interventions, save, tmp_path):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "every": every, "interventions": interventions}
    saving = {"save_strategy": "steps", "save_steps": save}
    whole = train(ForgetCallback(**options), tmp_path, **saving)
    callback = ForgetCallback(**options)
    resumed = train(callback, tmp_path, resume=str(tmp_path / f"checkpoint-{2 * save}"), **saving)
    assert same(whole.model, resumed.model)
    assert callback.resets == (2 if every == "epoch" else 3)
    assert [r["step"] for r in resumed.state.log_history if "forget/reset" in r] == (
        [4, 8] if every == "epoch" else [3, 6, 9]
    )


def test_the_trainers_own_loss_is_taken(tmp_path):
    calls = []

    class Own(transformers.Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            calls.append(model.training)
            return super().compute_loss(model, inputs, **kwargs)

    train(ForgetCallback(**OPTIONS), tmp_path, steps=8, trainer=Own)
    assert calls.count(True) == 8
    assert calls.count(False) > 0
    train(ForgetCallback(**OPTIONS), tmp_path, steps=8, label_smoothing_factor=0.1)


def test_gradients_that_accumulate_are_never_cut(tmp_path):
    callback = ForgetCallback(every=1, **OPTIONS)
    run = train(callback, tmp_path, steps=4, gradient_accumulation_steps=2)
    assert callback.resets == 3
    assert run.state.global_step == 4


def test_followers_get_the_same_resets(tmp_path):
    model = make_model()
    ema = copy.deepcopy(model)
    before = copy.deepcopy(ema.state_dict())
    train(ForgetCallback(**OPTIONS, every="fit_end", followers=[ema]), tmp_path, model=model, steps=2)
    changed = 0
    for name, p in model.named_parameters():
        mask = ema.state_dict()[name] != before[name]
        changed += int(mask.sum())
        assert torch.equal(p.detach()[mask], ema.state_dict()[name][mask])
    assert changed > 100


def test_a_checkpoint_without_the_callback_is_refused(tmp_path):
    train(None, tmp_path, steps=4, save_strategy="steps", save_steps=4)
    with pytest.raises(OptionError, match="without ForgetCallback"):
        train(ForgetCallback(**OPTIONS), tmp_path, steps=8, resume=str(tmp_path / "checkpoint-4"))


def test_state_of_interventions_that_is_missing_is_refused(tmp_path):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "interventions": ["l2-init"]}
    train(ForgetCallback(**options), tmp_path, steps=4, save_strategy="steps", save_steps=4)
    (tmp_path / "checkpoint-4" / "forgetkit.pt").unlink()
    with pytest.raises(OptionError, match=r"forgetkit\.pt"):
        train(ForgetCallback(**options), tmp_path, steps=8, resume=str(tmp_path / "checkpoint-4"))


def test_restoring_callbacks_by_arguments_is_refused(tmp_path):
    with pytest.raises(OptionError, match="leave restore_callback_states_from_checkpoint out"):
        train(ForgetCallback(**OPTIONS), tmp_path, restore_callback_states_from_checkpoint=True)


class Endless(torch.utils.data.IterableDataset):
    """Rows without a length: four batches of eight."""

    def __iter__(self):
        return iter(rows())


def test_epochs_of_a_dataset_without_length_end_too(tmp_path):
    class OnEndless(transformers.Trainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(Endless(), batch_size=8)

    callback = ForgetCallback(every="epoch", **OPTIONS)
    run = train(callback, tmp_path, steps=14, trainer=OnEndless)
    assert [row["step"] for row in run.state.log_history if "forget/reset" in row] == [4, 8, 12]


def test_two_callbacks_are_refused(tmp_path):
    class Two(transformers.Trainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.add_callback(ForgetCallback(seed=4))

    with pytest.raises(OptionError, match="one ForgetCallback"):
        train(ForgetCallback(**OPTIONS), tmp_path, trainer=Two)


def test_a_checkpoint_elsewhere_brings_its_own_state(tmp_path):
    import_or_skip("forgetkit_plasticity")
    options = {**OPTIONS, "every": 3, "interventions": ["l2-init"]}
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = train(ForgetCallback(**options), tmp_path / "first", **saving)
    other = train(ForgetCallback(**options), tmp_path / "second", resume=str(tmp_path / "first" / "checkpoint-8"))
    assert same(whole.model, other.model)


def test_a_training_that_broke_off_in_a_step_goes_on(tmp_path):
    import_or_skip("forgetkit_plasticity")

    class Breaks(transformers.Trainer):
        broken = False

        def compute_loss(self, *args, **options):
            if self.state.global_step == 6 and not self.broken:
                type(self).broken = True
                raise KeyboardInterrupt
            return super().compute_loss(*args, **options)

    options = {**OPTIONS, "every": 50, "interventions": ["l2-init"]}
    saving = {"save_strategy": "steps", "save_steps": 4}
    made: list[Any] = []

    class Kept(Breaks):
        def __init__(self, *args, **given):
            super().__init__(*args, **given)
            made.append(self)

    with pytest.raises(KeyboardInterrupt):
        train(ForgetCallback(**options), tmp_path, trainer=Kept, **saving)
    made[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert made[0].state.global_step == 12
    assert not made[0].model._forward_pre_hooks
