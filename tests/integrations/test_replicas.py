"""Replicas under DDP stay equal to the bit when a trainer resets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.optional_packages import import_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.children, pytest.mark.filterwarnings("ignore")]

COMMON = """
import hashlib, torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(64, 8)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8, shuffle=True)

def tell(rank, model, resets):
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    print(f"\\nANSWER {rank} {resets} {hashlib.sha256(flat.numpy().tobytes()).hexdigest()}\\n", flush=True)
"""
ACCELERATE = """
from accelerate import Accelerator
from forgetkit.integrations.accelerate import Unlearner

accelerator = Accelerator(cpu=True)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
unlearner = Unlearner(accelerator, importance="snip:samples=40", reinit="masked:fraction=0.3", seed=1)
model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 0.01), loader)
for epoch in range(2):
    for inputs, targets in loader:
        accelerator.backward(cross_entropy(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    unlearner.unlearn(model, optimizer, loader)
tell(accelerator.process_index, model, unlearner.resets)
"""
LIGHTNING = """
import lightning.pytorch as pl
from forgetkit.integrations.lightning import ForgetCallback

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(8, 16), torch.nn.Linear(16, 3)

    def forward(self, inputs):
        return self.last(self.first(inputs).relu())

    def training_step(self, batch, index):
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)

forget = ForgetCallback(reinit="masked:fraction=0.3", every=3, seed=1)
quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
trainer = pl.Trainer(max_epochs=2, callbacks=[forget], accelerator="cpu", devices=2, strategy="ddp", **quiet)
model = Net()
trainer.fit(model, loader)
tell(trainer.global_rank, model, forget.resets)
"""


@pytest.mark.parametrize("name", ["accelerate", "lightning"])
def test_replicas_stay_equal(name: str, tmp_path: Path) -> None:
    import_or_skip({"lightning": "lightning.pytorch"}.get(name, name))
    script = tmp_path / "train.py"
    script.write_text(COMMON + {"accelerate": ACCELERATE, "lightning": LIGHTNING}[name])
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *run, str(script)], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
    )
    answers = sorted(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ANSWER"))
    assert len(answers) == 2, done.stderr[-3000:]
    assert [rank for rank, _, _ in answers] == ["0", "1"]
    assert answers[0][1:] == answers[1][1:]
    assert answers[0][1] == "2"
