"""Images in memory as one uint8 tensor: a micro-batch is one index operation."""

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from launcher.data import Batch
from launcher.errors import DataError
from launcher.rng import Int64s


class Arrays:
    """A source of labelled images in memory, on the host or on a device."""

    def __init__(
        self, image: Tensor, label: Tensor, classes: tuple[str, ...], fingerprint: str | None = None
    ) -> None:
        """`image`: uint8, (N, C, H, W). `label`: int64, (N,), in [0, classes).

        `fingerprint` is of the content, where it is known without reading it again. Raises
        DataError when the parts do not fit together.
        """
        if image.dtype != torch.uint8 or image.ndim != 4 or len(image) == 0:
            raise DataError(
                f"images must be uint8 of shape (N, C, H, W), at least one; "
                f"these are {image.dtype} of shape {tuple(image.shape)}."
            )
        if label.dtype != torch.int64:
            raise DataError(f"labels must be int64; these are {label.dtype}.")
        if label.shape != image.shape[:1]:
            raise DataError(f"{len(image)} images have {len(label)} labels: every image needs one.")
        wrong = torch.nonzero((label < 0) | (label >= len(classes))).flatten()
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"sample {first} has label {int(label[first])}, but there are {len(classes)} "
                f"classes, 0 to {len(classes) - 1} ({len(wrong)} samples have such labels)."
            )
        self.image = image
        self.label = label
        self.classes = classes
        self.shape: tuple[int, ...] = tuple(image.shape[1:])
        self._known = fingerprint

    @classmethod
    def of(
        cls, image: NDArray[np.uint8], label: NDArray[np.integer], classes: tuple[str, ...],
        fingerprint: str | None = None,
    ) -> "Arrays":  # fmt: skip
        """From numpy arrays; images without a channel dimension, (N, H, W), get one."""
        if image.dtype != np.uint8 or label.dtype.kind not in "iu":
            raise DataError(
                f"images must be uint8 and labels whole numbers; these are {image.dtype} and "
                f"{label.dtype}."
            )
        if image.ndim == 3:
            image = image[:, None]
        pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"]))
        labels = torch.from_numpy(np.require(label, np.int64, ["C", "W"]))
        return cls(pixels, labels, classes, fingerprint)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Int64s) -> Batch:
        where = torch.from_numpy(index).to(self.image.device, non_blocking=True)
        return {
            "image": self.image.index_select(0, where),
            "label": self.label.index_select(0, where),
        }

    @cached_property
    def fingerprint(self) -> str:
        if self._known is not None:
            return self._known
        digest = hashlib.sha256(repr((tuple(self.image.shape), self.classes)).encode())
        digest.update(self.image.cpu().numpy().data)
        digest.update(self.label.cpu().numpy().data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.label.nbytes

    def to(self, device: torch.device) -> "Arrays":
        """The same source with its tensors on the device."""
        if device == self.image.device:
            return self
        moved = self.image.to(device), self.label.to(device)
        return Arrays(*moved, self.classes, self.fingerprint)

    def fit(self, size: int | None, channels: int | None) -> "Arrays":
        """The same images as size x size, with 1 or 3 channels; None leaves them as they are."""
        image = _with_channels(_with_size(self.image, size), channels)
        if image is self.image:
            return self
        shaped = None if self._known is None else f"{self._known}-{'x'.join(map(str, image.shape))}"
        return Arrays(image, self.label, self.classes, shaped)


def brought_to(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One image of any size, uint8 (C, H, W), as `Arrays.fit` would make it of a data set's: small
    ones enlarged by whole pixels or padded, others resized. Of what is longer or wider than the
    shape (channels, height, width) the middle is taken first: a data set's images are not.

    Raises DataError for channels that are neither 1 nor 3.
    """
    channels, height, width = shape
    own_height, own_width = image.shape[-2:]
    if height == width and max(own_height, own_width) <= height:
        return _with_channels(_with_size(image[None], height), channels)[0]
    tall = min(own_height, own_width * height // width)
    wide = min(own_width, own_height * width // height)
    top, left = (own_height - tall) // 2, (own_width - wide) // 2
    image = image[None, :, top : top + max(1, tall), left : left + max(1, wide)]
    if image.shape[-2:] != (height, width):
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return _with_channels(image, channels)[0]


def _with_size(image: Tensor, size: int | None) -> Tensor:
    height, width = image.shape[-2:]
    if size is None or (height, width) == (size, size):
        return image
    if height == width and size % height == 0:
        times = size // height
        return image.repeat_interleave(times, 2).repeat_interleave(times, 3)
    if height <= size and width <= size:
        top, left = (size - height) // 2, (size - width) // 2
        return F.pad(image, (left, size - width - left, top, size - height - top))
    resized = [
        F.interpolate(part, (size, size), mode="bilinear", antialias=True)
        for part in torch.split(image, 1024)  # in parts: interpolation works in float32
    ]
    return torch.cat(resized)


def _with_channels(image: Tensor, channels: int | None) -> Tensor:
    if channels is None or image.shape[1] == channels:
        return image
    if image.shape[1] == 1:
        return image.repeat(1, channels, 1, 1)
    if channels == 1 and image.shape[1] == 3:
        # Luma of ITU-R BT.601, section 2.5.1.
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = [(part * weights).sum(1, keepdim=True).round() for part in torch.split(image, 1024)]
        return torch.cat(grey).to(torch.uint8)
    raise DataError(
        f"images with {image.shape[1]} channels cannot be given {channels}: use 1 or 3."
    )
