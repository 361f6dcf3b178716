"""Networks of every kind: reset as the plain one, or refused in one line that says what to do."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.unlearning_networks import CLASSES, mlp, vectors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import forgetkit
from forgetkit.errors import ForgetkitError, OptionError


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight.T).abs()


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.eye(5).to_sparse()), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sparse.mm(self.weight, x.T).T)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, CLASSES))


def half_meta() -> nn.Module:
    model = mlp(4)
    model[2].to("meta")
    return model


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return mlp(4)


def expanded() -> nn.Module:
    model = mlp(4)
    model[0].bias = nn.Parameter(torch.zeros(1).expand(4))
    return model


def overlapping(*, within: bool = False) -> nn.Module:
    model = mlp(5)
    shared = torch.randn(60)
    model[0].weight = nn.Parameter(shared[:25].view(5, 5))
    start = 20 if within else 0
    model[2].weight = nn.Parameter(shared[start : start + 20].view(CLASSES, 5))
    return model


REFUSED = {
    "TorchScript": (lambda: torch.jit.script(mlp(4)), "compiled by TorchScript: pass the module"),
    "a traced module": (lambda: torch.jit.trace(mlp(4), torch.ones(1, 5)), "compiled by TorchScript"),
    "TorchScript inside": (lambda: nn.Sequential(torch.jit.script(mlp(4)), nn.Linear(4, 4)), "'0' of Sequential is"),
    "lazy": (lazy, "'0.weight' of Sequential has no shape yet: run one batch"),
    "meta": (lambda: mlp(4).to("meta"), "'0.weight' of Sequential is on the meta device"),
    "partly meta": (half_meta, "'2.weight' of Sequential is on the meta device"),
    "inference mode": (made_in_inference_mode, r"made inside torch.inference_mode\(\)"),
    "complex": (Complex, "'weight' of Complex is complex"),
    "sparse": (Sparse, "'weight' of Sparse is sparse"),
    "expanded": (expanded, "'0.bias' of Sequential has entries that share memory"),
    "the same memory": (overlapping, "'0.weight' and '2.weight' of Sequential share memory|'2.weight' and '0.weight'"),
    "overlapping memory": (lambda: overlapping(within=True), "'0.weight' and '2.weight' of Sequential share memory"),
    "exported": (lambda: torch.export.export(mlp(4), (torch.ones(2, 5),)).module(), "cannot be put into eval mode"),
    "nothing trainable": (lambda: mlp(4).requires_grad_(False), "no trainable parameter"),
    "no parameters": (nn.Identity, "no trainable parameter"),
    "no module": (lambda: torch.relu, "model= takes a torch.nn.Module"),
    "a class": (lambda: nn.Linear, "model= takes a torch.nn.Module, not type"),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about TorchScript and lazy modules
@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("call", ["unlearn", "score"])
def test_what_cannot_be_reset_is_refused_in_one_line(make, words: str, call: str) -> None:
    with pytest.raises(ForgetkitError, match=words) as caught:
        getattr(forgetkit, call)(make(), vectors(3))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words"), [REFUSED["TorchScript"], REFUSED["lazy"], REFUSED["no module"]])
def test_attach_refuses_them_too(make, words: str) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(OptionError, match=words):
        forgetkit.attach(make(), optimizer, [])


def compiled_inside(model: nn.Module) -> nn.Module:
    model[0] = torch.compile(model[0], backend="eager")
    return model


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": lambda model: AveragedModel(model, use_buffers=True),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled DataParallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "DataParallel of a compiled one": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_reset_as_the_plain_one(wrap) -> None:
    plain, wrapped = mlp(4), wrap(mlp(4))
    reports = [forgetkit.unlearn(model, vectors(6), reinit="masked:fraction=0.3") for model in (plain, wrapped)]
    assert reports[0].layers == reports[1].layers
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wrap", [*WRAPPERS.values(), compiled_inside], ids=[*WRAPPERS, "compiled inside"])
@pytest.mark.parametrize("side", ["saved", "reset"])
def test_initial_weights_of_a_wrapper_are_those_of_the_network(wrap, side: str) -> None:
    first = mlp(4, seed=3)
    initial = copy.deepcopy((wrap(first) if side == "saved" else first).state_dict())
    model = mlp(4, seed=5)
    reset = wrap(model) if side == "reset" else model
    for name in ("initial", "previous"):
        options = {"initial": initial, name: initial}
        forgetkit.unlearn(reset, vectors(6), reinit="masked:fraction=1,fresh=rewind", **options)
        for one, other in zip(reset.parameters(), mlp(4, seed=3).parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_child_called_module_is_itself() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(5, CLASSES), nn.Parameter(torch.zeros(CLASSES, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) + x @ self.weight.T

    first, model = Holder(), Holder()
    initial = copy.deepcopy(first.state_dict())
    forgetkit.unlearn(model, vectors(6), reinit="masked:fraction=1,fresh=rewind", initial=initial)
    assert torch.equal(model.module.weight, first.module.weight)
    wrapped = {f"module.{name}": value for name, value in initial.items()}
    with pytest.raises(OptionError, match=r"initial= holds no 'module.weight'"):  # which of two is not known
        forgetkit.unlearn(model, vectors(6), reinit="masked:fraction=1,fresh=rewind", initial=wrapped)
    plain = nn.Sequential()
    plain.module = nn.Linear(5, CLASSES)
    first = {name: value + 1 for name, value in plain.state_dict().items()}
    for state in (first, {f"module.{name}": value for name, value in first.items()}):
        forgetkit.unlearn(plain, vectors(6), reinit="masked:fraction=1,fresh=rewind", initial=state)
        assert torch.equal(plain.module.weight, first["module.weight"])


@pytest.mark.parametrize("name", ["initial", "previous"])
def test_earlier_weights_are_a_mapping(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name}= takes copies of state_dict"):
        forgetkit.unlearn(mlp(4), vectors(3), **{name: mlp(4)})


def test_sparse_gradients_score_as_dense_ones() -> None:
    words = [(torch.tensor([[1, 2], [3, 1]]), torch.tensor([0, 1]))]

    def scores(sparse: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 5, sparse=sparse), nn.Flatten(), nn.Linear(10, CLASSES))
        return forgetkit.score(model, words)

    for one, other in zip(scores(True).values(), scores(False).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_module_that_cannot_be_copied_asks_for_build() -> None:
    class Guarded(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("no copies")

    with pytest.raises(ForgetkitError, match="Guarded cannot be copied; pass build="):
        forgetkit.unlearn(nn.Sequential(Guarded(5, CLASSES)), vectors(3))
