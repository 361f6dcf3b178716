"""PGD against closed forms, a second PGD in NumPy with gradients by hand, and torchattacks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import model_evidence
from forgetkit.builtin.analyses.attack import Attack, Descent
from forgetkit.errors import InapplicableError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.testing import check_analysis

SHAPE = (2, 4, 4)
PIXELS = 32


class Normalised(nn.Module):
    """Pixels less 0.5, times 4: as the networks of this framework begin."""

    def forward(self, x):
        return (x - 0.5) * 4


def smooth(classes: int = 3) -> nn.Sequential:
    """Normalisation, a hidden layer of tanh, an output layer."""
    with seeded_rng(3):
        return nn.Sequential(
            Normalised(), nn.Flatten(), nn.Linear(PIXELS, 12), nn.Tanh(), nn.Linear(12, classes)
        ).eval()


def drawn(count: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(5))


def asked(model, images, labels):
    return model_evidence(model.eval(), {"test": (images, labels)}, Seeds(0).within("analysis"))


def accuracies(analysis, model, images, labels):
    return analysis.analyze(asked(model, images, labels)).details["accuracy"]


def learned(count: int = 240):
    """A smooth network and images of three classes that it can nearly always tell."""
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    centres = torch.rand(3, *SHAPE, generator=rng)
    images = (0.5 * centres[labels] + 0.5 * torch.rand(count, *SHAPE, generator=rng)).clamp(0, 1)
    model = smooth()
    step = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        step.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        step.step()
    step.zero_grad(set_to_none=True)
    return model, images, labels


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_keeps_its_promises(norm):
    check_analysis(Attack(norm=norm))


@pytest.mark.parametrize(
    ("norm", "dual", "strengths"), [("linf", 1, (0.002, 0.01, 0.04, 0.1)), ("l2", 2, (0.02, 0.05, 0.2, 0.5))]
)
def test_a_linear_network_falls_by_the_dual_norm(norm, dual, strengths):
    """Of two classes, with no pixel at its limit: right while margin > ε ‖4 (w_other - w_own)‖ in the dual norm."""
    with seeded_rng(2):
        linear = nn.Linear(PIXELS, 2)
    images, labels = drawn(64, 0.3, 0.7), torch.arange(64) % 2
    model = nn.Sequential(Normalised(), nn.Flatten(), linear)
    outputs = model(images).detach().double()
    margin = (outputs.gather(1, labels[:, None]) - outputs.gather(1, 1 - labels[:, None])).flatten()
    slope = 4 * (linear.weight[0] - linear.weight[1]).detach().double()
    expected = [(margin > radius * slope.norm(dual)).double().mean().item() for radius in (0.0, *strengths)]
    assert len(set(expected)) > 3
    # Along a straight line a random start is made good for pixel by pixel, but not in all directions together.
    analysis = Attack(norm=norm, strengths=strengths, samples=None, random_start=norm == "linf")
    assert accuracies(analysis, model, images, labels) == expected


def by_hand(model, descent, image, label):
    """PGD of one image, in float64, with the gradient of a tanh network written down."""
    (first, last) = (layer for layer in model if isinstance(layer, nn.Linear))
    w, b, v, c = (p.detach().double().numpy() for p in (first.weight, first.bias, last.weight, last.bias))
    origin = image.double().numpy().ravel()
    x = origin.copy()
    for _ in range(descent.steps):
        hidden = np.tanh(w @ ((x - 0.5) * 4) + b)
        z = v @ hidden + c
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        p[label] -= 1
        g = 4 * w.T @ ((1 - hidden**2) * (v.T @ p))
        if descent.norm == "linf":
            x = np.clip(x + descent.step * np.sign(g), origin - descent.radius, origin + descent.radius)
        else:
            d = x + descent.step * g / np.sqrt((g**2).sum()) - origin
            x = origin + d * min(1, descent.radius / np.sqrt((d**2).sum()))
        x = np.clip(x, 0, 1)
    return torch.from_numpy(x.reshape(image.shape))


DESCENTS = [
    Descent(norm, radius, step, steps)
    for norm, radius, step in (("linf", 0.1, 0.03), ("linf", 0.02, 0.05), ("l2", 0.5, 0.15), ("l2", 0.1, 0.3))
    for steps in (1, 2, 7)
]


@pytest.mark.parametrize("descent", DESCENTS, ids=str)
def test_each_image_ends_where_gradients_by_hand_lead(descent):
    model, images, labels = smooth(), drawn(8), torch.arange(8) % 3
    found, moved = descent.run(model, images, labels, images)
    expected = torch.stack([by_hand(model, descent, *one) for one in zip(images, labels.tolist(), strict=True)])
    assert moved.all()
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("descent", DESCENTS, ids=str)
def test_each_image_ends_where_torchattacks_ends(descent):
    torchattacks = pytest.importorskip("torchattacks")
    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[descent.norm]
    model, images, labels = smooth(), drawn(8), torch.arange(8) % 3
    theirs = kind(model, eps=descent.radius, alpha=descent.step, steps=descent.steps, random_start=False)
    found, _ = descent.run(model, images, labels, images)
    torch.testing.assert_close(found, theirs(images, labels), atol=2e-6, rtol=0)


def test_by_default_it_is_the_attack_of_torchattacks_by_default():
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.PGD(smooth())
    ours = Attack(strengths=(theirs.eps,))
    details = ours.analyze(asked(smooth(), drawn(4), torch.arange(4) % 3)).details
    assert details["step_sizes"] == pytest.approx([theirs.alpha])
    assert (ours.steps, ours.random_start) == (theirs.steps, theirs.random_start)


@given(
    norm=st.sampled_from(["linf", "l2"]),
    radius=st.floats(1e-4, 2),
    step=st.floats(1e-4, 2),
    steps=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_no_image_leaves_the_ball_or_the_range_of_pixels(norm, radius, step, steps, seed):
    descent, images = Descent(norm, radius, step, steps), drawn(6)
    begun = descent.start(images, torch.Generator().manual_seed(seed))
    for found in (begun, descent.run(smooth(), images, torch.arange(6) % 3, begun)[0]):
        change = (found - images).flatten(1)
        length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert (length <= radius * (1 + 1e-5) + 1e-6).all()
        assert ((found >= 0) & (found <= 1)).all()
        assert not torch.equal(found, images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_is_anywhere_in_the_ball(norm):
    """In the middle of the range of pixels: linf uniform in each pixel, l2 uniform in length and without a mean."""
    images = torch.full((4000, *SHAPE), 0.5)
    change = (Descent(norm, 0.3, 0.1, 1).start(images, torch.Generator().manual_seed(0)) - images).flatten(1).double()
    size = (change + 0.3) / 0.6 if norm == "linf" else change.norm(dim=1) / 0.3
    quantiles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(size.flatten()[:50_000].quantile(quantiles), quantiles, atol=0.03, rtol=0)
    assert change.mean(0).abs().max() < 0.02


def test_the_stronger_the_attack_the_lower_the_accuracy():
    model, images, labels = learned()
    for norm, strengths in (("linf", (0.01, 0.03, 0.06, 0.1, 0.3)), ("l2", (0.05, 0.15, 0.3, 0.6, 2.0))):
        found = accuracies(Attack(norm=norm, strengths=strengths, samples=None), model, images, labels)
        noise = 3 * 0.5 / len(labels) ** 0.5
        assert all(after <= before + noise for before, after in pairwise(found))
        assert found[0] > 0.9
        assert found[-1] < 0.1


def test_strength_zero_is_clean_accuracy():
    model, images, labels = learned()
    wrong = (labels + (torch.arange(len(labels)) % 5 == 0)) % 3
    evidence = asked(model, images, wrong)
    answer = Attack(strengths=(0.0,), samples=None).analyze(evidence)
    assert {key: measure.value for key, measure in answer.numbers.items()} == {
        "clean": evidence.accuracy(evidence.samples())
    }
    tiny = Attack(strengths=(1e-9,), samples=None).analyze(evidence)
    assert tiny.details["accuracy"] == [answer.numbers["clean"].value] * 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_counts_where_no_restart_misleads_on_it(norm):
    """All samples of three batches attacked from every start, with the same draws, whatever was found before."""
    model, images, labels = learned(600)
    labels = (labels + (torch.arange(len(labels)) % 7 == 0)) % 3
    radius = {"linf": 0.06, "l2": 0.3}[norm]
    right = model(images).argmax(1) == labels
    expected = []
    for restart in range(3):
        descent = Descent(norm, radius, 2.5 * radius / 2, 2)
        draws = [Seeds(0).within("analysis").torch("start", number, restart) for number in range(3)]
        begun = torch.cat([descent.start(*batch) for batch in zip(images.split(256), draws, strict=True)])
        found, _ = descent.run(model, images, labels, begun)
        right = right & (model(found).argmax(1) == labels)
        expected.append(right.double().mean().item())
    assert expected[0] > expected[-1]
    for restarts, share in enumerate(expected, 1):
        analysis = Attack(norm=norm, strengths=(radius,), steps=2, restarts=restarts, samples=None)
        assert accuracies(analysis, model, images, labels)[1] == share


def test_a_sample_that_was_wrong_stays_so():
    """Even where a place at random in a large ball, and hardly a step from it, happens to be right."""
    model, images, labels = learned()
    labels = labels.roll(1)
    begun = Descent("linf", 0.9, 1e-6, 1).start(images, Seeds(0).within("analysis").torch("start", 0, 0))
    lucky = model(begun).argmax(1) == labels
    both = lucky & (model(images).argmax(1) == labels)
    assert lucky.sum() > both.sum() + 5
    analysis = Attack(strengths=(0.9,), step_size=1e-6, steps=1, samples=None)
    assert accuracies(analysis, model, images, labels)[1] == both.double().mean().item()


def test_numbers_curve_and_area():
    model, images, labels = learned()
    analysis = Attack(strengths=("4/255", 0.1, "1/255", 0.0), samples=100)
    answer = analysis.analyze(asked(model, images, labels))
    assert list(answer.numbers) == ["clean", "at_1_255", "at_4_255", "at_0_1", "area"]
    assert answer.details["strengths"] == pytest.approx([0, 1 / 255, 4 / 255, 0.1])
    assert answer.details["step_sizes"] == pytest.approx([2.5 / 2550, 10 / 2550, 0.025])
    assert answer.details["samples"] == 100
    (curve,) = answer.charts[0].series
    assert list(curve.x) == pytest.approx([0, 1, 4, 25.5])
    assert list(curve.y) == [answer.numbers[key].value for key in list(answer.numbers)[:-1]]
    assert answer.numbers["area"].value == pytest.approx(
        torch.trapezoid(torch.tensor(curve.y), torch.tensor(curve.x)).item() / 25.5
    )
    assert answer.remarks == []
    in_l2 = Attack(norm="l2").analyze(asked(model, images, labels))
    assert list(in_l2.numbers) == ["clean", "at_0_125", "at_0_25", "at_0_5", "at_1", "area"]


def test_each_number_has_a_name_that_can_be_written_down():
    images, labels = drawn(4), torch.zeros(4, dtype=torch.int64)
    attack = Attack(norm="l2", strengths=(1e-9, 0.5, 2e6, 1e20), steps=1)
    numbers = answers.answer_to_json(attack.analyze(asked(smooth(), images, labels)))["numbers"]
    assert list(numbers) == ["clean", "at_1e-09", "at_0_5", "at_2e06", "at_1e20", "area"]


def test_gradients_that_vanish_are_said():
    """Logits a million times too large: the softmax is 1 to the last digit, and nothing points anywhere."""

    class Sure(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * 1e6

    model, images, labels = learned()
    answer = Attack(strengths=(0.3,), samples=None).analyze(asked(Sure(*model), images, labels))
    assert answer.numbers["at_0_3"].value > 0.5
    assert "the gradient is zero" in answer.remarks[0]


def test_a_network_that_writes_into_its_input_is_attacked_too():
    class Writing(Normalised):
        def forward(self, x):
            return x.sub_(0.5).mul_(4)

    model, images, labels = smooth(), drawn(8), torch.arange(8) % 3
    expected, _ = DESCENTS[0].run(model, images, labels, images)
    found, _ = DESCENTS[0].run(nn.Sequential(Writing(), *list(model)[1:]), images, labels, images)
    assert torch.equal(found, expected)


class Rounded(nn.Module):
    """Its outputs come by way of whole numbers."""

    def forward(self, x):
        return nn.functional.one_hot(x.flatten(1).sum(1).long() % 3, 3).float()


class Diverging(nn.Module):
    """A root whose slope at zero is infinite."""

    def forward(self, x):
        return (x.flatten(1)[:, :3] * 0).sqrt() + torch.eye(3)[0]


@pytest.mark.parametrize(
    ("model", "said"), [(Rounded(), "no gradient of its input"), (Diverging(), "gradient in the input is not finite")]
)
def test_networks_without_a_gradient_are_refused_in_a_line(model, said):
    with torch.no_grad():
        labels = model(drawn(6)).argmax(1)
    with pytest.raises(InapplicableError, match=said) as caught:
        Attack().analyze(asked(model, drawn(6), labels))
    assert "\n" not in str(caught.value)


def test_features_are_no_images():
    model, features = nn.Linear(5, 3), torch.randn(6, 5)
    with pytest.raises(InapplicableError, match="no images"):
        Attack().analyze(asked(model, features, torch.arange(6) % 3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("strengths=[-0.1]", "greater than or equal to 0"),
        ('strengths=["-8/255"]', "greater than or equal to 0"),
        ('strengths=["1/0"]', "valid number"),
        ("strengths=[]", "at least 1 item"),
        ("strengths=[8]", "8/255"),
        ("norm=l2,strengths=[1e999]", "finite"),
        ("strengths=[0.1,0.1000000001]", "the same to six digits"),
        ("restarts=2,random-start=false", "all the same"),
        ("step-size=0", "greater than 0"),
        ("steps=0", "greater than or equal to 1"),
        ("norm=l1", "'linf' or 'l2'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_line(options, said):
    with pytest.raises(OptionError, match=said) as caught:
        registry.load().make("analyses", f"attack:{options}")
    assert "\n" not in str(caught.value)
