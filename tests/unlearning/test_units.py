"""Units: their places, found on a traced graph; what resetting them comes to; what their readers see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torchvision
from helpers.unlearning_networks import Net, refused
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Change, Inputs, ReinitContext, UnitGroup, UnitSlice
from forgetkit.errors import OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.training import build_network
from forgetkit.unlearning import ModelHistory, Scoring
from forgetkit.unlearning.activity import activity_in, capture_inputs
from forgetkit.unlearning.model_view import ModelView
from forgetkit.unlearning.units import units_of

Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(outputs)
        self.outer = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.outer_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(self.inner_norm(self.inner(x)))
        return torch.relu(self.outer_norm(self.outer(inside)) + self.shortcut(x))


class Residual(nn.Module):
    """Four units into five: an identity shortcut, then one that projects."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.same, self.wider = Block(4, 4), Block(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wider(self.same(torch.relu(self.stem(x)))).mean((2, 3)))


class Concatenated(nn.Module):
    """A concatenation, a kernel for each channel, flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.apart = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.norm = nn.BatchNorm1d(7 * 16)
        self.head = nn.Linear(7 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        return self.head(self.norm(self.apart(both).flatten(1)))


class Attending(nn.Module):
    """What mixes channels, and a hidden layer that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.out = nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1).reshape(len(x), -1, 4))
        n = self.norm(x)
        x = x + self.attend(n, n, n, need_weights=False)[0]
        return self.head((x + self.out(torch.nn.functional.gelu(self.hidden(x)))).mean(1))


def images(count: int = 6, channels: int = 2, side: int = 4) -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.rand(count, channels, side, side), torch.arange(count) % 3)]


def units(model: nn.Module, batches: Iterable[Batch] | None = None) -> dict[str, UnitGroup]:
    batches = images() if batches is None else batches
    subject = ModelView.of(model, batches, cross_entropy, Seeds(0), Scoring(), ModelHistory())
    return {group.name: group for group in subject.units}


def places(shares: Iterable[UnitSlice]) -> list[tuple[str, int, int, int]]:
    return [(s.name, s.dim, s.start, s.repeat) for s in shares]


def test_units_of_residual_blocks_and_their_shared_stream() -> None:
    found = units(Residual())
    assert list(found) == ["stem", "same.inner", "wider.inner", "wider.outer"]
    inner = found["same.inner"]
    assert (inner.size, inner.coupled, inner.readers) == (4, False, ("same.outer",))
    assert places(inner.incoming) == [("same.inner.weight", 0, 0, 1)]
    assert inner.bias == ()
    assert places(inner.norm) == [("same.inner_norm.weight", 0, 0, 1), ("same.inner_norm.bias", 0, 0, 1)]
    assert [s.name for s in inner.stats] == ["same.inner_norm.running_mean", "same.inner_norm.running_var"]
    assert places(inner.outgoing) == [("same.outer.weight", 1, 0, 1)]
    stream = found["stem"]
    assert (stream.size, stream.coupled) == (4, True)
    assert [s.name for s in stream.incoming] == ["stem.weight", "same.outer.weight"]
    assert [s.name for s in stream.bias] == ["stem.bias", "same.outer.bias"]
    assert stream.readers == ("same.inner", "wider.inner", "wider.shortcut")
    last = found["wider.outer"]
    assert [s.name for s in last.incoming] == ["wider.outer.weight", "wider.shortcut.weight"]
    assert places(last.outgoing) == [("head.weight", 1, 0, 1)]


def test_units_of_a_concatenation_and_of_flattened_maps() -> None:
    found = units(Concatenated())
    assert list(found) == ["left", "right"]
    assert places(found["right"].incoming) == [("right.weight", 0, 0, 1), ("apart.weight", 0, 3, 1)]
    assert places(found["right"].bias) == [("right.bias", 0, 0, 1), ("apart.bias", 0, 3, 1)]
    assert places(found["right"].norm) == [("norm.weight", 0, 48, 16), ("norm.bias", 0, 48, 16)]
    assert places(found["right"].outgoing) == [("head.weight", 1, 48, 16)]
    assert places(found["left"].outgoing) == [("head.weight", 1, 0, 16)]


