"""The state of a training: what changes during a run, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forgetkit import training, unlearning
from forgetkit.config import RunConfig
from forgetkit.contracts import Inputs, Intervention, Role
from forgetkit.data import LazySubset, SamplePool, Stream, VisibleData
from forgetkit.engine.checkpoint_validation import require_possible, require_tensors
from forgetkit.engine.context import RunContext
from forgetkit.engine.history import FindRepeatedValues, model_history, repeated_values
from forgetkit.errors import ComponentError, ConfigError, DivergedError
from forgetkit.system import memory
from forgetkit.training import EarlyStopping, EpochProgress, Trainer
from forgetkit.unlearning.batchnorm import tracking_layers
from forgetkit.unlearning.integrity import hooks_on


@dataclass(eq=False)
class TrainingState:
    """The network, its trainer and stream, and how far the run has come.

    ``skipped`` counts the steps of this mega-batch that were left out, since their numbers were not finite.
    ``previous`` are the weights after the mega-batch before, if a component needs them.
    """

    context: RunContext
    inputs: Inputs
    trainer: Trainer
    stream: Stream
    early_stopping: EarlyStopping
    own_hooks: Mapping[tuple[str, int], str]
    """The hooks that the network was built with."""
    mega_batch: int = 1
    epochs_done: int = 0
    carried_epoch: int = 0
    skipped: int = 0
    epoch_progress: EpochProgress | None = None
    """The progress of an unfinished epoch; None between two epochs."""
    previous: dict[str, Tensor] = field(default_factory=dict)
    pools: dict[tuple[str, int], SamplePool] = field(default_factory=dict)
    """The samples of each role in the current mega-batch, and the test part."""

    @classmethod
    def new(cls, context: RunContext, inputs: Inputs, network: nn.Module) -> TrainingState:
        """The state before the first step of a ``network`` that was built for ``inputs``."""
        plan, config = context.plan, context.plan.config
        memory_format = training.choose_memory_format(config.memory_format, network, inputs, context.device)
        network = training.to_device(network, memory_format, context.device)
        _require_memory(network, config, context.device)
        optimizer = _build_optimizer(network, config)
        # A criterion or a method that watches the training acts after the interventions of the plan, each object once.
        components: list[Any] = [*plan.interventions, plan.importance, plan.reinit]
        interventions = {id(c): c for c in components if isinstance(c, Intervention)}
        passes = unlearning.PassCounter()
        runner = unlearning.InterventionRunner(
            network, optimizer, list(interventions.values()), context.seeds, passes=passes
        )
        trainer = Trainer(
            network,
            optimizer,
            config.batch_size,
            context.run_data.augment,
            runner,
            config.precision == "bf16",
            passes,
            training.cuda_graph if context.device.type == "cuda" else None,
            skips=config.on_nan == "skip",
        )
        stream = Stream(context.run_data.data.train, context.run_data.mega_batches, plan.replay, context.seeds)
        state = cls(context, inputs, trainer, stream, _new_early_stopping(config), hooks_on(network))
        runner.history = state.history
        return state

    @classmethod
    def from_checkpoint(cls, context: RunContext, saved: Mapping[str, Any]) -> TrainingState:
        """The state that a checkpoint holds.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: This run cannot have written the checkpoint.
        """
        require_possible(saved, context)
        classes = len(context.run_data.data.classes)
        inputs = Inputs(tuple(saved["shape"]), classes, tuple(saved["mean"]), tuple(saved["std"]))
        network = training.build_network(context.plan.model, inputs, context.seeds, context.plan.init)
        state = cls.new(context, inputs, network)
        require_tensors(saved, state.network, state.optimizer)
        state.network.load_state_dict(saved["model"])
        groups = zip(state.optimizer.state_dict()["param_groups"], saved["optimizer"]["param_groups"], strict=True)
        options = [{**own, "lr": group["lr"]} for own, group in groups]
        state.optimizer.load_state_dict({**saved["optimizer"], "param_groups": options})
        for own, tensors in zip(state.runner.states, saved["interventions"], strict=True):
            own.update({name: value.to(context.device) for name, value in tensors.items()})
        state.runner.resets = [int(count) for count in saved["resets"]]
        state.previous.update({name: value.to(context.device) for name, value in saved["previous"].items()})
        state.stream.restore(saved["stream"])
        state.early_stopping.restore(saved["early_stopping"])
        state.mega_batch, state.epochs_done = int(saved["mega_batch"]), int(saved["epochs_done"])
        state.skipped = int(saved["skipped"])
        if saved["epoch_progress"] is not None:
            state.epoch_progress = EpochProgress.from_state(saved["epoch_progress"], context.device)
        state.passes.add(*(int(count) for count in saved["passes"]))
        return state

    def checkpoint(self) -> dict[str, Any]:
        """Everything that changes, in types that load without running code.

        Raises:
            ComponentError: An intervention keeps something else than tensors.
            DivergedError: A weight or a running statistic is NaN or infinite.
        """
        self.runner.require_tensors()
        self.require_finite()
        return {
            "digest": self.context.plan.digest,
            "mega_batch": self.mega_batch,
            "epochs_done": self.epochs_done,
            "skipped": self.skipped,
            "epoch_progress": None if self.epoch_progress is None else self.epoch_progress.state(),
            "shape": list(self.inputs.shape),
            "mean": list(self.inputs.mean),
            "std": list(self.inputs.std),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "interventions": list(self.runner.states),
            "resets": list(self.runner.resets),
            "passes": [self.passes.forward, self.passes.backward],
            "previous": dict(self.previous),
            "stream": self.stream.state(),
            "early_stopping": self.early_stopping.state(),
        }

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.trainer.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the network."""
        return self.trainer.optimizer

    @property
    def runner(self) -> unlearning.InterventionRunner:
        """What runs the interventions."""
        return self.trainer.runner

    @property
    def passes(self) -> unlearning.PassCounter:
        """The samples that ran through the network in this mega-batch, without its evaluation."""
        return self.trainer.passes

    @property
    def parameters(self) -> int:
        """The number of parameter entries of the network."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def samples_done(self) -> int:
        """How many samples the finished epochs of this mega-batch have trained on."""
        return self.context.epochs(self.mega_batch).before(self.epochs_done + 1)

    @property
    def steps_done(self) -> int:
        """The number of steps of an unfinished epoch."""
        return 0 if self.epoch_progress is None else self.epoch_progress.steps

    @property
    def is_between_epochs(self) -> bool:
        """Whether no epoch is unfinished."""
        return self.epoch_progress is None

    def pause_epoch(self) -> None:
        """Make an unfinished epoch ready for a checkpoint: check its losses, and capture the global random state."""
        if self.epoch_progress is not None:
            self.epoch_progress.require_finite()
            self.epoch_progress.save_rng()

    @cached_property
    def repeated_values(self) -> FindRepeatedValues:
        """Finds the values that two builds of the network have in common."""
        return repeated_values(self.context, self.inputs)

    @property
    def history(self) -> unlearning.ModelHistory:
        """The history of the network, as components may ask for it."""
        return model_history(self.context, self.inputs, self.previous, self.runner.memory, self.repeated_values)

    def pool(self, revealed: VisibleData, part: Role | Literal["test"]) -> SamplePool:
        """The samples of a mega-batch in a role, or the test part; each is read once."""
        key = (part, 0 if part == "test" else revealed.index)
        if key not in self.pools:
            test = self.context.run_data.data.test
            subset = LazySubset.whole(test) if part == "test" else revealed.excerpt(part, getattr(revealed, part))
            self.pools[key] = SamplePool.fitting(subset, self.context.device)
        return self.pools[key]

    def next_mega_batch(self) -> None:
        """Start the next mega-batch."""
        self.mega_batch += 1
        self.epochs_done = self.carried_epoch = self.skipped = 0
        self.passes.forward = self.passes.backward = 0
        self.early_stopping = _new_early_stopping(self.context.plan.config)

    def require_no_leftover_hooks(self) -> None:
        """Raise ``ComponentError`` if a hook was left on the network, which would see the samples of its evaluation."""
        left = [name for key, name in hooks_on(self.network).items() if key not in self.own_hooks]
        if left:
            raise ComponentError(
                f"a hook was left on '{left[0]}', through which a component would see validation and test samples: "
                "take hooks off after each epoch and before a forgetting ends"
            )

    def require_finite(self, when: str | None = None) -> None:
        """Raise ``DivergedError`` if a weight or a running statistic is not finite."""
        if when is None:
            steps = f" and {self.steps_done} steps" if self.steps_done else ""
            rate = self.optimizer.param_groups[0]["lr"]
            when = f"in mega-batch {self.mega_batch}, after epoch {self.epochs_done}{steps}, at learning rate {rate:g}"
        statistics = {
            f"{name}.{which}": getattr(module, which)
            for name, module in tracking_layers(self.network).items()
            for which in ("running_mean", "running_var")
        }
        for name, tensor in (*self.network.named_parameters(), *statistics.items()):
            if not bool(torch.isfinite(tensor).all()):
                suspects = " and ".join(self.runner.names)
                remedy = f"look at {suspects}" if suspects else "start a new run with a smaller --lr"
                raise DivergedError(f"'{name}' holds NaN or infinity {when}: {remedy}")


def _require_memory(network: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Raise ``ConfigError`` if gradients and optimizer state, which the first step allocates, do not fit."""
    slots = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    needed = (1 + slots) * sum(p.nbytes for p in network.parameters() if p.requires_grad)
    left = memory.available(device)
    if left is not None and needed > left:
        raise ConfigError(
            f"--model {config.model} does not fit into memory: its gradients and the state of --optimizer "
            f"{config.optimizer} take {needed / 2**30:,.1f} GiB, {left / 2**30:.1f} are left: choose smaller options "
            "for it"
        )


def _build_optimizer(network: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    lr, decay = config.lr or 0.0, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=decay, foreach=True)
    # Not fused: that step fails if some parameters have lost their momentum to a reset and others have not.
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=config.momentum, weight_decay=decay, foreach=True)


def _new_early_stopping(config: RunConfig) -> EarlyStopping:
    return EarlyStopping(config.carry, config.patience, config.min_delta)
