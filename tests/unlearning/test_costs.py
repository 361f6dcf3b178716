"""The short ways of forgetting do what the plain ones do, to the bit, and take little memory beside the model's."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import convnet, images, same_bits, unlearn_with, values
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import forgetkit
from forgetkit.contracts import Change, ReinitContext
from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.unlearning import fingerprints, integrity, probe, tensor_checks, tensor_write
from forgetkit.unlearning.layerwise import LayerwiseFresh

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Held(TorchDispatchMode):
    """Counts the bytes of storages that come into being inside it and still live."""

    def __init__(self, known: nn.Module, *others: Tensor) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in (*known.parameters(), *others)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


@pytest.mark.slow
def test_a_model_in_half_precision_takes_half_of_its_bytes_more():
    """In single precision once over would be twice its bytes, a mask of bools half, 64 bits an entry eight times."""
    model = nn.Sequential(*(nn.Linear(96, 96, bias=False, dtype=torch.bfloat16) for _ in range(80)))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with Held(model) as held:
        report = forgetkit.unlearn(model, importance="magnitude")
    assert report.reset == report.scored // 5
    assert 0.2 * size < held.most < 0.5 * size  # the old values are kept, so it counts


class Sized(nn.Module):
    """One parameter that lies in memory as it is told to, and one that does not change."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value)
        self.other = nn.Parameter(torch.ones(3))


LAYOUTS = {
    "contiguous": lambda value: value,
    "channels_last": lambda value: value.contiguous(memory_format=torch.channels_last),
    "transposed": lambda value: value.transpose(0, 3).contiguous().transpose(0, 3),
    "with gaps": lambda value: torch.cat([value, value], 3)[..., : value.shape[3]],
    "at an odd place": lambda value: torch.cat([value.flatten()[:1], value.flatten()])[1:].view(value.shape),
}


def shuffled(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """Values of all kinds: signed zeros, numbers below the normal ones, infinity."""
    rng = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=rng).to(dtype)
    odd = torch.tensor([0.0, -0.0, 1e-40, -torch.inf, torch.nan]).to(dtype)
    return torch.where(torch.rand(shape, generator=rng) < 0.3, odd[torch.randint(5, shape, generator=rng)], value)


