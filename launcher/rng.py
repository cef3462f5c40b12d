"""All randomness of a run: pure functions of (seed, purpose, epoch, sample, draw).

Nothing here has a state that a checkpoint would have to hold. The bits come from the finaliser of
SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014,
figure 16; constants of David Stafford's variant 13), folded over the words. Integer arithmetic
modulo 2^64 gives the same numbers on every machine and with every version of numpy and torch;
their own generators promise no such thing.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Purposes: the first word after the seed, so that no two uses share a stream. Never renumber.
ORDER: Final = 1
AUGMENT: Final = 2
TORCH: Final = 3
SYNTHETIC: Final = 4
EVALUATE: Final = 5
DECODE: Final = 6
STEP: Final = 7
UPDATE: Final = 8

_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = 0xFFFFFFFFFFFFFFFF

Uint64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]


def bits(seed: int, *words: int | Int64s) -> Uint64s:
    """64 random bits for each element of the broadcast words, as uint64.

    Words are integers or int64 arrays; integers that come first cost next to nothing, so put the
    arrays last. The result has the broadcast shape of the arrays, or shape (1,).
    """
    scalars = 0
    while scalars < len(words) and not isinstance(words[scalars], np.ndarray):
        scalars += 1
    state: Uint64s = np.array([fold(seed, *(int(word) for word in words[:scalars]))], np.uint64)
    for word in words[scalars:]:
        signed = np.atleast_1d(np.asarray(word, np.int64))
        array = signed.astype(np.uint64)  # two's complement, as in `fold`
        state = _mix((state ^ _mix(array + np.uint64(_GAMMA))) + np.uint64(_GAMMA))
    return state


def fold(seed: int, *words: int) -> int:
    """`bits` for integers alone, without numpy: 1 µs a word instead of 10."""
    state = _mix_int(_mix_int(seed + _GAMMA))  # twice: or seed and first word could change places
    for word in words:
        state = _mix_int((state ^ _mix_int(word + _GAMMA)) + _GAMMA)
    return state


def _mix(z: Uint64s) -> Uint64s:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def _mix_int(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def order(seed: int, epoch: int, samples: int) -> Int64s:
    """The permutation of `range(samples)` in which an epoch reads its samples, as int64."""
    keys = bits(seed, ORDER, epoch, np.arange(samples, dtype=np.int64))
    return np.argsort(keys, kind="stable")


def torch_seed(seed: int, *words: int) -> int:
    """A seed for a torch generator, in [0, 2^63): for the weights, or for one micro-batch."""
    return fold(seed, TORCH, *words) >> 1


class _Draws:
    """The draws of a stretch of samples of one epoch, a few draw numbers at a time: numpy takes
    about as long for 4 numbers as for 400."""

    __slots__ = ("_epoch", "_index", "_rows", "_seed", "_uniform")
    _AT_ONCE: Final = 4

    def __init__(self, seed: int, epoch: int, index: Int64s) -> None:
        self._seed, self._epoch, self._index = seed, epoch, index
        self._rows: list[Uint64s] = []
        self._uniform: dict[int, NDArray[np.float64]] = {}

    def bits(self, draw: int) -> Uint64s:
        """`bits` for a draw number from 1 on, and every sample: uint64, shape (samples,)."""
        while draw > len(self._rows):
            first = len(self._rows) + 1
            numbers = np.arange(first, first + self._AT_ONCE, dtype=np.int64)[:, None]
            self._rows += list(bits(self._seed, AUGMENT, self._epoch, numbers, self._index))
        return self._rows[draw - 1]

    def uniform(self, draw: int) -> NDArray[np.float64]:
        """The upper 53 of these bits as numbers in [0, 1): float64, shape (samples,)."""
        if draw not in self._uniform:
            upper = self.bits(draw) >> np.uint64(11)
            self._uniform[draw] = upper.astype(np.float64) * 2.0**-53
        return self._uniform[draw]


class SampleRng:
    """Random draws for the samples of one micro-batch.

    Every method gives one value for each sample and moves on to the next draw number. A sample's
    values depend on (seed, epoch, its index, the draw number) and on nothing else: not on the
    batch, the process or the worker it is in.
    """

    __slots__ = ("_draw", "_draws", "_parts", "_place")

    def __init__(self, seed: int, epoch: int, index: Int64s) -> None:
        self._draws = _Draws(seed, epoch, index)
        self._place = slice(0, len(index))
        self._draw, self._parts = 0, 1

    @classmethod
    def each(
        cls, seed: int, epoch: int, indices: Sequence[Int64s], parts: int = 1
    ) -> "list[SampleRng]":
        """One for each of several micro-batches of an epoch: what they draw is the same as if each
        were made alone, and is made for all of them at once. Each may be `parts` micro-batches, one
        for each device of the process."""
        draws, first, found = _Draws(seed, epoch, np.concatenate(indices)), 0, []
        for index in indices:
            one = cls.__new__(cls)
            one._draws, one._draw, one._parts = draws, 0, parts
            one._place = slice(first, first + len(index))
            found.append(one)
            first += len(index)
        return found

    def __len__(self) -> int:
        return self._place.stop - self._place.start

    def bits(self) -> Uint64s:
        """64 random bits for each sample: uint64, shape (samples,)."""
        self._draw += 1
        return self._draws.bits(self._draw)[self._place]

    def uniform(self) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1): float64, shape (samples,)."""
        self._draw += 1
        return self._draws.uniform(self._draw)[self._place]

    def integers(self, low: int, high: int) -> Int64s:
        """Integers in [low, high), each equally likely to within 2^-53: int64, shape (samples,)."""
        assert low < high, f"no integer in [{low}, {high})"
        return low + (self.uniform() * (high - low)).astype(np.int64)  # towards 0: down

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """True with the given probability in [0, 1]: bool, shape (samples,)."""
        return self.uniform() < probability

    def partners(self) -> Int64s:
        """For each sample the place in this batch of another one of its micro-batch, or of itself:
        a permutation of each micro-batch, int64, shape (samples,). It depends on the seed, the
        epoch and the samples of the micro-batch."""
        keys = self.bits().reshape(self._parts, -1)
        first = np.arange(self._parts)[:, None] * keys.shape[1]
        return (np.argsort(keys, axis=1, kind="stable") + first).reshape(-1)
