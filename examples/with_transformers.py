"""Forgetting between two epochs of a Hugging Face Trainer."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from forgetkit.integrations.transformers import ForgetCallback

config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
rows = [{"input_ids": row, "labels": row[0] % 2} for row in torch.randint(16, (64, 6))]
forget = ForgetCallback(importance="snip", reinit="masked:fraction=0.2", every="epoch", seed=1)
arguments = TrainingArguments("runs-of-bert", num_train_epochs=3, report_to=[], use_cpu=True)
model = BertForSequenceClassification(config)
Trainer(model, arguments, train_dataset=rows, callbacks=[forget]).train()
