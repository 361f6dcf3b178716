"""Forgetting between two experiences of an Avalanche stream."""

import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training import Naive

from forgetkit.integrations.avalanche import ForgetPlugin

parts = [(torch.randn(64, 8), torch.randint(3, (64,))) for _ in range(3)]
benchmark = tensors_benchmark(train_tensors=parts, test_tensors=parts, task_labels=[0, 0, 0])
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
forget = ForgetPlugin(importance="snip", reinit="masked:fraction=0.2", every="experience", seed=1)
optimizer = torch.optim.Adam(model.parameters())
Naive(model=model, optimizer=optimizer, plugins=[forget]).train(benchmark.train_stream)
