"""What a follower passes on, and when: with a tracker that keeps everything in a list."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, ROOT, eventually

from launcher import held
from launcher.follower import Rows, Told, follow
from launcher.order import FINISHED, GONE, STOPPED, Order

Row = tuple[int, dict[str, float]]


def order(**changes: Any) -> Order:
    fields = {"folder": ".", "name": "r", "from_step": 0, "total_steps": 6, "patience": 5.0}
    return Order(**{"tracker": "wandb", "parent": os.getpid(), **fields, **changes})


class Notes:
    """A tracker that remembers."""

    def __init__(self, last: int = -1) -> None:
        self.last = last
        self.rows: list[Row] = []
        self.document: Mapping[str, Any] = {}
        self.finished: bool | None = None

    def row(self, step: int, values: Mapping[str, float]) -> None:
        assert step > self.last
        self.rows.append((step, dict(values)))

    def outcome(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def finish(self, *, finished: bool) -> str | None:
        self.finished = finished
        return "done"

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.rows]


class Saying(Told):
    """Training that says something before each look."""

    def __init__(self, *words: object) -> None:
        self.words = list(words)

    def wait(self, seconds: float) -> str:
        word = self.words.pop(0)
        if callable(word):
            word()
            return ""
        return str(word)


def write(*steps: int) -> None:
    with Path("metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "train/loss": step / 10}) + "\n")


def commit(step: int) -> None:
    Path("status.json").write_text(json.dumps({"last_committed_step": step}))


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def test_lines_of_one_step_are_one_row_and_what_is_not_finite_is_nan() -> None:
    path = Path("metrics.jsonl")
    path.write_text(
        '{"step": 2, "train/loss": null}\n{"step": 4, "train/loss": 1}\n'
        '{"step": 4, "test/loss": 2}\n'
    )
    (first, second) = Rows(path).up_to(9)
    assert math.isnan(first[1]["train/loss"])
    assert second == (4, {"train/loss": 1, "test/loss": 2})


def test_rows_are_read_on_by_whole_lines_and_only_up_to_a_step() -> None:
    path = Path("metrics.jsonl")
    write(1, 2, 3)
    rows = Rows(path)
    assert [step for step, _ in rows.up_to(2)] == [1, 2]
    with path.open("a") as file:
        file.write('{"step": 4, "tr')
    assert [step for step, _ in rows.up_to(9)] == [3]
    with path.open("a") as file:
        file.write('ain/loss": 1}\n')
    assert list(rows.up_to(9)) == [(4, {"train/loss": 1})]
    assert not list(rows.up_to(9))


# ── what is passed on ────────────────────────────────────────────────────────────────────────────


def test_only_what_a_checkpoint_made_durable_is_passed_on() -> None:
    """G6: a kill now would take back the rest."""
    write(1, 2, 3, 4)
    commit(2)
    sink = Notes()
    follow(order(), sink, Saying("", GONE))
    assert sink.steps == [1], "the newest waits: the run may end there"
    assert sink.finished is False


def test_the_next_attempt_goes_on_behind_what_the_tracker_has() -> None:
    write(1, 2, 3, 4, 5)
    commit(5)
    sink = Notes(last=2)
    follow(order(from_step=5), sink, Saying("", GONE))
    assert sink.steps == [3, 4]


def test_a_stopped_run_passes_on_what_its_last_checkpoint_holds() -> None:
    write(1, 2, 3, 4)
    commit(2)
    sink = Notes()
    assert follow(order(), sink, Saying("", lambda: commit(3), STOPPED)) == "done"
    assert sink.steps == [1, 2, 3]
    assert sink.finished is False


def test_nothing_is_read_any_more_when_training_was_killed() -> None:
    """The folder may be another attempt's by now."""
    write(1, 2, 3)
    commit(2)
    sink = Notes()
    follow(order(), sink, Saying("", lambda: commit(2), lambda: commit(3), GONE))
    assert sink.steps == [1, 2]
    sink = Notes()
    follow(order(), sink, Saying(GONE))
    assert not sink.steps


def test_the_last_step_is_passed_on_with_the_outcome_when_the_run_has_finished() -> None:
    write(2, 4, 6)
    commit(6)
    document = {"format": 1, "step": 6, "classes": ["a"]}
    Path("outcome.json").write_text(json.dumps(document))
    sink = Notes()
    follow(order(), sink, Saying("", GONE))
    assert (sink.steps, sink.document) == ([2, 4], {})
    again = Notes(last=4)
    follow(order(total_steps=100), again, Saying("", FINISHED))  # it stopped early
    assert (again.steps, again.document, again.finished) == ([6], document, True)
    follow(order(), again, Saying(FINISHED))
    assert again.steps == [6]


@pytest.mark.parametrize("document", [{"format": 2, "step": 6}, {"format": 1, "step": 4}, None])
def test_an_outcome_of_another_step_or_format_is_left_alone(document: object) -> None:
    write(6)
    commit(6)
    if document:
        Path("outcome.json").write_text(json.dumps(document))
    sink = Notes()
    follow(order(), sink, Saying(FINISHED))
    assert (sink.steps, sink.document) == ([6], {})


# ── the process ──────────────────────────────────────────────────────────────────────────────────


def begin(parent: int | None = None, **changes: Any) -> subprocess.Popen[bytes]:
    """A follower of the current folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.follower"], process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(json.dumps(asdict(order(parent=parent or os.getpid(), **changes))).encode())
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process


def test_a_tracker_that_fails_is_one_sentence() -> None:
    Path("wandb").touch()  # where a folder should be
    process = begin()
    said, errors = process.communicate(timeout=HANGS)
    (line,) = said.decode().splitlines()
    assert line.startswith("warning: wandb has stopped: could not make the folder")
    assert "metrics.jsonl is complete" in line
    assert not errors
    assert process.returncode == 1


@pytest.mark.slow
def test_a_follower_waits_for_the_one_before_and_ends_when_training_is_gone() -> None:
    """Two would pass on the same rows. What it waits for does not keep it alive."""
    lock = held.Lock(Path(".wandb.lock"))
    assert lock.acquire()
    with begin() as process:
        files = Path(f"/proc/{process.pid}/fd")
        eventually(lambda: any(file.resolve().name == ".wandb.lock" for file in files.iterdir()))
        time.sleep(0.5)
        assert process.poll() is None
        assert not Path("wandb.json").exists()
        assert process.stdin
        process.stdin.close()
        assert process.wait(HANGS) == -signal.SIGKILL
    lock.release()