def test_what_is_mixed_otherwise_is_not_offered() -> None:
    assert list(units(Attending())) == ["hidden"]


def test_frozen_parameters_close_their_units() -> None:
    model = Residual()
    model.same.outer.weight.requires_grad_(False)
    assert list(units(model)) == ["wider.inner", "wider.outer"]


def test_a_network_that_cannot_be_traced_is_said_in_one_line() -> None:
    asks = Net(lambda net, x: net.layer(x.flatten(1)) * (2 if float(x.sum()) > 0 else 1), layer=nn.Linear(32, 3))
    with refused(OptionError, match="the units of Net cannot be found: tracing it fails"):
        units(asks)


def test_inputs_that_do_not_fit_leave_no_traceback_of_the_tracer(capfd) -> None:
    with pytest.raises(OptionError, match="tracing it fails: a and b must have same reduction dim"):
        units_of(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(2, 5), ())
    assert capfd.readouterr() == ("", "")


def tied_to_words() -> Net:
    """A head that is an embedding, too, and is registered first."""
    head, words = nn.Linear(4, 3, bias=False), nn.Embedding(3, 4)
    words.weight = head.weight
    return Net(
        lambda net, x: net.head(net.inside(net.words((x > 0).sum(1) % 3)).relu()),
        head=head, words=words, inside=nn.Linear(4, 4),
    )  # fmt: skip


def overlapping(net: Net, x: Tensor) -> Tensor:
    first = torch.cat([x, net.one(x).relu()], 1)
    second = torch.cat([net.other(x).relu(), x[:, :2]], 1)
    return net.reads(first) + net.reads(second)


