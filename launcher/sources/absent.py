"""Data sets that are not read: a run that is only looked at needs their classes and shape.

While `known` is set, `sources.load`, `folder` and `csv` read no file and give an `Absent`. A recipe
that asks it for more (a mean over its pixels, the number of its samples) gets a refusal, and then
whoever set `known` calls the recipe again without it.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn

from launcher.data import Batch
from launcher.errors import DataError
from launcher.rng import Int64s
from launcher.sources.photo import Reader


@dataclass(frozen=True)
class Known:
    """What a run noted of its data."""

    classes: tuple[str, ...] | None
    shape: tuple[int, ...]


known: ContextVar[Known | None] = ContextVar("known", default=None)


class Absent:
    """A source without samples."""

    fingerprint = ""

    def __init__(self, known: Known, reader: Reader | None) -> None:
        """`reader` reads the files of a folder or a table; None for a data set of arrays."""
        self.classes = known.classes
        self.shape = known.shape
        self.reader = reader

    def __len__(self) -> NoReturn:
        raise DataError("the data set was not read: its samples cannot be counted.")

    def __getitem__(self, index: Int64s) -> Batch:
        raise DataError("the data set was not read: it has no samples.")


def absent(reader: Reader | None) -> Absent | None:
    """A source in the place of one that would be read; None when it shall be read."""
    found = known.get()
    return None if found is None else Absent(found, reader)
