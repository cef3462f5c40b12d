"""One file from the network: by one process at a time, into a temporary name, checked, renamed.

What a broken connection leaves is continued by the next try, and by the next run. A file with
another checksum is kept as `NAME.bad` and never read.
"""

import hashlib
import http.client
import logging
import os
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from launcher import held, mirrors, storage, transfer
from launcher.catalog import Remote
from launcher.errors import DataError, StorageError
from launcher.partial import BusyError, Partial

TRIES = 3
"""In a row, without getting further."""
BACKOFF_SECONDS = 0.5
"""Before the second try; twice as long before each that follows."""
FURTHER = 1 << 20
"""Bytes that make a try worth another one."""
MOST_BYTES = 1 << 34
"""Of a file whose size is not known."""
_BETWEEN_LINES = 5.0
log = logging.getLogger("launcher")

Watch = Callable[[str, int, int | None], None]
"""Is told the name of a file, its bytes so far, and all of them where that is known."""

# A recipe's `data` takes hyperparameters only: the launcher sets this before it calls a recipe.
mirror: ContextVar[str | None] = ContextVar("mirror", default=None)
# Who only asks which data is there fetches nothing.
allowed: ContextVar[bool] = ContextVar("allowed", default=True)


class WrongError(Exception):
    """What a server sent is not the file."""


class Lines:
    """A line of the log every few seconds: how far, how fast, and how long it will take."""

    def __init__(self) -> None:
        self._name = ""
        self._since = self._told = 0.0
        self._first = 0

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if name != self._name or done < self._first:
            self._name, self._first, self._since, self._told = name, done, now, now
            return
        if now - self._told < _BETWEEN_LINES and done != total:
            return
        self._told = now
        rate = (done - self._first) / max(now - self._since, 1e-3)
        whole = f" of {total / 1e6:,.1f}" if total else ""
        left = f", {(total - done) / rate:,.0f} s left" if total and rate else ""
        log.info("%s: %.1f%s MB, %.1f MB/s%s", name, done / 1e6, whole, rate / 1e6, left)


def fetch(remote: Remote, target: Path, watch: Watch | None = None) -> Path:
    """The file at `target`, downloaded if it is not there; returns `target`.

    Raises DataError when no try succeeded or none is `allowed`, or when what came has another
    checksum.
    """
    with turns(target):
        if not target.is_file():
            if not allowed.get():
                raise DataError(
                    f"{remote.setting}={remote.dataset} is not here: no {target.name} in "
                    f"{target.parent}. A run fetches it, and so does launcher data fetch "
                    f"{remote.dataset}."
                )
            _refuse_place(remote, target)
            _download(remote, target, watch or Lines())
    return target


def _refuse_place(remote: Remote, target: Path) -> None:
    """Raises StorageError, before a server is asked, where the file could not be written. What is
    not there yet of the folder is not made: a download that fails at once leaves nothing."""
    place = target.parent
    while not os.path.lexists(place):
        place = place.parent
    rest = max(0, (remote.size or 0) - Partial(target).size)
    try:
        storage.probe(place, rest, f"{target.name} needs", "give another place")
    except StorageError as error:
        raise StorageError(
            f"{remote.setting}={remote.dataset} is not here and cannot be fetched to "
            f"{target.parent}: {error}"
        ) from error


@contextmanager
def turns(target: Path) -> Iterator[None]:
    """Processes of a machine that want the same file or folder take turns: the first one makes it,
    the others find it."""
    digest = hashlib.sha256(str(target.resolve()).encode(errors="surrogateescape")).hexdigest()
    # Not beside the target: a download that fails at once leaves nothing there.
    place = Path(tempfile.gettempdir()) / f"launcher-{os.getuid()}-{digest[:16]}.lock"
    lock = held.Lock(place)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path) -> str:
    """Keep a damaged file as `NAME.bad`, where nobody reads it; says so, and what to do."""
    bad = path.with_name(f"{path.name}.bad")
    with turns(path):
        try:
            if path.exists():  # another process was not faster
                storage.rename(path, bad)
        except StorageError as error:
            return f"It could not be set aside ({error}) Remove it; the next run fetches it again."
    return f"It is kept as {bad}; the same command again fetches the file anew."


