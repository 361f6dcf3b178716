"""Errors of calibration against loops over bins, torchmetrics, and networks that are calibrated by construction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forgetkit.analysis.evidence import model_evidence
from forgetkit.builtin.analyses.calibration import COLDEST, HOTTEST, Calibration
from forgetkit.contracts import Answer
from forgetkit.errors import InapplicableError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.testing import check_analysis


def said(logits: Tensor, labels: Tensor, val: tuple[Tensor, Tensor] | None = None, **options) -> Answer:
    """What is said of a network that gives these logits."""
    parts = {"test": (logits, labels)} | ({} if val is None else {"val": val})
    return Calibration(**options).analyze(model_evidence(nn.Identity(), parts, Seeds(0)))


def value(answer: Answer, key: str) -> float:
    return answer.numbers[key].value


def of_confidence(confidence: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Logits of two classes, the first with this probability (0.5 or more), and labels."""
    p = torch.tensor(confidence, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1).clamp_min(-1e4).float()
    return logits, torch.tensor([0 if one else 1 for one in right])


def drawn(count: int = 400, classes: int = 4, sharp: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits, labels drawn from their own softmax: calibrated, but for the draw."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(count, classes, generator=rng)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng).flatten()


def loop(logits: Tensor, labels: Tensor, bins: int) -> tuple[float, float]:
    """ECE and MCE, bin by bin, sample by sample."""
    rows = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        powers = [math.exp(z - max(row)) for z in row]
        rows.append((max(powers) / sum(powers), row.index(max(row)) == label))
    gaps = []
    for at in range(bins):
        low, high = at / bins, (at + 1) / bins
        inside = [one for one in rows if low <= one[0] < high or (one[0] == 1 and at == bins - 1)]
        if inside:
            sure, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            gaps.append((len(inside) / len(rows), abs(sure - right)))
    return sum(share * gap for share, gap in gaps), max(gap for _, gap in gaps)


def test_it_keeps_its_promises():
    check_analysis(Calibration())


@pytest.mark.parametrize("bins", [1, 2, 7, 10, 15, 100])
def test_errors_are_those_of_a_loop_and_of_torchmetrics(bins):
    logits, labels = drawn(seed=bins)
    answer = said(logits * 1.7, labels, bins=bins)
    ece, mce = loop(logits * 1.7, labels, bins)
    assert value(answer, "ece") == pytest.approx(ece, abs=1e-12)
    assert value(answer, "mce") == pytest.approx(mce, abs=1e-12)
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    probabilities = (logits * 1.7).double().softmax(1)
    for key, norm in (("ece", "l1"), ("mce", "max")):
        theirs = metrics.multiclass_calibration_error(probabilities, labels, 4, n_bins=bins, norm=norm)
        assert value(answer, key) == pytest.approx(theirs.item(), abs=1e-6)


@given(
    places=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=30),
    bins=st.integers(1, 12),
)
def test_every_sample_is_in_one_bin(places, bins):
    """Confidence 0.5 and 1 as well, of which some are edges."""
    confidence = [0.5 + place / 80 for place, _ in places]
    logits, labels = of_confidence(confidence, [right for _, right in places])
    answer = said(logits, labels, bins=bins)
    table = answer.details["bins"]
    assert sum(row["samples"] for row in table) == len(places)
    assert sum(answer.charts[2].series[0].y) == pytest.approx(1)
    for row in table:
        assert (row["confidence"] is None) == (row["accuracy"] is None) == (row["samples"] == 0)
        assert row["samples"] == 0 or row["from"] - 1e-6 <= row["confidence"] <= row["to"] + 1e-6
    assert value(answer, "ece") == pytest.approx(loop(logits, labels, bins)[0], abs=1e-9)
    bound = abs(value(answer, "overconfidence"))
    assert bound - 1e-9 <= value(answer, "ece") <= value(answer, "mce") + 1e-9
    assert bound - 1e-9 <= value(answer, "adaptive_ece")


def test_confidence_of_exactly_one_is_in_the_last_bin():
    """All are certain and half of them wrong: each error is a half."""
    logits, labels = of_confidence([1.0] * 4, [True, False, True, False])
    answer = said(logits, labels)
    assert [row["samples"] for row in answer.details["bins"]] == [0] * 9 + [4]
    assert [value(answer, key) for key in ("ece", "mce", "adaptive_ece", "overconfidence")] == [0.5] * 4
    assert value(answer, "brier") == 1.0


def test_an_edge_belongs_to_the_bin_above_it():
    """Four classes of logit 0: a confidence of exactly 1/4."""
    table = said(torch.zeros(4, 4), torch.arange(4), bins=4).details["bins"]
    assert [row["samples"] for row in table] == [0, 4, 0, 0]


def test_what_is_calibrated_by_construction_has_no_error():
    """Of those that are sure by 0.6, 0.8 and 0.9, just so many are right."""
    confidence, right = [], []
    for sure in (0.6, 0.8, 0.9):
        confidence += [sure] * 10
        right += [at < round(10 * sure) for at in range(10)]
    answer = said(*of_confidence(confidence, right), bins=20)
    for key in ("ece", "mce", "adaptive_ece", "overconfidence"):
        assert value(answer, key) == pytest.approx(0, abs=1e-6)


