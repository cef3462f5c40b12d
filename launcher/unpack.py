"""Compressed files, read as if whoever made them meant harm.

An archive can name files outside of its folder, hold links and devices, or unfold to a thousand
times its size. Only plain files and folders are taken, below one folder, up to a bound.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from launcher import storage
from launcher.errors import DataError, StorageError

MOST_MEMBERS = 1000


def content(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file, of what it unfolds to if it ends in .gz.

    Raises OSError, EOFError and zlib.error for what cannot be read.
    """
    with path.open("rb") as file:
        if path.suffix != ".gz":
            return file.read(most)
        with gzip.GzipFile(fileobj=file) as unfolded:
            return unfolded.read(most)


class _Bounded(io.RawIOBase):
    """A stream that ends in a refusal instead of going on for ever."""

    def __init__(self, stream: gzip.GzipFile, archive: Path, most: int) -> None:
        self._stream, self._archive, self._left, self._most = stream, archive, most, most

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise DataError(f"{self._archive} unfolds to more than {self._most:,} bytes: refused.")
        return found


def tar(archive: Path, folder: Path, most: int) -> list[PurePosixPath]:
    """Unpack a .tar.gz of at most `most` bytes into a new folder; returns the files in it.

    Raises DataError for anything that is no plain file or folder below `folder`; what was written
    by then is for the caller to remove.
    """
    files: list[PurePosixPath] = []
    storage.make_folder(folder)
    try:
        with gzip.open(archive) as unfolded:
            stream = _Bounded(unfolded, archive, most)
            with tarfile.open(fileobj=stream, mode="r|") as members:
                for number, member in enumerate(members):
                    if number >= MOST_MEMBERS:
                        raise DataError(f"{archive} holds more than {MOST_MEMBERS} files: refused.")
                    path = _safe(archive, member)
                    if member.isdir():
                        storage.make_folder(folder / path)
                    elif path in files:
                        raise DataError(f"{archive} holds {member.name!r} twice: refused.")
                    else:
                        files.append(path)
                        _write(folder / path, members.extractfile(member))
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, StorageError) as error:
        raise DataError(f"{archive} cannot be unpacked to {folder.parent}: {error}.") from error
    return files


def _safe(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """Where a member belongs. Raises DataError when it belongs nowhere."""
    path = PurePosixPath(member.name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise DataError(f"{archive} holds {member.name!r}, outside of its folder: refused.")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse:
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise DataError(f"{archive} holds {member.name!r}, which is {kind}: refused.")
    return path


def _write(path: Path, stream: IO[bytes] | None) -> None:
    assert stream is not None, "a plain file has content"
    storage.make_folder(path.parent)
    with path.open("xb") as file:
        for chunk in _chunks(stream):
            file.write(chunk)
        file.flush()
        storage.disk.fsync(file.fileno())


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(1 << 20):
        yield chunk
