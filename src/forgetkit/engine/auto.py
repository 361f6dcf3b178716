"""The values that `auto` resolves to in a run: rules about its network, decided before the run begins."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from forgetkit import training
from forgetkit.config import AUTO_OPTIONS, Plan
from forgetkit.contracts import Inputs, OptionResolved
from forgetkit.data import Ledger, SamplePool
from forgetkit.engine.context import use_threads
from forgetkit.engine.run_data import RunData


def build_resolved(plan: Plan, run_data: RunData) -> tuple[Plan, Inputs, nn.Module, tuple[OptionResolved, ...]]:
    """Measure the normalisation, build the network on the CPU and resolve ``auto`` for it.

    From here on torch computes with the threads of the plan.

    Returns:
        The plan without ``auto`` values, what the network was built for, the network, and the events to emit.
    """
    config, available = plan.config, torch.get_num_threads()
    use_threads(1 if config.threads == "auto" else config.threads)
    inputs, network = _build(plan, run_data)
    is_open = "auto" in (config.threads, config.precision)
    operations = _count_operations(plan, run_data, inputs, network) if is_open else 0.0
    threads = config.threads
    if threads == "auto":
        threads = training.choose_threads(operations, available)
        if threads > 1:  # sums and factorisations depend on the number of threads
            use_threads(threads)
            inputs, network = _build(plan, run_data)
    device = run_data.device
    choices = {
        "memory_format": training.choose_memory_format(config.memory_format, network, inputs, device),
        "precision": config.precision,
        "threads": threads,
    }
    events: tuple[OptionResolved, ...] = ()
    if config.precision == "auto":
        choices["precision"] = training.choose_precision(operations, device)
        if choices["precision"] == "bf16":
            reason = f"a batch takes {operations:.1e} operations, and {device.type} multiplies bf16 natively"
            failure = training.bf16_failure(_copy(plan, run_data, inputs, network), inputs, device)
            if failure is not None:
                choices["precision"], reason = "fp32", f"a step in bf16 fails ({failure})"
            events = (OptionResolved("precision", choices["precision"], reason),)
    return plan.with_resolved(**choices), inputs, network, events


def with_recorded(plan: Plan, recorded: Mapping[str, Any]) -> Plan:
    """The plan with the resolved values of a manifest's configuration."""
    return plan.with_resolved(**{option: recorded[option] for option in AUTO_OPTIONS if option in recorded})


def suits_bf16(run_data: RunData) -> bool:
    """Whether the network of a plan is large enough for bf16 and can take a step in it, whatever the hardware.

    Its normalisation is not measured, since it changes neither.
    """
    plan, shape = run_data.plan, tuple(run_data.data.train.inputs.shape[1:])
    inputs = Inputs(shape, len(run_data.data.classes), (0.0,) * shape[0], (1.0,) * shape[0])
    network = training.build_network(plan.model, inputs, run_data.seeds)
    operations = _count_operations(plan, run_data, inputs, network)
    return training.is_worth_bf16(operations) and training.bf16_failure(network, inputs, run_data.device) is None


def _build(plan: Plan, run_data: RunData) -> tuple[Inputs, nn.Module]:
    """Build the network, with a normalisation that is measured on the first mega-batch's training part alone."""
    first, ids = Ledger(run_data.data.train), run_data.mega_batches[0].train
    first.reveal("train", ids)
    pool = SamplePool.fitting(first.excerpt("train", ids), torch.device("cpu"))
    inputs = training.measure_normalization(pool, len(run_data.data.classes))
    return inputs, training.build_network(plan.model, inputs, run_data.seeds, plan.init)


def _count_operations(plan: Plan, run_data: RunData, inputs: Inputs, network: nn.Module) -> float:
    """Count the operations of a training batch in the forward pass, on a copy of the network."""
    samples = min(len(run_data.mega_batches[0].train), plan.config.batch_size)
    return training.count_operations(_copy(plan, run_data, inputs, network), inputs, samples, run_data.device)


def _copy(plan: Plan, run_data: RunData, inputs: Inputs, network: nn.Module) -> nn.Module:
    rebuild = partial(training.build_network, plan.model, inputs, run_data.seeds, plan.init)
    return training.copy_network(network, rebuild)
