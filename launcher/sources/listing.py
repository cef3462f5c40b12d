"""Which files lie in folders of classes: quickly, and small in memory, for millions of them."""

import os
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from launcher.errors import DataError
from launcher.rng import Int64s

NOT_STRAY = frozenset({"thumbs.db", "desktop.ini"})
"""What file browsers leave behind, beside hidden files."""
_NAMED = 10
_ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Names:
    """A list of texts in one block of memory: 8 bytes and its own for each."""

    def __init__(self) -> None:
        self._block = bytearray()
        self._ends = array("q", [0])

    def extend(self, names: Iterable[str]) -> None:
        """Add texts at the end."""
        for name in names:
            self._block += os.fsencode(name)
            self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(number)
        text = self._block[self._ends[number] : self._ends[number + 1]]
        return text.decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))


@dataclass
class Strays:
    """Files that are no images: how many there are, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Note a file by its path below the root."""
        self.count += 1
        if self.count <= _NAMED:
            self.names.append(printable(name))

    def __str__(self) -> str:
        rest = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {rest} more" if rest else "")


@dataclass(frozen=True)
class Listing:
    """The files of all classes: class by class, in each by folder and then by name."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    """Files of each class."""
    names: Names
    """Paths below the root, with `/`."""
    strays: Strays

    @property
    def label(self) -> Int64s:
        """The class of each file: int64, shape (files,)."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)


def scan(root: str, extensions: Collection[str]) -> Listing:
    """All files below `root`, whose folders are the classes.

    `extensions` are what a file's name ends in, in small letters. Hidden files and folders are
    passed over. Raises DataError for a folder that is not there or cannot be read, or without
    folders of its own, and for a class without a file.
    """
    endings = tuple(extensions)
    found, strays = Names(), Strays()
    folders, files = entries(root, strays, "", endings)
    for name in files:  # an image that belongs to no class
        strays.add(name)
    counts = {}
    for name in folders:
        before = len(found)
        found.extend(_below(root, name, endings, strays))
        counts[name] = len(found) - before
    if not counts:
        raise DataError(
            f"{printable(root)} has no folders in it, and each class needs one that holds its "
            f"images: {printable(root)}/cat/1.jpg, {printable(root)}/dog/2.jpg."
        )
    if empty := [printable(name) for name, count in counts.items() if not count]:
        raise DataError(
            f"{printable(root)} has classes without an image ({', '.join(endings)}): "
            f"{', '.join(empty[:_NAMED])}{' and more' if len(empty) > _NAMED else ''}. Remove "
            f"these folders, or put images there."
        )
    classes = tuple(name.encode(errors="backslashreplace").decode() for name in counts)
    return Listing(classes, tuple(counts.values()), found, strays)


def entries(
    path: str, strays: Strays | None = None, below: str = "", endings: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, by name, in order, without the hidden ones.

    Only files that end in `endings` are listed, and the others are noted among the strays, with
    `below` before their name. Raises DataError for a folder that cannot be read.
    """
    folders, files = [], []
    with _explained(path), os.scandir(path) as found:
        for entry in found:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(name)
            elif name.lower().endswith(endings) and entry.is_file():
                files.append(name)
            elif strays is not None and name.lower() not in NOT_STRAY:
                strays.add(below + name)
    return sorted(folders), sorted(files)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the folder of images {printable(path)} cannot be read: {error.strerror}."
        ) from error


def _below(root: str, top: str, endings: tuple[str, ...], strays: Strays) -> list[str]:
    """The files of a class, also of the folders in it, in the order of torchvision."""
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        path = os.path.join(root, folder)
        with _explained(path):
            about = os.stat(path)
        this = (about.st_dev, about.st_ino)
        if this in above:
            raise DataError(f"{printable(path)} is a link to a folder that it lies in. Remove it.")
        folders, files = entries(path, strays, f"{folder}/", endings)
        found.append((folder, files))
        waiting += [(f"{folder}/{name}", above | {this}) for name in folders]
    found.sort()
    return [f"{folder}/{name}" for folder, files in found for name in files]


def printable(name: str) -> str:
    """A file's name without what is not UTF-8 and what would control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
