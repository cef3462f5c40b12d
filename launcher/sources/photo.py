"""One image file as a tensor. Pillow lives here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.errors import DataError, RecipeError

Photo = Any
"""An Image of Pillow, which is imported where a file is read."""
ImageTransform = Callable[[Any], Any]
"""From a PIL image to a PIL image or a tensor: a transform of torchvision.transforms.v2, say."""


@dataclass(frozen=True)
class Reader:
    """From a path to a tensor of one shape, channels first.

    The file is read as torchvision's ImageFolder reads it: by Pillow, as RGB or L, and not turned
    as its EXIF orientation says. Pillow cuts 16-bit values at 255.
    """

    transform: ImageTransform | None
    size: int | None
    channels: int

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise RecipeError(f"channels={self.channels} must be 1 (grey) or 3 (colour).")
        if (self.transform is None) == (self.size is None):
            what = "neither" if self.size is None else "both"
            raise RecipeError(
                f"images of files need either size= (their short side is brought to it and the "
                f"middle cut out) or a transform= (which does that itself); {what} is given."
            )
        if self.size is not None and self.size < 1:
            raise RecipeError(f"size={self.size} must be at least 1 pixel.")

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of every image; None where it is the transform's affair."""
        return None if self.size is None else (self.channels, self.size, self.size)

    def __call__(self, path: str) -> Tensor:
        """The image: uint8 (channels, size, size), or what the transform gives.

        Raises OSError and what else Pillow or the transform raises.
        """
        from PIL import Image

        mode = "RGB" if self.channels == 3 else "L"
        with open(path, "rb") as file, Image.open(file) as opened:
            opened.load()
            photo = opened if opened.mode == mode else opened.convert(mode)  # it copies in any case
        if self.size is not None:
            return _pixels(_cut(photo, self.size))
        assert self.transform is not None
        found = self.transform(photo)
        if isinstance(found, Image.Image):
            return _pixels(found)
        if isinstance(found, Tensor):
            return found.as_subclass(Tensor)  # from torchvision's Image, which drags along
        kind = type(found).__name__
        raise DataError(f"its transform must give a PIL image or a tensor; it gave {kind}")


def seen(path: str) -> Tensor:
    """An image file as a person sees it: uint8, (1 or 3, height, width).

    Turned as its EXIF orientation says, transparency over white, 16-bit values scaled to 8 bits, of
    several frames the first. Raises OSError and what else Pillow raises for a broken file.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file, Image.open(file) as opened:
        photo = ImageOps.exif_transpose(opened)
        if photo.mode.startswith("I"):
            values = np.array(photo).astype(np.int64)
            if photo.mode != "I" or values.max() > 255:
                values = (values.clip(0, 65535) * 255 + 32767) // 65535
            photo = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        grey = photo.mode in ("1", "L", "LA")
        if photo.has_transparency_data:
            seen = photo.convert("RGBA")
            photo = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return _pixels(photo.convert("L" if grey else "RGB"))


def _cut(photo: Photo, size: int) -> Photo:
    """The middle square of an image whose short side becomes `size`: in numbers and pixels
    `Resize(size)` and `CenterCrop(size)` of torchvision."""
    from PIL.Image import Resampling

    short = min(photo.size)
    width, height = (size if side == short else int(size * side / short) for side in photo.size)
    if (width, height) != photo.size:
        photo = photo.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return photo.crop((left, top, left + size, top + size))


def _pixels(photo: Photo) -> Tensor:
    pixels = torch.from_numpy(np.array(photo))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
