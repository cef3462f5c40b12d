"""From a catalogued data set to files that are here: found, checked, fetched, unpacked."""

import hashlib
import logging
import secrets
import zlib
from pathlib import Path

from launcher import storage, unpack
from launcher.catalog import DataSet, Piece
from launcher.download import Watch, fetch, set_aside, turns
from launcher.errors import DataError

_BESIDE = 1 << 20
"""Bytes that an archive may hold beside its pieces."""
log = logging.getLogger("launcher")


def find(dataset: DataSet, piece: Piece, root: Path) -> Path | None:
    """A piece, plain or compressed, in the first place that has it."""
    for place in (root / dataset.folder, *dataset.elsewhere):
        for name in (piece.name, piece.packed.name if piece.packed else piece.name):
            if (place / name).is_file():
                return place / name
    return None


def archived(dataset: DataSet, root: Path) -> Path | None:
    """Where a data set's archive lies, or would; None when it has none."""
    return root / dataset.archive.name if dataset.archive else None


def damage(dataset: DataSet, path: Path, piece: Piece | None, *, thorough: bool) -> str | None:
    """What is wrong with a `piece` that lies at `path`, or with the archive: its size or, where
    asked to be `thorough`, its md5."""
    packed = piece.packed if piece and path.suffix == ".gz" else None
    want = packed or piece or dataset.archive
    assert want is not None, "a path is of a piece or of the archive"
    try:
        size = path.stat().st_size
        md5 = md5_of(path) if thorough and size == want.size else want.md5
        if size == want.size and md5 == want.md5:
            return None
        if packed and piece and _unfolds(path, piece):  # compressed by somebody else
            return None
    except (OSError, EOFError, zlib.error) as error:
        return f"cannot be read: {error}"
    if size != want.size:
        return f"has {size:,} bytes instead of {want.size:,}"
    return f"has the md5 {md5} instead of {want.md5}"


def _unfolds(path: Path, piece: Piece) -> bool:
    raw = unpack.content(path, piece.size + 1)
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return len(raw) == piece.size and found == piece.md5


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def provide(dataset: DataSet, root: Path, watch: Watch | None = None) -> None:
    """Check what is here, set aside what is damaged, and fetch what is not here.

    Raises DataError when it cannot be had.
    """
    for piece in dataset.pieces:
        while (path := find(dataset, piece, root)) and (
            wrong := damage(dataset, path, piece, thorough=True)
        ):
            if path.parent in dataset.elsewhere:
                log.warning("%s %s: not used", path, wrong)
                path = None
                break
            _discard(path, wrong)
        if path is None and piece.packed:
            target = root / dataset.folder / piece.packed.name
            fetch(dataset.remote(piece.packed), target, watch)
    archive = archived(dataset, root)
    if archive is None or all((root / dataset.folder / p.name).is_file() for p in dataset.pieces):
        return
    if archive.is_file() and (wrong := damage(dataset, archive, None, thorough=True)):
        _discard(archive, wrong)
    install(dataset, root, watch)


def _discard(path: Path, wrong: str) -> None:
    said = f"{path} {wrong}. {set_aside(path)}"
    if path.exists():
        raise DataError(said)
    log.warning("%s", said)


def install(dataset: DataSet, root: Path, watch: Watch | None = None) -> None:
    """Fetch a data set's archive if it is not there, and unpack it if its md5 is right."""
    assert dataset.archive is not None, "it comes in one archive"
    folder, archive = (root / dataset.folder).resolve(), root / dataset.archive.name
    with turns(root / dataset.folder):
        if all((folder / piece.name).is_file() for piece in dataset.pieces):
            return
        fetch(dataset.remote(dataset.archive), archive, watch)
        if wrong := damage(dataset, archive, None, thorough=True):
            raise DataError(f"{archive} is damaged: it {wrong}. {set_aside(archive)}")
        unpacked = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
        try:
            most = 2 * sum(piece.size for piece in dataset.pieces) + _BESIDE
            files = unpack.tar(archive, unpacked, most)
            missing = {f"{dataset.folder}/{p.name}" for p in dataset.pieces} - set(map(str, files))
            if missing:
                raise DataError(f"{archive} holds no {min(missing)}.")
            storage.make_folder(folder)
            for path in files:
                if path.parts[0] == dataset.folder and len(path.parts) == 2:
                    storage.rename(unpacked / path, folder / path.name)
        finally:
            storage.remove(unpacked)
