"""CIFAR-10 from its Python batches, as torchvision lays them out, without unpickling them.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. The files are pickles, and
a pickle can run code. Here nothing is unpickled: every file must have its official md5, so its
bytes are known, and the pixels and labels are read from where they lie.
"""

import hashlib
import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher import catalog
from launcher.catalog import Piece
from launcher.download import set_aside
from launcher.errors import DataError
from launcher.provide import install
from launcher.sources.arrays import Arrays

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_SET = catalog.CIFAR10
_IMAGES = 10_000
_PIXELS = _IMAGES * 3 * 32 * 32


def cifar10(split: Literal["train", "test"], root: Path) -> Arrays:
    """50,000 training or 10,000 test images of 3 x 32 x 32. Raises DataError."""
    start = "data" if split == "train" else "test"
    pieces = [piece for piece in _SET.pieces if piece.name.startswith(start)]
    folder = root / _SET.folder
    if not all((folder / piece.name).is_file() for piece in pieces):
        install(_SET, root)
    parts = [_read(folder / piece.name, piece) for piece in pieces]
    image = np.concatenate([image for image, _ in parts])
    label = np.concatenate([label for _, label in parts])
    content = hashlib.sha256("".join(str(piece.md5) for piece in pieces).encode()).hexdigest()
    return Arrays.of(image, label, CLASSES, content)


def _read(path: Path, piece: Piece) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        with path.open("rb") as file:
            raw = file.read(piece.size + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != piece.md5:
        raise DataError(
            f"{path} is damaged: its md5 is {found}, CIFAR-10's is {piece.md5}. {set_aside(path)}"
        )
    return parse(raw)


def parse(raw: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (10,000 x 3 x 32 x 32) and labels (10,000) of one batch file, both uint8.

    The pixels are one string of the pickle (opcode `T`, a 4-byte length); the labels are its small
    integers (opcode `K`, one byte) in lists of a thousand.
    """
    start = raw.index(b"T" + _PIXELS.to_bytes(4, "little")) + 5
    image = np.frombuffer(raw, np.uint8, _PIXELS, start).reshape(_IMAGES, 3, 32, 32)
    labels = re.search(rb"labels.{2}\].{2}((?:\((?:K[\x00-\x09])+e)+)", raw, re.DOTALL)
    assert labels is not None, "the md5 was right, so the labels are there"
    numbers = re.sub(rb"[(e]", b"", labels[1])[1::2]
    return image, np.frombuffer(numbers, np.uint8)