def adam_of(model: Sized, seed: int) -> torch.optim.Optimizer:
    """An optimizer that remembers noise, lying in memory as the parameter does."""
    optimizer = torch.optim.Adam(model.parameters())
    for place, key in enumerate(("exp_avg", "exp_avg_sq")):
        noise = torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(seed + place))
        optimizer.state[model.weight][key] = torch.empty_like(model.weight.detach()).copy_(noise)
    optimizer.state[model.weight]["step"] = torch.tensor(3.0)
    return optimizer


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [7, 2**20])
def test_what_is_written_under_a_mask(piece, layout, dtype, monkeypatch):
    """As ``torch.where`` has it, bits outside the mask as they were; undone, everything is."""
    monkeypatch.setattr(tensor_write, "_PIECE", piece)
    model = Sized(LAYOUTS[layout](shuffled((4, 3, 2, 5), 0, dtype)))
    stride, version = model.weight.stride(), model.weight._version
    optimizer = adam_of(model, 5)
    before, state = values(model), copy.deepcopy(optimizer.state[model.weight])
    mask = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    value = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(2)).permute(3, 2, 1, 0)

    report = unlearn_with(lambda _: [Change("weight", mask, value)], model, optimizer=optimizer)

    assert same_bits(model.weight, torch.where(mask, value.to(dtype), before["weight"]))
    for key in ("exp_avg", "exp_avg_sq"):
        assert same_bits(optimizer.state[model.weight][key], state[key].masked_fill(mask, 0))
    assert (report.reset, report.optimizer_cleared) == (int(mask.sum()), 2 * int(mask.sum()))
    assert model.weight.stride() == stride
    assert model.weight._version > version

    def fail(_: ReinitContext) -> Iterator[Change]:
        yield Change("weight", ~mask, value)
        yield Change("other", None, torch.zeros(3))
        raise ZeroDivisionError

    before, state = values(model), copy.deepcopy(optimizer.state[model.weight])
    with pytest.raises(ComponentError, match="ZeroDivisionError"):
        unlearn_with(fail, model, optimizer=optimizer)
    assert all(same_bits(now, before[name]) for name, now in values(model).items())
    assert optimizer.state[model.weight].keys() == state.keys()
    assert all(same_bits(optimizer.state[model.weight][key], old) for key, old in state.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fails_at", [1, 4, 9, 20])
def test_a_write_that_breaks_off_in_the_middle_of_a_tensor(fails_at, layout, monkeypatch):
    """Of 18 pieces each of the parameter, and of the optimizer's two: what was written to is put back."""
    monkeypatch.setattr(tensor_write, "_PIECE", 7)
    model = Sized(LAYOUTS[layout](shuffled((4, 3, 2, 5), 0, torch.float32)))
    optimizer = adam_of(model, 5)
    before, state = values(model), copy.deepcopy(optimizer.state[model.weight])
    calls, places = [], tensor_write._true_positions

    def broken(mask: Tensor) -> Tensor:
        calls.append(mask)
        if len(calls) == fails_at:
            raise MemoryError
        return places(mask)

    monkeypatch.setattr(tensor_write, "_true_positions", broken)
    mask = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    with pytest.raises(MemoryError):
        unlearn_with(lambda _: [Change("weight", mask, torch.zeros(mask.shape))], model, optimizer=optimizer)
    assert len(calls) >= fails_at
    assert all(same_bits(now, before[name]) for name, now in values(model).items())
    assert all(same_bits(optimizer.state[model.weight][key], old) for key, old in state.items())


def test_what_cannot_be_put_back_keeps_nothing_else_from_it(monkeypatch):
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))
    before, calls, plain = values(model), [], tensor_write.unpack_mask

    def scarce(bits: Tensor, shape: torch.Size) -> Tensor:
        calls.append(shape)
        if len(calls) in (1, 3):
            raise MemoryError(f"no room for {len(calls)}")
        return plain(bits, shape)

    def fail(context: ReinitContext) -> Iterator[Change]:
        for name, target in context.targets.items():
            yield Change(name, target > 0, torch.full_like(target, 7))
        raise ZeroDivisionError

    monkeypatch.setattr(tensor_write, "unpack_mask", scarce)
    with pytest.raises(MemoryError, match="no room for 3") as caught:
        unlearn_with(fail, model)
    assert "no room for 1" in str(caught.value.__context__)
    assert "ZeroDivisionError" in str(caught.value.__context__.__context__)
    found = [same_bits(now, before[name]) for name, now in values(model).items()]
    assert found == [True, False, True, False]


def test_a_few_entries_at_a_time_are_written_and_put_back():
    """Of all places at once, eight bytes each, the indices would take five times what is kept here."""
    model = nn.Sequential(nn.Linear(2**11, 2**11, bias=False, dtype=torch.bfloat16))
    weight, undo = model[0].weight, list[Any]()
    mask, value = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.2, torch.rand(weight.shape)
    before, kept = weight.detach().clone(), 2 * int(mask.sum()) + weight.numel() // 8
    with torch.no_grad():
        with Held(model, mask, value) as held:
            tensor_write.write(weight, mask, value, undo)
        assert kept <= held.now < 1.01 * kept
        assert held.most < 2.5 * kept
        assert not same_bits(weight, before)
        with Held(model, mask, value) as held:
            undo[0]()
        assert held.most < 1.5 * kept
    assert same_bits(weight, before)


