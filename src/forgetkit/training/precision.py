"""How a network is computed, where the options leave that open: memory format, precision and threads."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from forgetkit.contracts import Inputs
from forgetkit.errors import ConfigError, RecordError, RunDirectoryError
from forgetkit.seeding import seeded_rng
from forgetkit.storage import read_with_digest, write_with_digest
from forgetkit.storage.validation import parse_as
from forgetkit.system.file_lock import locked

_log = logging.getLogger("forgetkit")

MemoryFormat = Literal["contiguous", "channels-last"]
Precision = Literal["fp32", "bf16"]

_WORTH_A_TRIAL = 1e9
"""Floating-point operations of a batch going forward, below which calls cost more than what they compute."""

_WORTH_THREADS = 2e8
"""The same, from which more than one thread pays: docs/performance.md has the measurements."""

_OF_A_TRIAL = 2e10
"""The same, of the samples that a trial takes: under a second on two cores."""

_A_BLOCK = 16
"""Channels that oneDNN computes at once."""

_REPETITIONS = 3
_FASTER = 1.25
"""How much faster bf16 has to be, to be worth its rounding."""

_NATIVE = re.compile(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)
_MODEL = re.compile(r"^model name\s*:\s*(.*)$", re.MULTILINE)
_PROCESSOR = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class PrecisionTimings:
    """Seconds of the fastest training step in each precision."""

    fp32: float
    bf16: float

    @property
    def gain(self) -> float:
        """How many times as fast bf16 is."""
        return self.fp32 / self.bf16


def choose_memory_format(asked: str, model: nn.Module, inputs: Inputs, device: torch.device) -> MemoryFormat:
    """Where it is left open, channels last for images that go through 2-D convolutions, whose kernels like it best.

    Raises ``ConfigError`` if channels-last is asked for and would be ignored, or is not safe.
    """
    convolves = len(inputs.shape) == 3 and any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in model.modules())
    if asked == "channels-last" and not convolves:
        raise ConfigError(
            "--memory-format channels-last would be ignored: the network has no 2-D convolution over images; "
            "leave it out"
        )
    if any(t.ndim > 4 for t in (*model.parameters(), *model.buffers())):  # which torch cannot arrange so
        if asked == "channels-last":
            raise ConfigError(
                "--memory-format channels-last: a tensor of the network has five dimensions; leave it out"
            )
        return "contiguous"
    unsafe = _unsafe_in_channels_last(model) if device.type == "cpu" else None
    if unsafe is not None:
        if asked == "channels-last":
            raise ConfigError(
                "--memory-format channels-last: in that layout torch's backward pass on the CPU can end the process "
                f"at '{unsafe}', a strided 1x1 convolution of less than {_A_BLOCK} channels; leave it out"
            )
        return "contiguous"
    if asked == "auto":
        return "channels-last" if convolves and device.type in ("cpu", "cuda") else "contiguous"
    return "channels-last" if asked == "channels-last" else "contiguous"


def _unsafe_in_channels_last(model: nn.Module) -> str | None:
    """The first convolution whose backward pass writes where it must not in torch 2.15, by its name.

    Measured: a 1x1 kernel, a stride, fewer channels in than a block, and a batch that threads divide unevenly. The rule
    leaves out batch and threads, which differ within a run, and torch's version, which may not change what a run is.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or module.in_channels // module.groups >= _A_BLOCK:
            continue
        if set(module.kernel_size) == {1} and max(module.stride) > 1:
            return str(name)
    return None


def count_operations(model: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> float:
    """Counts the floating-point operations of a batch going forward, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports sympy, as the first optimizer does

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _of_a_recurrent_layer})
    was_training = model.training
    with seeded_rng(0), torch.enable_grad(), counter:  # without gradients attention is one call, too
        model.to(device).eval()(torch.zeros(2, *inputs.shape, device=device))
    model.train(was_training)
    return counter.get_total_flops() / 2 * batch_size


def _of_a_recurrent_layer(inputs: Sequence[int], *weights: Sequence[int], **_: object) -> int:
    """Operations of a layer that oneDNN computes in one call, which torch's counter does not know."""
    steps, batch, _width = inputs
    return sum(2 * steps * batch * math.prod(weight) for weight in weights[:2])


def choose_threads(operations: float) -> int:
    """Resolves ``--threads auto``: one for a batch of few operations, otherwise torch's own choice.

    Threads wait for each other after every layer. In a small network they wait longer than they compute, and where
    other processes want the cores, many times longer.
    """
    return 1 if operations < _WORTH_THREADS else torch.get_num_threads()


def to_device(model: nn.Module, chosen: MemoryFormat, device: torch.device) -> nn.Module:
    """The model on its device, in its memory format."""
    form = torch.channels_last if chosen == "channels-last" else torch.preserve_format
    return model.to(device=device, memory_format=form)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True, eq=False)
