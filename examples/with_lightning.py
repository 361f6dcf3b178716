"""Forgetting between two epochs of a Lightning fit."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset

from forgetkit.integrations.lightning import ForgetCallback

data = torch.utils.data.DataLoader(RandomDataset(32, 64), batch_size=16)
forget = ForgetCallback(importance="snip", reinit="masked:fraction=0.2", every="epoch", seed=1)
trainer = pl.Trainer(max_epochs=3, callbacks=[forget], accelerator="cpu", limit_val_batches=0)
trainer.fit(BoringModel(), data)
