"""From an image file to what a run's model takes: in the way in which its test images are made.

A run on folders or tables of files reads a file with their own reader, so that it gets what
training and evaluation get. Images in memory were never files: there a file is taken as a person
sees it, and brought to the shape in the way of `sources.load`.
"""

import os
import stat
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from launcher.data import Source
from launcher.errors import DataError
from launcher.sources.absent import Absent
from launcher.sources.arrays import Arrays, brought_to
from launcher.sources.dataset import FromDataset
from launcher.sources.files import Files
from launcher.sources.photo import Reader, seen
from launcher.sources.tensors import Tensors

Picture = Callable[[str], Tensor]
"""From a path to one image; raises what Pillow raises for a broken file."""


def reading(source: Source) -> Picture:
    """How files become images of this source's kind. Raises DataError for a source that no file
    can be brought to."""
    shape = tuple(source.shape)
    reader: Any = getattr(source, "reader", None)
    if isinstance(source, Files | Absent) and isinstance(reader, Reader):
        return reader
    if isinstance(source, Arrays | Absent) and len(shape) == 3:
        return lambda path: brought_to(seen(path), shape)
    if isinstance(source, Tensors) and _has_pixels(source):
        return lambda path: brought_to(seen(path), shape)
    transform = source.transform if isinstance(source, FromDataset) else None
    if callable(transform) and len(shape) == 3 and shape[0] in (1, 3):
        return Reader(transform, None, shape[0])
    raise DataError(
        f"predict reads image files, and cannot tell how one becomes what this run learned from: "
        f"a {type(source).__name__} of shape {shape}. It can for images of bytes, for folders and "
        f"tables of files, and for a Dataset with a `transform`."
    )


def resizing(source: Source) -> str:
    """In words, how `reading` brings an image file to the source's shape."""
    reader = getattr(source, "reader", None)
    if not isinstance(reader, Reader):
        return (
            "the middle of the format of the shape, bilinear with antialiasing; smaller images "
            "enlarged by whole pixels if that fits, else padded with zeros"
        )
    if reader.size is None:
        return "by the transform in recipe.py"
    return f"short side to {reader.size} pixels, bilinear with antialiasing, then the middle square"


def read(picture: Picture, path: str) -> Tensor | str:
    """The image of a file, or in words why there is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for without end
            return "it is not a regular file"
        return picture(path)
    except DataError as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises what a broken file makes it stumble over
        if type(error).__name__ == "UnidentifiedImageError":
            return "it is no image, or of a kind that Pillow does not read"
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return said.replace(repr(path), "the file").rstrip(".")


def _has_pixels(source: Tensors) -> bool:
    image = source.parts.get("image")
    return (
        image is not None
        and image.dtype == torch.uint8
        and image.ndim == 4
        and image.shape[1] in (1, 3)
    )
