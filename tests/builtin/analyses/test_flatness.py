"""Noise on parameters: a loss that is quadratic in them, moments of the noise, statistics measured by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import model_evidence
from forgetkit.builtin.analyses.flatness import Flatness, Perturbed
from forgetkit.errors import InapplicableError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.testing import check_analysis

SEEDS = Seeds(4).within("analysis")
LEAST = 5.0


class Bowl(nn.Module):
    """Its cross-entropy for label 0 is LEAST + sᵀ d + ½ dᵀ H d, whatever the input, with d the way from where it is."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(2)
        self.first = nn.Parameter(3 * torch.randn(3, generator=rng))
        self.second = nn.Parameter(torch.randn(2, 1, generator=rng))
        root = torch.randn(5, 5, generator=rng)
        self.register_buffer("hessian", root @ root.T)
        self.register_buffer("slope", 0.3 * torch.randn(5, generator=rng))
        self.register_buffer("start", self.place().detach().clone())

    def place(self):
        return torch.cat([self.first, self.second.flatten()])

    def forward(self, x):
        way = self.place() - self.start
        loss = LEAST + self.slope @ way + way @ self.hessian @ way / 2
        return torch.stack([torch.zeros(()), loss.expm1().log()]).expand(len(x), 2)


def of_bowl():
    bowl = Bowl()
    ones = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    return bowl, model_evidence(bowl, {"test": ones, "train": ones}, SEEDS)


def units(bowl, scale):
    """r of each entry."""
    sizes = [
        p.detach().double().square().mean().sqrt().item() if scale == "relative" else 1.0 for p in bowl.parameters()
    ]
    return torch.tensor([sizes[0]] * 3 + [sizes[1]] * 2, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"scale": "absolute", "part": "test"}, {"bn_stats": "recalibrate"}], ids=str)
def test_it_keeps_its_promises(options):
    check_analysis(Flatness(**options))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_a_quadratic_loss_rises_by_half_the_trace(scale):
    """E[L(σ) - L(0)] = σ² / 2 · tr(R H R), with a variance of σ⁴ / 2 · tr((R H R)²): the slope adds nothing."""
    bowl, evidence = of_bowl()
    r = units(bowl, scale)
    hessian = bowl.hessian.double() * r[:, None] * r
    sigma, repeats = 0.05, 400
    answer = Flatness(scale=scale, sigmas=(sigma,), repeats=repeats).analyze(evidence)
    clean, shaken = answer.details["loss"]
    assert clean == pytest.approx(LEAST)
    expected = sigma**2 / 2 * hessian.trace().item()
    error = (sigma**4 / 2 * (hessian @ hessian).trace().item() / repeats) ** 0.5
    assert abs(shaken - clean - expected) < 3.5 * error
    assert error < 0.1 * expected
    assert answer.numbers["sharpness"].value == pytest.approx(2 * (shaken - clean) / sigma**2)


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_each_look_is_at_the_parameters_and_so_much_noise(scale):
    """The same draws at each σ, one per name and repeat, with both signs, by the formula in float64."""
    bowl, evidence = of_bowl()
    answer = Flatness(scale=scale, sigmas=(0.3, 0.01), repeats=3).analyze(evidence)
    r, hessian = units(bowl, scale), bowl.hessian.double()
    for at, sigma in enumerate((0.0, 0.01, 0.3)):
        rises = []
        for repeat in range(3):
            draws = [
                torch.randn(p.shape, generator=SEEDS.torch("noise", n, repeat)) for n, p in bowl.named_parameters()
            ]
            way = sigma * r * torch.cat([z.flatten() for z in draws]).double()
            rises.append((LEAST + way @ hessian @ way / 2).item())
        assert answer.details["loss"][at] == pytest.approx(np.mean(rises), rel=1e-5)
        spread = np.std(rises, ddof=1) if sigma else 0.0
        assert answer.details["loss_spread"][at] == pytest.approx(spread, rel=1e-3, abs=1e-6)


def learned():
    """A network with batch normalisation, samples of three classes that it tells, and how it was shown them."""
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(96) % 3
    inputs = torch.randn(3, 6, generator=rng)[labels] + 0.4 * torch.randn(96, 6, generator=rng)
    with seeded_rng(3):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    step = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        step.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        step.step()
    step.zero_grad(set_to_none=True)
    return model.eval(), inputs, labels


