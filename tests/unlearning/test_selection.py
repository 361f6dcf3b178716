"""Selection, against a full sort of everything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from helpers.unlearning_networks import refused
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

import forgetkit
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import Masks, SelectionGroup, count_of, masks, radix_select, score_keys, select
from forgetkit.unlearning.selection import _hash_positions

UNLIKELY = 1e-6
EIGHT_BITS = torch.float8_e5m2
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

few_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e-45, 3.4e38, -3.4e38, 0.5])
any_value = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
pools = st.lists(st.lists(st.one_of(few_values, any_value), max_size=12), min_size=1, max_size=5)
fractions = st.one_of(st.sampled_from([0.0, 0.2, 0.29, 0.5, 1.0]), st.floats(0, 1))


def masks_and_threshold(*args: object, **options: object) -> tuple[Masks, float | None]:
    selected = select(*args, **options)
    return selected.masks, selected.threshold


def pooled(scores: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([score.flatten() for score in scores.values()])


def check_lowest(scores: Mapping[str, Tensor], fraction: float, seed: int = 0) -> dict[str, Tensor]:
    """Exactly so many, and none that is left is less than one that was taken."""
    masks, threshold = masks_and_threshold(scores, fraction, Seeds(seed))
    assert masks.keys() == scores.keys()
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == scores[name].shape
    everything, taken = pooled(scores), pooled(masks)
    count = math.floor(Decimal(str(fraction)) * len(everything))
    in_order = everything.double().sort().values
    assert int(taken.sum()) == count
    assert torch.equal(everything[taken].double().sort().values, in_order[:count])
    assert threshold == (float(in_order[count - 1]) if count else None)
    return masks


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), fractions)
@example([2e-50, 1e-50, 3e-50], 0.34)
@example([1.0, 1.0 + 2**-52, 1.0 - 2**-53], 0.34)
@example([1e300, 1e301, -1e301, 1e302], 0.5)
def test_float64_is_told_apart_to_the_last_bit(values, fraction):
    check_lowest({"a": torch.tensor(values, dtype=torch.float64)}, fraction)


@pytest.mark.parametrize("order", [1, -1])
def test_tensors_of_several_dtypes_in_one_pool(order):
    rng = torch.Generator().manual_seed(0)
    dtypes = [*DTYPES, EIGHT_BITS][::order]
    scores = {str(dtype): torch.randn(50, dtype=torch.float64, generator=rng).to(dtype) for dtype in dtypes}
    everything = torch.cat([score.double() for score in scores.values()])
    masks, threshold = masks_and_threshold(scores, 0.3, Seeds(0))
    assert threshold == float(everything.sort().values[74])
    assert torch.equal(everything[pooled(masks)].sort().values, everything.sort().values[:75])


def a_million() -> dict[str, Tensor]:
    """Half of these scores are one of six values."""
    rng = torch.Generator().manual_seed(0)
    ties = torch.randint(-3, 3, (499_999,), generator=rng) / 2
    return {"distinct": torch.randn(1000, 500, generator=rng), "ties": ties, "one": torch.randn((), generator=rng)}


@pytest.mark.parametrize("fraction", [1e-6, 0.2, 0.9999999, 1.0])
def test_a_million_entries(fraction):
    check_lowest(a_million(), fraction)


def test_more_entries_than_one_piece(monkeypatch):
    monkeypatch.setattr("forgetkit.unlearning.radix_select.PIECE", 8)
    monkeypatch.setattr("forgetkit.unlearning.radix_select.WIDE_PIECE", 2)
    rng = torch.Generator().manual_seed(0)
    check_lowest({"a": torch.randint(5, (10, 10), generator=rng).float(), "b": torch.rand(20, generator=rng)}, 0.37)


def a_pool() -> dict[str, Tensor]:
    """Distinct scores, negative ones among them, and many that tie."""
    rng = torch.Generator().manual_seed(0)
    ties = torch.randint(-3, 3, (900, 9), generator=rng) / 2
    columns = torch.randn(3, 1000, generator=rng).t()
    return {"distinct": torch.randn(4000, generator=rng), "ties": ties, "columns": columns, "one": torch.tensor(-0.0)}


@given(
    keys=st.lists(st.lists(st.integers(-3, 3), max_size=6), max_size=4),
    bounds=st.tuples(st.integers(-4, 4), st.integers(-4, 4)), limit=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_the_kth_smallest_from_any_bracket(keys, bounds, limit, data):
    arrays, in_order = [np.array(some, np.int32) for some in keys], sorted(chain(*keys))
    bracket = radix_select.Bracket(*bounds, limit)
    candidates, _ = radix_select._candidates(arrays, bracket)
    assert len(candidates) <= limit
    if in_order:
        k = data.draw(st.integers(1, len(in_order)))
        found = radix_select.kth_smallest(lambda least: arrays, k, bracket, 32, SelectionGroup())
        key = in_order[k - 1]
        assert found == radix_select.KthResult(key, in_order.index(key), in_order.count(key))


WAYS = [(which, ties) for which in ("lowest", "highest") for ties in ("random", "stable", "drop")]


@pytest.fixture(params=WAYS, ids=" ".join)
def same_as_ever(request) -> Iterator[Callable[[], None]]:
    """Masks are to be those of before, at several thresholds: below zero, at zero, among ties."""
    which, ties = request.param

    def masks_now() -> list[Tensor]:
        fractions = (0.001, 0.05, 0.3, 0.5, 0.9)
        found = [masks_and_threshold(a_pool(), share, Seeds(1), which=which, ties=ties) for share in fractions]
        return [torch.cat([pooled(masks), torch.tensor([threshold])]) for masks, threshold in found]

    before = masks_now()
    return lambda: [torch.testing.assert_close(*pair, rtol=0, atol=0) for pair in zip(before, masks_now(), strict=True)]


@pytest.mark.parametrize(
    "bounds", [(0.97, 0.98), (0.0, 0.01), (-1.0, 2.0), (0.6, 0.4)], ids=["too high", "too low", "all", "upside down"]
)
def test_a_wrong_bracket_costs_time_alone(monkeypatch, same_as_ever, bounds):
    monkeypatch.setattr(radix_select, "quantiles", lambda share, size: bounds)
    monkeypatch.setattr(radix_select, "sample_size", lambda total: min(total, 50))
    same_as_ever()


def test_other_devices_find_the_same(monkeypatch, same_as_ever):
    """The CPU's keys as tensors, which take the way of those of another device."""
    monkeypatch.setattr(score_keys, "_native", lambda bits: bits)
    same_as_ever()


