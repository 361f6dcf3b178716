"""Forgetting between two epochs of a skorch net."""

import numpy as np
import torch
from skorch import NeuralNetClassifier

from forgetkit.integrations.skorch import Forget

inputs = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
forget = Forget(importance="snip", reinit="masked:fraction=0.2", every="epoch", seed=1)
loss = torch.nn.CrossEntropyLoss
net = NeuralNetClassifier(layers, criterion=loss, max_epochs=3, callbacks=[forget])
net.fit(inputs, inputs[:, :3].argmax(1))
