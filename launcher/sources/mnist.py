"""MNIST and Fashion-MNIST from their idx files, as torchvision lays them out.

LeCun, Cortes, Burges: The MNIST Database, 1998. Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher.errors import DataError
from launcher.sources.arrays import Arrays
from launcher.sources.download import Remote, fetch

Split = Literal["train", "test"]
_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}


@dataclass(frozen=True)
class _Family:
    name: str
    folder: str
    mirrors: tuple[str, ...]
    md5: dict[str, str]
    """Of the compressed files, as their authors and torchvision publish them."""
    classes: tuple[str, ...]
    raw_md5: dict[str, str]
    """Of the files when decompressed, where known."""
    elsewhere: tuple[Path, ...] = ()


_MNIST = _Family(
    name="mnist",
    folder="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    raw_md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    classes=tuple("0123456789"),
)
_FASHION = _Family(
    name="fashion_mnist",
    folder="FashionMNIST",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    raw_md5={},
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's dataset-fashion-mnist
)


def mnist(split: Split, root: Path) -> Arrays:
    """60,000 training or 10,000 test digits of 1 x 28 x 28. Raises DataError."""
    return _load(_MNIST, split, root)


def fashion_mnist(split: Split, root: Path) -> Arrays:
    """60,000 training or 10,000 test pieces of clothing of 1 x 28 x 28, from `root` or from where
    Debian's package dataset-fashion-mnist puts them. Raises DataError."""
    return _load(_FASHION, split, root)


def _load(family: _Family, split: Split, root: Path) -> Arrays:
    images, labels, count = _NAMES[split]
    image = _read(_find(family, images, root), images, family, (count, 28, 28))
    label = _read(_find(family, labels, root), labels, family, (count,))
    return Arrays.of(image, label, family.classes)


def _find(family: _Family, name: str, root: Path) -> Path:
    """The file, plain or compressed, in the first place that has it; else downloaded."""
    folder = root / family.folder / "raw"
    for place in (folder, *family.elsewhere):
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    packed = f"{name}.gz"
    remote = Remote(
        dataset=family.name,
        urls=tuple(mirror + packed for mirror in family.mirrors),
        md5=family.md5[packed],
    )
    return fetch(remote, folder / packed)


def _read(path: Path, name: str, family: _Family, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: 0, 0, 8, dimensions, each as 4 bytes, then the values."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Remove it; the next run fetches it again."
        ) from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    want = len(header) + int(np.prod(shape))
    if not raw.startswith(header) or len(raw) != want:
        raise DataError(
            f"{path} is damaged: {family.name}'s {name} has {want} bytes and starts with "
            f"{header.hex()}, this has {len(raw)} and {raw[: len(header)].hex()}. Remove it; the "
            f"next run fetches it again."
        )
    known = family.raw_md5.get(name)
    if known and (found := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != known:
        raise DataError(
            f"{path} is damaged: its content has the md5 {found}, {family.name}'s has {known}. "
            f"Remove it; the next run fetches it again."
        )
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)