def test_adaptive_bins_hold_equally_many_samples():
    rng = torch.Generator().manual_seed(0)
    confidence = (0.5 + 0.5 * torch.rand(60, generator=rng)).tolist()
    right = (torch.rand(60, generator=rng) < 0.7).tolist()
    logits, labels = of_confidence(confidence, right)
    rows = sorted(zip(logits.double().softmax(1)[:, 0].tolist(), right, strict=True))
    groups = [rows[start : start + 12] for start in range(0, 60, 12)]
    gap = sum(abs(sum(sure - hit for sure, hit in group)) for group in groups) / 60
    assert value(said(logits, labels, bins=5), "adaptive_ece") == pytest.approx(gap, abs=1e-9)
    ties, hits = of_confidence([0.9] * 40, [True] * 24 + [False] * 16)
    order = torch.randperm(40, generator=rng)
    for logits, labels in ((ties, hits), (ties[order], hits[order])):
        assert value(said(logits, labels), "adaptive_ece") == pytest.approx(0.3, abs=1e-6)
    logits, labels = of_confidence([0.6] * 6 + [0.9] * 4, [True] * 6 + [False] * 4)  # most of the six in the first half
    assert value(said(logits, labels, bins=2), "adaptive_ece") == pytest.approx(0.6 * 0.4 + 0.4 * 0.9, abs=1e-6)


def test_nll_and_brier_are_those_of_sums_over_samples():
    logits, labels = drawn(50)
    answer = said(logits, labels)
    nll, brier = 0.0, 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = sum(map(math.exp, row))
        p = [math.exp(z) / total for z in row]
        nll -= math.log(p[label]) / 50
        brier += sum((q - (at == label)) ** 2 for at, q in enumerate(p)) / 50
    assert value(answer, "nll") == pytest.approx(nll)
    assert value(answer, "brier") == pytest.approx(brier)


@pytest.mark.parametrize("too_sure", [0.2, 1.0, 3.0])
def test_the_temperature_undoes_what_made_a_network_too_sure(too_sure):
    logits, labels = drawn(20_000)
    answer = said(logits * too_sure, labels, val=(logits * too_sure, labels))
    assert value(answer, "temperature") == pytest.approx(too_sure, rel=0.05)
    assert value(answer, "ece_scaled") < 0.02
    if too_sure != 1:
        assert value(answer, "ece_scaled") < value(answer, "ece") / 5
        assert (value(answer, "overconfidence") > 0) == (too_sure > 1)


def test_the_temperature_has_the_least_nll_on_validation_samples():
    """On a fine grid around it there is none less; the test part has no say."""
    logits, labels = drawn(300, sharp=3.0, seed=1)
    val = drawn(200, sharp=1.0, seed=2)
    val = (val[0] * 2.5, val[1])
    answer = said(logits, labels, val=val)
    best = value(answer, "temperature")

    def nll(temperature, inputs, targets):
        return nn.functional.cross_entropy(inputs.double() / temperature, targets).item()

    assert all(nll(best, *val) <= nll(best * factor, *val) for factor in (0.5, 0.97, 0.999, 1.001, 1.03, 2.0))
    assert answer.details["nll_scaled"] == pytest.approx(nll(best, logits, labels))
    assert value(answer, "ece_scaled") == pytest.approx(loop(logits.double() / best, labels, 10)[0], abs=1e-9)
    assert value(said(*drawn(30, seed=4), val=val), "temperature") == best


def test_a_temperature_at_the_end_is_said():
    """All right: the colder the better. Never right: the hotter the better."""
    logits = torch.eye(3).repeat(4, 1)
    labels = torch.arange(12) % 3
    for val, end in (((logits, labels), COLDEST), ((logits, (labels + 1) % 3), HOTTEST)):
        answer = said(*drawn(20, 3), val=val)
        assert value(answer, "temperature") == end
        assert "the end of the range" in answer.remarks[0]


def test_without_a_validation_part_no_temperature_is_fitted():
    answer = said(*drawn())
    assert set(answer.numbers) == {"ece", "mce", "adaptive_ece", "nll", "brier", "overconfidence"}
    assert answer.remarks[0].startswith("no temperature was fitted: ")


def test_the_diagram_leaves_empty_bins_out():
    logits, labels = of_confidence([0.55, 0.58, 0.95, 1.0], [True, False, True, True])
    reliability, gap, histogram = said(logits, labels).charts
    assert reliability.diagonal
    assert list(reliability.series[0].x) == pytest.approx([0.05 + 0.1 * at for at in range(10)])
    assert list(reliability.series[0].y) == [None] * 5 + [0.5] + [None] * 3 + [1.0]
    assert list(gap.series[0].x) == list(reliability.series[0].x)
    assert list(gap.series[0].y) == pytest.approx([None] * 5 + [0.065] + [None] * 3 + [-0.025], abs=1e-6)
    assert list(histogram.series[0].y) == [0] * 5 + [0.5] + [0] * 3 + [0.5]
    assert histogram.series[0].x[-1] == "90–100"


def test_fewer_samples_are_looked_at_where_fewer_are_asked_for():
    assert said(*drawn(), samples=30).details["samples"] == 30
    assert said(*drawn()).details["samples"] == 400


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused_in_a_line(bad):
    logits, labels = drawn()
    broken = logits.clone()
    broken[7, 1] = bad
    with pytest.raises(InapplicableError, match="not finite"):
        said(broken, labels)
    assert "not finite" in said(logits, labels, val=(broken, labels)).remarks[0]


@pytest.mark.parametrize("options", ["bins=0", "bins=2.5", "samples=0", "bins=none"])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(OptionError, match="calibration: option"):
        registry.load().make("analyses", f"calibration:{options}")
