"""Accuracy on corrupted images: means by hand, the benchmark's arrays, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from forgetkit.analysis.evidence import model_evidence
from forgetkit.builtin.analyses.corruption import (
    BENCHMARK,
    CORRUPTIONS,
    Corruption,
    accuracies_under_corruption,
    corrupt_samples,
)
from forgetkit.builtin.analyses.corruptions import samples as corrupted
from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws
from forgetkit.builtin.analyses.corruptions.files import Arrays
from forgetkit.builtin.analyses.corruptions.table import TABLE
from forgetkit.errors import DataError, InapplicableError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.testing import check_analysis

CLASSES = 4
SEEDS = Seeds(3).within("analysis")


class Flat(nn.Module):
    """A linear layer on pixels, which notices every change."""

    def __init__(self, channels=3, size=8):
        super().__init__()
        with seeded_rng(1):
            self.layer = nn.Linear(channels * size * size, CLASSES)

    def forward(self, inputs):
        return self.layer(30 * (inputs.flatten(1) - 0.5))


def pictures(count=24, channels=3, size=8):
    rng = torch.Generator().manual_seed(2)
    coarse = torch.rand(count, channels, 4, 4, generator=rng)
    images = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return images.mul(255).to(torch.uint8), torch.arange(count) % CLASSES


def asked(images=None, labels=None, model=None, seeds=SEEDS, **given):
    if images is None:
        images, labels = pictures()
    return model_evidence(model or Flat(images.shape[1], images.shape[-1]), {"test": (images, labels)}, seeds, **given)


def of(answer):
    return {key: measure.value for key, measure in answer.numbers.items()}


@pytest.mark.slow
def test_it_keeps_what_analyses_promise():
    check_analysis(Corruption())


@pytest.mark.slow
def test_the_numbers_are_plain_means_of_accuracies():
    evidence = asked()
    images, labels = pictures()
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    accuracies = {}
    for name, corrupt in TABLE.items():
        for severity in range(1, 6):
            worse = corrupt(pixels, severity, CorruptionDraws(SEEDS.within(name, severity), range(24)))
            outputs = Flat()(torch.tensor(worse).permute(0, 3, 1, 2) / 255)
            accuracies[name, severity] = int((outputs.argmax(1) == labels).sum()) / 24
    answer = Corruption().analyze(evidence)
    numbers = of(answer)
    assert numbers["mca"] == pytest.approx(sum(accuracies.values()) / 95)
    of_15 = [value for (name, _), value in accuracies.items() if name in BENCHMARK]
    assert len(of_15) == 75
    assert numbers["mca_15"] == pytest.approx(sum(of_15) / 75)
    clean = int((Flat()(images / 255).argmax(1) == labels).sum()) / 24
    assert numbers["clean"] == clean
    assert numbers["relative"] == pytest.approx(numbers["mca"] / clean)
    assert answer.details["accuracy"]["fog"] == [accuracies["fog", severity] for severity in range(1, 6)]
    assert len(set(accuracies.values())) > 5  # the corruptions do change something
    (chart,) = answer.charts
    assert list(chart.series[0].x) == [*CORRUPTIONS, "mean"]
    bars = dict(zip(chart.series[0].x, chart.series[0].y, strict=True))
    assert bars["snow"] == pytest.approx(sum(accuracies["snow", severity] for severity in range(1, 6)) / 5)
    assert bars["mean"] == numbers["mca"]


def test_the_benchmark_has_fifteen_and_the_paper_nineteen():
    assert len(BENCHMARK) == 15
    assert len(CORRUPTIONS) == 19
    assert tuple(TABLE) == CORRUPTIONS


@pytest.mark.slow
def test_a_part_is_what_the_whole_says_of_it():
    whole = Corruption().analyze(asked())
    part = Corruption(corruptions=("spatter", "snow"), severities=(4, 2)).analyze(asked())
    for name in ("spatter", "snow"):
        accuracy = whole.details["accuracy"][name]
        assert part.details["accuracy"][name] == [accuracy[3], accuracy[1]]
    assert "mca_15" not in part.numbers
    assert any("2 of 19" in remark for remark in part.remarks)


def test_samples_are_equal_at_each_severity():
    evidence = asked()
    clean = evidence.samples("test", 7)
    for _, _, samples in corrupt_samples(evidence, samples=7, corruptions=("contrast", "snow"), severities=(1, 5)):
        assert len(samples) == 7
        np.testing.assert_array_equal(samples.labels, clean.labels)
    runs = [inputs_of(asked(seeds=SEEDS if again else Seeds(9)), "frost", 7) for again in (True, True, False)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def inputs_of(evidence, name, samples=None, severity=3, size=256):
    ((_, _, found),) = corrupt_samples(evidence, samples=samples, corruptions=(name,), severities=(severity,))
    return torch.cat([inputs for inputs, _ in found.batches(size)])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_batches_do_not_shift_what_is_drawn(name, monkeypatch):
    whole = inputs_of(asked(), name)
    assert whole.dtype == torch.float32
    assert torch.equal((whole * 255).round() / 255, whole)
    assert torch.equal(inputs_of(asked(), name, size=5), whole)
    monkeypatch.setattr(corrupted, "_AT_ONCE", 1)
    assert torch.equal(inputs_of(asked(), name), whole)


def test_grey_images_are_corrupted_as_colours():
    images, labels = pictures(channels=1, size=9)
    evidence = asked(images, labels)
    worse = inputs_of(evidence, "contrast", severity=2)
    assert worse.shape == images.shape
    values = images.double()
    mean = values.mean((2, 3), keepdim=True)
    assert float((worse * 255 - (mean + (values - mean) / 2)).abs().max()) <= 1.001
    remarks = Corruption(corruptions=("contrast",)).analyze(evidence).remarks
    assert any("grey" in remark for remark in remarks)
    assert any("9 × 9" in remark for remark in remarks)


@pytest.mark.slow
def test_another_model_can_be_judged_on_the_same_images():
    evidence = asked()
    constant = Flat()
    with torch.no_grad():
        constant.layer.weight.zero_()
        constant.layer.bias.copy_(torch.tensor([0.0, 1, 0, 0]))
    found = accuracies_under_corruption(evidence, constant, samples=8, corruptions=("fog",), severities=(1, 2))
    share = float((evidence.samples("test", 8).labels == 1).double().mean())
    assert found == {"fog": [share, share]}
    own = accuracies_under_corruption(evidence, corruptions=("fog",), severities=(1, 2))
    assert own["fog"] == Corruption().analyze(evidence).details["accuracy"]["fog"][:2]


def saved(folder, names=("fog", "contrast"), each=24):
    """Arrays as the benchmark's: what is made on the fly, severity after severity."""
    images, labels = pictures()
    for name in names:
        worse = [inputs_of(asked(images, labels), name, severity=severity) for severity in range(1, 6)]
        levels = (torch.cat(worse) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        np.save(folder / f"{name}.npy", levels.contiguous().numpy())
    np.save(folder / "labels.npy", labels.repeat(5).to(torch.uint8).numpy())
    return folder


def test_arrays_give_what_the_same_images_give(tmp_path):
    names = ("fog", "contrast")
    made = Corruption(corruptions=names).analyze(asked())
    read = Corruption(corruptions=names, path=saved(tmp_path)).analyze(asked())
    assert read.details["accuracy"] == made.details["accuracy"]
    assert of(read) == of(made)
    assert any("arrays" in remark for remark in read.remarks)


def test_rows_are_the_same_images_at_each_severity(tmp_path):
    rows = np.arange(50)
    images = np.broadcast_to(np.uint8(rows)[:, None, None, None], (50, 8, 8, 3))
    np.save(tmp_path / "snow.npy", images)
    np.save(tmp_path / "labels.npy", rows % 10 % 4)
    evidence = asked()
    arrays = Arrays.of(tmp_path, ["snow"])
    source = corrupted.StoredCorruptions.of(evidence, 6, arrays)
    drawn = [
        torch.cat([inputs[:, 0, 0, 0] for inputs, _ in source.samples("snow", severity).batches(4)]) * 255
        for severity in range(1, 6)
    ]
    for severity, found in enumerate(drawn):
        assert len(set(found.tolist())) == 6
        assert torch.equal(found.round() - 10 * severity, drawn[0].round())
        assert torch.equal(source.samples("snow", severity + 1).labels, (drawn[0].round() % 10 % 4).long())
    assert float(drawn[0].min()) >= 0
    assert float(drawn[0].max()) < 10
    whole = corrupted.StoredCorruptions.of(evidence, None, arrays)
    assert len(whole.samples("snow", 1)) == 10


def broken_arrays(folder, how):
    saved(folder)
    if how == "missing":
        (folder / "fog.npy").unlink()
    elif how == "no labels":
        (folder / "labels.npy").unlink()
    elif how == "short":
        np.save(folder / "fog.npy", np.load(folder / "fog.npy")[:-1])
    elif how == "no multiple":
        np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:-1])
    elif how == "floats":
        np.save(folder / "fog.npy", np.load(folder / "fog.npy") / 255)
    elif how == "flat":
        np.save(folder / "fog.npy", np.load(folder / "fog.npy").reshape(120, -1))
    elif how == "no array":
        (folder / "fog.npy").write_text("nothing of the kind")
    elif how == "cut":
        whole = (folder / "fog.npy").read_bytes()
        (folder / "fog.npy").write_bytes(whole[: len(whole) // 2])
    elif how in ("below zero", "beyond all", "unclosed"):
        size = {"below zero": b"(-20,", "beyond all": b"(%d," % 10**30, "unclosed": b"(((("}[how]
        whole = (folder / "fog.npy").read_bytes()
        old = whole.partition(b"'shape': ")[2].partition(b" ")[0]
        head, _, rest = whole.partition(old)
        # The header keeps its length, which stands before it.
        (folder / "fog.npy").write_bytes(head + size + rest.replace(b" " * (len(size) - len(old)), b"", 1))
    elif how == "pickled":
        np.save(folder / "fog.npy", np.array([{}] * 120), allow_pickle=True)
    elif how == "negative":
        np.save(folder / "labels.npy", np.load(folder / "labels.npy").astype(int) - 1)
    elif how == "folder":
        (folder / "fog.npy").unlink()
        (folder / "fog.npy").mkdir()
    return folder


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "fog.npy cannot be opened"),
        ("no labels", "labels.npy cannot be opened"),
        ("short", "119 images for 120 labels"),
        ("no multiple", "a multiple of five"),
        ("floats", "uint8 images"),
        ("flat", "uint8 images"),
        ("no array", "is no .npy file"),
        ("cut", "is damaged"),
        ("below zero", "is damaged"),
        ("beyond all", "is damaged"),
        ("unclosed", "is damaged"),
        ("pickled", "is damaged"),
        ("negative", "classes count from 0"),
        ("folder", "fog.npy"),
    ],
)
def test_arrays_that_are_not_as_they_should_be_are_named(tmp_path, how, says):
    with pytest.raises(DataError, match=says) as refused:
        Corruption(path=broken_arrays(tmp_path, how), corruptions=("fog",)).analyze(asked())
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_arrays_of_another_data_set_do_not_apply(tmp_path):
    saved(tmp_path)
    analysis = Corruption(path=tmp_path, corruptions=("fog",))
    with pytest.raises(InapplicableError, match="8 × 8 × 3, and the model was tested on 9 × 9 × 3"):
        analysis.analyze(asked(*pictures(size=9)))
    np.save(tmp_path / "labels.npy", np.arange(120) % 10)
    with pytest.raises(InapplicableError, match="10 classes, and the model 4"):
        analysis.analyze(asked())
    np.save(tmp_path / "labels.npy", np.arange(120) % 2)
    with pytest.raises(InapplicableError, match="2 classes, and the model 4"):
        analysis.analyze(asked())
    with pytest.raises(DataError, match="there is no folder"):
        Corruption(path=tmp_path / "elsewhere").analyze(asked())


