"""`.wandb` files: whole, cut at every place, and damaged."""

import struct
import zlib
from pathlib import Path

import pytest

from launcher import wandb_file

BLOCK = 32768


def chunk(kind: int, data: bytes) -> bytes:
    checksum = zlib.crc32(bytes([kind]) + data)
    return struct.pack("<IHB", checksum, len(data), kind) + data


def written(*records: bytes) -> bytes:
    """A file as LevelDB's format describes it, written independently of the reader."""
    found = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    for record in records:
        begun, rest = False, record
        while True:
            room = BLOCK - len(found) % BLOCK
            if room < 7:
                found += bytes(room)
                room = BLOCK
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (3 if rest else 4) if begun else (2 if rest else 1)
            found += chunk(kind, part)
            begun = True
            if not rest:
                break
    return found


@pytest.mark.parametrize("size", [0, 1, BLOCK - 30, BLOCK - 21, BLOCK - 20, BLOCK - 14, 3 * BLOCK])
def test_records_are_read_over_the_borders_of_blocks(size: int) -> None:
    records = [b"first", bytes(range(256)) * (size // 256) + bytes(size % 256), b"last" * 100]
    Path("x.wandb").write_bytes(written(*records))
    assert list(wandb_file.records(Path("x.wandb"))) == records


def test_a_file_that_was_cut_is_read_up_to_the_cut() -> None:
    records = [b"a" * 10, b"b" * 20, b"c" * 30]
    whole = written(*records)
    for size in range(len(whole)):
        Path("x.wandb").write_bytes(whole[:size])
        found = list(wandb_file.records(Path("x.wandb")))
        assert found == records[: len(found)]
        assert len(found) == (size >= 24) + (size >= 51)


def test_what_is_damaged_ends_the_reading() -> None:
    whole = bytearray(written(b"a" * 10, b"b" * 20, b"c" * 30))
    whole[35] ^= 1
    Path("x.wandb").write_bytes(whole)
    assert list(wandb_file.records(Path("x.wandb"))) == [b"a" * 10]


@pytest.mark.parametrize("content", [b"", b":W&B", b"something else that is long enough"])
def test_another_file_holds_no_records(content: bytes) -> None:
    Path("x.wandb").write_bytes(content)
    assert not list(wandb_file.records(Path("x.wandb")))


def test_a_run_without_files_has_no_step(tmp_path: Path) -> None:
    assert wandb_file.last_step(tmp_path / "wandb", "id") == -1
