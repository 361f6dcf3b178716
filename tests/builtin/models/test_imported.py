"""Networks from anybody's own module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from forgetkit.builtin.models.imported import Imported
from forgetkit.contracts import Inputs, ModelBuilder
from forgetkit.errors import OptionError, UsageError
from forgetkit.registry.spec import build_component, format_spec, parse_spec

INPUTS = Inputs((3, 4, 5), 7, (0.5,) * 3, (0.25,) * 3)

HEADER = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 7))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules into the current folder; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def write(body: str, file: str = "my_nets.py", header: str = HEADER) -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(f"{header}\n{body}\n")

    yield write
    for name in set(sys.modules) - known:
        if name.startswith(("my_", "other_")):
            del sys.modules[name]


def build(target: str, inputs: Inputs = INPUTS, normalize: nn.Module | None = None) -> nn.Module:
    return Imported(target).build(inputs, normalize or nn.Identity())


def refusal(target: str) -> str:
    with pytest.raises(UsageError) as caught:
        build(target)
    message = str(caught.value)
    assert message.startswith("import:")
    assert "\n" not in message
    return message


def test_the_module_of_the_current_folder_is_imported(write):
    write("")
    path = sys.path.copy()
    normalize = nn.ReLU()
    network = build("my_nets:net", normalize=normalize)
    assert sys.path == path
    assert network(torch.rand(2, 3, 4, 5)).shape == (2, 7)
    assert network.normalize is normalize
    below = -torch.rand(2, 3, 4, 5)
    assert torch.equal(network(below), network(torch.zeros_like(below)))


def test_the_values_are_those_that_the_callable_gives(write):
    write("")
    torch.manual_seed(5)
    ours = build("my_nets:net")
    torch.manual_seed(5)
    theirs = sys.modules["my_nets"].net()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_there_is_no_initialise_so_that_the_host_builds_anew():
    assert isinstance(Imported("a:b"), ModelBuilder)
    assert not hasattr(Imported("a:b"), "initialise")


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("", {}),
        ("classes", {"classes": 7}),
        ("num_classes, in_channels", {"num_classes": 7, "in_channels": 3}),
        ("*, shape, classes=1, width=9", {"shape": (3, 4, 5), "classes": 7, "width": 9}),
        ("classes=1, /, num_classes=2", {"classes": 1, "num_classes": 7}),
        ("**shape", {"shape": {}}),
        ("*classes", {"classes": ()}),
    ],
)
def test_it_is_called_with_the_keywords_that_its_signature_names(write, signature, expected):
    write(f"given = []\ndef make({signature}):\n    given.append(dict(locals()))\n    return net()")
    build("my_nets:make")
    assert sys.modules["my_nets"].given == [expected]


def test_classes_nested_names_and_packages_will_do(write):
    write(
        "class Zoo:\n"
        "    class Net(nn.Module):\n"
        "        def __init__(self, num_classes):\n"
        "            super().__init__()\n"
        "            self.layer = nn.Linear(2, num_classes)\n",
        "my_package/inner/nets.py",
    )
    network = build("my_package.inner.nets:Zoo.Net")
    assert network.network.layer.out_features == 7


def test_modules_that_the_callable_imports_late_are_found(write):
    write("from my_nets import net", "other_part.py", header="")
    write("def make():\n    import other_part\n    return other_part.net()")
    assert isinstance(build("my_nets:make"), nn.Module)


def test_the_path_is_put_back_after_a_failure(write):
    write("import sys\nsys.path.append('/nowhere')\n1 / 0")
    path = sys.path.copy()
    refusal("my_nets:net")
    assert sys.path == path


def test_as_a_spec():
    spec = parse_spec("import:package.module:make_net")
    component = build_component("import", Imported, spec)
    assert component == Imported("package.module:make_net")
    assert format_spec("import", component) == "import:target=package.module:make_net"


@pytest.mark.parametrize("target", ["", "module", "module:", ":make", "a:b:c", "a..b:c", "a/b.py:c", "a:b()"])
def test_malformed_targets(target):
    with pytest.raises(OptionError, match=r"^import: '.*' is not MODULE:CALLABLE; write, say, import:.*$"):
        Imported(target)


@pytest.mark.parametrize("target", ["my_missing:net", "my_missing.inner:net"])
def test_missing_modules(write, target):
    assert f"there is no module 'my_missing', neither in {Path.cwd()} nor" in refusal(target)


def test_a_file_in_place_of_a_module(write):
    write("")
    assert refusal("my_nets.py:net").endswith("a module is named without its suffix: import:my_nets:net")


def test_missing_inner_modules(write):
    write("")
    assert "there is no module 'my_nets.inner'" in refusal("my_nets.inner:net")


def test_modules_that_miss_another(write):
    write("import my_missing_dependency")
    assert "importing my_nets raised ModuleNotFoundError: No module named 'my_mis" in refusal("my_nets:net")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def broken(:", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_modules_that_fail(write, body, reason):
    write(body)
    assert f"importing my_nets raised {reason}" in refusal("my_nets:net")


def test_missing_attributes(write):
    write("")
    file = Path("my_nets.py").absolute()
    assert refusal("my_nets:nett") == f"import:my_nets:nett: the module my_nets ({file}) has no 'nett'"
    assert refusal("my_nets:net.inner") == f"import:my_nets:net.inner: the module my_nets ({file}) has no 'net.inner'"


def test_what_cannot_be_called(write):
    write("width = 3")
    assert refusal("my_nets:width") == "import:my_nets:width cannot be called: its type is int"


def test_callables_that_fail(write):
    write("def make(classes):\n    raise RuntimeError(f'no {classes}\\nat all')\ndef needs(width): ...")
    said = "import:my_nets:make: calling it raised RuntimeError: no 7"
    assert refusal("my_nets:make") == f"{said} in {Path('my_nets.py').absolute()}:8"
    assert "import:my_nets:needs: calling it raised TypeError: needs() missing 1 required" in refusal("my_nets:needs")


def test_callables_that_return_something_else(write):
    write("def make():\n    return None")
    assert "must return a torch.nn.Module, not NoneType" in refusal("my_nets:make")


def test_callables_without_a_signature_are_called_with_nothing(write):
    write("make = dict")  # written in C: inspect.signature(dict) fails
    assert "not dict" in refusal("my_nets:make")
