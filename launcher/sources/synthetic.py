"""Images that are made and not read: seeded, learnable, of any shape and number."""

from typing import Literal

import numpy as np

from launcher import rng
from launcher.sources.arrays import Arrays


def synthetic(
    split: Literal["train", "test"], samples: int | None = None,
    shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, seed: int = 0,
) -> Arrays:  # fmt: skip
    """Each class is a coarse pattern; an image is its class's pattern under heavy noise.

    `samples`: 10,000 for training and 2,000 for testing if not given. `shape`: channels, height,
    width. The same arguments give the same images on every machine.
    """
    usual = 10_000 if split == "train" else 2_000
    count = usual if samples is None else samples
    channels, height, width = shape
    part = 0 if split == "train" else 1
    label = (rng.bits(seed, rng.SYNTHETIC, part, 0, np.arange(count)) % np.uint64(classes)).astype(
        np.int64
    )
    coarse = _bytes(seed, (rng.SYNTHETIC, 2), classes * channels * 16).reshape(-1, channels, 4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    pattern = coarse[:, :, rows[:, None], columns]
    noise = _bytes(seed, (rng.SYNTHETIC, part, 1), count * channels * height * width)
    # A quarter pattern and three quarters noise, in integers: nothing to round differently.
    image = noise.reshape(count, channels, height, width)
    image -= image // 4
    image += pattern[label] // 4
    return Arrays.of(image, label, tuple(str(number) for number in range(classes)))


def _bytes(seed: int, words: tuple[int, ...], count: int) -> np.ndarray:
    """Random bytes, the same on machines of either byte order: uint8, shape (count,)."""
    numbers = rng.bits(seed, *words, np.arange(-(-count // 8), dtype=np.int64))
    return numbers.astype("<u8").view(np.uint8)[:count].copy()
