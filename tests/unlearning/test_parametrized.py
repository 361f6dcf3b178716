"""Weights that are computed from other tensors begin again as those of a network that is just made."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import forgetkit
from forgetkit.errors import ComponentError

SIZE = 24
BATCHES = [(torch.randn(8, SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(8) % SIZE)]


def _plain(layer: nn.Module) -> nn.Module:
    return layer


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return old_weight_norm(layer)


def _pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", amount=0.0)


def _normed_twice(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": _old_weight_norm,
    "weight_norm of columns": functools.partial(parametrizations.weight_norm, dim=1),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": old_spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "orthogonal by householder": functools.partial(
        parametrizations.orthogonal, orthogonal_map="householder", use_trivialization=False
    ),
    "pruned": _pruned,
    "two at once": _normed_twice,
}


def network(wrap: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    return nn.Sequential(wrap(nn.Linear(SIZE, SIZE)), nn.Tanh(), wrap(nn.Linear(SIZE, SIZE)))


def weight(model: nn.Module, layer: int = 2) -> Tensor:
    """The effective weight, as a forward pass in eval mode uses it."""
    with torch.no_grad():
        model.eval()(BATCHES[0][0])
        return model[layer].weight.detach().clone()


def trained_far(wrap: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    """A network whose weights have grown far from their start, in some directions."""
    torch.manual_seed(0)
    model = network(wrap)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1]).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    "reinit", ["masked:fraction=1", "cold", "llf:start=0.0", "rifle", "shrink-perturb:shrink=0,noise=1"]
)
@pytest.mark.parametrize("kind", WRAPS)
def test_the_weight_is_that_of_a_new_network(kind, reinit):
    model = trained_far(WRAPS[kind])
    old = weight(model)
    report = forgetkit.unlearn(model, BATCHES, reinit=reinit, seed=1)
    just_made = network(WRAPS[kind])
    for _ in range(30):  # until the norm that it estimates is that of its weight
        just_made(BATCHES[0][0])
    new, other = weight(model), weight(just_made)
    for norm in (_spread, _largest, _row_norms):
        assert norm(new) == pytest.approx(norm(other), rel=0.25), norm.__name__
    if kind != "orthogonal" or reinit != "shrink-perturb:shrink=0,noise=1":
        assert abs(float(nn.functional.cosine_similarity(new.flatten(), old.flatten(), dim=0))) < 0.3
    assert all(source == "reset_parameters of " + type(model[2]).__name__ for source in report.sources.values())


def _spread(value: Tensor) -> float:
    return float(value.std())


def _largest(value: Tensor) -> float:
    return float(torch.linalg.matrix_norm(value, 2))


def _row_norms(value: Tensor) -> float:
    return float(value.norm(dim=1).mean())


@pytest.mark.parametrize("kind", ["spectral_norm", "old spectral_norm"])
def test_the_norm_stays_one_where_a_part_is_reset(kind):
    model = trained_far(WRAPS[kind])
    report = forgetkit.unlearn(model, BATCHES, reinit="masked:fraction=0.5", seed=1)
    assert _largest(weight(model)) == pytest.approx(1, abs=0.1)
    assert {name.rpartition("_")[2] for name in report.buffers} == {"u", "v"}


def test_the_original_keeps_its_weight():
    """torch's remove_parametrizations on a copy would take the attribute from the original's class."""
    model = trained_far(parametrizations.weight_norm)
    forgetkit.unlearn(model, BATCHES, reinit="cold", seed=1)
    assert parametrize.is_parametrized(model[2], "weight")
    assert model[2].weight.shape == (SIZE, SIZE)


def test_a_norm_and_its_direction_come_from_one_draw():
    model = trained_far(parametrizations.weight_norm)
    forgetkit.unlearn(model, BATCHES, reinit="cold", seed=1)
    original = model[2].parametrizations.weight
    assert torch.allclose(original.original0, original.original1.norm(dim=1, keepdim=True))


def test_a_parametrisation_of_ones_own_is_drawn_through_its_inverse():
    class Exponential(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return value.exp()

        def right_inverse(self, value: Tensor) -> Tensor:
            return value.clamp(min=1e-6).log()

    model = network(lambda layer: parametrize.register_parametrization(layer, "weight", Exponential(), unsafe=True))
    forgetkit.unlearn(model, BATCHES, reinit="cold", seed=1)
    assert 0 < float(weight(model).max()) <= SIZE**-0.5 + 1e-6


def test_a_parametrised_layer_is_found_inside_a_container_that_initialises_it():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE, SIZE)
            nn.init.normal_(self.layer.weight)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs)

    model = Wide()
    parametrizations.weight_norm(model.layer)
    with pytest.raises(ComponentError, match=r"Wide.__init__ \(normal_\)"):
        forgetkit.unlearn(model, BATCHES, reinit="cold")


def test_a_failure_puts_the_vectors_back():
    model = trained_far(parametrizations.spectral_norm)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    batches = [(BATCHES[0][0], BATCHES[0][1])]
    norm = nn.Sequential(*model, nn.BatchNorm1d(SIZE))
    with pytest.raises(forgetkit.errors.OptionError, match="recalibrate"):
        forgetkit.unlearn(
            norm, [(x[:1], y[:1]) for x, y in batches], policy=forgetkit.ResetPolicy(bn_stats="recalibrate"),
            importance="random", reinit="masked:fraction=0.5",
        )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
