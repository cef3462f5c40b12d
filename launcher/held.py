"""Files that a run holds open for as long as it lives: its metrics, and its lock."""

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path

from launcher import storage


class Appender:
    """A file that only grows: one `write` call a line, so that a crash tears at most the last.

    What could not be written is kept, and written before anything else the next time.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Open for appending, after cutting the file to `size` bytes."""
        self.path = path
        with storage.explained("open", path):
            self._file = storage.disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                storage.disk.truncate(self._file, size)
            except OSError:
                storage.disk.close(self._file)
                raise
        self.size = size
        self._waiting = b""
        self._torn = False
        self._one_at_a_time = threading.Lock()  # a save makes durable what the loop appends to

    def write(self, data: bytes = b"") -> None:
        """Append, after what an earlier failure left to be written."""
        with self._one_at_a_time, storage.explained("write", self.path):
            self._waiting += data
            if not self._waiting:
                return
            if self._torn:  # a part of a line may be there
                storage.disk.truncate(self._file, self.size)
            self._torn = True
            self.size += storage.write_all(self._file, self._waiting)
            self._torn, self._waiting = False, b""

    def sync(self) -> None:
        """Make all of it durable. Raises StorageError too when the name is another file's by now:
        then nobody would find what is written here."""
        self.write()
        with storage.explained("sync", self.path):
            storage.disk.fsync(self._file)
            if not os.path.samestat(os.stat(self.path), os.fstat(self._file)):
                raise OSError(errno.ENOENT, "it was replaced by another file")

    def close(self) -> None:
        storage.disk.close(self._file)


class Lock:
    """An exclusive lock on a folder for as long as this process lives.

    `lockf` and not `flock`: a forked loader worker inherits a `flock` and would keep it after its
    parent was killed. The file is opened once; closing any other descriptor of it would unlock it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage.explained("lock", path):
            self._file = storage.disk.open(path, os.O_RDWR | os.O_CREAT)

    def acquire(self, *, wait: bool = False) -> bool:
        """True when the lock is ours; without `wait`, False when another process has it."""
        with storage.explained("lock", self.path):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except (BlockingIOError, PermissionError):
                return False
        return True

    def release(self) -> None:
        storage.disk.close(self._file)


_FLOCK = "hhqqi4x"
"""`struct flock` of Linux on 64 bits: type, whence, start, length, process."""


def owner(path: Path) -> int | None:
    """The process that holds the `Lock` of a path; 0 for one on another machine; None for nobody.

    It is asked for and not taken: a run that begins at this moment must not find it in use.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else max(0, process)