class PrecisionTrial:
    """A few training steps in either precision, of a network that is thrown away: what is faster here?

    What is found is noted down in the folder ``notes``, so that the same network on the same machine goes on with it,
    whatever the clock would say the next time. ``named`` is the network's SPEC.
    """

    model: nn.Module
    inputs: Inputs
    batch_size: int
    memory_format: MemoryFormat
    device: torch.device
    named: str
    notes: Path

    def verdict(self) -> tuple[Precision, str | None]:
        """bf16 where the hardware has it and it is faster by a quarter; in words why, where that took a trial.

        A small network is not tried: there the clock could say this today and that tomorrow.
        """
        if not native_bf16(self.device):
            return "fp32", None
        with seeded_rng(0):
            model = to_device(self.model, self.memory_format, self.device).train()
            count = count_operations(model, self.inputs, self.batch_size, self.device)
            if count < _WORTH_A_TRIAL:
                return "fp32", None
            try:
                timed, earlier = self._found(model, count)
            except RuntimeError as error:  # a network that mixes dtypes by hand, or memory that is short
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                return "fp32", f"a step in bf16 could not be tried ({said})"
        when = f"an earlier trial; to hold another, delete {self._note_of_this}" if earlier else "a short trial"
        reason = f"a step in bf16 took {1 / timed.gain:.2f} times what it took in fp32, in {when}"
        return ("bf16" if timed.gain >= _FASTER else "fp32"), reason

    def _timed(self, model: nn.Module, operations: float) -> PrecisionTimings:
        samples = max(2, min(self.batch_size, int(self.batch_size * _OF_A_TRIAL / operations)))
        inputs = torch.rand(samples, *self.inputs.shape, device=self.device)
        labels = torch.randint(self.inputs.classes, (samples,), device=self.device)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(1 + _REPETITIONS):  # in turn, so that what else the machine does meets both
            for bf16, measured in seconds.items():
                began = self._now()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    loss = cross_entropy(model(inputs), labels)
                loss.backward()
                measured.append(self._now() - began)
                model.zero_grad(set_to_none=True)
        return PrecisionTimings(min(seconds[False][1:]), min(seconds[True][1:]))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @property
    def _note_of_this(self) -> Path:
        here = [torch.__version__, processor(self.device), torch.get_num_threads()]
        this = [self.named, self.inputs.shape, self.inputs.classes, self.batch_size, self.memory_format]
        return self.notes / f"{hashlib.sha256(json.dumps([here, this]).encode()).hexdigest()[:32]}.json"

    def _noted(self) -> PrecisionTimings | None:
        if not self._note_of_this.exists():
            return None
        try:
            timed = parse_as(PrecisionTimings, read_with_digest(self._note_of_this))
            if timed.gain > 0:
                return timed
        except (RunDirectoryError, ValueError, ZeroDivisionError):
            pass
        _log.warning("%s is damaged: the trial is made again, and may come to another precision", self._note_of_this)
        return None

    def _found(self, model: nn.Module, operations: float) -> tuple[PrecisionTimings, bool]:
        """What is noted, and True, or what a trial finds. Of several processes one holds it, for all of them."""
        note = self._note_of_this
        try:
            self.notes.mkdir(parents=True, exist_ok=True)
            with locked(note.with_suffix(".lock"), math.inf, create=True):
                noted = self._noted()
                if noted is not None:
                    return noted, True
                timed = self._timed(model, operations)
                write_with_digest(note, {"fp32": timed.fp32, "bf16": timed.bf16})
                return timed, False
        except (OSError, RecordError):  # what cannot be noted is tried again the next time
            return self._timed(model, operations), False


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 by itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _NATIVE.search(_read_processor_name()) is not None


def processor(device: torch.device) -> str:
    """What computes, by its maker's name; empty where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = _MODEL.search(_read_processor_name())
    return found[1].strip() if found is not None else ""


def _read_processor_name() -> str:
    try:
        return _PROCESSOR.read_text(encoding="utf-8")
    except OSError:  # not Linux
        return ""
