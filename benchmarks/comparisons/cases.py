"""The table of cases: what each compares with what, and its target."""

from __future__ import annotations

from functools import partial

from comparisons import loading, sharing, startup, training, unlearning
from comparisons.measure import Case


def _needs_cuda(device: str) -> str | None:
    return None if device.startswith("cuda") else "it needs a CUDA device"


_BARE_LOOP = "a bare loop over the same floats on the device, channels last, normalised before"

CASES = (
    Case(
        "resnet18",
        "an epoch of 256 images of 32×32, ResNet-18, batches of 64, fp32",
        _BARE_LOOP,
        lambda device: training.bare(training.Work.images("resnet18", 256, device)),
        target=0.97,
    ),
    Case(
        "convnet",
        "an epoch of the 1,437 digits, convnet, batches of 64, fp32",
        _BARE_LOOP,
        lambda device: training.bare(training.Work.digits(device)),
        target=0.90,
    ),
    Case(
        "augmented",
        "an epoch of 2,048 images of 32×32 with crop and flip, convnet, batches of 64, all else by default",
        "a loop over DataLoader(num_workers=2) with torchvision's transforms, and training in fp32, NCHW",
        partial(loading.convnet_by_default, 2048, workers=2),
        target=4,
    ),
    Case(
        "auto",
        "an epoch of 256 images of 32×32, ResNet-18, in the precision and layout that auto chooses",
        "a plain loop in fp32, NCHW",
        lambda device: training.automatic(training.Work.images("resnet18", 256, device)),
        target=2.5,
        unavailable=training.no_bf16,
    ),
    Case(
        "unlearn",
        "unlearn with SNIP on 128 samples, ResNet-18, less a selection of the same size beside it",
        "one forward and backward over the same samples",
        unlearning.snip,
        reading="times the cost",
        target=1.3,
    ),
    Case(
        "selection",
        "exact masks over 11 million scores in 62 tensors",
        "torch.kthvalue over their concatenation, and a comparison",
        unlearning.selection,
        target=2,
        unit="scores",
    ),
    Case(
        "forgetting",
        "score, select and reset after a mega-batch of the digits, convnet",
        "one epoch of training on the digits",
        unlearning.beside_an_epoch,
        reading="of it",
    ),
    Case(
        "start",
        "forgetkit --help, without importing torch",
        "python -c pass",
        startup.help_text,
        reading="seconds more",
        target=0.35,
        unit="starts",
    ),
    Case(
        "cuda",
        "an epoch of 25,600 images of 32×32 with crop and flip, ResNet-18, batches of 64, bf16",
        "a loop over DataLoader(num_workers=8) with torchvision's transforms, bf16, channels last, the same training",
        partial(loading.resnet18_in_bf16, 25_600, workers=8),
        target=5,
        rate=20_000,
        unavailable=_needs_cuda,
    ),
    Case(
        "sharing",
        "an epoch of four processes at once on one device, ResNet-18, batches of 64, bf16",
        "the same four, one after the other",
        partial(sharing.several_trainings, 4),
        target=1.8,
        unavailable=_needs_cuda,
    ),
)
"""All cases, in the order in which they are measured."""