class Strict(TorchDispatchMode):
    """As the devices are, and torch's stand-ins for their tensors are not: an index lies where its tensor does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index.Tensor:
            assert {index.device.type for index in args[1]} <= {"cpu", args[0].device.type}
        return func(*args, **(kwargs or {}))


def test_a_value_may_lie_on_another_device_than_its_parameter(monkeypatch):
    monkeypatch.setattr(
        tensor_write, "_true_positions", lambda mask: torch.zeros(3, dtype=torch.int64, device=mask.device)
    )
    monkeypatch.setattr(tensor_write, "_count_differing", lambda new, old: len(new))
    with FakeTensorMode(), Strict():
        parameter, mask = torch.zeros(5, device="cuda"), torch.ones(5, dtype=torch.bool, device="cuda")
        for device in ("cuda", "cpu"):
            assert tensor_write.write(parameter, mask, torch.ones(5, device=device, dtype=torch.bfloat16), []) == (3, 3)


def test_a_shared_parameter_is_written_once_and_put_back():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second)
    before = values(model)

    def fail(context: ReinitContext) -> Iterator[Change]:
        for name in context.targets:
            yield Change(name, torch.rand(context.targets[name].shape) < 0.5, context.fresh(name))
        assert not same_bits(model[2].weight, before["0.weight"])
        raise ZeroDivisionError

    with pytest.raises(ComponentError, match="ZeroDivisionError"):
        unlearn_with(fail, model)
    assert all(same_bits(now, before[name]) for name, now in values(model).items())
    assert model[0].weight is model[2].weight


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 50, 98])
def test_what_is_not_finite_is_seen_anywhere(place, value, dtype):
    tensor = torch.randn(99, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensor[place] = value
    plain = tensor.to(torch.float64)
    assert tensor_checks.all_finite(tensor) == bool(plain.isfinite().all())
    assert tensor_checks.any_nan(tensor) == bool(plain.isnan().any())
    assert tensor_checks.all_finite(tensor[:0])
    assert not tensor_checks.any_nan(tensor[:0])


def plain_fingerprint(words: list[int], piece: int) -> int:
    """In whole numbers, a word at a time."""
    factors = fingerprints._odd_numbers(piece).tolist()
    total = 0
    for start in range(0, len(words) + 1, piece):
        products = [w * f % 2**64 for w, f in zip(words[start : start + piece], factors, strict=False)]
        total = total * fingerprints._STEP + sum(product ^ (product >> 32) for product in products)
    return total % 2**64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool], ids=str)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 50, 64])
@pytest.mark.parametrize("rows", [None, 1, 3, 16])
def test_a_fingerprint_is_a_sum_over_words(rows, size, dtype, monkeypatch):
    """The same on any device."""
    monkeypatch.setattr(fingerprints, "PIECE", 8)
    if rows is not None:
        monkeypatch.setattr(fingerprints, "ROWS", rows)
        monkeypatch.setattr(fingerprints, "_sums", fingerprints._sums_in_rows)
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    width = next(w for w in (4, 2, 1) if size * dtype.itemsize % w == 0)
    words = tensor.view({4: torch.int32, 2: torch.int16, 1: torch.int8}[width]).tolist()
    assert fingerprints.fingerprint(tensor) == plain_fingerprint(words, 8)


@pytest.mark.parametrize("entry", [0.0, 1.0, -2.5, torch.nan, None])
def test_no_two_signs_turned_round_cancel(entry):
    """What turning a word's sign round adds to the sum, at each place of a piece: no two add up to nothing."""
    old = torch.randn(fingerprints.PIECE, generator=torch.Generator().manual_seed(0))
    old = old if entry is None else torch.full_like(old, entry)
    factors = fingerprints._odd_numbers(fingerprints.PIECE)
    one, two = (fingerprints._mix(value.view(torch.int32), factors) for value in (old, -old))
    added = (two - one).tolist()
    assert len({*added, *(-each for each in added)}) == 2 * len(added)
    new = old.clone()
    new[[9242, 13921]] = -new[[9242, 13921]]  # whose odd numbers add up to a multiple of 2**33
    assert fingerprints.fingerprint(old) != fingerprints.fingerprint(new)


