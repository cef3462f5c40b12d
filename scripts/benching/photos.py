"""A folder of JPEG files that are made, for a machine that has no photographs."""

from pathlib import Path

import numpy as np


def make(folder: Path, classes: int, each: int, size: tuple[int, int] = (500, 375)) -> None:
    """`each` files in each of `classes` folders below train/ and a fifth as many below val/: a
    colour for each class under coarse and fine noise, about as large as a photograph's file."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, number in (("train", each), ("val", max(1, each // 5))):
        for name in range(classes):
            place = folder / part / f"class{name}"
            place.mkdir(parents=True)
            for image in range(number):
                coarse = draw.integers(0, 128, (12, 16, 3)).astype(np.uint8)
                coarse[..., name % 3] += np.uint8(60 + 60 * (name // 3 % 2))
                large = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
                fine = draw.integers(0, 24, (size[1], size[0], 3)).astype(np.uint8)
                pixels = np.asarray(large).astype(np.int64) + fine
                photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                photo.save(place / f"{image:04d}.jpg", quality=90)
