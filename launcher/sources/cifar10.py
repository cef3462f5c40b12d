"""CIFAR-10 from its Python batches, as torchvision lays them out, without unpickling them.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. The files are pickles, and
a pickle can run code. Here nothing is unpickled: every file must have its official md5, so its
bytes are known, and the pixels and labels are read from where they lie.
"""

import hashlib
import re
import secrets
import tarfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher import storage
from launcher.errors import DataError
from launcher.sources.arrays import Arrays
from launcher.sources.download import Remote, fetch, turns

FOLDER = "cifar-10-batches-py"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_ARCHIVE = Remote(
    dataset="cifar10",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    md5="c58f30108f718f92721af3b95e74349a",
)
_IMAGES = 10_000
_PIXELS = _IMAGES * 3 * 32 * 32


def cifar10(split: Literal["train", "test"], root: Path) -> Arrays:
    """50,000 training or 10,000 test images of 3 x 32 x 32. Raises DataError."""
    names = [name for name in MD5 if name.startswith("data" if split == "train" else "test")]
    folder = root / FOLDER
    if not all((folder / name).is_file() for name in names):
        _install(root)
    parts = [_read(folder / name, MD5[name]) for name in names]
    image = np.concatenate([image for image, _ in parts])
    label = np.concatenate([label for _, label in parts])
    content = hashlib.sha256("".join(MD5[name] for name in names).encode()).hexdigest()
    return Arrays.of(image, label, CLASSES, content)


def _read(path: Path, md5: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is damaged: its md5 is {found}, CIFAR-10's is {md5}. Remove the folder "
            f"{path.parent}; the next run fetches it again."
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


def _install(root: Path) -> None:
    """Fetch the archive if it is not there, and unpack it, into a temporary name first."""
    archive = root / "cifar-10-python.tar.gz"
    with turns(root / FOLDER):
        if all((root / FOLDER / name).is_file() for name in MD5):
            return
        fetch(_ARCHIVE, archive)
        unpacked = root / f".{FOLDER}.{secrets.token_hex(8)}.tmp"
        try:
            _unpack(archive, unpacked)
            storage.remove(root / FOLDER)
            storage.rename(unpacked / FOLDER, root / FOLDER)
        finally:
            storage.remove(unpacked)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with archive.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        if md5 != _ARCHIVE.md5:
            raise DataError(
                f"{archive} is damaged: its md5 is {md5}, CIFAR-10's is {_ARCHIVE.md5}. Remove it; "
                f"the next run fetches it again."
            )
        storage.make_folder(folder)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive} cannot be unpacked to {folder.parent}: {error}.") from error
