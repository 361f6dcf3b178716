"""The networks: their shapes, their sizes, the values they start from, and that they learn."""

from __future__ import annotations

import copy
import subprocess
import sys
from math import prod

import pytest
import torch
from torch import Tensor, nn

from forgetkit.builtin.models import forgetkit_models
from forgetkit.builtin.models.convnet import ConvNet
from forgetkit.builtin.models.mlp import Mlp
from forgetkit.builtin.models.resnet import ResNet18, ResNet34, ResNet50, WideResNet50
from forgetkit.builtin.models.vgg import Vgg16
from forgetkit.contracts import Inputs, ModelBuilder
from forgetkit.errors import OptionError, UsageError
from forgetkit.registry.spec import build_component, parse_spec

BUILDERS = {
    "convnet": ConvNet(),
    "mlp": Mlp(),
    "resnet18": ResNet18(),
    "resnet34": ResNet34(),
    "resnet50": ResNet50(),
    "vgg16-bn": Vgg16(),
    "wide-resnet50-2": WideResNet50(),
}
DIGITS = (1, 8, 8)
RGB = (3, 32, 32)

every_builder = pytest.mark.parametrize("name", BUILDERS)
every_kind = pytest.mark.parametrize("name", ["convnet", "mlp", "resnet18", "vgg16-bn"])  # saves time


def inputs_of(shape: tuple[int, ...], classes: int = 10) -> Inputs:
    return Inputs(shape, classes, (0.5,) * shape[0], (0.25,) * shape[0])


def smallest(name: str) -> tuple[int, int, int]:
    return RGB if name == "vgg16-bn" else DIGITS


