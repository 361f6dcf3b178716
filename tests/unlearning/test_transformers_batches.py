"""Models of transformers take their own batches, without a wrapper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forgetkit

transformers: Any = pytest.importorskip("transformers")

GENERATOR = torch.Generator().manual_seed(2)
IDS = torch.randint(5, 40, (6, 7), generator=GENERATOR)
CLASSES = torch.arange(6) % 3
TOKENS = IDS.clone()
TOKENS[:, :2], TOKENS[0] = -100, -100
PIXELS = torch.rand(6, 3, 16, 16, generator=GENERATOR)
BODY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
TEXT = {**BODY, "vocab_size": 40}
IMAGE = {**BODY, "image_size": 16, "patch_size": 8}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Bert ForSequenceClassification": ({**TEXT, "num_labels": 3}, {"input_ids": IDS, "labels": CLASSES}),
    "Bert ForMaskedLM": (TEXT, {"input_ids": IDS, "labels": TOKENS}),
    "Roberta ForSequenceClassification": ({**TEXT, "num_labels": 3}, {"input_ids": IDS, "labels": CLASSES}),
    "DistilBert ForTokenClassification": (
        {"vocab_size": 40, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12, "num_labels": 3},
        {"input_ids": IDS, "labels": (TOKENS % 3).where(TOKENS >= 0, -100)},
    ),
    "GPT2 LMHeadModel": (
        {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8},
        {"input_ids": IDS, "labels": TOKENS},
    ),
    "Llama ForCausalLM": ({**TEXT, "num_key_value_heads": 1}, {"input_ids": IDS, "labels": TOKENS}),
    "Mistral ForCausalLM": ({**TEXT, "num_key_value_heads": 1}, {"input_ids": IDS, "labels": TOKENS}),
    "T5 ForConditionalGeneration": (
        {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
         "decoder_start_token_id": 0},
        {"input_ids": IDS, "labels": TOKENS},
    ),
    "ViT ForImageClassification": ({**IMAGE, "num_labels": 3}, {"pixel_values": PIXELS, "labels": CLASSES}),
    "Wav2Vec2 ForCTC": (
        {**BODY, "vocab_size": 12, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (5, 4),
         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
         "mask_time_prob": 0.0, "pad_token_id": 0},
        {"input_values": torch.randn(6, 400, generator=GENERATOR), "labels": IDS[:, :4] % 11 + 1},
    ),
}  # fmt: skip


def built(name: str) -> nn.Module:
    kind, head = name.split()
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind + head)(getattr(transformers, f"{kind}Config")(**MODELS[name][0]))
    return model


def cut(batch: dict[str, Tensor], *edges: int) -> list[Any]:
    pairs = zip((0, *edges), (*edges, 6), strict=True)
    return [transformers.BatchEncoding({key: value[a:b] for key, value in batch.items()}) for a, b in pairs]


@pytest.mark.parametrize("criterion", ["snip", "fisher"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_scored_and_reset_without_a_wrapper(name, criterion):
    batch = MODELS[name][1]
    one = forgetkit.score(built(name), cut(batch), importance=criterion)
    several = forgetkit.score(built(name), cut(batch, 1, 4), importance=criterion)
    largest = max(float(score.max()) for score in one.values())
    assert all((one[key] - several[key]).abs().max() <= 1e-5 * largest for key in one)
    model = built(name)
    report = forgetkit.unlearn(model, cut(batch), importance=criterion, reinit="masked:fraction=0.2")
    assert report.reset == report.scored // 5
    forgetkit.unlearn(model, reinit="cold")


def test_the_score_of_a_language_model_is_that_of_its_labels():
    model, batch = built("Llama ForCausalLM"), MODELS["Llama ForCausalLM"][1]
    model(**batch).loss.backward()
    found = forgetkit.score(built("Llama ForCausalLM"), cut(batch, 1, 2, 5))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], (parameter * parameter.grad).abs().detach(), rtol=1e-3, atol=1e-6)
