"""What holds for all built-in data sets, and the two that need no files: digits and synthetic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from forgetkit.builtin import datasets
from forgetkit.builtin.datasets.digits import Digits
from forgetkit.builtin.datasets.synthetic import Synthetic
from forgetkit.contracts import Data, DatasetSource, LoadContext
from forgetkit.errors import OptionError
from forgetkit.registry.spec import build_component, format_spec, options_of, parse_spec, validate_component

OFFERED = datasets.forgetkit_datasets()


@pytest.fixture
def context(tmp_path):
    return LoadContext(tmp_path / "cache", lambda what, done, total: None)


def build(spec: str):
    parsed = parse_spec(spec)
    return build_component(parsed.name, OFFERED[parsed.name], parsed)


def check(data: Data, shape: tuple[int, ...], dtype: type, train: int, test: int, classes: int) -> None:
    for part, n in ((data.train, train), (data.test, test)):
        assert part.inputs.shape == (n, *shape)
        assert part.inputs.dtype == dtype
        assert part.labels.shape == (n,)
        assert part.labels.dtype == np.int64
        assert len(part) == n
        assert set(part.labels.tolist()) == set(range(classes))
    assert len(data.classes) == classes


# --- all of them ---


def test_these_are_offered():
    assert set(OFFERED) == {
        "cifar10", "cifar100", "digits", "folder", "npz", "restricted-imagenet", "synthetic",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_each_source_documents_itself_and_its_options(name):
    component = OFFERED[name]
    assert issubclass(component, DatasetSource)
    summary = component.__doc__.splitlines()[0]
    assert summary.endswith(".")
    for option in options_of(component):
        assert f"``{option.name}``" in component.__doc__


@pytest.mark.parametrize(
    "spec",
    [
        "cifar10",
        "cifar10:there",
        "cifar100:path=there,download=true",
        "digits",
        "folder:photos,size=32",
        "folder:path=/a/b,size=8,grey=true,augment=crop",
        "npz:data.npz,layout=nchw,augment=flip",
        "restricted-imagenet:/imagenet,size=64",
        "synthetic:samples=30,test=20,classes=3,noise=0.25,seed=-4",
    ],
)
def test_a_spec_spelled_out_means_the_same_component(spec):
    component = build(spec)
    name = spec.partition(":")[0]
    assert build(format_spec(name, component)) == component
    assert validate_component(name, component) == component


def test_a_spec_sets_the_options():
    assert build("folder:photos,size=16") == OFFERED["folder"](path=Path("photos").absolute(), size=16)
    assert build("cifar10") == OFFERED["cifar10"](path=None, download=False)
    assert build("cifar10:none,download=true") == OFFERED["cifar10"](path=None, download=True)
    assert build("npz:a.npz").layout == "auto"


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ("folder:size=32", "path"),
        ("folder:photos,size=0", "size"),
        ("folder:photos,size=big", "size"),
        ("folder:photos,grey=perhaps", "grey"),
        ("folder:photos,augment=rotate", "augment"),
        ("folder:photos,colour=true", "colour"),
        ("npz:layout=nchw", "path"),
        ("npz:a.npz,layout=chwn", "layout"),
        ("npz:a.npz,augment=all", "augment"),
        ("restricted-imagenet:size=32", "path"),
        ("restricted-imagenet:imagenet,size=-1", "size"),
        ("cifar10:download=maybe", "download"),
        ("digits:size=8", "size"),
        ("synthetic:samples=0", "samples"),
        ("synthetic:classes=1", "classes"),
        ("synthetic:channels=0", "channels"),
        ("synthetic:size=0", "size"),
        ("synthetic:noise=-0.1", "noise"),
        ("synthetic:noise=nan", "noise"),
        ("synthetic:noise=inf", "noise"),
        ("synthetic:seed=x", "seed"),
        ("synthetic:samples=9", "samples=9 is less than classes=10"),
        ("synthetic:test=4,classes=5", "test=4 is less than classes=5"),
    ],
)
def test_a_bad_option_is_refused_by_name(spec, culprit):
    with pytest.raises(OptionError) as caught:
        build(spec)
    message = str(caught.value)
    assert culprit in message
    assert spec.partition(":")[0] in message
    assert "\n" not in message


# --- digits ---


def test_digits_shapes_and_range(context):
    data = Digits().load(context)
    check(data, (1, 8, 8), np.float32, train=1437, test=360, classes=10)
    assert data.classes == tuple("0123456789")
    assert data.augment == "none"
    assert data.train.inputs.min() == 0
    assert data.train.inputs.max() == 1
    assert not context.cache.exists()


def test_digits_are_scikit_learns_each_once_with_its_label(context):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = sorted(zip(source.images.reshape(1797, 64).tolist(), source.target.tolist(), strict=True))
    data = Digits().load(context)
    pixels = np.concatenate([data.train.inputs, data.test.inputs]).reshape(1797, 64) * 16
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert sorted(zip(pixels.tolist(), labels.tolist(), strict=True)) == expected


def test_digits_split_is_stratified_and_always_the_same(context):
    data, again = Digits().load(context), Digits().load(context)
    in_test, in_all = np.bincount(data.test.labels), np.bincount(np.r_[data.train.labels, data.test.labels])
    assert np.abs(in_test - in_all / 5).max() < 1
    np.testing.assert_array_equal(data.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(data.test.labels, again.test.labels)
    pixels = (data.test.inputs * 16).astype(np.uint8).tobytes()
    assert hashlib.sha256(pixels).hexdigest().startswith("3c05733c55d71010")  # results of years ago stay comparable
    assert len(set(data.train.labels[:30].tolist())) == 10  # still in the source's order, not by class


def test_digits_can_be_learned(context):
    from sklearn.neighbors import KNeighborsClassifier

    data = Digits().load(context)
    model = KNeighborsClassifier(1).fit(data.train.inputs.reshape(-1, 64), data.train.labels)
    assert model.score(data.test.inputs.reshape(-1, 64), data.test.labels) > 0.97


# --- synthetic ---


def test_synthetic_shapes_range_and_balance(context):
    data = Synthetic(samples=103, test=52, classes=5, size=6, channels=2).load(context)
    check(data, (2, 6, 6), np.float32, train=103, test=52, classes=5)
    assert sorted(np.bincount(data.train.labels)) == [20, 20, 21, 21, 21]
    assert sorted(np.bincount(data.test.labels)) == [10, 10, 10, 11, 11]
    assert data.train.inputs.min() >= 0
    assert data.train.inputs.max() <= 1
    assert data.train.labels[:10].tolist() != [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_synthetic_default_and_smallest(context):
    check(Synthetic().load(context), (3, 8, 8), np.float32, train=2000, test=500, classes=10)
    smallest = Synthetic(samples=2, test=2, classes=2, size=1, channels=1)
    check(smallest.load(context), (1, 1, 1), np.float32, train=2, test=2, classes=2)


def test_synthetic_data_depend_on_their_own_seed_alone(context):
    options_ = {"samples": 40, "test": 20}
    first = Synthetic(**options_).load(context)
    np.random.seed(99)  # what a run's seed may have done to the global state
    same, other = Synthetic(**options_).load(context), Synthetic(**options_, seed=1).load(context)
    np.testing.assert_array_equal(first.train.inputs, same.train.inputs)
    np.testing.assert_array_equal(first.test.labels, same.test.labels)
    assert not np.array_equal(first.train.inputs, other.train.inputs)
    assert not np.array_equal(first.train.labels, other.train.labels)


def test_synthetic_test_part_does_not_change_the_training_part(context):
    few, many = (Synthetic(samples=40, test=test).load(context) for test in (10, 90))
    np.testing.assert_array_equal(few.train.inputs, many.train.inputs)


def test_synthetic_without_noise_is_its_prototypes_in_both_parts(context):
    data = Synthetic(samples=30, test=20, classes=4, noise=0).load(context)
    prototypes = {}
    for part in (data.train, data.test):
        for image, label in zip(part.inputs, part.labels.tolist(), strict=True):
            np.testing.assert_array_equal(prototypes.setdefault(label, image), image)
    assert len({image.tobytes() for image in prototypes.values()}) == 4


def test_synthetic_noise_is_measured_in_units_of_the_prototypes(context):
    clean, noisy = (Synthetic(samples=300, noise=noise).load(context).train for noise in (0, 1))
    np.testing.assert_array_equal(clean.labels, noisy.labels)
    assert np.std(noisy.inputs - clean.inputs) == pytest.approx(np.std(clean.inputs), rel=0.06)


def test_synthetic_parts_do_not_share_noise(context):
    data = Synthetic(samples=20, test=20).load(context)
    assert not {image.tobytes() for image in data.train.inputs} & {i.tobytes() for i in data.test.inputs}


def test_synthetic_is_learned_by_a_small_net(context):
    import torch

    data = Synthetic(samples=500, test=500).load(context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(192, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inputs, labels = torch.from_numpy(data.train.inputs) - 0.5, torch.from_numpy(data.train.labels)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        guesses = model(torch.from_numpy(data.test.inputs) - 0.5).argmax(1).numpy()
    assert (guesses == data.test.labels).mean() > 0.8
