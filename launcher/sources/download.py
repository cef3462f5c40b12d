"""One file from the network: by one process at a time, into a temporary name, checked, renamed."""

import hashlib
import http.client
import logging
import os
import secrets
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from launcher import held, storage
from launcher.errors import DataError

TRIES = 3
CONNECT_SECONDS = 10
log = logging.getLogger("launcher")

# Who only asks which data is there fetches nothing.
allowed: ContextVar[bool] = ContextVar("allowed", default=True)


@dataclass(frozen=True)
class Remote:
    """A file of a data set: where it is, and its checksum."""

    dataset: str
    urls: tuple[str, ...]
    md5: str


def fetch(remote: Remote, target: Path) -> Path:
    """The file at `target`, downloaded if it is not there; returns `target`.

    Raises DataError when no try succeeded or none is `allowed`, or when what came has another
    checksum.
    """
    with turns(target):
        if not target.is_file():
            if not allowed.get():
                raise DataError(
                    f"dataset={remote.dataset} is not here: no {target.name} in {target.parent}. "
                    f"A run fetches it."
                )
            _download(remote, target)
    return target


@contextmanager
def turns(target: Path) -> Iterator[None]:
    """Processes of a machine that want the same file or folder take turns: the first one makes it,
    the others find it."""
    digest = hashlib.sha256(str(target.resolve()).encode(errors="surrogateescape")).hexdigest()
    # Not beside the target: a download that fails leaves nothing there.
    place = Path(tempfile.gettempdir()) / f"launcher-{os.getuid()}-{digest[:16]}.lock"
    lock = held.Lock(place)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def _download(remote: Remote, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    failures = []
    for number in range(TRIES):
        url = remote.urls[number % len(remote.urls)]
        again = f" (try {number + 1} of {TRIES})" if number else ""
        log.info("downloading %s to %s%s", url, target, again)
        try:
            md5 = _copy(url, temporary)
        except (OSError, http.client.HTTPException) as error:
            storage.remove(temporary)
            failures.append(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}")
            continue
        if md5 == remote.md5:
            storage.rename(temporary, target)
            return
        storage.remove(temporary)
        failures.append(f"{url}: has the md5 {md5} instead of {remote.md5}")
    raise DataError(
        f"dataset={remote.dataset} is not here and could not be fetched: no {target.name} in "
        f"{target.parent}, and {TRIES} tries failed ({'; '.join(dict.fromkeys(failures))}). Put "
        f"the file there yourself, or train on dataset=digits, which needs no download."
    )


def _copy(url: str, path: Path) -> str:
    """Download to a file and return its md5 in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
        storage.make_folder(path.parent)
        with path.open("xb") as file:
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
    return digest.hexdigest()