def test_masks_do_not_hang_on_the_size_of_pieces(monkeypatch, same_as_ever):
    monkeypatch.setattr(radix_select, "PIECE", 64)
    same_as_ever()


def test_the_usual_case_reads_the_scores_twice(monkeypatch):
    passes, keys_of = Counter(), score_keys.ScoreKeys.keys_of

    def counting(self: score_keys.ScoreKeys, score: Tensor, least: int) -> Iterator[object]:
        passes[len(score)] += 1
        return keys_of(self, score, least)

    monkeypatch.setattr(score_keys.ScoreKeys, "keys_of", counting)
    rng = torch.Generator().manual_seed(0)
    check_lowest({"a": torch.randn(200_000, generator=rng), "b": torch.rand(90_000, generator=rng)}, 0.2)
    assert passes == {200_000: 2, 90_000: 2}


def test_numbers_too_small_for_the_processor_are_told_apart():
    if torch.set_flush_denormal(True):
        try:
            mask = select(
                {"a": torch.tensor([3, 1, 2, 0], dtype=torch.int32).view(torch.float32)}, 0.5, Seeds(0)
            ).masks["a"]
        finally:
            torch.set_flush_denormal(False)
        assert mask.tolist() == [False, True, False, True]


@given(st.lists(st.integers(0, 10), max_size=3), st.integers(0, 5))
def test_masks_at_a_bit_per_entry(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    for pack, unpack in ((masks.pack_mask, masks.unpack_mask), (lambda m: masks._pack(m.flatten()), masks._unpack)):
        bits = pack(mask)
        assert (bits.dtype, bits.shape) == (torch.uint8, (math.ceil(mask.numel() / 8),))
        assert torch.equal(unpack(bits, mask.shape), mask)
        assert torch.equal(bits, masks.pack_mask(mask))


def test_masks_are_kept_small_and_are_those_of_the_moment():
    scores = {"a": torch.rand(100, 10, generator=torch.Generator().manual_seed(0))}
    chosen, threshold = masks_and_threshold(scores, 0.2, Seeds(0))
    expected = scores["a"] <= threshold
    assert [bits.nbytes for bits, _ in chosen._packed.values()] == [125]
    scores["a"].zero_()
    chosen["a"].zero_()
    assert torch.equal(chosen["a"], expected)
    assert int(expected.sum()) == 200


def splitmix64(number: int) -> int:
    """As its authors wrote it, where the state is ``number``."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


@given(st.lists(st.integers(0, 2**40), max_size=4), st.integers(0, 2**64 - 1))
def test_the_order_of_ties_is_that_of_splitmix64(positions, salt):
    hashed = _hash_positions(np.array(positions, dtype=np.int64), salt)
    expected = [splitmix64((at * 0x9E3779B97F4A7C15 + salt) % 2**64) for at in positions]
    assert [int(number) % 2**64 for number in hashed] == expected


@pytest.mark.parametrize(
    ("fraction", "total", "down", "up"),
    [
        (0.29, 100, 29, 29),  # 0.29 * 100 is 28.999999999999996, and 0.07 * 100 more than 7
        (0.57, 100, 57, 57),
        (0.07, 100, 7, 7),
        (0.2, 11_173_962, 2_234_792, 11_173_962 - 8_939_169),  # the paper's table 10 keeps 8,939,169
        (1e-07, 10**7, 1, 1),
        (1e-9, 7, 0, 1),
        (0.1, 9, 0, 1),
        (0, 7, 0, 0),
        (1, 7, 7, 7),
        (0.0, 0, 0, 0),
        (1.0, 0, 0, 0),
        (np.float64(0.29), 100, 29, 29),
        (np.float32(0.29), 100, 29, 29),
    ],
)
def test_the_count_is_exact_for_the_decimal_as_it_is_written(fraction, total, down, up):
    assert (count_of(fraction, total), count_of(fraction, total, "up")) == (down, up)


@given(st.integers(0, 1000), st.integers(0, 10**12))
def test_the_count_of_thousandths(thousandths, total):
    assert count_of(thousandths / 1000, total) == thousandths * total // 1000
    assert count_of(thousandths / 1000, total, "up") == -(-thousandths * total // 1000)


@pytest.mark.parametrize("fraction", [-0.1, -1e-300, 1.0000001, 2, math.nan, math.inf, -math.inf])
def test_a_fraction_out_of_range(fraction):
    with refused(OptionError, match="fraction"):
        select({"a": torch.rand(3)}, fraction, Seeds(0))


def test_nothing_and_everything():
    scores = {"a": torch.rand(3, 4), "b": torch.rand(())}
    nothing, threshold = masks_and_threshold(scores, 0, Seeds(0))
    assert threshold is None
    assert not pooled(nothing).any()
    everything, threshold = masks_and_threshold(scores, 1, Seeds(0))
    assert threshold == float(pooled(scores).max())
    assert pooled(everything).all()
    nothing, threshold = masks_and_threshold({}, 0.5, Seeds(0))
    assert (dict(nothing), threshold) == ({}, None)


@pytest.mark.slow
def test_ties_are_drawn_with_equal_chances():
    """Each pair among six that tie, over three tensors of unequal size; what lies below is taken each time."""
    scores = {
        "a": torch.tensor([7.0]),
        "b": torch.tensor([7.0, -1.0, 7.0]),
        "c": torch.tensor([[9.0, 7.0], [7.0, 7.0]]),
    }
    sevens = (pooled(scores) == 7).nonzero().flatten().tolist()
    draws = 1500
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(draws):
        taken = pooled(select(scores, 0.375, Seeds(seed)).masks).nonzero().flatten().tolist()
        assert 2 in taken
        counts[tuple(at for at in taken if at != 2)] += 1
    pairs = list(combinations(sevens, 2))
    assert set(counts) <= set(pairs)
    expected = draws / len(pairs)
    assert sum((counts[pair] - expected) ** 2 / expected for pair in pairs) < chi2.isf(UNLIKELY, len(pairs) - 1)


def test_many_ties_favour_no_tensor():
    """Of 100 000 that tie, one in five: each tensor's share lies within five standard deviations."""
    scores = {str(size): torch.zeros(size) for size in (10, 990, 9_000, 90_000)}
    masks = check_lowest(scores, 0.2, seed=1)
    for name, mask in masks.items():
        n, total = int(name), 100_000
        spread = math.sqrt(n * 0.2 * 0.8 * (total - n) / (total - 1))
        assert abs(int(mask.sum()) - 0.2 * n) <= 5 * spread


@given(
    pool=pools,
    fraction=fractions,
    dtype=st.sampled_from(DTYPES),
    which=st.sampled_from(["lowest", "highest"]),
    ties=st.sampled_from(["random", "stable", "drop"]),
    rounding=st.sampled_from(["down", "up"]),
)
@example([[0.0, -0.0, 1.0], [-0.0]], 0.5, torch.float32, "highest", "stable", "down")
@example([[1e-45, 0.0, -1e-45, 2e-45]], 0.5, torch.float32, "lowest", "random", "down")
@example([[], [0.0], []], 1.0, torch.float32, "lowest", "random", "down")
@example([[0.0, -0.0, 1.0], [-0.0]], 0.5, torch.float32, "lowest", "drop", "up")
@example([[1.0, 1.0], [1.0]], 0.2, torch.float64, "highest", "drop", "up")
@example([[3.4e38, -3.4e38], []], 0.5, torch.float32, "highest", "random", "down")
def test_every_way_to_select_as_a_full_sort(pool, fraction, dtype, which, ties, rounding):
    """Entries in the order of a stable sort: so many, or all down to the last of them and what equals it."""
    tensors = [torch.tensor(values, dtype=torch.float64).to(dtype) for values in pool]
    scores = {str(at): tensor[tensor.isfinite()] for at, tensor in enumerate(tensors)}
    everything = [float(value) for value in pooled(scores)]
    sign = 1 if which == "lowest" else -1
    order = sorted(range(len(everything)), key=lambda at: sign * everything[at])
    product = Decimal(str(fraction)) * len(everything)
    count = math.floor(product) if rounding == "down" else math.ceil(product)

    masks, threshold = masks_and_threshold(scores, fraction, Seeds(0), which=which, ties=ties, rounding=rounding)
    taken = pooled(masks).nonzero().flatten().tolist()

    assert all(masks[name].shape == score.shape for name, score in scores.items())
    if count == 0:
        assert (taken, threshold) == ([], None)
        return
    last = everything[order[count - 1]]
    assert threshold == last
    if ties == "stable":
        assert taken == sorted(order[:count])
    elif ties == "drop":
        assert taken == [at for at, value in enumerate(everything) if sign * value <= sign * last]
        assert len(taken) >= count
    else:
        assert len(taken) == count
        assert {at for at, value in enumerate(everything) if sign * value < sign * last} <= set(taken)
        assert all(sign * everything[at] <= sign * last for at in taken)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), fractions,
    st.sampled_from(["stable", "drop"]),
)  # fmt: skip
@example([1e300, 1e301, -1e301, 1e302], 0.5, "stable")
@example([5e-324, -5e-324, 0.0, -0.0], 0.5, "stable")
def test_the_highest_are_the_lowest_of_the_negated(values, fraction, ties):
    score = torch.tensor(values, dtype=torch.float64)
    masks, threshold = masks_and_threshold({"a": score}, fraction, Seeds(0), which="highest", ties=ties)
    others, negated = masks_and_threshold({"a": -score}, fraction, Seeds(0), ties=ties)
    assert torch.equal(masks["a"], others["a"])
    assert threshold == (None if negated is None else -negated)