def built(name: str, shape: tuple[int, ...], seed: int = 0, normalize: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(seed)
    return BUILDERS[name].build(inputs_of(shape), normalize or nn.Identity())


class Shift(nn.Module):
    """A normalisation that remembers what it was given."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.given: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.given = inputs
        return (inputs - self.mean) / self.std


# What is offered


def test_every_network_is_offered_under_its_name():
    offered = forgetkit_models()
    assert set(offered) == {*BUILDERS, "import"}
    for name, builder in BUILDERS.items():
        assert type(builder) is offered[name]
        assert isinstance(builder, ModelBuilder)


def test_options_are_checked():
    for spec in [
        "convnet:width=0",
        "mlp:width=0",
        "mlp:depth=-1",
        "resnet18:width=0",
        "vgg16-bn:width=0",
        "resnet18:depth=3",
    ]:
        parsed = parse_spec(spec)
        with pytest.raises(OptionError):
            build_component(parsed.name, forgetkit_models()[parsed.name], parsed)


@pytest.mark.children
def test_listing_the_networks_does_not_import_torchvision():
    code = "import sys, forgetkit.builtin.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_broken_torchvision_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "forgetkit.builtin.models._small_resnet", None)
    with pytest.raises(UsageError, match=r"^resnet18 needs torchvision, .*from the same index") as caught:
        built("resnet18", DIGITS)
    assert "\n" not in str(caught.value)


# Sizes and names


def basic_parameters(blocks: tuple[int, ...], classes: int, width: int = 64) -> int:
    total, inside = 3 * width * 9 + 2 * width, width
    for stage, count in enumerate(blocks):
        out = width * 2**stage
        for block in range(count):
            total += 9 * inside * out + 9 * out * out + 2 * 2 * out
            if block == 0 and inside != out:
                total += inside * out + 2 * out
            inside = out
    return total + inside * classes + classes


def bottleneck_parameters(widening: int, classes: int, width: int = 64) -> int:
    total, inside = 3 * width * 9 + 2 * width, width
    for stage, count in enumerate((3, 4, 6, 3)):
        narrow, out = width * widening * 2**stage, 4 * width * 2**stage
        for block in range(count):
            total += inside * narrow + 9 * narrow * narrow + narrow * out + 2 * (narrow + narrow + out)
            if block == 0:
                total += inside * out + 2 * out
            inside = out
    return total + inside * classes + classes


def vgg_parameters(classes: int, width: int = 64) -> int:
    total, inside = 0, 3
    for out in [width] * 2 + [2 * width] * 2 + [4 * width] * 3 + [8 * width] * 6:
        total += 9 * inside * out + 3 * out
        inside = out
    return total + inside * classes + classes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_173_962),  # Ramkumar et al., 2023, table 10
        ("resnet18", basic_parameters((2, 2, 2, 2), 10)),
        ("resnet34", basic_parameters((3, 4, 6, 3), 10)),
        ("resnet50", 23_520_842),
        ("resnet50", bottleneck_parameters(1, 10)),
        ("wide-resnet50-2", bottleneck_parameters(2, 10)),
        ("vgg16-bn", vgg_parameters(10)),
        ("convnet", 9 * (3 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64) + 64 * 10 + 10),
        ("mlp", 3072 * 256 + 2 * 256 + 256 * 256 + 2 * 256 + 256 * 10 + 10),
    ],
)
def test_number_of_parameters(name, expected):
    assert sum(p.numel() for p in built(name, RGB).parameters()) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        (ResNet18(width=5), basic_parameters((2, 2, 2, 2), 7, 5)),
        (ResNet34(width=3), basic_parameters((3, 4, 6, 3), 7, 3)),
        (ResNet50(width=4), bottleneck_parameters(1, 7, 4)),
        (WideResNet50(width=4), bottleneck_parameters(2, 7, 4)),
        (ResNet18(width=96), basic_parameters((2, 2, 2, 2), 7, 96)),
        (Vgg16(width=3), vgg_parameters(7, 3)),
    ],
    ids=repr,
)
def test_narrow_and_wide_ones_are_the_same_networks_otherwise(builder, expected):
    network = builder.build(inputs_of(RGB, 7), nn.Identity()).eval()
    assert sum(p.numel() for p in network.parameters()) == expected
    usual = type(builder)().build(inputs_of(RGB, 7), nn.Identity())
    assert list(network.state_dict()) == list(usual.state_dict())
    with torch.no_grad():
        assert network(torch.rand(2, *RGB)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILDERS if "resnet" in name])
def test_resnets_differ_from_torchvisions_in_stem_and_head_alone(name):
    import torchvision

    with torch.device("meta"):
        theirs = torchvision.models.get_model(name.replace("-", "_")).state_dict()
    theirs = {k: v.shape for k, v in theirs.items()}
    network = built(name, RGB)
    ours = {k: v.shape for k, v in network.state_dict().items()}
    assert list(ours) == list(theirs)
    changed = {k for k in ours if ours[k] != theirs[k]}
    assert changed == {"conv1.weight", "fc.weight", "fc.bias"}
    assert ours["conv1.weight"] == (64, 3, 3, 3)
    stem = network.conv1
    assert (stem.stride, stem.padding, stem.bias) == ((1, 1), (1, 1), None)
    assert not any(isinstance(module, nn.MaxPool2d) for module in network.modules())


def test_vggs_features_are_torchvisions():
    import torchvision

    with torch.device("meta"):
        features = torchvision.models.vgg16_bn().features
    network = built("vgg16-bn", RGB)
    assert [repr(module) for module in network.features] == [repr(module) for module in features]
    ours = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.startswith("features.")}
    assert ours == {"classifier.weight": (10, 512), "classifier.bias": (10,)}


def test_width_and_depth():
    network = Mlp(width=7, depth=3).build(inputs_of((20,), 4), nn.Identity())
    shapes = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(7, 20), (7, 7), (7, 7), (4, 7)]
    linear = Mlp(depth=0).build(inputs_of(DIGITS), nn.Identity())
    assert [tuple(p.shape) for p in linear.parameters()] == [(10, 64), (10,)]
    narrow = ConvNet(width=5).build(inputs_of(DIGITS), nn.Identity())
    convolutions = [tuple(m.weight.shape) for m in narrow.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(5, 1, 3, 3), (10, 5, 3, 3), (10, 10, 3, 3)]


# What goes in and what comes out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, RGB) for name in BUILDERS]
    + [(name, DIGITS) for name in BUILDERS if name != "vgg16-bn"]
    + [("convnet", (2, 8, 12)), ("mlp", (2, 8, 12)), ("resnet18", (2, 8, 12)), ("vgg16-bn", (2, 40, 32))],
)
def test_logits(name, shape):
    network = BUILDERS[name].build(inputs_of(shape, classes=7), nn.Identity()).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (1, 3, 50), (5, 4, 4)], ids=str)
def test_convnet_takes_images_of_any_size(shape):
    network = ConvNet(width=4).build(inputs_of(shape), nn.Identity())
    assert network(torch.rand(3, *shape)).shape == (3, 10)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 4, 4), (1, 5, 3), DIGITS], ids=str)
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_the_small_networks_train_on_a_batch_of_one(name, shape):
    assert built(name, shape)(torch.rand(1, *shape)).shape == (1, 10)


def test_mlp_takes_features():
    assert Mlp().build(inputs_of((13,), 3), nn.Identity())(torch.rand(4, 13)).shape == (4, 3)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "mlp"])
def test_features_are_refused_where_images_are_needed(name):
    with pytest.raises(UsageError, match=rf"^{name} needs images .*\(64,\); use the model mlp$"):
        built(name, (64,))


def test_vgg_refuses_small_images():
    with pytest.raises(UsageError, match="at least 32 × 32 pixels, not 32 × 31; use larger images"):
        built("vgg16-bn", (3, 32, 31))


@pytest.mark.slow
@every_kind
def test_normalisation_runs_first_and_is_left_as_it_was(name):
    shape = smallest(name)
    pixels = torch.rand(2, *shape)
    shift = Shift(0.3, 0.2)
    network = built(name, shape, normalize=shift).eval()
    plain = built(name, shape).eval()
    with torch.no_grad():
        logits = network(pixels)
        assert network.normalize is shift
        assert shift.given is pixels
        torch.testing.assert_close(logits, plain((pixels - 0.3) / 0.2), rtol=1e-4, atol=1e-4)
        shift.mean = 0.6
        assert not torch.allclose(network(pixels), logits, atol=1e-3)


@every_kind
def test_values_of_the_normalisation_are_not_drawn(name):
    shape = smallest(name)
    normalize = nn.BatchNorm2d(shape[0])
    nn.init.constant_(normalize.running_mean, 3.0)
    built(name, shape, normalize=normalize)
    assert (normalize.running_mean == 3.0).all()


@pytest.mark.slow
@every_kind
def test_channels_last_changes_nothing(name):
    shape = smallest(name)
    network = built(name, shape).eval()
    pixels = torch.rand(4, *shape)
    with torch.no_grad():
        expected = network(pixels)
    network = network.to(memory_format=torch.channels_last)
    logits = network(pixels.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    logits.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


# The values it starts from


@pytest.mark.slow
@every_kind
def test_the_seed_alone_decides(name):
    first, again, other = (built(name, smallest(name), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].ndim >= 2]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.slow
@every_builder
def test_build_draws_every_parameter_with_initialise(name):
    """A builder with another ``initialise`` builds a network with nothing but its values."""

    class Sevens(type(BUILDERS[name])):
        def initialise(self, module: nn.Module) -> None:
            for parameter in module.parameters(recurse=False):
                nn.init.constant_(parameter, 7.0)

    network = Sevens().build(inputs_of(smallest(name)), nn.Identity())
    assert all((parameter == 7.0).all() for parameter in network.parameters())


def check_normal(values: Tensor, std: float) -> None:
    """Zero mean, this standard deviation and a bell: bounds of six standard errors."""
    scaled = values.detach().double().flatten() / std
    n = scaled.numel()
    assert scaled.mean().abs() < 6 / n**0.5
    assert abs(scaled.var().item() - 1) < 6 * (2 / n) ** 0.5
    assert abs((scaled.abs() < 1).double().mean().item() - 0.6827) < 6 * 0.466 / n**0.5


def check_uniform(values: Tensor, bound: float) -> None:
    scaled = values.detach().double().flatten() / bound
    n = scaled.numel()
    assert scaled.abs().max() <= 1
    assert scaled.mean().abs() < 6 / (3 * n) ** 0.5
    assert abs((scaled**2).mean().item() - 1 / 3) < 6 * (4 / 45 / n) ** 0.5


def check_start(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        check_normal(module.weight, (2 / (module.out_channels * prod(module.kernel_size))) ** 0.5)
        assert module.bias is None or (module.bias == 0).all()
    elif isinstance(module, nn.Linear) and name == "vgg16-bn":
        check_normal(module.weight, 0.01)
        assert (module.bias == 0).all()
    elif isinstance(module, nn.Linear):
        check_uniform(module.weight, module.in_features**-0.5)
        if module.bias is not None:
            check_uniform(module.bias, module.in_features**-0.5)
    elif isinstance(module, nn.BatchNorm2d):
        weight, bias, mean, variance, batches = module.state_dict().values()
        assert all((ones == 1).all() for ones in (weight, variance))
        assert all((zeros == 0).all() for zeros in (bias, mean, batches))
    elif isinstance(module, nn.LayerNorm):
        assert (module.weight == 1).all()
        assert (module.bias == 0).all()
    else:
        assert not list(module.parameters(recurse=False)), f"a {type(module).__name__} goes unchecked"


@pytest.mark.slow
@every_kind
def test_every_layer_is_redrawn_from_its_distribution(name):
    """Both draws, the one of ``build`` and the one of ``initialise``, against the formulas."""
    network = built(name, smallest(name))
    builder = BUILDERS[name]
    torch.manual_seed(1)
    for module in network.modules():
        check_start(name, module)
        if list(module.parameters(recurse=False)):
            before = [p.detach().clone() for p in module.parameters(recurse=False) if p.ndim >= 2]
            for tensor in module.state_dict().values():
                tensor.fill_(9)
            builder.initialise(module)
            check_start(name, module)
            after = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
            assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.slow
@every_kind
def test_initialise_draws_one_module_alone_and_in_place(name):
    network = built(name, smallest(name))
    before = copy.deepcopy(network.state_dict())
    for module in network.modules():
        if not list(module.parameters(recurse=False)):
            BUILDERS[name].initialise(module)  # containers and activations own nothing
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    weight = head.weight
    BUILDERS[name].initialise(head)
    assert head.weight is weight
    changed = {key for key, value in network.state_dict().items() if not torch.equal(before[key], value)}
    parts = {"weight"} if name == "vgg16-bn" else {"weight", "bias"}
    assert {key.rpartition(".")[2] for key in changed} == parts
    assert len({key.rpartition(".")[0] for key in changed}) == 1


# That it learns


def train(network: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float) -> list[float]:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    losses = []
    for pixels, labels in batches:
        loss = nn.functional.cross_entropy(network(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@every_builder
def test_a_few_steps_fit_a_few_samples(name):
    shape = (1, 32, 32) if name == "vgg16-bn" else DIGITS
    network = built(name, shape)
    pixels, labels = torch.randn(10, *shape), torch.arange(10)
    losses = train(network, [(pixels, labels)] * 4, lr=0.1 if name in ("convnet", "mlp") else 0.01)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_digits_are_learned_at_the_usual_learning_rate(name):
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    train_part, test_part = slice(0, 1400), slice(1400, None)
    seen = pixels[train_part]
    network = built(name, DIGITS, normalize=Shift(seen.mean().item(), seen.std().item()))
    batches = [part for _ in range(6) for part in torch.randperm(1400).split(64)]
    train(network, [(pixels[part], labels[part]) for part in batches], lr=0.1)
    network.eval()
    with torch.no_grad():
        correct = network(pixels[test_part]).argmax(1) == labels[test_part]
    assert correct.double().mean() > {"convnet": 0.93, "mlp": 0.88}[name]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mlp_is_stable_on_photographs(seed):
    """Which of two photographs a patch is from: without normalisation layers these seeds diverge."""
    from sklearn.datasets import load_sample_images

    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images]) / 255
    patches = photographs.unfold(1, 32, 16).unfold(2, 32, 16).flatten(1, 2)
    pixels = patches.flatten(0, 1)
    labels = torch.arange(2).repeat_interleave(patches.shape[1])
    network = built("mlp", RGB, seed, Shift(pixels.mean().item(), pixels.std().item()))
    batches = [part for _ in range(2) for part in torch.randperm(len(labels)).split(64)]
    losses = train(network, [(pixels[part], labels[part]) for part in batches], lr=0.1)
    assert max(losses) < 6
    assert sum(losses[-10:]) / 10 < 0.5
