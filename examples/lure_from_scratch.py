"""Learn, Unlearn and Relearn (LURE) in plain torch, on the digits that come with scikit-learn.

Equations, sections and lines of Algorithm 1 are those of Ramkumar, Arani and Zonooz, TMLR 2023.
Equals to the bit `forgetkit run --preset paper --device cpu --precision fp32 --threads 1 --seed 0`.
"""

import argparse
from statistics import fmean

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from forgetkit.builtin.models.convnet import ConvNet
from forgetkit.contracts import Inputs
from forgetkit.seeding import Seeds

VALIDATION, SCORING, RETAINED = 0.1, 0.2, 0.8  # shares: section 4, α in section 3, table 7
BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 64, 0.1, 0.9, 1e-4  # section A.5


def lure(seed: int, mega_batches: int = 8, epochs: int = 50) -> tuple[nn.Module, list, int, float]:
    """Run Algorithm 1 with full replay; return the model, its test accuracies, CER and gap."""
    seeds = Seeds(seed)
    images, labels, train, test = load_images()
    stream = partition(train, mega_batches, seeds)
    known = images[stream[0][0]].double()  # later mega-batches have not arrived yet
    images = (images - known.mean().float()) / known.std(correction=0).float()
    torch.manual_seed(seeds.number("init"))
    model = ConvNet().build(Inputs((1, 8, 8), 10, mean=(0.0,), std=(1.0,)), nn.Identity())
    model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    seen = held_out = torch.empty(0, dtype=torch.int64)
    accuracies, gaps, cer = [], [], 0
    print("mega-batch  samples  test accuracy  errors     gap")
    for i, (arrived, validation) in enumerate(stream, start=1):  # lines 1 and 2
        seen = torch.cat([seen.sort().values, arrived])  # line 4: the union of M_1 to M_i
        held_out = torch.cat([held_out, validation])
        learn(model, optimizer, images[seen], labels[seen], epochs, seeds.within(i))  # line 7
        train_accuracy, _ = evaluate(model, images[seen], labels[seen])
        val_accuracy, _ = evaluate(model, images[held_out], labels[held_out])
        test_accuracy, errors = evaluate(model, images[test], labels[test])
        accuracies.append(test_accuracy)
        gaps.append(train_accuracy - val_accuracy)  # section 4
        cer += errors  # equation 4
        print(f"{i:10} {len(seen):8} {test_accuracy:14.2%} {errors:7} {gaps[-1]:7.2%}")

        if i < mega_batches:
            draws = seeds.within("unlearn", i)
            order = torch.randperm(len(arrived), generator=draws.torch("score", "order"))
            subset = arrived[order[: int(SCORING * len(arrived))]]  # line 8: π_i
            mask = estimate_importance(model, images[subset], labels[subset])  # line 9
            reinitialize(model, optimizer, mask, draws)  # lines 10 to 12
    print(f"test accuracy {accuracies[-1]:.2%}, CER {cer}, generalization gap {fmean(gaps):.2%}")
    return model, accuracies, cer, fmean(gaps)


def load_images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images, labels, training ids and test ids: every fifth image, class by class."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images / 16).float(), torch.from_numpy(digits.target)
    ids, test = torch.arange(len(labels)), labels.argsort(stable=True)[::5]
    return images.unsqueeze(1), labels, ids[~torch.isin(ids, test)], test


def partition(ids: Tensor, mega_batches: int, seeds: Seeds) -> list[tuple[Tensor, Tensor]]:
    """Cut the stream into M_1 to M_t at random, each into training and validation (section 4)."""
    parts = ids[seeds.numpy("split").permutation(len(ids))].tensor_split(mega_batches)
    return [part.tensor_split([len(part) - int(VALIDATION * len(part))]) for part in parts]


def learn(model, optimizer, images, labels, epochs, seeds) -> None:
    """Minimize the cross-entropy (equation 1); the learning rate falls twice (section A.5)."""
    model.train()
    for epoch in range(1, epochs + 1):
        falls = (epoch > 0.4 * epochs) + (epoch > 0.8 * epochs)  # after 20 and 40 of 50 epochs
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.1**falls
        order = torch.randperm(len(labels), generator=seeds.torch(epoch, "order"))
        for batch in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, int]:
    """Return the accuracy and the number of errors."""
    correct = int((model.eval()(images).argmax(1) == labels).sum())
    return correct / len(labels), len(labels) - correct


def estimate_importance(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Return SNIP's mask M, True for the most salient parameters of all layers (equation 2)."""
    loss = cross_entropy(model.eval()(images), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    # At M = 1 the mask's gradient is θ ∂L/∂θ; dividing by the sum over all changes no ranking.
    saliencies = [(p * g).abs().detach() for p, g in zip(model.parameters(), grads, strict=True)]
    pooled = torch.cat([saliency.flatten() for saliency in saliencies])
    threshold = pooled.topk(int(RETAINED * len(pooled))).values[-1]  # the k-th largest
    return [saliency >= threshold for saliency in saliencies]


@torch.no_grad()
def reinitialize(model: nn.Module, optimizer: SGD, mask: list[Tensor], seeds: Seeds) -> None:
    """Give what is not retained new uniform values (equation 3) and no momentum."""
    for (name, theta), retained in zip(model.named_parameters(), mask, strict=True):
        bound = 1 / theta[0].numel() ** 0.5  # 1 / √fan_in
        new = torch.empty(theta.shape).uniform_(-bound, bound, generator=seeds.torch("fresh", name))
        theta.copy_(torch.where(retained, theta, new))
        optimizer.state[theta]["momentum_buffer"][~retained] = 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The LURE paper on handwritten digits.")
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    lure(parser.parse_args().seed)
