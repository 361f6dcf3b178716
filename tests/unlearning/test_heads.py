"""Heads: the layers from which the loss is computed with no other weighted layer in between."""

from __future__ import annotations

import pytest
import torch
from helpers.unlearning_networks import CLASSES, Net, images, vectors
from torch import nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import weight_norm

import forgetkit
from forgetkit.errors import ForgetkitError, OptionError

HIDDEN = {"body": lambda: nn.Linear(5, 6), "one": lambda: nn.Linear(6, CLASSES), "two": lambda: nn.Linear(6, CLASSES)}


def net(run, *names: str, **more: nn.Module) -> Net:
    return Net(run, **{name: HIDDEN[name]() for name in names}, **more)


NETWORKS = {
    "two heads": (lambda: net(lambda n, x: n.one(n.body(x)) + n.two(n.body(x).relu()), "body", "one", "two"),
                  {"one", "two"}),
    "a head that the loss does not read": (
        lambda: net(lambda n, x: (n.one(n.body(x)), n.two(n.body(x)))[0], "body", "one", "two"), {"one"}),
    "a norm and a scale after the head": (
        lambda: net(lambda n, x: n.norm(n.one(n.body(x))), "body", "one", norm=nn.LayerNorm(CLASSES)), {"one"}),
    "registered first": (
        lambda: Net(lambda n, x: n.head(n.body(x)), head=nn.Linear(6, CLASSES), body=nn.Linear(5, 6)), {"head"}),
    "a nonlinearity in place": (
        lambda: net(lambda n, x: relu(n.one(n.body(x)), inplace=True), "body", "one"), {"one"}),
    "weight norm": (
        lambda: net(lambda n, x: n.head(n.body(x)), "body", head=weight_norm(nn.Linear(6, CLASSES))), {"head"}),
    "a layer that runs twice": (
        lambda: Net(lambda n, x: n.mix(n.mix(x))[:, :CLASSES], mix=nn.Linear(5, 5)), {"mix"}),
    "recurrent": (
        lambda: Net(lambda n, x: n.layer(x.unsqueeze(1))[0][:, -1], layer=nn.LSTM(5, CLASSES, batch_first=True)),
        {"layer"}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "heads"), NETWORKS.values(), ids=NETWORKS)
def test_the_heads_alone_are_redrawn(make, heads: set[str]) -> None:
    model = make()
    report = forgetkit.unlearn(model, vectors(6), reinit="rifle", fresh="module")
    assert {name.partition(".")[0] for name in report.layers} == heads


@pytest.mark.parametrize(
    "last", [nn.Conv2d(3, CLASSES, 1), nn.ConvTranspose2d(3, CLASSES, 2), nn.Conv2d(3, 6, 1, groups=3)], ids=repr
)
def test_a_convolution_is_a_head(last: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert list(forgetkit.unlearn(model, images(4), reinit="rifle").layers) == ["2.weight", "2.bias"]


def test_one_head_by_its_name() -> None:
    model = NETWORKS["two heads"][0]()
    assert set(forgetkit.unlearn(model, vectors(6), reinit="rifle:head=two").layers) == {"two.weight", "two.bias"}
    assert set(forgetkit.unlearn(model, vectors(6), reinit="rifle:head=body").layers) == {"body.weight", "body.bias"}
    with pytest.raises(OptionError, match="no layer 'three'; its heads are one, two"):
        forgetkit.unlearn(model, vectors(6), reinit="rifle:head=three")


def test_a_head_that_is_no_layer_of_its_own_is_refused() -> None:
    model = net(lambda n, x: n.body(x) @ n.weight, "body", weight=nn.Parameter(torch.rand(6, CLASSES)))
    with pytest.raises(ForgetkitError, match="no layer is the head: name one"):
        forgetkit.unlearn(model, vectors(6), reinit="rifle")
    assert set(forgetkit.unlearn(model, vectors(6), reinit="rifle:head=body").layers) == {"body.weight", "body.bias"}