def asked(model, inputs, labels):
    return model_evidence(model, {"test": (inputs, labels), "train": (inputs, labels)}, SEEDS)


def test_noise_has_the_moments_that_are_asked_for():
    with seeded_rng(0):
        model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 200), nn.Linear(200, 3)).eval()
    with torch.no_grad():
        model[0].weight += 0.3
        model[1].bias.zero_()
    evidence = asked(model, torch.randn(6, 200), torch.arange(6) % 3)
    for relative in (True, False):
        noise = Perturbed(evidence, evidence.copy_model(), relative, None).noise(0)
        assert set(noise) == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            r = parameter.detach().square().mean().sqrt().item() if relative else 1.0
            n = parameter.numel()
            assert abs(noise[name].mean().item()) <= 4 * r / n**0.5
            assert noise[name].square().mean().item() == pytest.approx(r**2, rel=6 / n**0.5)
    noise = [Perturbed(evidence, evidence.copy_model(), False, None).noise(repeat) for repeat in (0, 1)]
    pairs = [(noise[0]["0.weight"], noise[0]["1.weight"]), (noise[0]["0.weight"], noise[1]["0.weight"])]
    for one, other in pairs:
        assert abs((one.flatten() * other.flatten()).mean().item()) < 4 / 20_000**0.5


