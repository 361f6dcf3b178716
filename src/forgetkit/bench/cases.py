"""What is compared with what, and how fast it has to be. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from forgetkit.bench.measure import BenchmarkCase, BenchmarkOptions, Sides
from forgetkit.errors import OptionError, suggest


def choose_cases(names: Sequence[str]) -> tuple[BenchmarkCase, ...]:
    """The cases of these names in the order of ``CASES``; all where there are none."""
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise OptionError(f"there is no case '{name}'; {suggest(name, known)}")
    return tuple(case for case in CASES if not names or case.name in names)


def _resnet18(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import training

    return training.bare(training.Work.images("resnet18", 256, setting))


def _convnet(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import training

    return training.bare(training.Work.digits(setting))


def _augmented(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import loading

    return loading.loaded(2048, setting, workers=2)


def _auto(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import training

    return training.automatic(training.Work.images("resnet18", 256, setting))


def _unlearn(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import unlearning

    return unlearning.snip(setting)


def _selection(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import unlearning

    return unlearning.selection(setting)


def _forgetting(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import unlearning

    return unlearning.beside_an_epoch(setting)


def _start(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import starting

    return starting.help_text()


def _cuda(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import loading

    return loading.on_cuda(25_600, setting, workers=8)


def _sharing(setting: BenchmarkOptions) -> Sides:
    from forgetkit.bench import sharing

    return sharing.at_once(4, setting)


def _no_bf16(setting: BenchmarkOptions) -> str | None:
    from forgetkit.bench import training

    return training.no_bf16(setting)


def _no_cuda(setting: BenchmarkOptions) -> str | None:
    return None if setting.device.startswith("cuda") else "it needs a CUDA device"


CASES = (
    BenchmarkCase(
        "resnet18",
        "an epoch of 256 images of 32×32, ResNet-18, batches of 64, fp32",
        "a bare loop over the same floats on the device, channels last, normalised before",
        _resnet18,
        target=0.97,
    ),
    BenchmarkCase(
        "convnet",
        "an epoch of the 1,437 digits, convnet, batches of 64, fp32",
        "a bare loop over the same floats on the device, channels last, normalised before",
        _convnet,
        target=0.90,
    ),
    BenchmarkCase(
        "augmented",
        "an epoch of 2,048 images of 32×32 with crop and flip, convnet, batches of 64, all else by default",
        "a loop over DataLoader(num_workers=2) with torchvision's transforms, and training in fp32, NCHW",
        _augmented,
        target=4,
    ),
    BenchmarkCase(
        "auto",
        "an epoch of 256 images of 32×32, ResNet-18, in the precision and layout that auto chooses",
        "a plain loop in fp32, NCHW",
        _auto,
        target=2.5,
        lacks=_no_bf16,
    ),
    BenchmarkCase(
        "unlearn",
        "unlearn with SNIP on 128 samples, ResNet-18, less a selection of the same size beside it",
        "one forward and backward over the same samples",
        _unlearn,
        reading="times the cost",
        target=1.3,
    ),
    BenchmarkCase(
        "selection",
        "exact masks over 11 million scores in 62 tensors",
        "torch.kthvalue over their concatenation, and a comparison",
        _selection,
        target=2,
        unit="scores",
    ),
    BenchmarkCase(
        "forgetting",
        "score, select and reset after a mega-batch of the digits, convnet",
        "one epoch of training on the digits",
        _forgetting,
        reading="of it",
    ),
    BenchmarkCase(
        "start",
        "forgetkit --help, without importing torch",
        "python -c pass",
        _start,
        reading="seconds more",
        target=0.35,
        unit="starts",
    ),
    BenchmarkCase(
        "cuda",
        "an epoch of 25,600 images of 32×32 with crop and flip, ResNet-18, batches of 64, bf16",
        "a loop over DataLoader(num_workers=8) with torchvision's transforms, bf16, channels last, the same training",
        _cuda,
        target=5,
        rate=20_000,
        lacks=_no_cuda,
    ),
    BenchmarkCase(
        "sharing",
        "an epoch of four processes at once on one device, ResNet-18, batches of 64, bf16",
        "the same four, one after the other",
        _sharing,
        target=1.8,
        lacks=_no_cuda,
    ),
)
"""All comparisons, in the order they are carried out."""

NAMES = tuple(case.name for case in CASES)
