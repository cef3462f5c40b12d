"""Images named in a table, with their labels."""

import csv as text_tables
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from launcher.errors import DataError, RecipeError, did_you_mean, listed
from launcher.rng import Int64s
from launcher.sources.absent import absent
from launcher.sources.files import Files
from launcher.sources.listing import Names, printable
from launcher.sources.photo import ImageTransform, Reader

if TYPE_CHECKING:
    from _csv import Reader as Lines


def csv(
    table: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, path: str = "path",
    label: str = "label", transform: ImageTransform | None = None, size: int | None = None,
    channels: int = 3, classes: Sequence[str] | None = None,
) -> Files:  # fmt: skip
    """Images whose paths and labels are the columns of a CSV file; samples are in its order.

    The file is UTF-8, with or without a byte order mark, has commas between its cells, and begins
    with a row that names the columns; `path` and `label` say which ones are meant. Paths are
    relative to the folder that the table is in, or to `root`; one that leaves it by `..` or begins
    with `/` is refused, unless `root="/"`. Links in the folder are followed.

    A label is any text; `classes` are the sorted labels, in the order of their numbers where all
    are whole numbers. Give `classes` to the tables of a training and a test split that may not hold
    the same labels. `transform`, `size`, `channels` and what a batch holds: see `folder`. The
    fingerprint is of paths, sizes in bytes, labels and classes. Raises RecipeError for arguments
    that do not fit and DataError, with the number of the line, for what is wrong in the table;
    files that are not there are found out when the fingerprint is asked for.
    """
    reader = Reader(transform, size, channels)
    if (stand_in := absent(reader)) is not None:
        return cast(Files, stand_in)
    place = os.path.abspath(os.path.expanduser(table))
    folder = os.path.dirname(place) if root is None else os.path.expanduser(root)
    if classes is not None and len({*classes}) != len(classes):
        raise RecipeError(f"classes must be different from each other: {listed(classes)}.")
    shown = printable(place)
    rows = _read(place, shown, path, label, absolute=os.fspath(folder) == "/")
    ordered = tuple(_ordered(rows.labels) if classes is None else classes)
    numbers = {name: number for number, name in enumerate(ordered)}
    values: Int64s = np.array([numbers.get(name, -1) for name in rows.label_of_row()], np.int64)
    if len(unknown := np.flatnonzero(values < 0)):
        row = int(unknown[0])
        raise DataError(
            f"line {rows.lines[row]} of {shown} has the label "
            f"{rows.labels[rows.label[row]]!r}, which is none of {listed(ordered)}."
        )

    def origin(number: int) -> str:
        return f"line {rows.lines[number]} of {shown}"

    return Files(os.path.abspath(folder), rows.names, values, ordered, reader, origin)


@dataclass
class _Rows:
    """What a table holds, small in memory."""

    names: Names
    labels: list[str]
    """Each label once, in the order of their first rows."""
    label: "array[int]"
    """For each row, which of them it has."""
    lines: "array[int]"
    """For each row, the line that it ends in."""

    def label_of_row(self) -> Iterator[str]:
        return (self.labels[number] for number in self.label)


def _read(place: str, shown: str, path: str, label: str, *, absolute: bool) -> _Rows:
    rows = _Rows(Names(), [], array("q"), array("q"))
    known: dict[str, int] = {}
    with _opened(place, shown) as reader:
        header = [name.strip() for name in next(reader, [])]
        columns = [_column(header, name, shown) for name in (path, label)]
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"line {reader.line_num} of {shown} has {len(cells)} cells, and the first row "
                    f"names {len(header)} columns."
                )
            name, text = cells[columns[0]], cells[columns[1]].strip()
            if wrong := _wrong(name, text, absolute=absolute):
                raise DataError(f"line {reader.line_num} of {shown} {wrong}")
            rows.names.extend([name])
            rows.label.append(known.setdefault(text, len(known)))
            rows.lines.append(reader.line_num)
    if not rows.lines:
        raise DataError(f"{shown} has no row below the names of its columns.")
    rows.labels = [*known]
    return rows


@contextmanager
def _opened(place: str, shown: str) -> Iterator["Lines"]:
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            reader = text_tables.reader(file, strict=True)
            try:
                yield reader
            except (text_tables.Error, UnicodeDecodeError) as error:
                what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"{error}"
                line = reader.line_num + 1
                raise DataError(f"{shown} cannot be read at line {line}: {what}.") from error
    except OSError as error:
        raise DataError(f"the table {shown} cannot be read: {error.strerror}.") from error


def _column(header: list[str], name: str, shown: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise DataError(f"the first row of {shown} names the column {name!r} more than once.")
    raise DataError(
        f"the first row of {shown} names no column {name!r}: it has "
        f"{listed(map(repr, header)) or 'none'}.{did_you_mean(name, header)}"
    )


def _wrong(name: str, label: str, *, absolute: bool) -> str | None:
    """What is wrong with a row, or nothing."""
    if not name:
        return "has no path."
    if not label:
        return "has no label."
    if "\0" in name:
        return "has a zero byte in its path."
    if name.startswith("/") and not absolute:
        return f"has the path {printable(name)}, which begins with /: give root='/' to allow that."
    if ".." in name.split("/"):
        return f"has the path {printable(name)}, which leaves its folder by '..': write it out."
    return None


def _ordered(labels: list[str]) -> list[str]:
    """Labels in the order of their classes: by number where all are whole numbers."""
    numbers = all(label.isascii() and label.removeprefix("-").isdigit() for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)
