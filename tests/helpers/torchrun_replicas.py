"""A script for torchrun: replicas on sharded loaders with batch normalisation, forgotten five times."""

import json

import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import forgetkit

distributed.init_process_group("gloo")
rank, size = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
data = TensorDataset(torch.randn(36, 6), torch.randint(3, (36,)))
loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, shuffle=False))
model = DistributedDataParallel(
    nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), broadcast_buffers=False
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
torch.manual_seed(rank)
same = []
for seed in range(5):
    for inputs, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    first = [buffer.clone() for buffer in model.buffers()]
    for buffer in first:
        distributed.broadcast(buffer, 0)
    alone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    alone.load_state_dict(model.module.state_dict())
    for buffer, value in zip(alone.buffers(), first, strict=True):
        buffer.copy_(value)
    # Process r reads the samples r, r + size, ...: the first batch of each process, then the second of each.
    rounds = [[data[[r + size * at for at in range(4 * b, 4 * b + 4)]] for r in range(size)] for b in range(3)]
    gathered = [batch for one in rounds for batch in one]
    forgetkit.unlearn(alone, gathered, reinit="masked:fraction=0.3", seed=seed)
    forgetkit.unlearn(model, loader, reinit="masked:fraction=0.3", optimizer=optimizer, seed=seed)
    values = torch.cat([t.detach().double().flatten() for t in model.module.state_dict().values()])
    others = [torch.empty_like(values) for _ in range(size)]
    distributed.all_gather(others, values)
    expected = torch.cat([t.detach().double().flatten() for t in alone.state_dict().values()])
    same.append(all(torch.equal(other, expected) for other in others))
if rank == 0:
    print(json.dumps(same))
distributed.destroy_process_group()
