"""torchvision's residual network, changed for small images. Importing this imports torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

_WIDTH = 64
"""Channels of torchvision's first stage."""


class SmallResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """A residual network whose stem keeps the resolution of a small image.

    ``blocks`` is how many there are in each of the four stages, ``width`` the channels of the first; bottlenecks are
    ``widening`` times as wide inside. The parameters keep torchvision's names. ``normalize`` is applied first and does
    nothing until it is replaced.
    """

    def __init__(
        self, bottleneck: bool, blocks: Sequence[int], width: int, widening: int, channels: int, classes: int
    ) -> None:
        self._width = width
        block = Bottleneck if bottleneck else BasicBlock
        super().__init__(block, list(blocks), num_classes=classes, width_per_group=_WIDTH * widening)
        self.normalize: nn.Module = nn.Identity()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        if width != _WIDTH:
            self.bn1 = nn.BatchNorm2d(width)
            self.fc = nn.Linear(self.inplanes, classes)

    def _make_layer(self, block: type[nn.Module], planes: int, *further: Any, **named: Any) -> nn.Module:
        """torchvision's stage, scaled to this width."""
        if planes == _WIDTH:  # the first, which follows the stem
            self.inplanes = self._width
        layer: nn.Module = super()._make_layer(block, planes // _WIDTH * self._width, *further, **named)
        return layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(batch, classes)`` for images of shape ``(batch, channels, height, width)``."""
        return super().forward(self.normalize(inputs))  # type: ignore[no-any-return]
