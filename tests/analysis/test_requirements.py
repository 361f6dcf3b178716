"""An analysis asks for what it needs alone, takes what can be taken, and says what is wrong with the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Change, Inputs, Intervention, InterventionContext, Probe, ReinitContext, Samples
from forgetkit.errors import DataError, DivergedError, InapplicableError

FEW = {
    "dataset": "synthetic:samples=90,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 1,
    "mega_batches": 3,
    "threads": 1,
    "val_fraction": 0.2,
}


@dataclass(frozen=True)
class Size:
    """A criterion of a notebook."""

    needs_data: ClassVar[bool] = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: target.abs() for name, target in probe.targets.items()}


@dataclass(frozen=True)
class Zero:
    """A method of a notebook."""

    needs_scores: ClassVar[bool] = True

    def propose(self, context: ReinitContext) -> Any:
        for name, mask in context.select(0.1).items():
            yield Change(name, mask, torch.zeros_like(context.targets[name]))


@dataclass(frozen=True)
class Quiet(Intervention):
    """An intervention of a notebook."""

    def after_step(self, moment: InterventionContext) -> None:
        pass


@dataclass(frozen=True)
class All:
    """A replay strategy of a notebook."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> Any:
        return np.concatenate([buffer.ids, arrivals.ids])


@dataclass(frozen=True)
class First:
    """A metric of a notebook."""

    def compute(self, rows: Sequence[Any]) -> float:
        return float(rows[0].test_accuracy)