@given(st.data())
def test_a_fingerprint_tells_changes_in_several_places(data):
    """Entries that change places, signs that turn round: within a piece and far from each other, in any dtype."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    old = torch.randn(2 * fingerprints.PIECE + 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    new = old.clone()
    near = st.sampled_from(
        [0, 1, 2, 3, fingerprints.PIECE, fingerprints.PIECE + 1, 2 * fingerprints.PIECE, 2 * fingerprints.PIECE + 4]
    )
    for one, two in data.draw(st.lists(st.tuples(near, near), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            new[[one, two]] = new[[two, one]]
        else:
            new[one], new[two] = -new[one], -new[two]
    assert (fingerprints.fingerprint(old) == fingerprints.fingerprint(new)) == same_bits(old, new)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_change_is_noticed_in_any_layout(layout):
    model = Sized(LAYOUTS[layout](torch.randn(4, 3, 2, 5)))
    for place in ((0, 0, 0, 0), (1, 2, 0, 3), (3, 2, 1, 4)):
        with (
            pytest.raises(ComponentError, match="who changed the parameter 'weight'"),
            integrity.assert_params_unchanged(model, "who"),
        ):
            model.weight.data[place] += 1
    with integrity.assert_params_unchanged(model, "who"):
        model.weight.data = model.weight.data.transpose(1, 2).contiguous().transpose(1, 2)  # the same entries
    for other in (model.weight.data.flatten(), model.weight.data.double()):
        with pytest.raises(ComponentError, match="'weight'"), integrity.assert_params_unchanged(model, "who"):
            model.weight.data = other
        model.weight = nn.Parameter(torch.randn(4, 3, 2, 5))


@pytest.mark.parametrize(("importance", "times"), [("snip", 2), ("fisher", 2), ("magnitude", 4)])
def test_how_often_parameters_are_fingerprinted(importance, times, monkeypatch):
    """Before and after scoring; where scores are made when they are asked for, around the selection as well."""
    counted, plain = [], fingerprints.fingerprints
    monkeypatch.setattr(integrity, "fingerprints", lambda tensors: counted.append(1) or plain(tensors))
    forgetkit.unlearn(convnet(), images(5), importance=importance)
    assert len(counted) == times


def test_half_precision_is_widened_when_it_is_asked_for():
    model = convnet(dtype=torch.bfloat16)
    parameters = dict(model.named_parameters())
    asked = probe.GuardedProbe(model, probe.ReplayableBatches(images(3)), tuple(parameters), cross_entropy, Seeds(0))
    with Held(model) as held:
        assert set(asked.targets) == parameters.keys()
        assert "5.bias" in asked.targets
        assert len(asked.targets) == len(parameters)
        assert "7.bias" not in asked.targets
    assert held.most == 0
    for name, target in asked.targets.items():
        assert same_bits(target, parameters[name].detach().float())
        assert not target.requires_grad
    assert {zero.dtype for zero in asked.zeros().values()} == {torch.float32}
    wide = convnet()
    shared = probe.GuardedProbe(
        wide, probe.ReplayableBatches(images(3)), ("0.weight",), cross_entropy, Seeds(0)
    ).targets
    assert shared["0.weight"].data_ptr() == wide[0].weight.data_ptr()


def drawn_plainly(model: nn.Module, name: str, seeds: Seeds) -> Tensor:
    """A whole copy of the module, its old value blotted out, starts itself."""
    path, _, local = name.rpartition(".")
    shell = copy.deepcopy(model.get_submodule(path)).cpu().float()
    with seeded_rng(seeds.number("fresh", name)), torch.no_grad():
        if isinstance(getattr(shell, local), nn.Parameter):
            getattr(shell, local).fill_(torch.nan)
        (shell.reset_parameters if hasattr(shell, "reset_parameters") else shell._reset_parameters)()
    return getattr(shell, local).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_fresh_values_are_those_of_a_whole_copy(memory, dtype):
    model = nn.ModuleList(
        [nn.Conv2d(4, 6, 3), nn.Linear(7, 5), nn.BatchNorm2d(6), nn.MultiheadAttention(4, 2), nn.LSTM(3, 4),
         nn.Embedding(9, 4, padding_idx=2), nn.PReLU(3), nn.Conv2d(4, 4, 1, groups=2)]
    ).to(dtype=dtype, memory_format=memory)  # fmt: skip
    model[1].weight = nn.Parameter(torch.randn(7, 5, dtype=dtype).t())
    draws, before = LayerwiseFresh(model, None, Seeds(3)), values(model)
    names = [name for name in before if not name.startswith("3.out_proj")]
    for name in names:
        assert same_bits(draws.draw(name), drawn_plainly(model, name, Seeds(3))), name
    assert all(same_bits(now, before[name]) for name, now in values(model).items())


def test_old_values_are_not_copied_to_draw_new_ones():
    model = nn.Linear(64, 64, bias=False, dtype=torch.float64)
    draws = LayerwiseFresh(nn.Sequential(model), None, Seeds(0))
    with Held(model) as held:
        draws.draw("0.weight")
    assert held.most < 1.5 * 4 * 64 * 64


def test_nothing_is_turned_round_to_be_read_or_written():
    model = nn.Sequential(nn.Conv2d(256, 256, 5)).to(memory_format=torch.channels_last)
    size = 4 * model[0].weight.numel()
    mask, value = (model[0].weight.detach() < -0.01), model[0].weight.detach() + 1
    with Held(model) as held, integrity.assert_params_unchanged(model, "who"):
        pass
    assert held.most < 0.5 * size
    with Held(model, mask, value) as held:
        unlearn_with(lambda _: [Change("0.weight", mask, value)], model)
    assert held.most < 0.5 * size


LARGE = {
    "contiguous": (lambda: torch.rand(2**20), 0.01),
    "with gaps": (lambda: torch.rand(2, 2**10, 2**10)[:, :, 1:], 0.3),
    "wide with gaps": (lambda: torch.rand(4, 2**19)[:, 1:], 0.3),
    "every second": (lambda: torch.rand(2**21)[::2], 0.3),
    "8 bits": (lambda: torch.rand(2**10, 2**11).to(torch.float8_e4m3fn), 0.3),
    "8 bits with gaps": (lambda: torch.rand(2**10, 2**12).to(torch.float8_e4m3fn)[:, 1:], 0.3),
    "complex": (lambda: torch.rand(2**19, dtype=torch.complex64), 0.01),
}


@pytest.mark.parametrize("kind", LARGE)
def test_to_see_whether_all_is_finite_no_copy_is_made(kind):
    make, most = LARGE[kind]
    tensor = make()
    with Held(nn.Module(), tensor) as held:
        assert not tensor_checks.any_nan(tensor)
        assert tensor.is_complex() or tensor_checks.all_finite(tensor)
    assert held.most < most * tensor.nbytes
    tensor[(-1,) * tensor.ndim] = torch.nan
    assert tensor_checks.any_nan(tensor)
    assert tensor.is_complex() or not tensor_checks.all_finite(tensor)


@pytest.mark.parametrize("make", [
    lambda: torch.rand(256, 64, 8, 8).to(memory_format=torch.channels_last),
    lambda: torch.rand(1024, 1024).t(),
    lambda: torch.rand(1024, 1024).to(torch.float8_e5m2),
], ids=["channels_last", "turned", "8 bits"])  # fmt: skip
def test_a_score_is_not_copied_to_be_selected_from(make):
    score = make()
    with Held(nn.Module(), score) as held:
        forgetkit.select({"a": score}, fraction=0.3)
    assert held.most < 0.8 * score.nbytes
