"""Forgetting after each epoch of a loop that Accelerate prepared."""

import torch
from accelerate import Accelerator

from forgetkit.integrations.accelerate import Unlearner

accelerator, model = Accelerator(cpu=True), torch.nn.Linear(8, 3)
forget = Unlearner(accelerator, importance="snip", reinit="masked:fraction=0.2", seed=1)
data = [(torch.randn(8), torch.randint(3, ())) for _ in range(64)]
loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters()), loader)
for _ in range(3):
    for inputs, targets in loader:
        accelerator.backward(torch.nn.functional.cross_entropy(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    report = forget.unlearn(model, optimizer, loader)
