"""metrics.jsonl as those read it who only look: foreign lines named, lost ones noticed."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher import records

GOOD = '{"step": 1, "seconds": 1.0, "train/loss": 0.5}\n{"step": 2, "test/loss": null}\n'


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[1]", b'"x"', b"7", b'{"epoch": 1}', b'{"step": NaN}', b'{"step": 1.5}',
     b'{"step": -1}', b'{"step": true}', b'{"step": 1, "test/loss": {}}', b"\xff", b"\0" * 9,
     b'{"step": 1, "seconds": "x"}', b'{"step": 1, "seconds": true}', b"[" * 50_000,
     b'{"step": 1' + b"0" * 400 + b"}", b'{"step": 1, "seconds": 1' + b"0" * 400 + b"}"],
)  # fmt: skip
def test_what_no_run_has_written_is_no_record(line: bytes) -> None:
    assert records.record(line) is None
    path = Path("metrics.jsonl")
    path.write_bytes(GOOD.encode() + line + b"\n")
    assert records.last(path)["step"] == 2
    assert records.complaint(path, None) == "metrics.jsonl, line 3, is no record of a run"
    path.write_bytes(GOOD.encode() + line + b"\n" + b'{"step": 3}\n')
    assert records.complaint(path, None) == "", "those further up are the report's to count"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD, ""),
        (GOOD[:-1], "metrics.jsonl ends at step 1 of 2"),
        (GOOD + '{"st', "metrics.jsonl has a torn line at its end"),
        (GOOD + "\0" * 5, "metrics.jsonl has a torn line at its end"),
        ("", "metrics.jsonl ends at step 0 of 2"),
        (None, "metrics.jsonl ends at step 0 of 2"),
    ],
)
def test_what_a_finished_run_has_lost_is_noticed(content: str | None, said: str) -> None:
    path = Path("metrics.jsonl")
    if content is not None:
        path.write_text(content)
    assert records.complaint(path, 2) == said
    assert records.complaint(path, None) == "", "a kill leaves it like that"


def test_the_line_of_a_long_file_is_counted_from_its_beginning() -> None:
    path = Path("metrics.jsonl")
    path.write_text('{"step": 1, "train/loss": 0.5}\n' * 100_000 + "x\n")
    assert records.complaint(path, 1) == "metrics.jsonl, line 100001, is no record of a run"


def test_of_long_metrics_only_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("metrics.jsonl")
    line = json.dumps({"step": 1, "train/loss": 0.5})
    path.write_text(f"{line}\n" * 200_000 + '{"step": 2, "test/loss": 1.0}\n{"step": 3}\n')
    read: list[int] = []
    real = Path.open

    class Counted:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Counted":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def read(self, size: int) -> bytes:
            data: bytes = self.file.read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(Path, "open", lambda self, mode: Counted(real(self, mode)))
    assert records.last(path) == {"step": 3}
    assert records.last(path, "test/loss")["step"] == 2
    assert sum(read) <= 2 * 65536
    assert path.stat().st_size > 5_000_000
