"""Every open, write, fsync, rename and remove of a run: durable, private, and in one place.

`Disk` is the whole surface towards the operating system. Tests put another one in its place and
make any single call fail; everything above it turns an OSError into a StorageError that names the
path. Files are 0600 and folders 0700.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import StorageError

Buffer = bytes | memoryview
FILE_MODE = 0o600
FOLDER_MODE = 0o700
PROBE = 1 << 20
"""Bytes that `probe` writes."""


class Disk:
    """The calls that change or read the disk, one method each."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, FOLDER_MODE)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)

    def free(self, path: Path) -> int:
        about = os.statvfs(path)
        return about.f_bavail * about.f_frsize


disk = Disk()


@contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what was done to which path, and what helps."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: " Free some space or give another place.",
            errno.EDQUOT: " Your quota is used up: free some space.",
            errno.EROFS: " The file system is read-only.",
            errno.EACCES: " Check who owns the folder.",
        }.get(error.errno or 0, "")
        reason = error.strerror or str(error)
        raise StorageError(f"could not {doing} {path}: {reason}.{advice}") from error


def make_folder(path: Path) -> None:
    """A folder and the ones above it; nothing happens to those that are there."""
    with explained("make the folder", path):
        if path.is_dir():
            return
    make_folder(path.parent)
    with explained("make the folder", path):
        try:
            disk.mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    with explained("sync the folder", path), _opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder:
        disk.fsync(folder)


def create(path: Path, parts: Iterable[Buffer]) -> tuple[int, str]:
    """Write a new file and make its content durable; the name is, after `sync_folder`.

    Returns its bytes and their SHA-256, taken from what was handed to the disk.
    """
    size, digest = 0, hashlib.sha256()
    with explained("write", path):
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            for part in parts:
                digest.update(part)
                size += write_all(file, part)
            disk.fsync(file)
    return size, digest.hexdigest()


def replace(path: Path, data: bytes) -> None:
    """Write a small file so that a reader, or a crash, finds the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)  # of a killed process that had our number
    try:
        create(temporary, [data])
        with explained("write", path):
            disk.rename(temporary, path)
    except StorageError:
        remove(temporary)
        raise
    sync_folder(path.parent)


def read(path: Path, most: int = 1 << 40) -> bytes:
    """A regular file's content, at most `most` bytes; no link, device or pipe is followed."""
    with explained("read", path), _opened(path, os.O_RDONLY | os.O_NONBLOCK) as file:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if about.st_size > most:
            raise OSError(
                errno.EFBIG, f"it has {about.st_size} bytes, at most {most} were expected"
            )
        chunks = []
        while chunk := disk.read(file, 1 << 24):
            chunks.append(chunk)
        return b"".join(chunks)


def lines(path: Path, longest: int = 1 << 24) -> Iterator[bytes]:
    """A regular file's whole lines, one by one, however long the file is. What a crash left behind
    the last newline is no line. Raises StorageError, for a line of over `longest` bytes too."""
    with explained("read", path), _opened(path, os.O_RDONLY | os.O_NONBLOCK) as file:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        rest = b""
        while chunk := disk.read(file, 1 << 20):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            if len(rest) > longest:
                raise OSError(errno.EFBIG, f"it has a line of over {longest} bytes")


def rename(old: Path, new: Path) -> None:
    """Give a file or a folder another name beside the old one, durably."""
    with explained("rename", old):
        disk.rename(old, new)
    sync_folder(new.parent)


def names(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing if there is no folder."""
    with explained("list", folder):
        if not folder.is_dir():
            return []
        return sorted(disk.listdir(folder))


def exposed(path: Path) -> str | None:
    """Who else can change a file or a folder, as `everybody` or `user 1000`; None for nobody.

    Root can in any case. To root everything belongs to somebody else in a container that shows a
    user's files, so that whose they are says nothing there.
    """
    try:
        about = path.stat()
    except OSError:
        return None
    if about.st_mode & stat.S_IWOTH:
        return "everybody"
    us = os.geteuid()
    return f"user {about.st_uid}" if us and about.st_uid not in (us, 0) else None


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds, if it is there; links are not followed."""
    with explained("remove", path):
        _remove(path)


def _remove(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        disk.unlink(path)
        return
    for name in disk.listdir(path):
        _remove(path / name)
    disk.rmdir(path)


def free(folder: Path) -> int:
    """Bytes that can still be written where a folder lies."""
    with explained("ask for the free space of", folder):
        return disk.free(folder)


def probe(
    folder: Path, needed: int, what: str = "a checkpoint needs",
    instead: str = "train in another folder",
) -> None:  # fmt: skip
    """Do once, small, what a save does. Raises StorageError when the disk would refuse a save of
    `needed` bytes: better before the first step than an hour later."""
    if (left := free(folder)) < needed + PROBE:
        raise StorageError(
            f"{folder} has {left / 1e6:,.1f} MB left, and {what} at least "
            f"{(needed + PROBE) / 1e6:,.1f} MB. Free some space, or {instead}."
        )
    trial = folder / f".tmp-probe-{secrets.token_hex(8)}"
    renamed = trial.with_name(f"{trial.name}-renamed")
    try:
        make_folder(trial)
        create(trial / "data", [bytes(PROBE)])
        sync_folder(trial)
        rename(trial, renamed)
    finally:
        remove(trial)
        remove(renamed)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = disk.open(path, flags)
    try:
        yield descriptor
    finally:
        disk.close(descriptor)


def write_all(descriptor: int, data: Buffer) -> int:
    """Write all of it, however little a single call takes; returns its bytes."""
    rest = memoryview(data)
    size = rest.nbytes
    while rest:
        rest = rest[disk.write(descriptor, rest) :]
    return size
