"""Pictures that another reader of PNG reads back, byte by byte."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from launcher.png import data_url


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (96, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_reads_the_same_pixels(size: tuple[int, int], channels: int) -> None:
    width, height = size
    shape = (height, width, channels) if channels == 3 else (height, width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    head, _, body = data_url(pixels.tobytes(), width, height, channels).partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert np.array_equal(np.asarray(image), pixels)


def test_pixels_of_another_size_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="one byte for each channel"):
        data_url(b"\0" * 5, 2, 2, 1)
