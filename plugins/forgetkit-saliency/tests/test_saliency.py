"""The package as installed: found through its entry point, and right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forgetkit_saliency.gradient import Gradient

import forgetkit
from forgetkit.registry import registry


def test_it_is_found_through_its_entry_point() -> None:
    offer = registry.load().find("importance", "gradient")
    assert (offer.component, offer.distribution) == (Gradient, "forgetkit-saliency")


def test_the_score_is_the_gradient_of_the_mean_loss() -> None:
    model = torch.nn.Linear(5, 3)
    inputs, targets = torch.randn(10, 5), torch.randint(3, (10,))
    scores = forgetkit.score(model, [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])], importance="gradient")
    probability = torch.softmax(inputs @ model.weight.T + model.bias, 1).detach()
    residual = (probability - torch.eye(3)[targets]) / 10  # the closed form for a linear model
    torch.testing.assert_close(scores["weight"], (residual.T @ inputs).abs())
    torch.testing.assert_close(scores["bias"], residual.sum(0).abs())


def test_no_more_samples_than_asked_for() -> None:
    model = torch.nn.Linear(5, 3)
    inputs, targets = torch.randn(10, 5), torch.randint(3, (10,))
    few = forgetkit.score(model, [(inputs, targets)], importance=Gradient(samples=4))
    same = forgetkit.score(model, [(inputs[:4], targets[:4])], importance="gradient")
    torch.testing.assert_close(few, same)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["convnet:width=4", "mlp:width=8"])
def test_it_runs(tmp_path: Path, model: str) -> None:
    options = {
        "importance": "gradient:samples=64",
        "model": model,
        "epochs": 2,
        "mega_batches": 2,
        "out": str(tmp_path),
    }
    result = forgetkit.run(options)
    assert result["versions"]["plugins"]["forgetkit-saliency"] == "0.1.0"
    assert result["mega_batches"][0]["unlearn"]["reset"] == result["parameters"] * 2 // 10
