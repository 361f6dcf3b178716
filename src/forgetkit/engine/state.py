"""The network and all that changes during a run: what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, Literal

import torch
from torch import nn

from forgetkit import training, unlearning
from forgetkit.config import RunConfig, name_of
from forgetkit.contracts import (
    EpochEnded,
    Inputs,
    Intervention,
    MegaBatchResult,
    MegaBatchRevealed,
    OptionResolved,
    Role,
    Unlearned,
)
from forgetkit.data import LazySubset, Ledger, SamplePool, Stream, VisibleData
from forgetkit.data.batches import ScoringBatches
from forgetkit.data.stream import ROLES
from forgetkit.engine.checkpoint_validation import require_possible, require_tensors
from forgetkit.engine.checkpointing import CheckpointTimer, InterruptibleBatches, ThrottledProgress
from forgetkit.engine.context import RunContext, use_threads
from forgetkit.errors import ComponentError, ConfigError, DivergedError
from forgetkit.seeding import Seeds, preserved_rng
from forgetkit.system import memory
from forgetkit.system.torch_settings import settings_restored
from forgetkit.training import EpochProgress, Rate, Schedule
from forgetkit.unlearning.batchnorm import tracking_layers
from forgetkit.unlearning.integrity import hooks_on

_REPEATED_REMEDY = "let the builder draw from the global random state, and give weights apart from it with --init FILE"
_log = logging.getLogger("forgetkit")
_SMOKE_TEST_LR = 1e-6  # whether the real one diverges is for the run to find


@dataclass(eq=False)
class TrainingState:
    """Learns a mega-batch, counts errors, forgets; knows how to be put into a checkpoint and back."""

    context: RunContext
    inputs: Inputs
    model: nn.Module
    optimizer: torch.optim.Optimizer
    trainer: training.Trainer
    stream: Stream
    early_stopping: training.EarlyStopping
    passes: unlearning.PassCounter
    """The samples run through the network in this mega-batch, but for judging it."""
    mega_batch: int = 1
    epochs_done: int = 0
    carried_epoch: int = 0
    skipped: int = 0
    """Steps of this mega-batch that were left out, since their numbers were not finite."""
    epoch_progress: EpochProgress | None = None
    """The epoch that is to be gone on with, or in which a state was written last."""
    previous: dict[str, torch.Tensor] = field(default_factory=dict)
    """The weights at the end of the mega-batch before, where a component asks for them."""
    resolved_options: tuple[OptionResolved, ...] = ()
    """What was found best for this network and told nobody yet."""
    pools: dict[tuple[str, int], SamplePool] = field(default_factory=dict)
    """The parts at hand, each made once: by role, and by the mega-batch that was revealed."""
    hooks: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Those that the network was built with."""

    @classmethod
    def new(cls, context: RunContext) -> TrainingState:
        """A fresh network, its normalisation measured on the first mega-batch's training part alone."""
        first, ids = Ledger(context.data.train), context.mega_batches[0].train
        first.reveal("train", ids)
        seen = SamplePool.fitting(first.excerpt("train", ids), torch.device("cpu"))
        # First, since sums depend on the number of threads.
        settled, events = _resolve_auto(context, seen)
        learner = cls._of(settled, training.measure_normalization(seen, len(context.data.classes)))
        learner.resolved_options = events
        return learner

    @classmethod
    def from_state(cls, context: RunContext, state: Mapping[str, Any]) -> TrainingState:
        """The training state that a checkpoint holds.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: The state is not one that this run can have written.
        """
        require_possible(state, context)
        mean, std = tuple(state["mean"]), tuple(state["std"])
        learner = cls._of(context, Inputs(tuple(state["shape"]), len(context.data.classes), mean, std))
        require_tensors(state, learner.model, learner.optimizer)
        learner.model.load_state_dict(state["model"])
        groups = zip(learner.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], strict=True)
        options = [{**own, "lr": saved["lr"]} for own, saved in groups]
        learner.optimizer.load_state_dict({**state["optimizer"], "param_groups": options})
        for mine, saved in zip(learner.trainer.acting.states, state["interventions"], strict=True):
            mine.update({name: value.to(context.device) for name, value in saved.items()})
        learner.trainer.acting.resets = [int(count) for count in state["resets"]]
        learner.previous.update({name: value.to(context.device) for name, value in state["previous"].items()})
        learner.stream.restore(state["stream"])
        learner.early_stopping.restore(state["early_stopping"])
        learner.mega_batch, learner.epochs_done = int(state["mega_batch"]), int(state["epochs_done"])
        learner.skipped = int(state["skipped"])
        if state["epoch_progress"] is not None:
            learner.epoch_progress = EpochProgress.from_state(state["epoch_progress"], context.device)
        learner.passes.add(*(int(count) for count in state["passes"]))
        return learner

    @classmethod
    def _of(cls, context: RunContext, inputs: Inputs) -> TrainingState:
        plan, config = context.plan, context.plan.config
        model = training.build_network(plan.model, inputs, context.seeds, plan.init)
        form = training.choose_memory_format(config.memory_format, model, inputs, context.device)
        model = training.to_device(model, form, context.device)
        _require_memory(model, config, context.device)
        optimizer = _build_optimizer(model, config)
        # A criterion or a method that must watch the training acts in it, after those that were asked for.
        asked: list[Any] = [*plan.interventions, plan.importance, plan.reinit]
        watching = {id(c): c for c in asked if isinstance(c, Intervention)}  # each object once
        passes = unlearning.PassCounter()
        acting = unlearning.InterventionRunner(model, optimizer, list(watching.values()), context.seeds, passes=passes)
        record = training.cuda_graph if context.device.type == "cuda" else None
        trainer = training.Trainer(
            model,
            optimizer,
            config.batch_size,
            context.augment,
            acting,
            config.precision == "bf16",
            passes,
            record,
            skips=config.on_nan == "skip",
        )
        flow = Stream(context.data.train, context.mega_batches, plan.replay, context.seeds)
        learner = cls(context, inputs, model, optimizer, trainer, flow, _new_early_stopping(config), passes)
        acting.history = learner._past
        learner.hooks = hooks_on(model)
        return learner

    @property
    def parameters(self) -> int:
        """How many parameter entries the network has."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def samples_done(self) -> int:
        """How many samples the epochs of this mega-batch have trained on so far."""
        return self.context.epochs(self.mega_batch).before(self.epochs_done + 1)

    @property
    def steps_done(self) -> int:
        """How many steps of an unfinished epoch are made."""
        return 0 if self.epoch_progress is None else self.epoch_progress.steps

    def smoke_test(self) -> tuple[str, ...]:
        """A step and a forgetting, on a twin that is thrown away: what cannot work is said while nothing is written.

        Returns what is strange about the network's outputs.
        """
        config, context = self.context.plan.config, self.context
        twin = TrainingState._of(context, self.inputs)
        twin.trainer = replace(twin.trainer, record=None)
        twin._repeats = self._repeats
        twin.trainer.acting.history = twin._past
        twin.trainer.acting.seeds, twin.trainer.acting.check_finite = context.seeds.within("try"), True
        few = twin.stream.reveal(1).read("train", context.mega_batches[0].train[: config.batch_size])
        pool = SamplePool.of(few, context.device)
        twin.trainer.begin(pool, 1, context.seeds.within("try"))
        try:
            twin.trainer.epoch(pool, 1, 1, _SMOKE_TEST_LR, context.seeds.within("try"))
        except DivergedError as error:
            if config.on_nan == "stop":  # else other samples may do
                raise DivergedError(
                    f"the loss of the first {len(pool)} samples is NaN or infinite before anything was learned: "
                    "look at the network and the data"
                ) from error
        twin.trainer.acting.require_tensors()
        twin._require_finite("after a single step, tried out before the run")
        twin._require_no_leftover_hooks()
        if config.mega_batches > 1:
            # A share of two samples is one, which batch normalisation cannot be measured on: all are offered.
            twin._warn_of_repeats(twin.forget(pool, context.seeds.within("try")))
            twin._require_no_leftover_hooks()
        self.trainer.acting.warned = twin.trainer.acting.warned
        return training.audit_outputs(
            twin.model, pool, context.seeds.within("try")
        )  # last: it moves running statistics

    def learn(self, revealed: VisibleData, checkpoint: Callable[[], None]) -> None:
        """Train for the epochs or samples given out on everything at hand, less what was done before a resume."""
        config, bus, t = self.context.plan.config, self.context.bus, revealed.index
        pool = self._pool(revealed, "train")
        bus.emit(MegaBatchRevealed(t, len(revealed.arrived), len(pool), len(revealed.val)))
        sizes, due = self.context.epochs(t), CheckpointTimer(config)
        if self.epochs_done == 0 and self.epoch_progress is None:
            self.trainer.begin(pool, t, self.context.seeds)
        for epoch in range(self.epochs_done + 1, sizes.count + 1):
            if self.early_stopping.should_stop:
                break
            rate = self._rate(epoch, sizes.before(epoch))
            between = self._between(t, epoch, due, checkpoint)
            with settings_restored(f"the model {self.context.plan.config.model} in training"):
                ended = self.trainer.epoch(
                    pool, t, epoch, rate, self.context.seeds, between, sizes.of(epoch), self.epoch_progress
                )
            self.epoch_progress, self.epochs_done = None, epoch
            self.skipped += ended.skipped
            val = self._watched(revealed, epoch)
            bus.emit(
                EpochEnded(
                    mega_batch=t,
                    epoch=epoch,
                    epochs=sizes.count,
                    loss=ended.loss,
                    accuracy=ended.accuracy,
                    lr=rate(0),
                    samples=ended.samples,
                    seconds=ended.seconds,
                    val_accuracy=val,
                    skipped=ended.skipped,
                )
            )
            self.context.halt.check()
            if epoch < sizes.count and due.after_epoch(epoch):
                checkpoint()
                due.start_over()
        self.carried_epoch = self.early_stopping.restore_best(self.model, self.epochs_done)
        self._require_finite()  # the last step may have been the one that went too far

    def _between(
        self, mega_batch: int, epoch: int, due: CheckpointTimer, checkpoint: Callable[[], None]
    ) -> Callable[[EpochProgress, int], None]:
        """What is done between two steps of an epoch: tell of them, keep what they came to, stop if that is asked."""
        halt, told = self.context.halt, ThrottledProgress(self.context.bus, mega_batch, epoch)

        def between(epoch_progress: EpochProgress, total: int) -> None:
            told(epoch_progress.steps, total)
            if epoch_progress.steps == total or not (halt.requested or due.within_epoch()):
                return
            training.require_finite(epoch_progress, mega_batch, epoch, total)
            epoch_progress.save_rng()
            self.epoch_progress = epoch_progress
            halt.check()
            with preserved_rng():
                checkpoint()
            due.start_over()

        return between

    def _require_no_leftover_hooks(self) -> None:
        """``ComponentError`` where somebody could listen to the network while it is judged."""
        left = [name for key, name in hooks_on(self.model).items() if key not in self.hooks]
        if left:
            raise ComponentError(
                f"a hook was left on '{left[0]}', through which a component would see validation and test samples: "
                "take hooks off after each epoch and before a forgetting ends"
            )

    def _require_finite(self, when: str | None = None) -> None:
        """``DivergedError`` where a weight or a running statistic is not finite."""
        if when is None:
            steps = f" and {self.steps_done} steps" if self.steps_done else ""
            rate = self.optimizer.param_groups[0]["lr"]
            when = f"in mega-batch {self.mega_batch}, after epoch {self.epochs_done}{steps}, at learning rate {rate:g}"
        statistics = {
            f"{name}.{which}": getattr(module, which)
            for name, module in tracking_layers(self.model).items()
            for which in ("running_mean", "running_var")
        }
        for name, tensor in (*self.model.named_parameters(), *statistics.items()):
            if not bool(torch.isfinite(tensor).all()):
                acting = " and ".join(self.trainer.acting.names)
                remedy = f"look at {acting}" if acting else "begin anew with a smaller --lr"
                raise DivergedError(f"'{name}' holds NaN or infinity {when}: {remedy}")

    def _watched(self, revealed: VisibleData, epoch: int) -> float | None:
        """Validation accuracy after an epoch, where something depends on it."""
        if not self.early_stopping.needs_validation:
            return None
        accuracy = self._fraction(revealed, "val", epoch)
        self.early_stopping.update(epoch, accuracy, self.model)
        return accuracy

    def _rate(self, epoch: int, before: int) -> Rate:
        """The learning rate in an epoch after ``before`` samples: the same throughout, unless samples are given out."""
        config = self.context.plan.config
        lr, milestones = config.lr or 0.0, config.milestones
        if config.samples is None:
            rate = Schedule(config.schedule, lr, config.epochs, milestones or (), config.gamma).at(epoch)
            return lambda done: rate
        milestones = training.share_milestones(config.samples) if milestones is None else milestones
        schedule = Schedule(config.schedule, lr, config.samples, milestones, config.gamma)
        return lambda done: schedule.after(before + done)

    def evaluate(self, revealed: VisibleData) -> MegaBatchResult:
        """Count right answers on the training, validation and test parts, at the weights carried on."""
        train = self._fraction(revealed, "train")
        val = self._fraction(revealed, "val") if len(revealed.val) else None
        right, total = self._count(revealed, "test")
        return MegaBatchResult(
            index=revealed.index,
            train_samples=len(revealed.train),
            val_samples=len(revealed.val),
            epochs=self.epochs_done,
            samples_seen=self.samples_done,
            train_accuracy=train,
            val_accuracy=val,
            generalization_gap=None if val is None else train - val,
            test_accuracy=right / total,
            test_errors=total - right,
            test_samples=total,
            forward_passes=self.passes.forward,
            backward_passes=self.passes.backward,
            seconds=0.0,
            carried_epoch=self.carried_epoch,
            skipped_steps=self.skipped,
            interventions=self._resets(),
        )

    def _resets(self) -> dict[str, int]:
        """How many entries each intervention that was asked for has reset in this mega-batch."""
        plan, acting = self.context.plan, self.trainer.acting
        counts = dict(zip(map(id, acting.interventions), acting.resets, strict=True))
        found: dict[str, int] = {}
        for one, spec in zip(plan.interventions, plan.config.interventions, strict=True):
            name = name_of(spec)
            found[name] = found.get(name, 0) + counts[id(one)]
        return found

    def unlearn(self, revealed: VisibleData) -> tuple[dict[str, Any], unlearning.MaskRecorder]:
        """Score on the training samples that ``--score-on`` says, select, reset; the audit, and the masks."""
        for role in ROLES:
            self.pools.pop((role, revealed.index), None)  # the mega-batch is learned and judged
        ids = self.stream.scoring_ids(self.context.plan.config.score_on, revealed.index)
        pool = SamplePool.fitting(revealed.excerpt("train", ids), self.context.device)
        finished = self._copied() if self._needs_previous_weights else {}
        masks = unlearning.MaskRecorder()
        try:
            forgotten = self.forget(pool, self.context.seeds.within("unlearn", revealed.index), masks)
        except ComponentError as error:
            raise type(error)(f"after mega-batch {revealed.index}: {error}") from error
        self.passes.add(forgotten.forward_passes, forgotten.backward_passes)
        self._warn_of_repeats(forgotten)
        for remark in forgotten.remarks:
            _log.warning("after mega-batch %d: %s", revealed.index, remark)
        report = forgotten.as_dict()
        self.previous.update(finished)
        self.context.bus.emit(Unlearned(revealed.index, report))
        return report, masks

    def _warn_of_repeats(self, report: unlearning.UnlearnReport) -> None:
        """Once, of fresh values that another build of the network has too."""
        acting = self.trainer.acting
        if report.repeated is not None and not acting.warned:
            acting.warned = True
            _log.warning("%s", report.repeated)

    def forget(
        self, pool: SamplePool, seeds: Seeds, masks: unlearning.MaskRecorder | None = None
    ) -> unlearning.UnlearnReport:
        """Forget what matters least to ``pool``, and take down in ``masks`` what that was, where a run keeps them."""
        plan, config = self.context.plan, self.context.plan.config
        augment = self.context.augment if config.score_transform == "train" else "none"
        return unlearning.unlearn(
            self.model,
            InterruptibleBatches(
                ScoringBatches(pool, seeds.within("score"), config.score_batch, config.score_sampling, augment),
                self.context.halt,
            ),
            importance=plan.importance,
            reinit=plan.reinit,
            optimizer=self.optimizer,
            seeds=seeds,
            history=self._past,
            scoring=unlearning.Scoring(config.score_params, config.score_mode),
            policy=unlearning.ResetPolicy(config.optimizer_state, config.bn_stats),
            record_mask=masks if config.keep_masks == "all" else None,
        )

    @property
    def _past(self) -> unlearning.ModelHistory:
        """How the network came to be; what it began with is drawn again, should anybody ask."""
        builder, inputs, seeds = self.context.plan.model, self.inputs, self.context.seeds
        init = self.context.plan.init
        previous = self.previous  # not the state itself, through which a component would come to the samples
        initialise = getattr(builder, "initialise", None)
        build = None if initialise is not None else partial(training.build_model, builder, inputs)

        @cache
        def begun() -> Mapping[str, torch.Tensor]:
            network = training.build_network(builder, inputs, seeds, init)
            return {**dict(network.named_parameters()), **dict(network.named_buffers())}

        def before(name: str) -> torch.Tensor:
            """At the end of the first mega-batch: what it began with."""
            return previous[name] if previous else begun()[name]

        return unlearning.ModelHistory(
            build=build,
            repeats=None if build is None else self._repeats,
            initialise=initialise,
            initial=lambda name: begun()[name],
            previous=before if self._needs_previous_weights else None,
            memory=self.trainer.acting.memory,
            seeds=seeds,
        )

    @cached_property
    def _repeats(self) -> Callable[[], unlearning.RepeatedValues]:
        """What two builds of the network have in common, found out once; without the state, which has samples."""
        return cache(
            partial(
                unlearning.RepeatedValues.of,
                partial(training.build_model, self.context.plan.model, self.inputs),
                _REPEATED_REMEDY,
            )
        )

    @property
    def _needs_previous_weights(self) -> bool:
        plan = self.context.plan
        components = (plan.importance, plan.reinit, *plan.interventions)
        return any(getattr(component, "needs_previous", False) for component in components)

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def next_mega_batch(self) -> None:
        """On to the next mega-batch."""
        self.mega_batch += 1
        self.epochs_done = self.carried_epoch = self.skipped = 0
        self.passes.forward = self.passes.backward = 0
        self.early_stopping = _new_early_stopping(self.context.plan.config)

    def state(self) -> dict[str, Any]:
        """Everything that changes, in types that load without running code; ``DivergedError`` rather than NaN in it."""
        self.trainer.acting.require_tensors()
        self._require_finite()
        return {
            "digest": self.context.plan.digest,
            "mega_batch": self.mega_batch,
            "epochs_done": self.epochs_done,
            "skipped": self.skipped,
            "epoch_progress": None if self.epoch_progress is None else self.epoch_progress.state(),
            "shape": list(self.inputs.shape),
            "mean": list(self.inputs.mean),
            "std": list(self.inputs.std),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "interventions": list(self.trainer.acting.states),
            "resets": list(self.trainer.acting.resets),
            "passes": [self.passes.forward, self.passes.backward],
            "previous": dict(self.previous),
            "stream": self.stream.state(),
            "early_stopping": self.early_stopping.state(),
        }

    def _fraction(self, revealed: VisibleData, role: Role, *when: int) -> float:
        right, total = self._count(revealed, role, *when)
        return right / total

    def _count(self, revealed: VisibleData, what: Role | Literal["test"], *when: int) -> tuple[int, int]:
        pool, seeds = self._pool(revealed, what), self.context.seeds.within("judge", revealed.index, what, *when)
        self._require_no_leftover_hooks()
        augmented = what == "val" and self.context.plan.config.val_transform == "train"
        augment = self.context.augment if augmented else "none"
        between = None if when else self.context.halt.check  # within learning an epoch is ended first
        with settings_restored(f"the model {self.context.plan.config.model}"):
            return training.count_correct(
                self.model, pool, seeds, augment=augment, bf16=self.trainer.bf16, between=between
            )

    def _pool(self, revealed: VisibleData, what: Role | Literal["test"]) -> SamplePool:
        """The samples of a mega-batch in a role, or the test part, which stays the same throughout."""
        key = (what, 0 if what == "test" else revealed.index)
        if key not in self.pools:
            test = self.context.data.test
            excerpt = LazySubset.whole(test) if what == "test" else revealed.excerpt(what, getattr(revealed, what))
            self.pools[key] = SamplePool.fitting(excerpt, self.context.device)
        return self.pools[key]


def _resolve_auto(context: RunContext, seen: SamplePool) -> tuple[RunContext, tuple[OptionResolved, ...]]:
    """Resolves what the options leave open, for training steps on ``seen``; and what to tell of it.

    From here on the run computes with the threads that it came to.
    """
    plan, config = context.plan, context.plan.config
    channels, samples = seen.inputs.shape[1], min(len(seen), config.batch_size)
    # No mean or deviation changes what a layer costs, or how it lies in memory.
    inputs = Inputs(tuple(seen.inputs.shape[1:]), len(context.data.classes), (0.0,) * channels, (1.0,) * channels)
    model = training.build_network(plan.model, inputs, context.seeds)
    threads = config.threads
    if threads == "auto":
        threads = training.choose_threads(training.count_operations(model, inputs, samples, context.device))
    use_threads(threads)
    form = training.choose_memory_format(config.memory_format, model, inputs, context.device)
    if config.precision != "auto":
        return context.with_resolved({"memory_format": form, "threads": threads}), ()
    trial = training.PrecisionTrial(
        model, inputs, samples, form, context.device, named=config.model, notes=context.cache / "trials"
    )
    precision, reason = trial.verdict()
    told = () if reason is None else (OptionResolved("precision", precision, reason),)
    return context.with_resolved({"memory_format": form, "precision": precision, "threads": threads}), told


def _require_memory(model: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Raise ``ConfigError`` if gradients and optimizer state, which the first step allocates, do not fit."""
    slots = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    needed = (1 + slots) * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    left = memory.available(device)
    if left is not None and needed > left:
        raise ConfigError(
            f"--model {config.model} does not fit into memory: its gradients and the state of --optimizer "
            f"{config.optimizer} take {needed / 2**30:,.1f} GiB, {left / 2**30:.1f} are left: choose smaller options "
            "for it"
        )


def _build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    lr, decay = config.lr or 0.0, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, foreach=True)
    # Not fused: that step fails where some parameters have lost their momentum to a forgetting and others have not.
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=config.momentum, weight_decay=decay, foreach=True)


def _new_early_stopping(config: RunConfig) -> training.EarlyStopping:
    return training.EarlyStopping(config.carry, config.patience, config.min_delta)