def test_features_and_images_of_other_channels_do_not_apply():
    with pytest.raises(InapplicableError, match="features, not images"):
        Corruption().analyze(asked(torch.randn(6, 5), torch.arange(6) % CLASSES, nn.Linear(5, CLASSES)))
    with pytest.raises(InapplicableError, match="2 channels"):
        Corruption().analyze(asked(*pictures(channels=2)))


def photographed(folder, *values, size=(60, 50)):
    for place, value in enumerate(values):
        Image.new("RGB", size, (value,) * 3).save(folder / f"frost{place}.png")
    return folder


def test_frost_is_laid_over_from_the_first_five_photographs(tmp_path):
    photographed(tmp_path, 10, 60, 110, 160, 210, 255)
    (tmp_path / "notes.txt").write_text("of six winters")
    images = torch.zeros(60, 3, 8, 8, dtype=torch.uint8)
    evidence = asked(images, torch.arange(60) % CLASSES)
    source = corrupted.GeneratedCorruptions.of(evidence, None, tmp_path)
    levels = {
        float(inputs[place].max()) * 255
        for inputs, _ in source.samples("frost", 1).batches()
        for place in range(len(inputs))
    }
    assert sorted(map(round, levels)) == [2, 12, 22, 32, 42]
    answer = Corruption(corruptions=("frost",), frost=tmp_path).analyze(evidence)
    assert not any("painted" in remark for remark in answer.remarks)
    painted = Corruption(corruptions=("frost",)).analyze(evidence)
    assert any("painted" in remark for remark in painted.remarks)


