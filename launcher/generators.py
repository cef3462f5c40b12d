"""Python's and numpy's global generators: seeded before a recipe's code draws from them, and
watched where its draws would not be the run's.

Torch's is seeded for every micro-batch. Seeding these two takes 40 us, so that they are seeded once
for an attempt, and for each sample that is made alone; what a step draws from them does not come
again when a run continues.
"""

import logging
import random
from collections.abc import Mapping
from typing import Final

import numpy as np

log = logging.getLogger("launcher")
NAMES: Final = ("Python's random", "numpy's global generator")


def seed(value: int) -> None:
    """Seed both by a number in [0, 2^64)."""
    random.seed(value)
    np.random.seed([value & 0xFFFFFFFF, value >> 32])


def states() -> dict[str, object]:
    """How both are now, by name: what a draw changes."""
    found = np.random.get_state(legacy=False)
    numpys = repr({name: _plain(value) for name, value in found.items()})
    return dict(zip(NAMES, (random.getstate(), numpys), strict=True))


def drawn(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which of them was drawn from between two `states`, in words; an empty text for none."""
    return " and ".join(name for name in NAMES if before[name] != now[name])


def remark(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What to say when a step drew from one between two `states`; an empty text if none did."""
    if not (names := drawn(before, now)):
        return ""
    return (
        f"a step draws from {names}, which is not the run's: a continued run draws something else. "
        f"Use its rng in a transform, and torch's generator in a network or a loss"
    )


def warn_of_tests(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Say that making a batch for tests drew from one between two `states`, if it did."""
    if names := drawn(before, now):
        log.warning(
            "making a test batch draws from %s, which is not the run's: the scores would not come "
            "out the same again. Use the rng of the test split's transform", names,
        )  # fmt: skip


def _plain(value: object) -> object:
    """The state of one of numpy's generators, with all of its words."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
