"""Random draws that all micro-batches of a step share, on every process: for a network that
decides in `forward` how it is built this time.

Torch's generator is seeded for each micro-batch, so that a depth drawn from it would differ between
the processes of a step, and with the way in which a batch is split. A draw here is a function of
(seed, step, the words given), and of nothing else; it has no state, so that passes in threads, or
computed twice, draw the same. An evaluation counts as one step of its own, always the same one.
"""

from typing import Final

from launcher.rng import STEP, fold

EVALUATION: Final = -1
"""The step of all evaluations."""

_now: tuple[int, int] = (0, EVALUATION)
asked = 0
"""How often `bits` was called: a network that draws cannot be recorded and played back."""


def begin(seed: int, step: int) -> None:
    """Let the draws that follow be those of a step. The launcher calls it before each pass."""
    global _now
    _now = (seed, step)


def bits(*words: int) -> int:
    """64 random bits. Draws with other words (the number of the layer, say) are independent."""
    global asked
    asked += 1
    seed, step = _now
    return fold(seed, STEP, step, *words)


def uniform(*words: int) -> float:
    """A uniform number in [0, 1)."""
    return float((bits(*words) >> 11) * 2.0**-53)


def integer(low: int, high: int, *words: int) -> int:
    """An integer in [low, high), each equally likely to within 2^-53."""
    assert low < high, f"no integer in [{low}, {high})"
    return low + int(uniform(*words) * (high - low))
