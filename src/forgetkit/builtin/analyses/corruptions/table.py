"""The table of corruptions: the function of each, and its parameters at severity 1 to 5 as in ``make_cifar_c.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forgetkit.builtin.analyses.corruptions import blur, digital, noise, weather
from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, Pixels


@dataclass(frozen=True)
class Corrupter:
    """A corruption of images ``(n, height, width, 3)``, as a function of the severity."""

    function: Callable[..., Pixels]
    parameters: tuple[tuple[float, ...] | float, ...]
    """Of ``function`` at severity 1, at severity 2, and so on."""

    def __call__(self, pixels: Pixels, severity: int, draws: CorruptionDraws) -> Pixels:
        """Return corrupted copies; ``draws`` gives the random numbers."""
        chosen = self.parameters[severity - 1]
        return self.function(pixels, draws, *(chosen if isinstance(chosen, tuple) else (chosen,)))


_SNOW = (
    (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
_SPATTER = (
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1.0, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
_ELASTIC = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))

TABLE: Mapping[str, Corrupter] = {
    "gaussian_noise": Corrupter(noise.gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corrupter(noise.shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Corrupter(noise.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corrupter(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "glass_blur": Corrupter(blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": Corrupter(blur.motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": Corrupter(blur.zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": Corrupter(weather.snow, _SNOW),
    "frost": Corrupter(weather.frost, ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": Corrupter(weather.fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": Corrupter(digital.brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corrupter(digital.contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Corrupter(digital.elastic_transform, _ELASTIC),
    "pixelate": Corrupter(digital.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corrupter(digital.jpeg_compression, (80, 65, 58, 50, 40)),
    "speckle_noise": Corrupter(noise.speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "gaussian_blur": Corrupter(blur.gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "spatter": Corrupter(weather.spatter, _SPATTER),
    "saturate": Corrupter(digital.saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))),
}
"""By the names of the benchmark's arrays, the 15 that it counts first."""
