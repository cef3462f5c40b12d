"""All randomness of a run. The numbers below are pinned for ever: change none of them.

A run that was started with one version of the launcher must continue with the next one, so a golden
value that changes is a bug in `rng.py`, never in this file.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import rng
from launcher.rng import Int64s, SampleRng

few = settings(max_examples=60, deadline=None, derandomize=True)
words = st.integers(-(2**63), 2**63 - 1)
INDEX = np.array([0, 1, 2, 41, 49_999], np.int64)


def hashed(array: Int64s) -> str:
    return hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()


# ── golden values ────────────────────────────────────────────────────────────────────────────────

GOLDEN_FOLD = {
    (0,): 5197578548964807871,
    (1,): 15916886550466581944,
    (42, 1, 2, 3): 11260085787989661817,
    (7, 0, 0): 9079879415302512353,
    (2**63 - 1, 2**62): 14533682697835593427,
    (5, -1): 10937519204752599424,
}


@pytest.mark.parametrize(("key", "value"), GOLDEN_FOLD.items())
def test_fold_is_pinned_for_ever(key: tuple[int, ...], value: int) -> None:
    assert rng.fold(*key) == value


def test_bits_are_pinned_for_ever() -> None:
    assert rng.bits(0).tolist() == [0x48218226FF3CD4BF]
    assert rng.bits(0, 1, 2, np.arange(4)).tolist() == [
        0xA703A54DC301FBE,
        0x816885D33D9CD1B5,
        0x74A9462A822DF817,
        0x5023DF12CE2CA43,
    ]
    extremes = np.array([-1, -(2**63), 2**63 - 1])
    assert rng.bits(-7, extremes).tolist() == [
        0xB84593589FCE659,
        0x72AFC559DC7DB4BC,
        0x126EB5369876A55E,
    ]
    assert rng.bits(3, np.arange(2)[:, None], np.arange(2)).tolist() == [
        [4399060798754027195, 6641080981738958265],
        [385275046532133814, 18006877294323400372],
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ((0, 0, 10), [0, 3, 6, 8, 5, 2, 4, 9, 1, 7]),
        ((0, 1, 10), [4, 0, 2, 7, 8, 3, 5, 6, 9, 1]),
        ((1, 0, 10), [8, 6, 4, 5, 0, 9, 1, 3, 2, 7]),
        ((12345, 7, 16), [4, 5, 10, 3, 14, 1, 12, 6, 8, 15, 13, 7, 9, 2, 11, 0]),
    ],
)
def test_the_order_is_pinned_for_ever(key: tuple[int, int, int], value: list[int]) -> None:
    assert rng.order(*key).tolist() == value


def test_the_order_of_cifar10_is_pinned_for_ever() -> None:
    assert hashed(rng.order(0, 0, 50_000)) == (
        "3127aa6aae206767b1bc1184d629360a65e2ed71d22fc033fa447f3fbc025b08"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ((0,), 3939242157669509430),
        ((0, 0, 0), 3362173520162257989),
        ((0, 1, 0), 7945893765453647996),
        ((42, 100, 3), 1187419099578678021),
    ],
)
def test_torch_seeds_are_pinned_for_ever(key: tuple[int, ...], value: int) -> None:
    assert rng.torch_seed(*key) == value


def test_the_draws_of_a_sample_are_pinned_for_ever() -> None:
    draws = SampleRng(0, 3, INDEX)
    assert draws.uniform().tolist() == [
        0.9557520560786811,
        0.5036322496838225,
        0.22224487772426116,
        0.9964307482574305,
        0.07546651291416728,
    ]
    assert draws.integers(-4, 5).tolist() == [-1, -4, -3, 0, -3]
    assert draws.chance(0.5).tolist() == [True, False, False, True, False]
    assert draws.bits().tolist() == [
        16449041942353335470,
        13183555951370625396,
        14306128889075213599,
        15097019883050764913,
        13712597707053588463,
    ]


def test_purposes_keep_their_numbers() -> None:
    assert (rng.ORDER, rng.AUGMENT, rng.TORCH, rng.SYNTHETIC) == (1, 2, 3, 4)
    assert (rng.EVALUATE, rng.DECODE, rng.STEP, rng.UPDATE) == (5, 6, 7, 8)


# ── the words ────────────────────────────────────────────────────────────────────────────────────


@few
@given(seed=words, prefix=st.lists(words, max_size=3), last=st.lists(words, max_size=5))
def test_fold_equals_bits(seed: int, prefix: list[int], last: list[int]) -> None:
    assert rng.bits(seed, *prefix).tolist() == [rng.fold(seed, *prefix)]
    found = rng.bits(seed, *prefix, np.array(last, np.int64))
    assert found.dtype == np.uint64
    assert found.tolist() == [rng.fold(seed, *prefix, word) for word in last]


@few
@given(seed=words, first=st.lists(words, min_size=1, max_size=3), second=words)
def test_a_word_after_an_array_is_a_word_like_any_other(
    seed: int, first: list[int], second: int
) -> None:
    found = rng.bits(seed, np.array(first, np.int64), second)
    assert found.tolist() == [rng.fold(seed, word, second) for word in first]


def test_words_may_have_any_size() -> None:
    """Two's complement modulo 2^64: warnings are errors here, so numpy's overflows would show."""
    assert rng.fold(2**80 + 5, -(2**70) - 1) == rng.fold(5, 2**64 - 1) == rng.fold(5, -1)
    assert rng.bits(2**80 + 5, -(2**70) - 1).tolist() == rng.bits(5, np.array([-1])).tolist()


def test_arrays_broadcast() -> None:
    rows, columns = np.arange(3)[:, None], np.arange(4)
    table = rng.bits(9, 1, rows, columns)
    assert table.shape == (3, 4)
    assert table[2, 3] == rng.fold(9, 1, 2, 3)
    assert rng.bits(9, 1, np.arange(0)).shape == (0,)


@few
@given(seed=words, a=words, b=words)
def test_the_order_of_the_words_matters(seed: int, a: int, b: int) -> None:
    if a != b:
        assert rng.fold(seed, a, b) != rng.fold(seed, b, a)


def test_seed_and_purpose_cannot_change_places() -> None:
    """Else seed 2's order would come from the same state as seed 1's augmentation."""
    assert rng.fold(1, rng.AUGMENT) != rng.fold(2, rng.ORDER)


def test_a_seed_that_equals_its_purpose_has_numbers_of_its_own() -> None:
    assert rng.fold(1, rng.ORDER) != rng.fold(2, rng.AUGMENT)
    assert len({rng.fold(number, number) for number in range(100)}) == 100


def test_a_word_more_gives_other_numbers() -> None:
    """Also a word zero: nothing is folded into nothing."""
    assert len({rng.fold(5), rng.fold(5, 0), rng.fold(5, 0, 0), rng.fold(5, 0, 0, 0)}) == 4


def test_no_two_of_many_keys_have_the_same_bits() -> None:
    seeds = range(20)
    found = np.concatenate(
        [
            rng.bits(seed, purpose, np.arange(30)[:, None], np.arange(40)).ravel()
            for seed in seeds
            for purpose in (10, 11)
        ]
    )
    assert len(np.unique(found)) == len(found) == 20 * 2 * 30 * 40


def test_every_bit_is_set_in_half_of_the_numbers() -> None:
    numbers = rng.bits(0, 1, 0, np.arange(20_000))
    share = [float(((numbers >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(value - 0.5) for value in share) < 0.02  # 5.6 standard deviations


# ── shuffling ────────────────────────────────────────────────────────────────────────────────────


@few
@given(seed=words, epoch=st.integers(0, 1000), samples=st.integers(0, 200))
def test_the_order_is_a_permutation(seed: int, epoch: int, samples: int) -> None:
    found = rng.order(seed, epoch, samples)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(samples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {hashed(rng.order(seed, epoch, 50)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


def test_seed_0_epoch_1_is_not_seed_1_epoch_0() -> None:
    """What `seed + epoch` would make the same."""
    assert rng.order(0, 1, 50).tolist() != rng.order(1, 0, 50).tolist()
    ahead, behind = SampleRng(0, 1, INDEX), SampleRng(1, 0, INDEX)
    assert ahead.bits().tolist() != behind.bits().tolist()
    assert rng.torch_seed(0, 1) != rng.torch_seed(1, 0)


def test_every_place_is_as_likely_for_a_sample() -> None:
    places = [rng.order(0, epoch, 10).tolist().index(0) for epoch in range(2000)]
    counts = np.bincount(places, minlength=10)
    assert counts.min() > 130, "200 are expected; 130 is 5 standard deviations away"
    assert counts.max() < 270


def test_torch_takes_the_seeds() -> None:
    seeds = [rng.torch_seed(seed, step) for seed in (-1, 0, 2**63 - 1) for step in range(50)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 150


# ── the draws of a sample ────────────────────────────────────────────────────────────────────────


def drawn(index: Int64s, seed: int = 0, epoch: int = 0) -> list[tuple[object, ...]]:
    """For each sample one of every kind of draw, in a row."""
    draws = SampleRng(seed, epoch, index)
    columns = (draws.uniform(), draws.integers(0, 1000), draws.chance(0.5), draws.bits())
    return list(zip(*(column.tolist() for column in columns), strict=True))


@few
@given(
    epoch=st.integers(0, 50),
    index=st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True),
    data=st.data(),
)
def test_a_sample_draws_the_same_in_any_batch(
    epoch: int, index: list[int], data: st.DataObject
) -> None:
    whole = dict(zip(index, drawn(np.array(index), epoch=epoch), strict=True))
    part = data.draw(st.permutations(index))[: data.draw(st.integers(1, len(index)))]
    assert drawn(np.array(part), epoch=epoch) == [whole[sample] for sample in part]


def test_a_generator_of_numpy_would_draw_otherwise_in_another_batch() -> None:
    """The negative control of the test above: a stream per batch does not pass it."""

    def stream(index: Int64s) -> dict[int, float]:
        numbers = np.random.default_rng(0).random(len(index)).tolist()
        return dict(zip(index.tolist(), numbers, strict=True))

    assert stream(INDEX)[41] != stream(INDEX[3:])[41]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: SampleRng(1, 3, INDEX), id="seed"),
        pytest.param(lambda: SampleRng(0, 4, INDEX), id="epoch"),
        pytest.param(lambda: SampleRng(0, 3, INDEX + 100), id="sample"),
    ],
)
def test_another_seed_epoch_or_sample_draws_other_numbers(other: Callable[[], SampleRng]) -> None:
    assert not set(SampleRng(0, 3, INDEX).bits().tolist()) & set(other().bits().tolist())


def test_another_draw_gives_other_numbers() -> None:
    draws = SampleRng(0, 3, INDEX)
    numbers = [number for _ in range(20) for number in draws.bits().tolist()]
    assert len(set(numbers)) == 20 * len(INDEX)


def test_another_purpose_gives_other_numbers() -> None:
    """The first draw (number 1) of an epoch, against the same words under the other purposes."""
    numbers = SampleRng(0, 3, INDEX).bits().tolist()
    for purpose in (rng.ORDER, rng.TORCH, rng.SYNTHETIC):
        assert not set(rng.bits(0, purpose, 3, 1, INDEX).tolist()) & set(numbers)


def test_every_method_takes_one_draw() -> None:
    """So that the draws after it do not depend on which of them was called."""
    after = []
    for first in (
        SampleRng.bits,
        SampleRng.uniform,
        lambda draws: draws.integers(0, 3),
        lambda draws: draws.chance(0.1),
    ):
        draws = SampleRng(0, 0, INDEX)
        first(draws)
        after.append(draws.bits().tolist())
    assert all(numbers == after[0] for numbers in after)


def test_uniform_numbers_are_uniform() -> None:
    numbers = SampleRng(0, 0, np.arange(50_000)).uniform()
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.0065  # 5 standard deviations
    counts = np.bincount((numbers * 10).astype(int), minlength=10)
    assert abs(counts - 5000).max() < 5 * 67.1


class Fixed(SampleRng):
    """Draws whose 64 bits are what the test says."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(0, 0, np.arange(len(numbers)))
        self._draws._rows = [np.array(numbers, np.uint64)]


