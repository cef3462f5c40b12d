"""One request for a file, from its beginning or from where an earlier one was cut.

A server may know nothing of ranges, or have another file by now: then the answer starts again.
"""

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from launcher import mirrors

STALL_SECONDS = 10.0
"""Longest wait for a connection, and for the next bytes."""
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Origin:
    """Which version of which file some bytes are of."""

    url: str
    etag: str | None = None
    modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What `If-Range` takes: a strong tag, else a date; None where a server gives neither."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified

    def note(self) -> bytes:
        """To be kept beside the bytes."""
        return json.dumps(asdict(self) | {"url": mirrors.redacted(self.url)}).encode()

    def noted(self, note: bytes) -> "Origin | None":
        """What a note says, when it is of the same URL."""
        try:
            found = Origin(**json.loads(note))
        except (ValueError, TypeError):
            return None
        return found if found.url == mirrors.redacted(self.url) else None


@dataclass(frozen=True)
class Answer:
    """What a server sends."""

    start: int
    """The place in the file of its first byte."""
    total: int | None
    """Bytes of the whole file, where the server says so."""
    origin: Origin
    chunks: Iterator[bytes]


@contextmanager
def ask(url: str, start: int = 0, have: Origin | None = None) -> Iterator[Answer]:
    """Ask for a file from `start` on, if it is still the one that we `have` a part of.

    Raises OSError and http.client.HTTPException for whatever a network does.
    """
    address, user = mirrors.without_user(url)
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if user:
        request.add_unredirected_header("Authorization", user)
    validator = have.validator if have else None
    if start and validator and not address.startswith("file:"):
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    else:
        start = 0
    if address.startswith("file:"):
        path = urllib.request.url2pathname(urlsplit(address).path)
        if not os.path.isfile(path):  # a pipe would never answer
            raise OSError(f"there is no file {path}")
    with urllib.request.urlopen(request, timeout=STALL_SECONDS) as stream:
        answer = _answer(url, stream, start, have)
        if answer is not None:
            yield answer
            return
    with ask(url) as whole:  # a range, but not the one that was asked for
        yield whole


def _answer(url: str, stream: Any, start: int, have: Origin | None) -> Answer | None:
    """None when the server sends a part that does not continue ours."""
    headers = stream.headers
    origin = Origin(url, headers.get("ETag"), headers.get("Last-Modified"))
    if stream.status != 206:
        length = str(headers.get("Content-Length", ""))
        total = int(length) if length.isdecimal() else None
        return Answer(0, total, origin, _chunks(stream))
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if not start or not said or int(said[1]) != start or not _same(have, origin):
        return None
    return Answer(start, int(said[2]) if said[2] != "*" else None, origin, _chunks(stream))


def _same(have: Origin | None, now: Origin) -> bool:
    """Whether the server honoured `If-Range`; what it does not repeat has not changed."""
    assert have is not None
    tags, dates = (have.etag, now.etag), (have.modified, now.modified)
    return all(None in pair or pair[0] == pair[1] for pair in (tags, dates))


def _chunks(stream: Any) -> Iterator[bytes]:
    """As they arrive, so that what came before a cut is kept."""
    read = getattr(stream, "read1", stream.read)
    while chunk := read(_CHUNK):
        yield chunk
