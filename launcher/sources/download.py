"""One file from the network: by one process at a time, into a temporary name, checked, renamed."""

import hashlib
import http.client
import logging
import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from launcher import storage
from launcher.errors import DataError

TRIES = 3
CONNECT_SECONDS = 10
log = logging.getLogger("launcher")


@dataclass(frozen=True)
class Remote:
    """A file of a data set: where it is, and its checksum."""

    dataset: str
    urls: tuple[str, ...]
    md5: str


def fetch(remote: Remote, target: Path) -> Path:
    """The file at `target`, downloaded if it is not there; returns `target`.

    Processes that want the same folder take turns, so one downloads and the others find the file.
    Raises DataError when no try succeeded, or when what came has another checksum.
    """
    storage.make_folder(target.parent)
    lock = storage.Lock(target.parent / ".download.lock")
    lock.acquire(wait=True)
    try:
        if not target.is_file():
            _download(remote, target)
    finally:
        lock.release()
    return target


def _download(remote: Remote, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    failures = []
    for number in range(TRIES):
        url = remote.urls[number % len(remote.urls)]
        log.info("downloading %s to %s", url, target)
        try:
            md5 = _copy(url, temporary)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}")
            continue
        if md5 == remote.md5:
            storage.rename(temporary, target)
            return
        failures.append(f"{url}: has the md5 {md5} instead of {remote.md5}")
    storage.remove(temporary)
    raise DataError(
        f"dataset={remote.dataset} is not here and could not be fetched: no {target.name} in "
        f"{target.parent}, and {TRIES} tries failed ({'; '.join(dict.fromkeys(failures))}). Put "
        f"the file there yourself, or train on dataset=digits, which needs no download."
    )


def _copy(url: str, path: Path) -> str:
    """Download to a file and return its md5 in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