@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_a_million_entries_in_order_or_all_that_tie(which):
    """Half a million scores are one of six values: so many of the first of them, or every one."""
    scores = a_million()
    everything = pooled(scores)
    order = everything.sort(stable=True, descending=which == "highest").indices
    stable, threshold = masks_and_threshold(scores, 0.1, Seeds(0), which=which, ties="stable")
    expected = torch.zeros(1_000_000, dtype=torch.bool)
    expected[order[:100_000]] = True
    assert torch.equal(pooled(stable), expected)
    assert threshold == float(everything[order[99_999]]) == (-1.5 if which == "lowest" else 1)
    dropped, _ = masks_and_threshold(scores, 0.1, Seeds(0), which=which, ties="drop")
    beyond = everything <= threshold if which == "lowest" else everything >= threshold
    assert torch.equal(pooled(dropped), beyond)
    assert int(beyond.sum()) > 110_000


@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_stable_and_drop_draw_nothing(which):
    scores = {"a": torch.zeros(50), "b": torch.zeros(50)}
    for ties, expected in (("stable", list(range(30))), ("drop", list(range(100)))):
        for seed in (1, 2):
            masks = select(scores, 0.3, Seeds(seed), which=which, ties=ties).masks
            assert pooled(masks).nonzero().flatten().tolist() == expected


