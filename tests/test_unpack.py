"""Archives that mean harm: refused, and nothing of them is left outside of their folder (D10)."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import provide, unpack
from launcher.catalog import CIFAR10, Packed
from launcher.errors import DataError

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def link(name: str, to: str, kind: bytes) -> Member:
    info, _ = member(name, kind=kind)
    info.linkname = to
    return info, b""


def write(*members: Member, form: int = tarfile.PAX_FORMAT) -> Path:
    path = Path("a.tar.gz")
    with tarfile.open(path, "w:gz", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def with_headers(headers: dict[str, str]) -> Member:
    info, content = member("d/x")
    info.pax_headers = headers
    return info, content


HOSTILE: dict[str, tuple[Callable[[], list[Member]], str]] = {
    "above": (lambda: [member("../x")], "outside"),
    "above, later": (lambda: [member("d/../../x")], "outside"),
    "absolute": (lambda: [member(str(Path("x").resolve()))], "outside"),
    "nameless": (lambda: [member(".")], "outside"),
    "symbolic link": (lambda: [link("d/x", "/etc/passwd", tarfile.SYMTYPE)], "a link"),
    "through a link": (
        lambda: [link("d", "..", tarfile.SYMTYPE), member("d/x")], "a link"),
    "hard link": (lambda: [link("d/x", "../y", tarfile.LNKTYPE)], "a link"),
    "character device": (lambda: [member("x", kind=tarfile.CHRTYPE)], "no plain file"),
    "block device": (lambda: [member("x", kind=tarfile.BLKTYPE)], "no plain file"),
    "pipe": (lambda: [member("x", kind=tarfile.FIFOTYPE)], "no plain file"),
    "unknown kind": (lambda: [member("x", kind=b"Z")], "no plain file"),
    "large": (lambda: [member("x", bytes(2_000_000))], "more than 1,000,000 bytes"),
    "large together": (lambda: [member(f"{n}", bytes(99_000)) for n in range(20)], "more than"),
    "large header": (lambda: [with_headers({"comment": "x" * 2_000_000})], "more than"),
    "many": (lambda: [member(f"{n}", b"") for n in range(1001)], "more than"),
    "twice": (lambda: [member("x"), member("x")], "twice"),
    "a file as a folder": (lambda: [member("x"), member("x/y")], "cannot be unpacked"),
    "sparse": (lambda: [with_headers({"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999"})],
               "no plain file"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_means_harm_is_refused(what: str, tmp_path: Path) -> None:
    """D10."""
    make, words = HOSTILE[what]
    archive = write(*make())
    (tmp_path / "into").mkdir()
    with pytest.raises(DataError, match=words) as refusal:
        unpack.tar(archive, tmp_path / "into" / "new", 1_000_000)
    assert str(archive) in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "into"}
    assert {path.name for path in (tmp_path / "into").iterdir()} == {"new"}


def test_an_archive_that_means_no_harm_is_unpacked() -> None:
    """The negative control."""
    archive = write(member("d", kind=tarfile.DIRTYPE), member("d/x", b"one"), member("./e/y", b""))
    files = unpack.tar(archive, Path("new"), 1_000_000)
    assert sorted(map(str, files)) == ["d/x", "e/y"]
    assert Path("new/d/x").read_bytes() == b"one"


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    Path("a.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack.tar(Path("a.tar.gz"), Path("new"), 1_000_000)


def test_a_hostile_archive_with_the_right_checksum_is_not_installed(tmp_path: Path) -> None:
    """D10. Nothing of it is left, not even the folder that it was unpacked to."""
    archive = write(member("cifar-10-batches-py/data_batch_1"), member("../x"))
    packed = Packed("a.tar.gz", provide.md5_of(archive), archive.stat().st_size)
    with pytest.raises(DataError, match="outside of its folder: refused"):
        provide.install(replace(CIFAR10, archive=packed), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_an_archive_without_a_piece_is_not_installed(tmp_path: Path) -> None:
    archive = write(member("cifar-10-batches-py/data_batch_1"))
    packed = Packed("a.tar.gz", provide.md5_of(archive), archive.stat().st_size)
    with pytest.raises(DataError, match="holds no cifar-10-batches-py/data_batch_2"):
        provide.install(replace(CIFAR10, archive=packed), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