def _download(remote: Remote, target: Path, watch: Watch) -> None:
    urls, prefix = remote.urls, mirror.get()
    if prefix and remote.path:
        urls = (mirrors.join(prefix, remote.path), *urls)
    part = Partial(target)
    place = tries = fruitless = 0
    failures: list[str] = []
    while fruitless < max(TRIES, len(urls)):
        if target.is_file():  # another machine was faster
            return
        url, had = urls[place % len(urls)], part.size
        if fruitless:
            time.sleep(BACKOFF_SECONDS * 2 ** (fruitless - 1))
        try:
            return _try(remote, target, url, part, tries, watch)
        except BusyError:
            continue
        except (OSError, http.client.HTTPException, WrongError) as error:
            failures.append(f"{mirrors.redacted(url)}: {_reason(error)}")
        tries += 1
        if part.size >= had + FURTHER:
            fruitless = 0
        else:
            place, fruitless = place + 1, fruitless + 1
    kept = f" {part.size:,} bytes are kept for the next try." if part.size else ""
    raise DataError(
        f"{remote.setting}={remote.dataset} is not here and could not be fetched: no "
        f"{target.name} in {target.parent}, and {tries} tries failed "
        f"({'; '.join(dict.fromkeys(failures))}).{kept} Put the file there yourself, give "
        f"mirror=URL, or {remote.instead}."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"{error.code} {error.reason}"
    said = str(getattr(error, "reason", error)) or type(error).__name__
    return mirrors.redacted(said)


def _try(
    remote: Remote, target: Path, url: str, part: Partial, tries: int, watch: Watch
) -> None:  # fmt: skip
    """One connection. Raises OSError, HTTPException or WrongError when it is not enough."""
    had = part.size
    if remote.size is not None and had >= remote.size:  # came whole, before a crash
        with part.held(had) as file:
            return _finish(remote, target, part, file)
    again = f" (try {tries + 1})" if tries else ""
    log.info("downloading %s to %s%s", mirrors.redacted(url), target, again)
    with transfer.ask(url, had, part.origin(url)) as answer:
        if remote.size is not None and answer.total not in (None, remote.size):
            raise WrongError(f"has {answer.total} bytes instead of {remote.size}")
        with part.held(had) as file:
            try:
                part.begin(file, answer)
                _copy(remote, target.name, answer, part, file, watch)
                _finish(remote, target, part, file)
            finally:
                if not os.fstat(file).st_size:
                    part.drop()


def _copy(
    remote: Remote, name: str, answer: transfer.Answer, part: Partial, file: int, watch: Watch
) -> None:
    done, most = answer.start, remote.size or MOST_BYTES
    total = answer.total or remote.size
    if done:
        log.info("continuing %s at %.1f MB", name, done / 1e6)
    watch(name, done, total)
    for chunk in answer.chunks:
        done += len(chunk)
        if done > most:
            part.drop()
            raise WrongError(f"sends more than {most} bytes")
        part.write(file, chunk)
        watch(name, done, total)
    if total is not None and done < total:
        raise OSError(f"the connection was cut after {done} of {total} bytes")


def _finish(remote: Remote, target: Path, part: Partial, file: int) -> None:
    kind, wanted = ("sha256", remote.sha256) if remote.sha256 else ("md5", remote.md5)
    found = part.digest(file, kind)
    if found.startswith(wanted):
        part.become(target)
        return
    bad = target.with_name(f"{target.name}.bad")
    part.become(bad)
    raise WrongError(f"has the {kind} {found} instead of {wanted}, kept as {bad}")