ELSEWHERE = {
    "mixed by the mean of the channels": (
        Net(lambda net, x: net.head((net.inside(x) - net.inside(x).mean(1, keepdim=True)).mean((2, 3))),
            inside=nn.Conv2d(2, 4, 1), head=nn.Linear(4, 3)),
        (2, 2, 4, 4),
    ),
    "a scale of its own for each channel, which nothing resets": (
        Net(lambda net, x: net.head((net.inside(x) * net.scale).mean((2, 3))),
            inside=nn.Conv2d(2, 4, 1), scale=nn.Parameter(torch.ones(4, 1, 1)), head=nn.Linear(4, 3)),
        (2, 2, 4, 4),
    ),
    "a weight that no module of its own reads": (
        Net(lambda net, x: nn.functional.linear(net.inside(x).mean((2, 3)), net.reads),
            inside=nn.Conv2d(2, 4, 1), reads=nn.Parameter(torch.rand(3, 4))),
        (2, 2, 4, 4),
    ),
    "an output, too": (
        Net(lambda net, x: (net.head(net.inside(x)), net.inside(x)), inside=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (2, 4),
    ),
    "pooled over the dimension that counts the units": (
        Net(lambda net, x: net.head(nn.functional.max_pool1d(net.inside(x), 2).mean(1)),
            inside=nn.Linear(4, 6), head=nn.Linear(3, 3)),
        (2, 5, 4),
    ),
    "a kernel for each time, which mixes the units": (
        Net(lambda net, x: net.head(net.times(net.inside(x)).mean(1)),
            inside=nn.Linear(4, 6), times=nn.Conv1d(5, 5, 3, groups=5), head=nn.Linear(4, 3)),
        (2, 5, 4),
    ),
    "a weight that is read by hand, too": (
        Net(lambda net, x: net.head(net.inside(x).relu()) + (x @ net.inside.weight).sum(1, keepdim=True),
            inside=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (2, 4),
    ),
    "tied to an embedding": (tied_to_words(), (2, 4)),
    "two groups in overlapping columns": (
        Net(overlapping, one=nn.Linear(4, 3), other=nn.Linear(4, 5), reads=nn.Linear(7, 3)),
        (2, 4),
    ),
    "divided by one another": (
        Net(lambda net, x: net.head(net.above(x) / net.below(x)),
            above=nn.Linear(4, 4), below=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (2, 4),
    ),
    "a layer that runs twice": (
        Net(lambda net, x: net.last(net.again(net.again(net.first(x).relu()).relu()).relu()),
            first=nn.Linear(8, 8), again=nn.Linear(8, 8), last=nn.Linear(8, 3)),
        (2, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "shape"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_units_that_belong_elsewhere_too_are_not_offered(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert units_of(model, torch.rand(shape), dict(model.named_parameters())) == ()


@pytest.mark.slow
def test_one_module_with_two_weights_has_two_names() -> None:
    linear = nn.functional.linear
    model = Net(
        lambda net, x: net.head(linear(net.reads(linear(x, net.one).relu()), net.other)),
        one=nn.Parameter(torch.rand(4, 4)), other=nn.Parameter(torch.rand(5, 4)),
        reads=nn.Linear(4, 4), head=nn.Linear(5, 3),
    )  # fmt: skip
    found = units_of(model, torch.rand(2, 4), dict(model.named_parameters()))
    assert [group.name for group in found] == ["one", "other"]


def test_statistics_that_nothing_can_reset_close_their_units() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    names = set(dict(model.named_parameters()))
    assert units_of(model, torch.rand(2, 4), names) == ()
    assert len(units_of(model, torch.rand(2, 4), names | set(dict(model.named_buffers())))) == 1


def test_activity_over_time_and_by_keyword() -> None:
    def reads(net: Net, x: Tensor) -> Tensor:
        hidden = net.inside(x).relu()
        by_row = net.second(input=hidden.flatten(0, 1)).view(len(x), -1, 3)
        return (net.first(hidden) + by_row).mean(1)

    torch.manual_seed(0)
    model = Net(reads, inside=nn.Linear(4, 6), first=nn.Linear(6, 3), second=nn.Linear(6, 3))
    x = torch.rand(3, 5, 4)
    (group,) = units_of(model, x, dict(model.named_parameters()))
    with capture_inputs(model, group.readers) as seen:
        model(x)
    activity = activity_in([group], model, seen, 3)["inside"]
    hidden = model.inside(x).relu().detach().transpose(1, 2)
    torch.testing.assert_close(activity, torch.cat([hidden, hidden], 2))


class Mix(nn.Module):
    """A fully connected layer as GPT-2 has it: its weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, act: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))
        self.act = act
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return torch.addmm(self.bias, rows.relu() if self.act else rows, self.weight).view(*x.shape[:-1], -1)


def transposed_weights() -> nn.Module:
    return Net(
        lambda net, x: net.head(net.down(torch.tanh(net.up(x.flatten(2)) ** 3)).mean(1)),
        up=Mix(16, 4), down=Mix(4, 5), head=nn.Linear(5, 3),
    )  # fmt: skip


def upsampling(groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 8, 2, 2, groups=groups), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3),
    )  # fmt: skip


def test_units_of_a_weight_of_inputs_by_outputs() -> None:
    found = units(transposed_weights())
    assert places(found["up"].incoming) == [("up.weight", 1, 0, 1)]
    assert places(found["up"].outgoing) == [("down.weight", 0, 0, 1)]
    assert (found["up"].size, found["up"].readers) == (4, ("down",))
    assert places(found["down"].outgoing) == [("head.weight", 1, 0, 1)]


def test_a_module_that_changes_its_input_is_no_reader() -> None:
    model = transposed_weights()
    model.down = Mix(4, 5, act=True)
    assert list(units(model)) == ["down"]


def test_units_around_transposed_convolutions() -> None:
    found = units(upsampling())
    assert list(found) == ["0", "2", "5"]
    assert places(found["0"].outgoing) == [("2.weight", 0, 0, 1)]
    assert places(found["2"].incoming) == [("2.weight", 1, 0, 1)]
    assert places(found["2"].bias) == [("2.bias", 0, 0, 1)]
    apart = units(upsampling(groups=4))  # a kernel for each channel, and two channels for each unit
    assert places(apart["0"].incoming) == [("0.weight", 0, 0, 1), ("2.weight", 0, 0, 1)]
    assert places(apart["0"].bias) == [("0.bias", 0, 0, 1), ("2.bias", 0, 0, 2)]
    assert places(apart["0"].outgoing) == [("5.weight", 1, 0, 2)]
    assert list(units(upsampling(groups=2))) == ["5"]


def test_a_cache_among_the_outputs_is_off_while_tracing() -> None:
    class Config:
        use_cache = True

    class Cache:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    def run(net: Net, x: Tensor) -> object:
        hidden = net.one(x.flatten(1)).relu()
        return (net.two(hidden), Cache(hidden)) if net.config.use_cache else (net.two(hidden),)

    model = Net(run, one=nn.Linear(32, 6), two=nn.Linear(6, 3))
    model.config = Config()
    (group,) = units_of(model, images()[0][0], dict(model.named_parameters()))
    assert group.name == "one"
    assert model.config.use_cache is True


@dataclass(frozen=True)
class ResetSome:
    """Reset the units whose number in their group is in ``numbers``."""

    numbers: tuple[int, ...] = (0, 2)

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        chosen = {
            group.name: torch.tensor([number in self.numbers for number in range(group.size)])
            for group in context.units
        }
        return context.reset_units(chosen)


def silent(model: nn.Module, batch: Tensor, groups: Iterable[UnitGroup], chosen: Callable[[int], Tensor]) -> bool:
    """Whether nothing that the chosen units compute is heard: noise on all that computes them changes no bit."""
    model.eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    groups = list(groups)
    with torch.no_grad():
        before = model(batch)
        for group in groups:
            for share in (*group.incoming, *group.bias, *group.norm):
                tensor = tensors[share.name]
                mask = share.mask(tensor, chosen(group.size)).clone()
                for other in groups:  # the columns of what they read from other silenced units stay zero
                    for read in other.outgoing:
                        if read.name == share.name:
                            mask &= ~read.mask(tensor, chosen(other.size))
                tensor.copy_(torch.where(mask, torch.randn_like(tensor), tensor))
        return torch.equal(model(batch), before)


def some(size: int) -> Tensor:
    return torch.tensor([number in (0, 2) for number in range(size)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        Residual,
        Concatenated,
        Attending,
        transposed_weights,
        upsampling,
        lambda: upsampling(groups=4),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_reset_unit_is_not_heard(build: Callable[[], nn.Module], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = build().to(memory_format=memory_format)
    batches = images()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    forgetkit.unlearn(model, batches, reinit=ResetSome(), seed=3)
    groups = units(model).values()
    assert groups
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert silent(model, batches[0][0], groups, some)


BIG = [
    "resnet18",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    *(pytest.param(name, marks=pytest.mark.long) for name in ("densenet121", "resnext50_32x4d", "alexnet")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_it_holds_for_the_networks_that_people_use(name: str) -> None:
    torch.manual_seed(0)
    build = partial(getattr(torchvision.models, name), weights=None, num_classes=3)
    model, batches = build(), [(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]))]
    found = units(model, batches)
    assert len(found) >= 7
    forgetkit.unlearn(model, batches, reinit=ResetSome(), build=build, seed=3)
    assert silent(model, batches[0][0], found.values(), some)


def test_a_reset_unit_begins_as_in_a_network_just_made() -> None:
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.Adam(model.parameters())
    for inputs, targets in images() * 3:
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    (inner,) = (group for group in units(model).values() if group.name == "same.inner")

    @dataclass(frozen=True)
    class One:
        """Reset one unit."""

        def propose(self, context: ReinitContext) -> Iterable[Change]:
            return context.reset_units({"same.inner": torch.tensor([False, True, False, False])})

    kept = {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    forgetkit.unlearn(model, images(), reinit=One(), optimizer=optimizer, seed=1)
    now = {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}
    touched = {share.name for share in (*inner.parameters, *inner.stats)}
    for name, value in now.items():
        if name not in touched:
            assert torch.equal(value, kept[name]), name
    norm = "same.inner_norm"
    assert now["same.inner.weight"][1].abs().max() > 0
    assert not torch.equal(now["same.inner.weight"][1], kept["same.inner.weight"][1])
    assert (float(now[f"{norm}.weight"][1]), float(now[f"{norm}.bias"][1])) == (1.0, 0.0)
    assert (float(now[f"{norm}.running_mean"][1]), float(now[f"{norm}.running_var"][1])) == (0.0, 1.0)
    assert not now["same.outer.weight"][:, 1].any()
    for name, dim in (("same.inner.weight", 0), ("same.outer.weight", 1)):
        others = torch.tensor([0, 2, 3])
        assert torch.equal(now[name].index_select(dim, others), kept[name].index_select(dim, others))
        memory = optimizer.state[dict(model.named_parameters())[name]]["exp_avg"]
        assert not memory.select(dim, 1).any()
        assert torch.equal(memory.index_select(dim, others), moments[name].index_select(dim, others))


@pytest.mark.slow
def test_units_that_are_not_there_or_not_chosen_well() -> None:
    @dataclass(frozen=True)
    class Bad:
        """Choose badly."""

        group: str
        chosen: Tensor

        def propose(self, context: ReinitContext) -> Iterable[Change]:
            return context.reset_units({self.group: self.chosen})

    for group, chosen, words in (
        ("nobody", torch.ones(4, dtype=torch.bool), "no group of units called 'nobody'"),
        ("stem", torch.ones(3, dtype=torch.bool), r"bool tensor of shape \(4,\)"),
        ("stem", torch.ones(4), r"bool tensor of shape \(4,\)"),
    ):
        with pytest.raises(OptionError, match=words):
            forgetkit.unlearn(Residual(), images(), reinit=Bad(group, chosen))


@given(st.data())
def test_a_share_and_its_mask_are_the_same_entries(data: st.DataObject) -> None:
    size, repeat, start, spare = (data.draw(st.integers(low, 4)) for low in (1, 1, 0, 0))
    dim = data.draw(st.integers(0, 2))
    shape = [2, 3, 2]
    shape[dim] = start + size * repeat + spare
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    share = UnitSlice("w", dim, start, repeat)
    mask = share.mask(tensor, chosen)
    by_unit = share.per_unit(tensor, size)
    assert mask.shape == tensor.shape
    assert sorted(tensor[mask].tolist()) == sorted(by_unit[chosen].flatten().tolist())
    # A loop over the dimension says the same.
    for position in range(shape[dim]):
        unit, inside = divmod(position - start, repeat)
        wanted = position >= start and unit < size and bool(chosen[unit])
        assert bool(mask.select(dim, position).all()) == bool(mask.select(dim, position).any()) == wanted
        assert 0 <= inside < repeat


def test_activity_is_what_the_readers_see() -> None:
    torch.manual_seed(0)
    model, batches = Concatenated(), images()
    seen: list[dict[str, Tensor]] = []

    @dataclass(frozen=True)
    class Looks:
        """Look at the units."""

        def score(self, probe):
            seen.append(probe.unit_activity(batches[0][0]))
            seen.append(probe.layer_inputs(batches[0][0]))
            return {name: target.abs() for name, target in probe.targets.items()}

    forgetkit.score(model, batches, importance=Looks())
    model.eval()
    both = torch.cat([model.left(batches[0][0]).relu(), model.right(batches[0][0]).relu()], 1)
    maps = model.norm(model.apart(both).flatten(1)).detach().reshape(6, 7, 16)
    torch.testing.assert_close(seen[0], {"left": maps[:, :3], "right": maps[:, 3:]})
    assert list(seen[1]) == ["left", "right", "apart", "norm", "head"]
    torch.testing.assert_close(seen[1]["apart"], both.detach())


@pytest.mark.slow
def test_the_builtin_networks() -> None:
    offers = registry.load(entry_points=False)
    counts = {}
    for name in ("convnet", "resnet18", "mlp", "vgg16-bn"):
        model = build_network(offers.make("models", name)[1], Inputs((3, 32, 32), 10, (0.5,) * 3, (0.2,) * 3), Seeds(0))
        found = units(model, [(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))])
        counts[name] = (len(found), sum(group.coupled for group in found.values()))
    # Layer normalisation mixes the units of mlp; a stage of resnet18 is a stream beside the insides of its two blocks.
    assert counts == {"convnet": (3, 0), "resnet18": (12, 4), "mlp": (0, 0), "vgg16-bn": (13, 0)}