def test_folders_without_photographs_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.png or \.jpg"):
        Corruption(frost=tmp_path).analyze(asked())
    with pytest.raises(DataError, match="cannot be read"):
        Corruption(frost=tmp_path / "elsewhere").analyze(asked())
    with pytest.raises(DataError, match="at least 40 × 40"):
        Corruption(frost=photographed(tmp_path, 9, size=(60, 30))).analyze(asked())
    (tmp_path / "frost0.png").write_text("melted")
    with pytest.raises(DataError, match="cannot be read as an image"):
        Corruption(frost=tmp_path).analyze(asked())


def test_options_are_written_as_lists_or_joined():
    make = registry.load().make
    _, analysis = make("analyses", "corruption:corruptions=fog+snow,severities=1+5")
    assert analysis == Corruption(corruptions=("fog", "snow"), severities=(1, 5))
    assert make("analyses", 'corruption:corruptions=["fog","snow"],severities=[1,5]')[1] == analysis
    assert make("analyses", "corruption:samples=none,corruptions=none")[1] == Corruption(samples=None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("corruptions=fogg", "did you mean 'fog'"),
        ("corruptions=gaussian+fog", "gaussian"),
        ("corruptions=fog+fog", "one twice"),
        ("corruptions=[]", "names none"),
        ("severities=6", "severities"),
        ("severities=0+1", "severities"),
        ("severities=1+1", "one twice"),
        ("samples=0", "samples"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(OptionError, match=says):
        registry.load().make("analyses", f"corruption:{options}")
