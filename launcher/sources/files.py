"""Labelled image files: what folders of classes and tables of paths have in common."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from launcher.data import Batch
from launcher.errors import DataError
from launcher.rng import Int64s
from launcher.sources.decoded import Decoded, decode
from launcher.sources.listing import Names, printable
from launcher.sources.photo import Reader


class Files(Decoded):
    """A source of image files: `image` as the reader gives it, `label` int64."""

    def __init__(
        self, root: str, names: Names, label: Int64s, classes: Sequence[str], reader: Reader,
        origin: Callable[[int], str] | None = None,
    ) -> None:  # fmt: skip
        """`names` are paths below `root`; `label`: int64, (N,), in [0, classes). `origin` says of a
        sample who named its file, where that was a table."""
        self.root = root
        self.names = names
        self.classes: tuple[str, ...] = tuple(classes)
        self._label = label
        self._labels = torch.from_numpy(label)
        self.reader = reader
        self._origin = origin

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, number: int) -> Batch:
        """`image` and `label` of one file. Raises what the reader raises, and DataError."""
        image = self.reader(self._path(number))
        # The shape is asked for after this sample's draws, as it may take those of sample 0, which
        # alone is made before the shape is known.
        if (number or "shape" in vars(self)) and image.shape != self.shape:
            raise DataError(
                f"its image has the shape {tuple(image.shape)} and that of sample 0 has "
                f"{self.shape}: the transform must give all images one shape"
            )
        return {"image": image, "label": self._labels[number]}

    def where(self, number: int) -> str:
        """The file's path, and the line that named it."""
        path = printable(self._path(number))
        return path if self._origin is None else f"{path}, {self._origin(number)}"

    def labels(self) -> Tensor:
        """All labels, without reading an image: int64, (N,)."""
        return self._labels.clone()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one image; where a transform makes it, that of sample 0, which is read once."""
        if self.reader.shape is not None:
            return self.reader.shape
        return decode(self, np.zeros(1, np.int64), 0)["image"].shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names and sizes in bytes, of labels and classes, and of the images' shape
        where no transform makes it. Raises DataError for a file that is not there."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for number, (name, label) in enumerate(zip(self.names, self._label, strict=True)):
            try:
                size = os.stat(self._path(number)).st_size
            except OSError as error:
                raise DataError(
                    f"sample {number} ({self.where(number)}) cannot be read: {error.strerror}."
                ) from error
            digest.update(os.fsencode(name) + b"\0%d\0%d\0" % (size, label))
        shape = "" if self.reader.shape is None else "-" + "x".join(map(str, self.reader.shape))
        return digest.hexdigest() + shape

    def _path(self, number: int) -> str:
        return os.path.join(self.root, self.names[number])
