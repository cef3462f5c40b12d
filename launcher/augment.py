"""Augmentation of whole batches, on any device, drawn from `SampleRng`.

Each function takes images as uint8 or float tensors of shape (N, C, H, W), changes no argument and
returns the same shape, dtype and device. Sample i's result depends on its own draws only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from launcher.data import Batch
from launcher.errors import RecipeError
from launcher.rng import Int64s, SampleRng

Pixels = NDArray[Any]
_SMALL = 10.0
"""Above what is left of a pixel when mean and standard deviation were taken out of it."""


class _Normalize:
    """What `normalize` returns."""

    def __init__(self, scale: list[float], shift: list[float]) -> None:
        self.each_by_itself = True
        self._scale, self._shift = scale, shift
        self._on: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: Batch) -> Batch:
        image = batch["image"]
        key = image.device, image.dtype
        if key not in self._on:  # once, before the first step: to look at values takes time
            _refuse_scaled(image)
            by, plus = (
                torch.tensor(values, device=image.device).view(-1, 1, 1)
                for values in (self._scale, self._shift)
            )
            self._on[key] = by, plus
        by, plus = self._on[key]
        if image.device.type == "cpu":  # one buffer; addcmul is slow where constants are broadcast
            return batch | {"image": image.to(torch.float32, copy=True).mul_(by).add_(plus)}
        return batch | {"image": torch.addcmul(plus, image.float(), by)}


def _refuse_scaled(image: Tensor) -> None:
    """Raises RecipeError for images that were scaled before, and would be nearly black.

    A float image may hold pixels from 0 to 255: a mix of several does.
    """
    if not image.is_floating_point() or not image.numel():
        return
    low, high = (value.item() for value in image.aminmax())
    if 0 < high <= 1 or (low < 0 and high < _SMALL):
        raise RecipeError(
            f"augment.normalize takes images of bytes, 0 to 255, and would divide these by 255 "
            f"again, which are {str(image.dtype).removeprefix('torch.')} from {low:.3g} to "
            f"{high:.3g}: give it uint8 images (no ToTensor, no / 255), or leave it out of the "
            f"recipe's data and normalise in a prepare of your own."
        )


def normalize(mean: Sequence[float], std: Sequence[float]) -> Callable[[Batch], Batch]:
    """A `Data.prepare` that turns uint8 images into float32 ones: (image / 255 - mean) / std.

    One mean and standard deviation for all channels, or one for each, of pixels in [0, 1]. Float
    images of pixels from 0 to 255, as mixes give them, are taken as well; its call raises
    RecipeError for those that are in [0, 1] or normalised already.
    """
    scale = [1 / (255 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    return _Normalize(scale, shift)


def flip(image: Tensor, rng: SampleRng) -> Tensor:
    """Mirror each image left to right with probability 1/2 (Krizhevsky, Sutskever, Hinton:
    ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012, section 4.1)."""
    mirrored = rng.chance(0.5)
    if image.device.type != "cpu":
        return torch.where(_on(mirrored, image).view(-1, 1, 1, 1), image.flip(-1), image)
    result = image.clone()
    pixels, chosen = _pixels(result), mirrored.nonzero()[0]
    # Only these are moved, by numpy, and turned by torch: of both the faster one.
    pixels[chosen] = torch.from_numpy(pixels[chosen]).flip(-1).numpy()
    return result


def shift(image: Tensor, rng: SampleRng, most: int) -> Tensor:
    """Move each image by up to `most` pixels in both directions, over zeros: the padded random
    crop (He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section
    4.2; Lee et al.: Deeply-Supervised Nets, AISTATS 2015)."""
    if most == 0:
        return image
    down, right = rng.integers(0, 2 * most + 1), rng.integers(0, 2 * most + 1)
    if image.device.type == "cpu":
        return _windows(_pixels(image), most, down, right).view(image.dtype)
    height, width = image.shape[-2:]
    windows = F.pad(image, (most, most, most, most)).unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(len(image), device=image.device)
    # Of all the windows, a view, one for each sample is copied.
    return windows.permute(0, 2, 3, 1, 4, 5)[sample, _on(down, image), _on(right, image)]


def _windows(image: Pixels, most: int, down: Int64s, right: Int64s) -> Tensor:
    """Of each image, (C, H, W), between `most` zeros on each side, the window of its size that
    begins `down` rows below the top and `right` columns from the left; down, right: (N,)."""
    samples, channels, height, width = image.shape
    tall, wide = height + 2 * most, width + 2 * most
    padded = np.zeros((samples, channels, tall, wide), image.dtype)
    padded[:, :, most : most + height, most : most + width] = image
    # A window lies in one run of memory, from its first pixel to its last, whatever it begins with.
    # To copy whole runs, and to pick the windows out of them, is faster than to copy their rows.
    size = image.itemsize
    run = (channels - 1) * tall * wide + (height - 1) * wide + width
    starts = np.arange(samples) * (channels * tall * wide) + down * wide + right
    begins: Pixels = np.ndarray((padded.size - run + 1, run), image.dtype, padded, 0, (size, size))
    strides = (run * size, tall * wide * size, wide * size, size)
    windows: Pixels = np.ndarray(image.shape, image.dtype, begins[starts], 0, strides)
    return torch.from_numpy(windows).contiguous()


def erase(
    image: Tensor, rng: SampleRng, probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33), aspect: tuple[float, float] = (0.3, 3.3),
    fill: int = 0,
) -> Tensor:  # fmt: skip
    """Fill one rectangle of each image with a constant, with the given probability (Zhong, Zheng,
    Kang, Li, Yang: Random Erasing Data Augmentation, AAAI 2020, algorithm 1).

    `area` is the rectangle's share of the image, `aspect` its height over its width, drawn
    logarithmically; a rectangle that does not fit is cut at the image's size.
    """
    height, width = image.shape[-2:]
    chosen = rng.chance(probability)
    share = area[0] + rng.uniform() * (area[1] - area[0])
    low, high = np.log(aspect[0]), np.log(aspect[1])
    ratio = np.exp(low + rng.uniform() * (high - low))
    tall = np.clip(np.rint(np.sqrt(share * height * width * ratio)), 1, height).astype(np.int64)
    wide = np.clip(np.rint(np.sqrt(share * height * width / ratio)), 1, width).astype(np.int64)
    top = np.floor(rng.uniform() * (height - tall + 1)).astype(np.int64)
    left = np.floor(rng.uniform() * (width - wide + 1)).astype(np.int64)
    row, column = np.arange(height), np.arange(width)
    inside_rows = (row >= top[:, None]) & (row < (top + tall)[:, None]) & chosen[:, None]
    inside_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    mask = _on(inside_rows, image)[:, None, :, None] & _on(inside_columns, image)[:, None, None, :]
    return image.masked_fill(mask, fill)


def _pixels(image: Tensor) -> Pixels:
    """The memory of images on the host as an array; bfloat16, which numpy has not, as integers."""
    return (image.view(torch.int16) if image.dtype == torch.bfloat16 else image).numpy()


def _on(draws: np.ndarray, like: Tensor) -> Tensor:
    """Draws, made on the host, on the device of the images."""
    return torch.from_numpy(draws).to(like.device, non_blocking=True)
