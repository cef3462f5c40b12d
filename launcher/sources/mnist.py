"""MNIST and Fashion-MNIST from their idx files, as torchvision lays them out.

LeCun, Cortes, Burges: The MNIST Database, 1998. Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017.
"""

import hashlib
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher import catalog, provide, unpack
from launcher.catalog import DataSet, Piece
from launcher.download import fetch, set_aside
from launcher.errors import DataError
from launcher.sources.arrays import Arrays

Split = Literal["train", "test"]
_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
_MNIST, _FASHION = catalog.MNIST, catalog.FASHION_MNIST
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip


def mnist(split: Split, root: Path) -> Arrays:
    """60,000 training or 10,000 test digits of 1 x 28 x 28. Raises DataError."""
    return _load(_MNIST, split, root, tuple("0123456789"))


def fashion_mnist(split: Split, root: Path) -> Arrays:
    """60,000 training or 10,000 test pieces of clothing of 1 x 28 x 28, from `root` or from where
    Debian's package dataset-fashion-mnist puts them. Raises DataError."""
    return _load(_FASHION, split, root, _CLOTHES)


def _load(dataset: DataSet, split: Split, root: Path, classes: tuple[str, ...]) -> Arrays:
    images, labels, count = _NAMES[split]
    pieces = {piece.name: piece for piece in dataset.pieces}
    image = _read(dataset, pieces[images], root, (count, 28, 28))
    label = _read(dataset, pieces[labels], root, (count,))
    return Arrays.of(image, label, classes)


def _find(dataset: DataSet, piece: Piece, root: Path) -> Path:
    """The file, plain or compressed, in the first place that has it; else downloaded."""
    if found := provide.find(dataset, piece, root):
        return found
    assert piece.packed is not None, "what is not here comes compressed"
    target = root / dataset.folder / piece.packed.name
    return fetch(dataset.remote(piece.packed), target)


def _read(dataset: DataSet, piece: Piece, root: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: 0, 0, 8, dimensions, each as 4 bytes, then the values."""
    path = _find(dataset, piece, root)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    want = len(header) + int(np.prod(shape))
    try:
        raw = unpack.content(path, want + 1)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the content
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        raise _damaged(dataset, path, f"it cannot be unpacked: {error}") from error
    if not raw.startswith(header) or len(raw) != want:
        much = f"more than {want}" if len(raw) > want else f"{len(raw)}"
        raise _damaged(
            dataset, path,
            f"{dataset.name}'s {piece.name} has {want} bytes and starts with {header.hex()}, this "
            f"has {much} and starts with {raw[: len(header)].hex()}",
        )  # fmt: skip
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if piece.md5 not in (None, found):
        what = f"its content has the md5 {found}, {dataset.name}'s has {piece.md5}"
        raise _damaged(dataset, path, what)
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _damaged(dataset: DataSet, path: Path, what: str) -> DataError:
    """Our own files are set aside; those of the system are not ours to rename."""
    foreign = path.parent in dataset.elsewhere
    advice = "Reinstall the package that it is of." if foreign else set_aside(path)
    return DataError(f"{path} is damaged: {what}. {advice}")
