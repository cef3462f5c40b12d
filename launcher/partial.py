"""A download that is not whole yet: `.NAME.part`, with a note of where its bytes came from.

Written by one process at a time, also where several machines share the folder.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from launcher import storage
from launcher.errors import StorageError
from launcher.transfer import Answer, Origin


class BusyError(Exception):
    """Another process had the file: look again at what is there."""


class Partial:
    """The bytes of a file that have come so far."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def origin(self, url: str) -> Origin | None:
        """Which version of the file they are of, when they came from this URL."""
        try:
            return Origin(url).noted(storage.read(self._note, 1 << 16))
        except StorageError:
            return None

    def drop(self) -> None:
        """Forget what came."""
        storage.remove(self.path)
        storage.remove(self._note)

    @contextlib.contextmanager
    def held(self, had: int) -> Iterator[int]:
        """A descriptor of the file, for this process alone.

        Raises BusyError when another one wrote to it since there were `had` bytes. No other
        descriptor of it may be closed meanwhile: that would give back the lock.
        """
        storage.make_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage.explained("write", self.path):
            file = os.open(self.path, flags, 0o666)  # a data set may be others' too
        try:
            with storage.explained("lock", self.path):
                self._lock(file, had)
            yield file
        finally:
            os.close(file)

    def begin(self, file: int, answer: Answer) -> None:
        """Go to the place where an answer starts, and forget what was behind it."""
        if not answer.start:
            storage.replace(self._note, answer.origin.note())
        with storage.explained("write", self.path):
            storage.disk.truncate(file, answer.start)
            os.lseek(file, answer.start, os.SEEK_SET)

    def write(self, file: int, chunk: bytes) -> None:
        """Append what came."""
        with storage.explained("write", self.path):
            storage.write_all(file, chunk)

    def digest(self, file: int, kind: str) -> str:
        """The md5 or sha256 of all that is there, made durable."""
        digest = hashlib.new(kind, usedforsecurity=False)
        with storage.explained("read", self.path):
            storage.disk.fsync(file)
            os.lseek(file, 0, os.SEEK_SET)
            while chunk := storage.disk.read(file, 1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def become(self, path: Path) -> None:
        """Give the bytes another name."""
        storage.rename(self.path, path)
        storage.remove(self._note)

    def _lock(self, file: int, had: int) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return  # a file system without locks: the checksum has to do
            fcntl.lockf(file, fcntl.LOCK_EX)  # until the other one is done
            raise BusyError from error
        try:
            ours = os.path.samestat(os.stat(self.path), os.fstat(file))
        except FileNotFoundError:
            ours = False
        if not ours or os.fstat(file).st_size != had:
            raise BusyError