def test_ties_are_a_function_of_the_seed():
    scores = {"a": torch.zeros(50), "b": torch.zeros(50)}
    first, again, other = (pooled(select(scores, 0.3, Seeds(seed)).masks) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_random_state_is_neither_used_nor_changed():
    scores = {"a": torch.zeros(50)}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = select(scores, 0.3, Seeds(0)).masks["a"]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, select(scores, 0.3, Seeds(0)).masks["a"])


def image_like() -> Tensor:
    return torch.randint(6, (4, 3, 5, 2), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    "score",
    [
        torch.tensor(0.5),
        torch.rand(0, 3),
        image_like().to(memory_format=torch.channels_last),
        image_like().transpose(0, 2),
        image_like()[:, ::2],
        torch.arange(4.0).unsqueeze(1).expand(4, 3),
        image_like().requires_grad_(),
    ],
    ids=["0-dim", "empty", "channels_last", "transposed", "strided", "expanded", "with a gradient"],
)
def test_shapes_and_layouts(score):
    scores = {"first": torch.tensor([0.0, 3.0, 3.0]), "it": score, "last": torch.tensor(2.0)}
    plain = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in scores.items()}
    detached = {name: tensor.detach() for name, tensor in scores.items()}
    for fraction in (0.0, 0.4, 1.0):
        masks = select(scores, fraction, Seeds(3)).masks
        check_lowest(detached, fraction, seed=3)
        for name, mask in select(plain, fraction, Seeds(3)).masks.items():
            assert torch.equal(mask, masks[name])