def test_uniform_numbers_reach_0_and_stay_below_1() -> None:
    assert Fixed(0, 2**64 - 1).uniform().tolist() == [0.0, 1 - 2.0**-53]
    assert Fixed(0, 2**64 - 1).integers(-3, 4).tolist() == [-3, 3]
    assert Fixed(0, 2**64 - 1).chance(0.0).tolist() == [False, False]
    assert Fixed(0, 2**64 - 1).chance(1.0).tolist() == [True, True]


def test_integers_are_all_equally_likely() -> None:
    numbers = SampleRng(0, 0, np.arange(45_000)).integers(-4, 5)
    assert numbers.dtype == np.int64
    assert sorted(set(numbers.tolist())) == list(range(-4, 5))
    assert abs(np.bincount(numbers + 4) - 5000).max() < 5 * 66.7


def test_no_integer_between_equal_bounds_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no integer in"):
        SampleRng(0, 0, INDEX).integers(3, 3)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_a_chance_comes_as_often_as_it_says(probability: float) -> None:
    happened = SampleRng(0, 0, np.arange(20_000)).chance(probability)
    assert happened.dtype == np.bool_
    assert abs(happened.mean() - probability) < 0.018  # 5 standard deviations


def test_micro_batches_that_share_the_making_of_their_draws_have_their_own() -> None:
    """More draws than are made at once, of every kind, taken in turns and out of order."""
    indices = [np.array(some, np.int64) for some in ([5, 2, 9], [7], [11, 12, 3, 4])]
    kinds: list[Callable[[SampleRng], Any]] = [
        SampleRng.bits,
        SampleRng.uniform,
        lambda draws: draws.integers(-3, 900),
        lambda draws: draws.chance(0.5),
    ]
    together = SampleRng.each(6, 2, indices)
    alone = [SampleRng(6, 2, index) for index in indices]
    assert [len(one) for one in together] == [3, 1, 4]
    for turn in range(11):
        for one, other in reversed([*zip(together, alone, strict=True)]):
            found, expected = (kinds[turn % 4](draws) for draws in (one, other))
            assert found.dtype == expected.dtype
            assert found.tolist() == expected.tolist()


def test_a_rng_has_the_length_of_its_batch() -> None:
    assert len(SampleRng(0, 0, INDEX)) == len(INDEX)
    assert SampleRng(0, 0, INDEX[:0]).uniform().shape == (0,)