@dataclass(frozen=True)
class Flat:
    """A network of a notebook."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        return nn.Sequential(normalize, nn.Flatten(), nn.Linear(math.prod(inputs.shape), inputs.classes))


NOTEBOOK: dict[str, dict[str, Any]] = {
    "criterion": {"importance": Size()},
    "method": {"reinit": Zero(), "importance": Size()},
    "intervention": {"interventions": [Quiet()]},
    "replay": {"replay": All()},
    "metric": {"metrics": [First()]},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOTEBOOK)
def test_run_with_a_notebook_object_is_analyzed_without_it(workdir, kind: str) -> None:
    forgetkit.run({**FEW, **NOTEBOOK[kind], "out": str(workdir), "name": "r"})
    for question in ("flatness:repeats=1,part=test", "calibration", "plasticity", "churn"):
        assert forgetkit.analyze(workdir / "r", question).numbers
    shown = forgetkit.evidence(workdir / "r")
    assert len(shown.at(1).samples("train")) == 24
    if kind == "replay":
        with pytest.raises(InapplicableError, match=r"^this run's replay: no replay strategy is called '.*\.All'"):
            shown.samples("train")
    else:
        assert len(shown.samples("train")) == 72


@pytest.mark.slow
def test_what_is_asked_for_and_not_at_hand_is_named(workdir) -> None:
    forgetkit.run({**FEW, "model": Flat(), "out": str(workdir), "name": "r"})
    assert forgetkit.evidence(workdir / "r").masks()[1]
    with pytest.raises(InapplicableError, match=r"^this run's model: no model is called '.*\.Flat'.*given in Python"):
        forgetkit.analyze(workdir / "r", "flatness")
    assert forgetkit.analyze(workdir / "r", "flatness:repeats=1", model=Flat()).numbers


@pytest.mark.slow
def test_from_the_command_line_too(workdir, cli) -> None:
    forgetkit.run({**FEW, **NOTEBOOK["criterion"], **NOTEBOOK["metric"], "out": str(workdir), "name": "r"})
    said = cli("analyze", workdir / "r", "flatness:repeats=1")
    assert said.status == 0, said.err


X, Y = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3


class Returns(nn.Module):
    """Returns something around its logits."""

    def __init__(self, form: Any, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.form = nn.Linear(2, outputs), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


FORMS = {
    "dict": (lambda z: {"hidden": z * 2, "logits": z}, r"returns dict .* outputs\['logits'\]\)"),
    "another key": (lambda z: {"out": z}, r"returns dict .* outputs\['out'\]\)"),
    "object": (Output, r"returns Output .* outputs\.logits\)"),
    "tuple": (lambda z: (z, z * 2), r"returns tuple .* outputs\[0\]\)"),
    "list": (lambda z: [z], r"returns list .* outputs\[0\]\)"),
    "a loss before them": (lambda z: (z.sum(), z), r"returns tuple .* outputs\[1\]\)"),
    "a list before them": ((lambda z: {"layers": [z], "scores": z}), r"returns dict .* outputs\['scores'\]\)"),
}
NO_LOGITS = {
    "nothing": (lambda z: None, r"returns NoneType .*: return them from the model's forward\(\)"),
    "an array": (lambda z: z.detach().numpy(), r"returns ndarray .*: return them from the model's forward\(\)"),
    "an empty dict": (lambda z: {}, r"returns dict .*: return them from the model's forward\(\)"),
    "an empty tuple": (lambda z: (), r"returns tuple .*: return them from the model's forward\(\)"),
    "complex": (lambda z: z + 0j, r"returns complex numbers, and logits are real"),
}


@pytest.mark.parametrize("form", NO_LOGITS)
def test_outputs_that_hold_no_logits_are_refused_without_a_hook(form: str) -> None:
    make, says = NO_LOGITS[form]
    with pytest.raises(DataError, match=says):
        forgetkit.analyze(Returns(make), "calibration", test=(X, Y))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (torch.float64, r"give inputs\.to\(torch\.float32\)$"),
        (torch.float16, r"give inputs\.to\(torch\.float32\)$"),
        (torch.int64, r"scale pixels to \[0, 1\] or save them as uint8$"),
        (torch.uint16, r"scale pixels to \[0, 1\] or save them as uint8$"),
    ],
)
def test_inputs_of_another_dtype_are_refused_with_the_remedy(dtype: torch.dtype, remedy: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    for question in ("calibration", "attack"):
        with pytest.raises(DataError, match=remedy):
            forgetkit.analyze(model, question, test=(torch.ones(9, 1, 2, 2).to(dtype), Y))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_wrapped_logits_are_refused_with_a_hook_that_works(form: str) -> None:
    make, says = FORMS[form]
    model = Returns(make)
    with pytest.raises(DataError, match=says) as caught:
        forgetkit.analyze(model, "calibration", test=(X, Y))
    hook = str(caught.value).partition("take them out with ")[2]
    handle = eval(hook, {"model": model})
    plain = Returns(lambda z: z)
    for question in ("calibration", "flatness:part=test,repeats=1", "plasticity", "redundancy:corrupted=0"):
        parts = {"test": (X, Y), "train": (X, Y)}
        assert (
            forgetkit.analyze(model, question, **parts).numbers == forgetkit.analyze(plain, question, **parts).numbers
        )
    handle.remove()


@pytest.mark.parametrize("column", [True, False])
def test_one_logit_is_refused_with_a_hook_that_makes_two(column: bool) -> None:
    model = Returns((lambda z: z) if column else (lambda z: z[:, 0]), 1)
    labels = Y % 2
    with pytest.raises(DataError, match="one logit for a sample, and each of two classes needs one") as caught:
        forgetkit.analyze(model, "calibration", test=(X, labels))
    eval(str(caught.value).partition("before it with ")[2], {"model": model, "torch": torch})
    answer = forgetkit.analyze(model, "calibration", test=(X, labels))
    logit = model.net(X).detach().double().flatten()
    expected = nn.functional.binary_cross_entropy_with_logits(logit, labels.double()).item()
    assert answer.numbers["nll"].value == pytest.approx(expected, rel=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int8, torch.int16, torch.int64])
def test_labels_are_whole_numbers_of_any_size(dtype: torch.dtype) -> None:
    shown = forgetkit.evidence(nn.Linear(2, 3), test=(X, Y.to(dtype)))
    assert torch.equal(shown.samples().labels, Y)


def changed(*places: int, to: int) -> Tensor:
    labels = Y.clone()
    labels[list(places)] = to
    return labels


LABELS = {
    "minus one": (
        changed(4, 5, to=-1),
        r"a label of test is -1, and .* 3 outputs, .*2 of 9 samples\): a label below 0",
    ),
    "ignored": (changed(2, to=-100), r"is -100, .*1 of 9 samples\): a label below 0 is no class: leave such"),
    "both": (changed(0, to=-1).index_fill(0, torch.tensor([8]), 7), r"is -1, .*2 of 9 samples"),
    "beyond": (changed(3, to=7), r"is 7, and the model has 3 outputs, from 0 \(so it is with 1 of 9 samples\): name"),
    "beyond, uint8": (changed(3, to=255).to(torch.uint8), r"is 255, and the model has 3 outputs"),
    "from one": (Y + 1, r"is 3, .*: they count from 1: subtract 1"),
    "floats": (Y.float(), r"float32; each label must be a whole number: give labels\.long\(\)$"),
    "halves": (Y + 0.5, r"float32; each label must be a whole number$"),
    "one-hot": (nn.functional.one_hot(Y, 3), r"of one-hot rows labels\.argmax\(1\) makes them"),
    "one-hot floats": (nn.functional.one_hot(Y, 3).float(), r"of one-hot rows labels\.argmax\(1\) makes them"),
    "a column": (Y[:, None], r"give labels\[:, 0\]$"),
    "a column of floats": (Y[:, None].float(), r"give labels\[:, 0\]\.long\(\)$"),
    "too few": (Y[:5], r"9 inputs and labels of shape \(5,\) in torch\.int64; each label must be a whole number$"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_do_not_fit_say_what_is_wrong_with_them(what: str) -> None:
    labels, says = LABELS[what]
    with pytest.raises(DataError, match=says) as caught:
        forgetkit.analyze(nn.Linear(2, 3), "calibration", test=(X, labels))
    assert "\n" not in str(caught.value)


def test_the_part_is_named() -> None:
    with pytest.raises(DataError, match="a label of train is -1"):
        forgetkit.evidence(nn.Linear(2, 3), test=(X, Y), train=(X, changed(1, to=-1)))


PIXELS = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))
SCALES = {
    "levels": (PIXELS * 255, r"from 0\S* to 25\S+: divide them by 255, or save them as uint8$"),
    "integers": ((PIXELS * 255).int(), r"divide them by 255, or save them as uint8$"),
    "minus one": (PIXELS * 2 - 1, r"from -0\.9\S* to 0\.9\S+: give \(x \+ 1\) / 2, or uint8 pixels"),
    "overshot": (PIXELS * 1.02, r"to 1\.0\S+: clip them to \[0, 1\], or save them as uint8$"),
    "normalised": (
        (PIXELS - 0.5) / 0.2,
        r"scale them to \[0, 1\], or save them as uint8, and let the network normalise",
    ),
    "nan": (
        PIXELS.clone().index_fill(0, torch.tensor([7]), torch.nan),
        r"repair or leave out the samples",
    ),
}


@pytest.mark.parametrize("question", ["attack:strengths=[0.1],steps=1", "corruption:severities=1"])
@pytest.mark.parametrize("what", SCALES)
def test_pixels_of_another_scale_get_the_remedy(what: str, question: str) -> None:
    images, says = SCALES[what]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    if not images.is_floating_point():
        model = nn.Sequential(Floats(), *model)
    with pytest.raises(InapplicableError, match=says) as caught:
        forgetkit.analyze(model, question, test=(images, torch.zeros(8).long()))
    assert "no images" not in str(caught.value)


class Floats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def test_features_are_no_images() -> None:
    with pytest.raises(InapplicableError, match="the samples are no images"):
        forgetkit.analyze(nn.Linear(2, 3), "attack", test=(X, Y))


def test_a_pixel_above_one_by_rounding_is_a_pixel() -> None:
    images = PIXELS.clone()
    images[7, 0, 0, 0], images[7, 0, 0, 1] = 1 + 1e-7, -1e-7  # beyond the first batch, too
    assert float(images.max()) > 1 > float(images.max()) - 1e-6
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    labels = torch.zeros(8).long()
    for question in ("attack:strengths=[0.01],steps=1", "corruption:severities=1,corruptions=brightness"):
        rounded, clipped = (
            forgetkit.analyze(model, question, test=(some, labels)) for some in (images, images.clamp(0, 1))
        )
        assert rounded.numbers == clipped.numbers


class Masked(nn.Module):
    """A network that gives the last of its classes the logit -infinity."""

    def __init__(self, form: str = "fill", value: float = -math.inf) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.form, self.value = nn.Linear(2, 3), form, value

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "add":
            return self.net(x) + torch.tensor([0.0, 0.0, self.value])
        return self.net(x).masked_fill(torch.tensor([False, False, True]), self.value)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fill", "add"])
def test_a_masked_class_is_no_divergence(form: str) -> None:
    model, labels = Masked(form), Y % 2
    two = nn.Linear(2, 2)
    with torch.no_grad():
        two.weight.copy_(model.net.weight[:2])
        two.bias.copy_(model.net.bias[:2])
    parts = dict.fromkeys(("test", "val", "train"), (X, labels))
    masked, plain = (forgetkit.analyze(one, "calibration", **parts).numbers for one in (model, two))
    assert {key: measure.value for key, measure in masked.items()} == pytest.approx(  # type: ignore[union-attr]
        {key: measure.value for key, measure in plain.items()}  # type: ignore[union-attr]
    )
    for question, key in (("plasticity", "gradient_norm"), ("flatness:part=test,repeats=1,scale=absolute", "drop")):
        assert math.isfinite(forgetkit.analyze(model, question, **parts).numbers[key].value)  # type: ignore[union-attr, arg-type]
    norms = [forgetkit.analyze(one, "plasticity", **parts).numbers["gradient_norm"] for one in (model, two)]
    assert norms[0].value == pytest.approx(norms[1].value)  # type: ignore[union-attr]


def test_where_the_masked_class_is_the_label_there_is_no_nll() -> None:
    parts = dict.fromkeys(("test", "val"), (X, Y))
    answer = forgetkit.analyze(Masked(), "calibration", **parts)
    assert answer.numbers["nll"].value is None  # type: ignore[union-attr]
    assert [remark.partition(":")[0] for remark in answer.remarks] == ["there is no nll", "no temperature was fitted"]
    with pytest.raises(InapplicableError, match="loss is not finite"):
        forgetkit.analyze(Masked(), "plasticity", **parts)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_divergence_still(value: float) -> None:
    for question in ("calibration", "plasticity", "flatness"):
        with pytest.raises(InapplicableError, match="not finite"):
            forgetkit.analyze(Masked(value=value), question, test=(X, Y), train=(X, Y))


def test_a_sample_whose_classes_are_all_masked_is_divergence() -> None:
    model = Returns(lambda z: z.masked_fill(torch.arange(len(z))[:, None] == 1, -math.inf))
    for question in ("calibration", "flatness"):
        with pytest.raises(InapplicableError, match="not finite"):
            forgetkit.analyze(model, question, test=(X, Y), train=(X, Y))


def test_flatness_says_why_there_is_no_sharpness() -> None:
    answer = forgetkit.analyze(Masked(), "flatness:repeats=1", train=(X, Y), test=(X, Y))
    assert answer.numbers["sharpness"].value is None  # type: ignore[union-attr]
    assert any(remark.startswith("sharpness is none: the loss is not finite") for remark in answer.remarks)


class Dimmed(nn.Module):
    def __init__(self, normalize: nn.Module, head: nn.Module, value: float) -> None:
        super().__init__()
        self.normalize, self.head, self.value = normalize, head, value

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 0, :1] > 0.5
        return self.head(self.normalize(x).flatten(1)).masked_fill(
            bright & torch.tensor([True, False, False]), self.value
        )


def test_a_run_whose_network_masks_a_class_is_trained_and_judged(workdir) -> None:
    @dataclass(frozen=True)
    class Some:
        """A network that masks a class where the first pixel is bright."""

        value: float = -math.inf

        def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
            return Dimmed(normalize, nn.Linear(math.prod(inputs.shape), inputs.classes), self.value)

    rng = np.random.default_rng(0)
    images = rng.random((80, 1, 4, 4), np.float32)
    labels = np.where(images[:, 0, 0, 0] > 0.5, 1 + np.arange(80) % 2, np.arange(80) % 3)
    parts = {"x_train": images[:60], "x_test": images[60:], "y_train": labels[:60], "y_test": labels[60:]}
    parts["y_test"][int(images[60:, 0, 0, 0].argmax())] = 0  # masked, so that it is wrong, and no reason to stop
    np.savez(workdir / "d.npz", **parts)
    options = {**FEW, "dataset": f"npz:{workdir / 'd.npz'},layout=nchw", "out": str(workdir), "mega_batches": 2}
    result = forgetkit.run({**options, "model": Some(), "name": "r"})
    assert result["mega_batches"][-1]["test_accuracy"] < 1
    assert all(math.isfinite(row["train_accuracy"]) for row in result["mega_batches"])
    with pytest.raises(DivergedError):
        forgetkit.run({**options, "model": Some(math.nan), "name": "n"})