def test_every_look_begins_with_the_parameters_as_they_are():
    """After any noise, σ = 0 is the model to the bit; and the noise of a network does not depend on its values."""
    model, inputs, labels = learned()
    evidence = asked(model, inputs, labels)
    shaken = Perturbed(evidence, evidence.copy_model(), False, None)
    for sigma in (1e6, 1e-3, 0.5):
        shaken.by(sigma, shaken.noise(0))
    twin = shaken.by(0.0, shaken.noise(1))
    assert all(torch.equal(one, other) for one, other in zip(twin.parameters(), model.parameters(), strict=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert torch.equal(shaken.noise(0)["0.weight"], Perturbed(evidence, twin, False, None).noise(0)["0.weight"])


def test_without_noise_it_is_the_network_as_it_is():
    model, inputs, labels = learned()
    evidence = asked(model, inputs, (labels + (torch.arange(96) % 8 == 0)) % 3)
    details = Flatness().analyze(evidence).details
    samples = evidence.samples("train")
    assert details["sigmas"][0] == 0
    assert details["accuracy"][0] == evidence.accuracy(samples)
    loss = nn.functional.cross_entropy(evidence.outputs(samples).double(), samples.labels).item()
    assert details["loss"][0] == loss
    assert (details["accuracy_spread"][0], details["loss_spread"][0]) == (0, 0)


def test_relative_noise_ignores_the_scale_of_weights():
    """Eight times the weights before batch normalisation, and its statistics: the same function to the bit."""
    model, inputs, labels = learned()
    model[1].eps = 0.0  # which would not grow with them
    evidence = asked(model, inputs, labels)
    before = {scale: Flatness(scale=scale, sigmas=(0.2, 0.5)).analyze(evidence) for scale in ("relative", "absolute")}
    with torch.no_grad():
        for parameter in (model[0].weight, model[0].bias, model[1].running_mean):
            parameter.mul_(8)
        model[1].running_var.mul_(64)
    evidence = asked(model, inputs, labels)
    after = {scale: Flatness(scale=scale, sigmas=(0.2, 0.5)).analyze(evidence) for scale in before}
    assert after["relative"].details == before["relative"].details
    sharpness = {when: found["absolute"].numbers["sharpness"].value for when, found in (("0", before), ("1", after))}
    assert sharpness["1"] < sharpness["0"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_statistics_are_recalibrated_under_noise(part):
    model, inputs, labels = learned()
    other = (inputs[:40] + 0.5, labels[:40])
    evidence = model_evidence(model, {"train": (inputs, labels), "test": other}, SEEDS)
    sigmas = (0.4, 0.9)
    details = Flatness(sigmas=sigmas, repeats=1, bn_stats="recalibrate", part=part).analyze(evidence).details
    looked, wanted = (inputs, labels) if part == "train" else other
    drawn = {
        name: torch.randn(p.shape, generator=SEEDS.torch("noise", name, 0)) for name, p in model.named_parameters()
    }
    for at, sigma in enumerate((0.0, *sigmas)):
        looks = []
        for signed in (sigma, -sigma):
            w, b, gamma, beta, v, c = (
                (p + signed * p.square().mean().sqrt() * drawn[name]).detach().double()
                for name, p in model.named_parameters()
            )
            learned_on, judged_on = (x.double() @ w.T + b for x in (inputs, looked))
            normal = (judged_on - learned_on.mean(0)) / (learned_on.var(0) + model[1].eps).sqrt()
            outputs = (gamma * normal + beta).relu() @ v.T + c
            right = (outputs.argmax(1) == wanted).double().mean().item()
            looks.append((right, nn.functional.cross_entropy(outputs, wanted).item()))
        accuracy, loss = np.mean(looks, axis=0)
        assert details["loss"][at] == pytest.approx(loss, rel=1e-4)
        assert details["accuracy"][at] == pytest.approx(accuracy)


def test_numbers_are_those_of_the_curve():
    model, inputs, labels = learned()
    answer = Flatness(sigmas=(0.2, 3.0, 1.0), repeats=4).analyze(asked(model, inputs, labels))
    sigmas, accuracy = answer.details["sigmas"], answer.details["accuracy"]
    assert sigmas == [0.0, 0.2, 1.0, 3.0]
    half = answer.numbers["half"].value
    assert np.interp(half, sigmas, accuracy) == pytest.approx((accuracy[0] + 1 / 3) / 2)
    assert all(one > (accuracy[0] + 1 / 3) / 2 for sigma, one in zip(sigmas, accuracy, strict=True) if sigma < half)
    grid = np.linspace(0, 3, 60_001)
    assert answer.numbers["drop"].value == pytest.approx(
        accuracy[0] - np.interp(grid, sigmas, accuracy).mean(), abs=1e-4
    )
    assert [chart.name for chart in answer.charts] == ["accuracy", "loss"]
    for chart in answer.charts:
        (series,) = chart.series
        assert (list(series.x), list(series.y)) == (sigmas, answer.details[chart.name])
        assert list(series.spread) == answer.details[f"{chart.name}_spread"]


def test_where_half_is_not_reached_that_is_said():
    answer = Flatness(sigmas=(1e-6,), repeats=1).analyze(asked(*learned()))
    assert answer.numbers["half"].value is None
    assert "half is none" in answer.remarks[0]
    assert answer.details["loss_spread"] == [0, None]


def test_nan_outputs_count_as_wrong_and_can_be_written():
    class Steep(nn.Linear):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs + 0 * outputs.square().exp()

    with seeded_rng(0):
        model = Steep(4, 2)
    evidence = asked(model, torch.ones(5, 4), torch.zeros(5, dtype=torch.long))
    answer = Flatness(scale="absolute", sigmas=(1000.0,), repeats=2).analyze(evidence)
    assert math.isfinite(answer.details["loss"][0])
    assert answer.details["loss"][1] is None
    assert answer.details["accuracy"][1] == 0
    assert answer.numbers["sharpness"].value is None
    json.dumps(answers.answer_to_json(answer), allow_nan=False)


def test_what_is_missing_is_said_in_a_line():
    plain, inputs, labels = nn.Linear(4, 2), torch.ones(5, 4), torch.zeros(5, dtype=torch.long)
    with pytest.raises(InapplicableError, match="Linear has no batch normalisation"):
        Flatness(bn_stats="recalibrate").analyze(asked(plain, inputs, labels))
    with pytest.raises(InapplicableError, match="train"):
        Flatness().analyze(model_evidence(plain, {"test": (inputs, labels)}, SEEDS))
    model, inputs, labels = learned()
    single = model_evidence(model, {"test": (inputs, labels), "train": (inputs[:1], labels[:1])}, SEEDS)
    with pytest.raises(InapplicableError, match="bn-stats=recalibrate") as caught:
        Flatness(bn_stats="recalibrate").analyze(single)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sigmas=[-0.1]", "greater than or equal to 0"),
        ("sigmas=[0]", "no noise above 0"),
        ("sigmas=[1e999]", "finite"),
        ("repeats=0", "greater than or equal to 1"),
        ("bn-stats=reset", "'keep' or 'recalibrate'"),
        ("scale=filter", "'relative' or 'absolute'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_line(options, said):
    with pytest.raises(OptionError, match=said) as caught:
        registry.load().make("analyses", f"flatness:{options}")
    assert "\n" not in str(caught.value)
