"""Networks, mainly for small images."""

from collections.abc import Mapping

from forgetkit.builtin.models.convnet import ConvNet
from forgetkit.builtin.models.imported import Imported
from forgetkit.builtin.models.mlp import Mlp
from forgetkit.builtin.models.resnet import ResNet18, ResNet34, ResNet50, WideResNet50
from forgetkit.builtin.models.vgg import Vgg16
from forgetkit.contracts import ModelBuilder
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_models() -> Mapping[str, type[ModelBuilder]]:
    """Return the networks of the paper's appendix A.5, two small ones, and ``import`` for your own."""
    return {
        "convnet": ConvNet,
        "import": Imported,
        "mlp": Mlp,
        "resnet18": ResNet18,
        "resnet34": ResNet34,
        "resnet50": ResNet50,
        "vgg16-bn": Vgg16,
        "wide-resnet50-2": WideResNet50,
    }
