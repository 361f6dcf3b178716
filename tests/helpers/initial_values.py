"""Functions that initialise layers, for networks whose constructors import them from elsewhere."""

from __future__ import annotations

from torch import nn
from torch.nn.init import xavier_uniform_ as draw


def widen(module: nn.Module) -> None:
    """Draw the weight of one layer."""
    if isinstance(module, nn.Linear):
        draw(module.weight, gain=9)


class Widener:
    """An object that initialises what it is called with."""

    def __call__(self, module: nn.Module) -> None:
        """Initialise ``module``."""
        widen(module)

    def everything(self, model: nn.Module) -> None:
        """Initialise all layers of ``model``."""
        for module in model.modules():
            self(module)


class Widening(nn.Module):
    """A mixin that initialises after the constructors of the other bases."""

    def __init__(self) -> None:
        super().__init__()
        for module in self.modules():
            widen(module)


WIDENERS = {"linear": [widen]}
widener = Widener()
