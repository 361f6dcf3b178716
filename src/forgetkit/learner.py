"""The network and all that changes during a run: what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, Literal

import torch
from torch import nn

from forgetkit import forgetting, learn
from forgetkit.between import Due, Heeding, Throttled
from forgetkit.checkpoint_validation import require_possible, require_tensors
from forgetkit.config import RunConfig, name_of
from forgetkit.contracts import (
    EpochEnded,
    Inputs,
    Intervention,
    MegaBatchRevealed,
    MegaBatchRow,
    Role,
    Settled,
    Unlearned,
)
from forgetkit.errors import ComponentError, ConfigError, DivergedError
from forgetkit.forgetting.guard import hooks_on
from forgetkit.forgetting.statistics import tracking
from forgetkit.learn import Rate, Schedule, Underway
from forgetkit.seeding import Seeds, preserved_global_state
from forgetkit.session import Session, use_threads
from forgetkit.stream import Excerpt, Ledger, Pool, Revealed, Stream
from forgetkit.stream.batches import Offered
from forgetkit.stream.stream import ROLES
from forgetkit.system import memory
from forgetkit.system.torch_settings import settings_restored

_REPEATS = "let the builder draw from the global random state, and give weights apart from it with --init FILE"
_log = logging.getLogger("forgetkit")
_TRIED_LR = 1e-6  # whether the real one diverges is for the run to find


@dataclass(eq=False)
class Learner:
    """Learns a mega-batch, counts errors, forgets; knows how to be put into a checkpoint and back."""

    session: Session
    inputs: Inputs
    model: nn.Module
    optimizer: torch.optim.Optimizer
    trainer: learn.Trainer
    stream: Stream
    best: learn.Best
    passes: forgetting.Passes
    """The samples run through the network in this mega-batch, but for judging it."""
    mega_batch: int = 1
    epochs_done: int = 0
    carried_epoch: int = 0
    skipped: int = 0
    """Steps of this mega-batch that were left out, since their numbers were not finite."""
    underway: Underway | None = None
    """The epoch that is to be gone on with, or in which a state was written last."""
    previous: dict[str, torch.Tensor] = field(default_factory=dict)
    """The weights at the end of the mega-batch before, where a component asks for them."""
    settled: tuple[Settled, ...] = ()
    """What was found best for this network and told nobody yet."""
    pools: dict[tuple[str, int], Pool] = field(default_factory=dict)
    """The parts at hand, each made once: by role, and by the mega-batch that was revealed."""
    hooks: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Those that the network was built with."""

    @classmethod
    def new(cls, session: Session) -> Learner:
        """A fresh network, its normalisation measured on the first mega-batch's training part alone."""
        first, ids = Ledger(session.data.train), session.mega_batches[0].train
        first.reveal("train", ids)
        seen = Pool.fitting(first.excerpt("train", ids), torch.device("cpu"))
        # First, since sums depend on the number of threads.
        settled, events = _settled(session, seen)
        learner = cls._of(settled, learn.measured(seen, len(session.data.classes)))
        learner.settled = events
        return learner

    @classmethod
    def restored(cls, session: Session, state: Mapping[str, Any]) -> Learner:
        """The learner that a checkpoint holds.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: The state is not one that this run can have written.
        """
        require_possible(state, session)
        mean, std = tuple(state["mean"]), tuple(state["std"])
        learner = cls._of(session, Inputs(tuple(state["shape"]), len(session.data.classes), mean, std))
        require_tensors(state, learner.model, learner.optimizer)
        learner.model.load_state_dict(state["model"])
        groups = zip(learner.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], strict=True)
        options = [{**own, "lr": saved["lr"]} for own, saved in groups]
        learner.optimizer.load_state_dict({**state["optimizer"], "param_groups": options})
        for mine, saved in zip(learner.trainer.acting.states, state["interventions"], strict=True):
            mine.update({name: value.to(session.device) for name, value in saved.items()})
        learner.trainer.acting.resets = [int(count) for count in state["resets"]]
        learner.previous.update({name: value.to(session.device) for name, value in state["previous"].items()})
        learner.stream.restore(state["stream"])
        learner.best.restore(state["best"])
        learner.mega_batch, learner.epochs_done = int(state["mega_batch"]), int(state["epochs_done"])
        learner.skipped = int(state["skipped"])
        if state["underway"] is not None:
            learner.underway = Underway.restored(state["underway"], session.device)
        learner.passes.add(*(int(count) for count in state["passes"]))
        return learner

    @classmethod
    def _of(cls, session: Session, inputs: Inputs) -> Learner:
        plan, config = session.plan, session.plan.config
        model = learn.network(plan.model, inputs, session.seeds, plan.init)
        form = learn.memory_format(config.memory_format, model, inputs, session.device)
        model = learn.arranged(model, form, session.device)
        _require_memory(model, config, session.device)
        optimizer = _optimizer(model, config)
        # A criterion or a method that must watch the training acts in it, after those that were asked for.
        asked: list[Any] = [*plan.interventions, plan.importance, plan.reinit]
        watching = {id(c): c for c in asked if isinstance(c, Intervention)}  # each object once
        passes = forgetting.Passes()
        acting = forgetting.Acting(model, optimizer, list(watching.values()), session.seeds, passes=passes)
        record = learn.cuda_graph if session.device.type == "cuda" else None
        trainer = learn.Trainer(
            model,
            optimizer,
            config.batch_size,
            session.augment,
            acting,
            config.precision == "bf16",
            passes,
            record,
            skips=config.on_nan == "skip",
        )
        flow = Stream(session.data.train, session.mega_batches, plan.replay, session.seeds)
        learner = cls(session, inputs, model, optimizer, trainer, flow, _nothing_yet(config), passes)
        acting.past = learner._past
        learner.hooks = hooks_on(model)
        return learner

    @property
    def parameters(self) -> int:
        """How many parameter entries the network has."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def samples_done(self) -> int:
        """How many samples the epochs of this mega-batch have trained on so far."""
        return self.session.epochs(self.mega_batch).before(self.epochs_done + 1)

    @property
    def steps_done(self) -> int:
        """How many steps of an unfinished epoch are made."""
        return 0 if self.underway is None else self.underway.steps

    def try_out(self) -> tuple[str, ...]:
        """A step and a forgetting, on a twin that is thrown away: what cannot work is said while nothing is written.

        Returns what is strange about the network's outputs.
        """
        config, session = self.session.plan.config, self.session
        twin = Learner._of(session, self.inputs)
        twin.trainer = replace(twin.trainer, record=None)
        twin._repeats = self._repeats
        twin.trainer.acting.past = twin._past
        twin.trainer.acting.seeds, twin.trainer.acting.trying = session.seeds.within("try"), True
        few = twin.stream.reveal(1).read("train", session.mega_batches[0].train[: config.batch_size])
        pool = Pool.of(few, session.device)
        twin.trainer.begin(pool, 1, session.seeds.within("try"))
        try:
            twin.trainer.epoch(pool, 1, 1, _TRIED_LR, session.seeds.within("try"))
        except DivergedError as error:
            if config.on_nan == "stop":  # else other samples may do
                raise DivergedError(
                    f"the loss of the first {len(pool)} samples is NaN or infinite before anything was learned: "
                    "look at the network and the data"
                ) from error
        twin.trainer.acting.require_tensors()
        twin._require_finite("after a single step, tried out before the run")
        twin._require_unheard()
        if config.mega_batches > 1:
            # A share of two samples is one, which batch normalisation cannot be measured on: all are offered.
            twin._warn_of_repeats(twin.forget(pool, session.seeds.within("try")))
            twin._require_unheard()
        self.trainer.acting.warned = twin.trainer.acting.warned
        return learn.audit_outputs(twin.model, pool, session.seeds.within("try"))  # last: it moves running statistics

    def learn(self, revealed: Revealed, checkpoint: Callable[[], None]) -> None:
        """Train for the epochs or samples given out on everything at hand, less what was done before a resume."""
        config, bus, t = self.session.plan.config, self.session.bus, revealed.index
        pool = self._pool(revealed, "train")
        bus.emit(MegaBatchRevealed(t, len(revealed.arrived), len(pool), len(revealed.val)))
        sizes, due = self.session.epochs(t), Due(config)
        if self.epochs_done == 0 and self.underway is None:
            self.trainer.begin(pool, t, self.session.seeds)
        for epoch in range(self.epochs_done + 1, sizes.count + 1):
            if self.best.exhausted:
                break
            rate = self._rate(epoch, sizes.before(epoch))
            between = self._between(t, epoch, due, checkpoint)
            with settings_restored(f"the model {self.session.plan.config.model} in training"):
                ended = self.trainer.epoch(
                    pool, t, epoch, rate, self.session.seeds, between, sizes.of(epoch), self.underway
                )
            self.underway, self.epochs_done = None, epoch
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
            self.session.halt.check()
            if epoch < sizes.count and due.after_epoch(epoch):
                checkpoint()
                due.start_over()
        self.carried_epoch = self.best.settle(self.model, self.epochs_done)
        self._require_finite()  # the last step may have been the one that went too far

    def _between(
        self, mega_batch: int, epoch: int, due: Due, checkpoint: Callable[[], None]
    ) -> Callable[[Underway, int], None]:
        """What is done between two steps of an epoch: tell of them, keep what they came to, stop if that is asked."""
        halt, told = self.session.halt, Throttled(self.session.bus, mega_batch, epoch)

        def between(underway: Underway, total: int) -> None:
            told(underway.steps, total)
            if underway.steps == total or not (halt.requested or due.within_epoch()):
                return
            learn.require_finite(underway, mega_batch, epoch, total)
            underway.pause()
            self.underway = underway
            halt.check()
            with preserved_global_state():
                checkpoint()
            due.start_over()

        return between

    def _require_unheard(self) -> None:
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
            for name, module in tracking(self.model).items()
            for which in ("running_mean", "running_var")
        }
        for name, tensor in (*self.model.named_parameters(), *statistics.items()):
            if not bool(torch.isfinite(tensor).all()):
                acting = " and ".join(self.trainer.acting.names)
                remedy = f"look at {acting}" if acting else "begin anew with a smaller --lr"
                raise DivergedError(f"'{name}' holds NaN or infinity {when}: {remedy}")

    def _watched(self, revealed: Revealed, epoch: int) -> float | None:
        """Validation accuracy after an epoch, where something depends on it."""
        if not self.best.watches:
            return None
        accuracy = self._fraction(revealed, "val", epoch)
        self.best.note(epoch, accuracy, self.model)
        return accuracy

    def _rate(self, epoch: int, before: int) -> Rate:
        """The learning rate in an epoch after ``before`` samples: the same throughout, unless samples are given out."""
        config = self.session.plan.config
        lr, milestones = config.lr or 0.0, config.milestones
        if config.samples is None:
            rate = Schedule(config.schedule, lr, config.epochs, milestones or (), config.gamma).at(epoch)
            return lambda done: rate
        milestones = learn.by_share(config.samples) if milestones is None else milestones
        schedule = Schedule(config.schedule, lr, config.samples, milestones, config.gamma)
        return lambda done: schedule.after(before + done)

    def evaluate(self, revealed: Revealed) -> MegaBatchRow:
        """Count right answers on the training, validation and test parts, at the weights carried on."""
        train = self._fraction(revealed, "train")
        val = self._fraction(revealed, "val") if len(revealed.val) else None
        right, total = self._count(revealed, "test")
        return MegaBatchRow(
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
        plan, acting = self.session.plan, self.trainer.acting
        counts = dict(zip(map(id, acting.interventions), acting.resets, strict=True))
        found: dict[str, int] = {}
        for one, spec in zip(plan.interventions, plan.config.interventions, strict=True):
            name = name_of(spec)
            found[name] = found.get(name, 0) + counts[id(one)]
        return found

    def unlearn(self, revealed: Revealed) -> tuple[dict[str, Any], forgetting.Noted]:
        """Score on the training samples that ``--score-on`` says, select, reset; the audit, and the masks."""
        for role in ROLES:
            self.pools.pop((role, revealed.index), None)  # the mega-batch is learned and judged
        ids = self.stream.offered(self.session.plan.config.score_on, revealed.index)
        pool = Pool.fitting(revealed.excerpt("train", ids), self.session.device)
        finished = self._copied() if self._looks_back else {}
        masks = forgetting.Noted()
        try:
            forgotten = self.forget(pool, self.session.seeds.within("unlearn", revealed.index), masks)
        except ComponentError as error:
            raise type(error)(f"after mega-batch {revealed.index}: {error}") from error
        self.passes.add(forgotten.forward_passes, forgotten.backward_passes)
        self._warn_of_repeats(forgotten)
        for remark in forgotten.remarks:
            _log.warning("after mega-batch %d: %s", revealed.index, remark)
        report = forgotten.as_dict()
        self.previous.update(finished)
        self.session.bus.emit(Unlearned(revealed.index, report))
        return report, masks

    def _warn_of_repeats(self, report: forgetting.UnlearnReport) -> None:
        """Once, of fresh values that another build of the network has too."""
        acting = self.trainer.acting
        if report.repeated is not None and not acting.warned:
            acting.warned = True
            _log.warning("%s", report.repeated)

    def forget(self, pool: Pool, seeds: Seeds, masks: forgetting.Noted | None = None) -> forgetting.UnlearnReport:
        """Forget what matters least to ``pool``, and take down in ``masks`` what that was, where a run keeps them."""
        plan, config = self.session.plan, self.session.plan.config
        augment = self.session.augment if config.score_transform == "train" else "none"
        return forgetting.unlearn(
            self.model,
            Heeding(
                Offered(pool, seeds.within("score"), config.score_batch, config.score_sampling, augment),
                self.session.halt,
            ),
            importance=plan.importance,
            reinit=plan.reinit,
            optimizer=self.optimizer,
            seeds=seeds,
            past=self._past,
            scoring=forgetting.Scoring(config.score_params, config.score_mode),
            aftercare=forgetting.Aftercare(config.optimizer_state, config.bn_stats),
            noting=masks if config.keep_masks == "all" else None,
        )

    @property
    def _past(self) -> forgetting.Past:
        """How the network came to be; what it began with is drawn again, should anybody ask."""
        builder, inputs, seeds = self.session.plan.model, self.inputs, self.session.seeds
        init = self.session.plan.init
        previous = self.previous  # not the learner itself, through which a component would come to the samples
        initialise = getattr(builder, "initialise", None)
        build = None if initialise is not None else partial(learn.built, builder, inputs)

        @cache
        def begun() -> Mapping[str, torch.Tensor]:
            network = learn.network(builder, inputs, seeds, init)
            return {**dict(network.named_parameters()), **dict(network.named_buffers())}

        def before(name: str) -> torch.Tensor:
            """At the end of the first mega-batch: what it began with."""
            return previous[name] if previous else begun()[name]

        return forgetting.Past(
            build=build,
            repeats=None if build is None else self._repeats,
            initialise=initialise,
            initial=lambda name: begun()[name],
            previous=before if self._looks_back else None,
            memory=self.trainer.acting.memory,
            seeds=seeds,
        )

    @cached_property
    def _repeats(self) -> Callable[[], forgetting.Repeats]:
        """What two builds of the network have in common, found out once; without the learner, which has samples."""
        return cache(
            partial(forgetting.Repeats.of, partial(learn.built, self.session.plan.model, self.inputs), _REPEATS)
        )

    @property
    def _looks_back(self) -> bool:
        plan = self.session.plan
        components = (plan.importance, plan.reinit, *plan.interventions)
        return any(getattr(component, "needs_previous", False) for component in components)

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def advance(self) -> None:
        """On to the next mega-batch."""
        self.mega_batch += 1
        self.epochs_done = self.carried_epoch = self.skipped = 0
        self.passes.forward = self.passes.backward = 0
        self.best = _nothing_yet(self.session.plan.config)

    def state(self) -> dict[str, Any]:
        """Everything that changes, in types that load without running code; ``DivergedError`` rather than NaN in it."""
        self.trainer.acting.require_tensors()
        self._require_finite()
        return {
            "digest": self.session.plan.digest,
            "mega_batch": self.mega_batch,
            "epochs_done": self.epochs_done,
            "skipped": self.skipped,
            "underway": None if self.underway is None else self.underway.state(),
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
            "best": self.best.state(),
        }

    def _fraction(self, revealed: Revealed, role: Role, *when: int) -> float:
        right, total = self._count(revealed, role, *when)
        return right / total

    def _count(self, revealed: Revealed, what: Role | Literal["test"], *when: int) -> tuple[int, int]:
        pool, seeds = self._pool(revealed, what), self.session.seeds.within("judge", revealed.index, what, *when)
        self._require_unheard()
        augmented = what == "val" and self.session.plan.config.val_transform == "train"
        augment = self.session.augment if augmented else "none"
        between = None if when else self.session.halt.check  # within learning an epoch is ended first
        with settings_restored(f"the model {self.session.plan.config.model}"):
            return learn.accuracy(self.model, pool, seeds, augment=augment, bf16=self.trainer.bf16, between=between)

    def _pool(self, revealed: Revealed, what: Role | Literal["test"]) -> Pool:
        """The samples of a mega-batch in a role, or the test part, which stays the same throughout."""
        key = (what, 0 if what == "test" else revealed.index)
        if key not in self.pools:
            test = self.session.data.test
            excerpt = Excerpt.whole(test) if what == "test" else revealed.excerpt(what, getattr(revealed, what))
            self.pools[key] = Pool.fitting(excerpt, self.session.device)
        return self.pools[key]


def _settled(session: Session, seen: Pool) -> tuple[Session, tuple[Settled, ...]]:
    """Resolves what the options leave open, for training steps on ``seen``; and what to tell of it.

    From here on the run computes with the threads that it came to.
    """
    plan, config = session.plan, session.plan.config
    channels, samples = seen.inputs.shape[1], min(len(seen), config.batch_size)
    # No mean or deviation changes what a layer costs, or how it lies in memory.
    inputs = Inputs(tuple(seen.inputs.shape[1:]), len(session.data.classes), (0.0,) * channels, (1.0,) * channels)
    model = learn.network(plan.model, inputs, session.seeds)
    threads = config.threads
    if threads == "auto":
        threads = learn.threads(learn.operations(model, inputs, samples, session.device))
    use_threads(threads)
    form = learn.memory_format(config.memory_format, model, inputs, session.device)
    if config.precision != "auto":
        return session.settled({"memory_format": form, "threads": threads}), ()
    trial = learn.PrecisionTrial(
        model, inputs, samples, form, session.device, named=config.model, notes=session.cache / "trials"
    )
    precision, reason = trial.verdict()
    told = () if reason is None else (Settled("precision", precision, reason),)
    return session.settled({"memory_format": form, "precision": precision, "threads": threads}), told


def _require_memory(model: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Raise ``ConfigError`` if gradients and optimizer state, which the first step allocates, do not fit."""
    slots = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    needed = (1 + slots) * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    left = memory.left(device)
    if left is not None and needed > left:
        raise ConfigError(
            f"--model {config.model} does not fit into memory: its gradients and the state of --optimizer "
            f"{config.optimizer} take {needed / 2**30:,.1f} GiB, {left / 2**30:.1f} are left: choose smaller options "
            "for it"
        )


def _optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    lr, decay = config.lr or 0.0, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, foreach=True)
    # Not fused: that step fails where some parameters have lost their momentum to a forgetting and others have not.
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=config.momentum, weight_decay=decay, foreach=True)


def _nothing_yet(config: RunConfig) -> learn.Best:
    return learn.Best(config.carry, config.patience, config.min_delta)
