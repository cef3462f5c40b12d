"""JSON files of a run are read strictly and written whole."""

import json
from pathlib import Path

import pytest

from launcher.documents import read_json, write_json
from launcher.errors import CheckpointError, StorageError


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_refused_by_its_name(content: bytes) -> None:
    Path("status.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"status\.json is damaged"):
        read_json(Path("status.json"))


def test_a_file_that_is_not_there_is_empty() -> None:
    assert read_json(Path("status.json")) == {}


def test_what_cannot_be_read_is_no_empty_file() -> None:
    Path("status.json").mkdir()
    with pytest.raises(StorageError, match=r"could not read status\.json"):
        read_json(Path("status.json"))


def test_what_is_written_is_read() -> None:
    write_json(Path("a.json"), {"old": 1})
    write_json(Path("a.json"), {"é": [1.5, None]}, indent=None)
    assert read_json(Path("a.json")) == {"é": [1.5, None]}
    assert Path("a.json").read_text() == '{"\\u00e9": [1.5, null]}\n'


def test_a_number_that_json_has_not_leaves_the_old_file() -> None:
    write_json(Path("a.json"), {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(Path("a.json"), {"new": float("nan")})
    assert json.loads(Path("a.json").read_text()) == {"old": 1}
