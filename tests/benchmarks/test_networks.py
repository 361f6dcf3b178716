"""The judge of the networks' benchmark: it passes what is right, and catches what is wrong."""

from __future__ import annotations

import networks
import pytest
import torch
from network_cases import zoo
from network_cases.judge import Distribution, Verdict, judge_all, judge_reset, judge_scores, judge_units
from torch import nn

KNOWN = dict(zoo._plain())


@pytest.mark.parametrize("name", ["plain:Mlp", "plain:TwoHeads", "plain:convolutional", "plain:ConvTranspose"])
def test_what_is_right_passes(name: str) -> None:
    subject = KNOWN[name].subject()
    verdicts = judge_all(subject, Distribution.of_network(subject.build))
    assert {column: verdict.word for column, verdict in verdicts.items()} == dict.fromkeys(verdicts, "right")


@pytest.mark.parametrize("name", ["plain:MlpInit", "plain:MlpApply", "plain:MlpHelper", "plain:Wrapped"])
@pytest.mark.parametrize("reinit", ["cold", "rifle"])
def test_fresh_values_of_modules_are_caught_where_code_initialises_them(name: str, reinit: str) -> None:
    subject = KNOWN[name].subject()
    start = Distribution.of_network(subject.build)
    assert judge_reset(subject, start, reinit).word == "refused"
    assert judge_reset(subject, start, reinit, subject.build).word == "right"
    insisting = judge_reset(subject, start, reinit, fresh="module")
    assert insisting.word == ("right" if (name, reinit) == ("plain:MlpHelper", "rifle") else "wrong")


def test_what_a_script_initialises_is_wrong_and_found() -> None:
    subject = KNOWN["plain:by a script"].subject()
    row = networks.measure("plain:by a script", KNOWN["plain:by a script"])
    assert row.outside == "yes; without build=: wrong"
    assert judge_reset(subject, Distribution.of_network(subject.build), "cold", subject.build).word == "right"


def test_scores_and_units_are_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = KNOWN["plain:Mlp"].subject()
    assert judge_scores(subject, "fisher") == Verdict("right")
    monkeypatch.setattr(subject, "loss", lambda model, batch: model(batch[0]).pow(2).mean())
    assert judge_scores(subject, "snip").word == "wrong"
    monkeypatch.setattr("forgetkit.unlearning.units._ChannelTracer._read", lambda *_, **__: None)
    assert judge_units(KNOWN["plain:Mlp"].subject(), "redo").word == "refused"


def test_an_error_that_is_no_line_of_forgetkit_counts_as_one() -> None:
    subject = KNOWN["plain:Mlp"].subject()
    start = Distribution.of_network(subject.build)

    def fails() -> nn.Module:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_reset(subject, start, "cold", fails)
    subject.batches = object()  # type: ignore[assignment]
    assert judge_reset(subject, start, "rifle").word in ("refused", "error")


def test_constants_must_be_equal_and_draws_alike() -> None:
    draws = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    every = torch.ones(1000, dtype=torch.bool)
    assert Distribution(draws).objection(torch.randn(1000), every) is None
    for wrong in (torch.randn(1000) * 1.5, torch.randn(1000) / 1.5, torch.randn(1000) + 0.5, torch.zeros(1000)):
        assert Distribution(draws).objection(wrong, every) is not None
    constant = Distribution(torch.ones(3, 1000))
    assert constant.objection(torch.ones(1000), every) is None
    assert constant.objection(torch.ones(1000) * 1.001, every) == "a constant entry has another value"