class Drifting(Mapping[str, Tensor]):
    """Scores that are not the same each time that they are asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __getitem__(self, name: str) -> Tensor:
        self.asked += 1
        return torch.full((5,), 10.0**self.asked)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def test_scores_that_change_between_two_passes():
    with pytest.raises(ComponentError, match="changed"):
        select(Drifting(), 0.5, Seeds(0))


@pytest.mark.parametrize(
    "given",
    [{}, {"which": "highest"}, {"ties": "drop"}, {"ties": "stable", "which": "highest"}, {"rounding": "up"}],
    ids=str,
)
def test_forgetkit_select_equals_the_library_function(given):
    scores = {"a": torch.rand(31, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(20)}
    masks = forgetkit.select(scores, fraction=0.3, seed=4, **given)
    expected = select(scores, 0.3, Seeds(4), **given).masks
    assert masks.keys() == expected.keys()
    assert all(torch.equal(mask, expected[name]) for name, mask in masks.items())
    plain = forgetkit.select(scores, fraction=0.3, seed=4)
    assert all(torch.equal(mask, plain[name]) for name, mask in masks.items()) == (not given)


@pytest.mark.parametrize("given", [{"which": "middle"}, {"ties": "first"}, {"rounding": "nearest"}], ids=str)
def test_unknown_options_of_select_are_refused(given):
    with refused(OptionError, match="{}='{}' is none of".format(*next(iter(given.items())))):
        forgetkit.select({"a": torch.rand(3)}, fraction=0.5, **given)


def test_masks_have_a_short_repr_and_compare_by_identity():
    scores = {"a": torch.rand(3, 2), "b": torch.rand(())}
    chosen, other = (select(scores, 0.5, Seeds(0)).masks for _ in range(2))
    assert repr(chosen) == "Masks({'a': (3, 2), 'b': ()})"
    assert chosen == chosen
    assert chosen != other
    assert chosen != dict(chosen)
    assert len({chosen, other}) == 2
