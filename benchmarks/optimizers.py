"""Compare the optimizer's state of reset entries, and their first moves, with those of a new optimizer.

A network trains, half of its entries are reset, and it takes steps on more batches. Beside it, a copy takes the same
steps with a new optimizer. The table says whether the state of reset entries equals a new optimizer's after one step
with zero gradient and no weight decay, what was not cleared, and how far reset entries move: the sum of their absolute
moves, divided by that under the new optimizer, after one step and after ten. Seeds are averaged.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import logging
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

import forgetkit

Make = Callable[[Iterable[Any]], Any]
RULES = ("zero", "rescaled")
TRAINED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger("forgetkit").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print("| optimizer | state of reset entries | 1 step, `zero` | `rescaled` | 10 steps, `zero` | `rescaled` |")
    print("|---|---|---|---|---|---|")
    for name, make in optimizers().items():
        rows = {rule: [measure(make, rule, seed) for seed in range(options.seeds)] for rule in RULES}
        moves = [statistics.mean(row.moves[at] for row in rows[rule]) for at in (0, 1) for rule in RULES]
        print(f"| {name} | {rows['zero'][0].state} | " + " | ".join(map(ratio, moves)) + " |")


def ratio(move: float) -> str:
    """Format a ratio; there is none where a new optimizer does not move yet."""
    if math.isinf(move):
        return "∞"
    return f"{move:.2f}" if move < 1000 else "> 1000"


@dataclass(frozen=True)
class Row:
    """What one training shows."""

    state: str
    moves: tuple[float, float]


def optimizers() -> dict[str, Make]:
    """Return those of torch, and those of other packages that are installed."""
    found: dict[str, Make] = {
        "SGD (momentum 0.9)": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
        "Adam": lambda p: optim.Adam(p, lr=0.003),
        "Adam (amsgrad)": lambda p: optim.Adam(p, lr=0.003, amsgrad=True),
        "AdamW": lambda p: optim.AdamW(p, lr=0.003),
        "Adamax": lambda p: optim.Adamax(p, lr=0.003),
        "NAdam": lambda p: optim.NAdam(p, lr=0.003),
        "RAdam": lambda p: optim.RAdam(p, lr=0.003),
        "SparseAdam": lambda p: optim.SparseAdam(p, lr=0.003),
        "RMSprop": lambda p: optim.RMSprop(p, lr=0.001),
        "RMSprop (centered, momentum 0.9)": lambda p: optim.RMSprop(p, lr=0.001, centered=True, momentum=0.9),
        "Adagrad": lambda p: optim.Adagrad(p, lr=0.01),
        "Adagrad (accumulator 0.1)": lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
        "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
        "ASGD": lambda p: optim.ASGD(p, lr=0.05, t0=100),
        "Rprop": lambda p: optim.Rprop(p, lr=0.001),
        "Adafactor": lambda p: optim.Adafactor(p, lr=0.01),
        "Muon (matrices)": lambda p: optim.Muon([each for each in p if each.ndim == 2], lr=0.01),
        "LBFGS": lambda p: optim.LBFGS(p, lr=0.1, max_iter=2),
    }
    for module, kind, label, options in (
        ("schedulefree", "AdamWScheduleFree", "Schedule-Free AdamW", {"lr": 0.003}),
        ("schedulefree", "SGDScheduleFree", "Schedule-Free SGD", {"lr": 0.1}),
        ("schedulefree", "RAdamScheduleFree", "Schedule-Free RAdam", {"lr": 0.003}),
        ("bitsandbytes.optim", "Adam8bit", "bitsandbytes Adam8bit", {"lr": 0.003, "min_8bit_size": 1}),
        ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes AdamW8bit", {"lr": 0.003, "min_8bit_size": 1}),
        ("lion_pytorch", "Lion", "Lion", {"lr": 0.001}),
        ("transformers.optimization", "Adafactor", "transformers Adafactor", {}),
        ("pytorch_optimizer", "Shampoo", "Shampoo", {"lr": 0.01}),
        ("pytorch_optimizer", "SOAP", "SOAP", {"lr": 0.003}),
    ):
        try:
            found[label] = partial(getattr(importlib.import_module(module), kind), **options)
        except ImportError:
            print(f"<!-- {label} is left out: {module.partition('.')[0]} is not installed -->")
    return found


def measure(make: Make, rule: Any, seed: int) -> Row:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 4))
    teacher = torch.randn(12, 4)
    optimizer = new(make, model)
    for _ in range(TRAINED):
        step(model, optimizer, batch(teacher))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = forgetkit.unlearn(
        model,
        importance="random",
        reinit="masked:fraction=0.5",
        optimizer=[optimizer],
        seed=seed,
        fresh="module",
        policy=forgetkit.ResetPolicy(optimizer_state=rule),
    )
    masks = {name: p.detach() != before[name] for name, p in model.named_parameters()}
    state = describe(make, optimizer, model, masks, report)
    twin = copy.deepcopy(model)
    other, start = new(make, twin), {name: p.detach().clone() for name, p in model.named_parameters()}
    moves = []
    held = [name for name, p in model.named_parameters() if any(p is q for q in parameters(optimizer))]
    for number in range(10):
        data = batch(teacher)
        for network, its in ((model, optimizer), (twin, other)):
            step(network, its, data)
        if number in (0, 9):
            own, beside = (
                sum(float((dict(m.named_parameters())[n].detach() - start[n])[masks[n]].abs().sum()) for n in held)
                for m in (model, twin)
            )
            moves.append(own / beside if beside else math.inf)
    return Row(state, (moves[0], moves[1]))


def parameters(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def new(make: Make, model: nn.Module) -> Any:
    optimizer = make(list(model.parameters()))
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return optimizer


def batch(teacher: Tensor) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(64, 12)
    return inputs, (inputs @ teacher).argmax(1)


def step(model: nn.Module, optimizer: Any, data: tuple[Tensor, Tensor]) -> None:
    def closure() -> Tensor:
        model.zero_grad()
        loss = cross_entropy(model(data[0]), data[1])
        loss.backward()  # type: ignore[no-untyped-call]
        if isinstance(optimizer, optim.SparseAdam):
            for p in model.parameters():
                p.grad = None if p.grad is None else p.grad.to_sparse()
        return loss

    if isinstance(optimizer, optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def describe(make: Make, optimizer: Any, model: nn.Module, masks: dict[str, Tensor], report: Any) -> str:
    """Compare entry by entry with a new optimizer that has taken one step without gradient."""
    named = [line.partition(" (")[2].partition(")")[0] for line in report.remarks if "not per entry" in line]
    if isinstance(optimizer, optim.LBFGS):
        return "not per entry: all of it"
    twin = copy.deepcopy(model)
    other = new(make, twin)
    for group in other.param_groups:
        group.update({key: 0.0 for key in ("weight_decay", "lambd") if key in group})
    for p in twin.parameters():
        p.grad = torch.zeros_like(p)
        p.grad = p.grad.to_sparse() if isinstance(other, optim.SparseAdam) else p.grad
    other.step()
    differing = 0
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.ndim and key not in ", ".join(named):
                own, theirs = value, other.state[q][key]
                if value.dtype == torch.uint8:
                    own, theirs = decode(optimizer.state[p], key), decode(other.state[q], key)
                differing += int((own != theirs)[masks[name]].sum())
    answer = "a new one's" if not differing else f"{differing} entries differ"
    return answer + (f"; not per entry: {named[0].replace('_', chr(92) + '_')}" if named else "")


def decode(state: dict[str, Any], key: str) -> Tensor:
    scales = state[f"absmax{key[-1]}"].repeat_interleave(256)[: state[key].numel()]
    values: Tensor = state[f"qmap{key[-1]}"][state[key].long()] * scales.view(state[key].shape)
    return values


if __name__ == "__main__":
    main()
