"""torchvision's residual network, changed for small images. Importing this imports torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class SmallResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """A residual network whose stem keeps the resolution of a small image.

    ``blocks`` is how many there are in each of the four stages. The parameters keep torchvision's
    names. ``normalize`` is applied first and does nothing until it is replaced.
    """

    def __init__(self, bottleneck: bool, blocks: Sequence[int], base_width: int, channels: int, classes: int) -> None:
        block = Bottleneck if bottleneck else BasicBlock
        super().__init__(block, list(blocks), num_classes=classes, width_per_group=base_width)
        self.normalize: nn.Module = nn.Identity()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(batch, classes)`` for images of shape ``(batch, channels, height, width)``."""
        return super().forward(self.normalize(inputs))  # type: ignore[no-any-return]
