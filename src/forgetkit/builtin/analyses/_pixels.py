"""Check that samples are images, and say what to do if they are not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from forgetkit.contracts import Evidence
from forgetkit.errors import InapplicableError

_OVERSHOT = 0.5
"""How far resizing may move a pixel out of [0, 1]; beyond it, samples are on another scale."""

_REMEDIES: Mapping[str, str] = {
    "not finite": "repair or leave out the samples that are not finite",
    "minus one": "give (x + 1) / 2, or uint8 pixels, and let the network scale them back",
    "overshot": "clip them to [0, 1], or save them as uint8",
    "levels": "divide them by 255, or save them as uint8",
    "other": "scale them to [0, 1], or save them as uint8, and let the network normalise them",
}


def require_images(evidence: Evidence, why: str, features: str) -> None:
    """Raise ``InapplicableError`` if the samples are no pixels in [0, 1].

    Args:
        evidence: Holds the samples.
        why: The first words of the message: why pixels are needed.
        features: The whole message if the samples are no images at all.
    """
    if evidence.images:
        return
    extremes = []
    for inputs, _ in evidence.samples("test").batches():
        if inputs.ndim != 4:
            raise InapplicableError(features)
        extremes.append(torch.stack(torch.aminmax(inputs)))
    lowest, highest = float(torch.stack(extremes)[:, 0].amin()), float(torch.stack(extremes)[:, 1].amax())
    raise InapplicableError(
        f"{why}, and the samples are from {lowest:.8g} to {highest:.8g}: {_REMEDIES[_scale(lowest, highest)]}"
    )


def _scale(lowest: float, highest: float) -> str:
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return "not finite"
    if -1 <= lowest < -_OVERSHOT and highest <= 1:
        return "minus one"
    if lowest >= -_OVERSHOT and highest <= 1 + _OVERSHOT:
        return "overshot"
    return "levels" if lowest >= 0 and highest <= 255 else "other"
