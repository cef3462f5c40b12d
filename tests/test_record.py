"""The run folder's account of a run."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

from launcher import storage
from launcher.documents import read_json
from launcher.errors import (
    CheckpointError,
    DistributedError,
    LockedError,
    OutOfMemoryError,
    Preempted,
    RecipeError,
    StorageError,
)
from launcher.record import Record, git_commit, versions

RUN = Path("checkpoints/a run")


def status() -> dict[str, object]:
    return read_json(RUN / "status.json")


def write_lines(*lines: dict[str, float]) -> None:
    with closing(Record(RUN)) as record:
        record.begin(b"", {}, 0)
        for line in lines:
            record.metrics(line)


def test_a_run_folder_holds_the_recipe_the_run_its_status_and_its_metrics() -> None:
    with closing(Record(RUN)) as record:
        record.begin(b"# a recipe\n", {"seed": 0}, 0)
        record.metrics({"step": 1, "train/loss": 0.5})
        record.sync()
        record.finished(1, {"scores": {"test/accuracy": 0.5}}, 12.5)
    assert sorted(os.listdir(RUN)) == [
        ".lock", "metrics.jsonl", "owner.json", "recipe.py", "run.json", "status.json",
    ]  # fmt: skip
    assert (RUN / "recipe.py").read_bytes() == b"# a recipe\n"
    assert read_json(RUN / "run.json") == {"seed": 0}
    assert (RUN / "metrics.jsonl").read_bytes() == b'{"step": 1, "train/loss": 0.5}\n'
    found = status()
    assert (found["state"], found["code"], found["reason"]) == ("finished", 0, "")
    assert (found["step"], found["last_committed_step"]) == (1, 1)
    assert found["result"] == {"scores": {"test/accuracy": 0.5}}


def test_files_are_for_their_owner_only() -> None:
    write_lines({"seconds": 1.0})
    assert {path.stat().st_mode & 0o777 for path in RUN.iterdir()} == {0o600}
    assert RUN.stat().st_mode & 0o777 == 0o700


def test_a_status_keeps_the_steps_and_forgets_the_reason() -> None:
    with closing(Record(RUN)) as record:
        record.begin(b"", {}, 0)
        record.status("running", step=8, committed=8)
        record.failed(ValueError("too warm"), 70)
        failed = status()
        record.status("running")
        running = status()
    assert (failed["state"], failed["code"], failed["reason"]) == ("failed", 70, "too warm")
    assert (failed["step"], failed["last_committed_step"]) == (8, 8)
    assert (running["state"], running["code"], running["reason"]) == ("running", 0, "")
    assert (running["step"], running["last_committed_step"]) == (8, 8)


def test_an_error_without_words_is_named_by_its_kind() -> None:
    with closing(Record(RUN)) as record:
        record.begin(b"", {}, 0)
        record.failed(KeyboardInterrupt(), 130)
    assert status()["reason"] == "KeyboardInterrupt"


def test_an_attempt_that_never_began_leaves_the_status_alone() -> None:
    with closing(Record(RUN)) as record:
        record.begin(b"", {}, 0)
        record.finished(8, {}, 1.0)
    with closing(Record(RUN)) as record:
        record.failed(ValueError("no"), 70)
    assert status()["state"] == "finished"


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────


def test_lines_after_the_checkpoint_are_cut_off() -> None:
    write_lines(*({"step": step, "seconds": step / 2} for step in range(1, 5)))
    before = (RUN / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    with closing(Record(RUN)) as record:
        seconds = record.begin(b"", {}, 2)
        record.metrics({"step": 9})
    after = (RUN / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert after == [*before[:2], b'{"step": 9}\n']
    assert seconds == 1.0


def test_a_torn_last_line_is_cut_off() -> None:
    write_lines({"step": 1, "seconds": 3}, {"step": 2, "seconds": 4})
    path = RUN / "metrics.jsonl"
    whole = path.read_bytes()
    for size in range(whole.index(b"\n") + 1, len(whole), 5):
        path.write_bytes(whole[:size])
        with closing(Record(RUN)) as record:
            assert record.begin(b"", {}, 1) == 3
        assert path.read_bytes() == whole[: whole.index(b"\n") + 1]


def test_a_new_run_begins_with_no_lines_and_no_time() -> None:
    write_lines({"step": 1, "seconds": 3})
    with closing(Record(RUN)) as record:
        assert record.begin(b"", {}, 0) == 0
    assert (RUN / "metrics.jsonl").read_bytes() == b""


def test_fewer_lines_than_the_checkpoint_knows_are_refused() -> None:
    write_lines({"step": 1, "seconds": 3})
    with closing(Record(RUN)) as record:
        with pytest.raises(CheckpointError, match=r"has 1 lines, but the checkpoint .* after 2"):
            record.begin(b"", {}, 2)


def test_a_line_that_is_torn_does_not_count_as_one() -> None:
    write_lines({"step": 1, "seconds": 3}, {"step": 2, "seconds": 4})
    path = RUN / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with closing(Record(RUN)) as record, pytest.raises(CheckpointError):
        record.begin(b"", {}, 2)


def test_numbers_that_are_not_finite_become_null() -> None:
    write_lines({"step": 1, "train/loss": math.nan, "test/loss": math.inf, "a": -math.inf})
    line = (RUN / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "train/loss": null, "test/loss": null, "a": null}\n'


# ── one owner ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def another_process() -> Iterator[int]:
    """A process that has the run folder; its pid."""
    code = (
        "import sys; from pathlib import Path; from launcher.record import Record;"
        "record = Record(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=".",
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "mine\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_folder_in_use_is_refused_with_the_process_and_the_host() -> None:
    with another_process() as pid:
        with pytest.raises(LockedError) as refusal:
            Record(RUN)
        message = str(refusal.value)
        assert f"process {pid} on {socket.gethostname()} since 20" in message
        assert read_json(RUN / "owner.json")["pid"] == pid
    Record(RUN).close()  # a killed process owns nothing
    assert read_json(RUN / "owner.json")["pid"] == os.getpid()


def test_what_a_killed_process_with_our_number_left_half_written_stops_nobody() -> None:
    """In a container every attempt has the same process id."""
    RUN.mkdir(parents=True)
    for name in ("owner.json", "run.json", "status.json", "recipe.py"):
        (RUN / f".{name}.{os.getpid()}.tmp").write_text("half")
    write_lines({"step": 1})
    assert (RUN / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'


# ── archive ─────────────────────────────────────────────────────────────────────────────────────


def test_an_archive_takes_all_of_the_earlier_run_and_nothing_of_earlier_archives() -> None:
    write_lines({"step": 1})
    (RUN / "step-000000000004").mkdir()
    with closing(Record(RUN)) as record:
        first = record.archive()
        assert first is not None
        assert sorted(os.listdir(first)) == [
            "metrics.jsonl", "recipe.py", "run.json", "status.json", "step-000000000004",
        ]  # fmt: skip
        assert sorted(os.listdir(RUN)) == [".lock", first.name, "owner.json"]
        assert record.archive() is None
    write_lines({"step": 1})
    with closing(Record(RUN)) as record:
        second = record.archive()
    assert second is not None
    assert second.parent == first.parent == RUN
    assert sorted(os.listdir(RUN)) == sorted([".lock", first.name, second.name, "owner.json"])


def test_versions_name_what_a_result_depends_on() -> None:
    found = versions()
    assert {"python", "torch", "accelerate", "numpy", "safetensors"} <= found.keys()
    assert json.loads(json.dumps(found)) == found


def test_a_commit_is_named_with_the_changes_since() -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True, cwd="work")

    Path("work").mkdir()
    assert git_commit(Path("work")) is None
    git("init")
    Path("work/a").write_text("a")
    git("add", "a")
    git("commit", "-m", "a")
    commit = git_commit(Path("work"))
    assert commit is not None
    assert len(commit) == 40
    Path("work/a").write_text("b")
    assert git_commit(Path("work")) == f"{commit}+changes"


# ── how often in a row it failed ────────────────────────────────────────────────────────────────


def attempt(error: BaseException | None, committed: int | None = None) -> int:
    """An attempt that ends with an error or well; the failures that are noted then."""
    with closing(Record(RUN)) as record:
        record.begin(b"", {}, 0)
        if committed is not None:
            record.status("running", step=committed, committed=committed)
        if error is None:
            record.finished(9, {}, 1.0)
        else:
            record.failed(error, 1, 3)
    found = status()["failures"]
    assert isinstance(found, int)
    return found


def test_failures_in_a_row_are_counted_over_attempts() -> None:
    errors = [RecipeError("x"), StorageError("x"), OutOfMemoryError("x"), ZeroDivisionError()]
    assert [attempt(error) for error in errors] == [1, 2, 3, 4]
    assert attempt(None) == 0


@pytest.mark.parametrize(
    "error", [Preempted("75"), DistributedError("lost"), KeyboardInterrupt()], ids=repr
)
def test_what_is_not_the_runs_own_doing_neither_counts_nor_forgives(error: BaseException) -> None:
    """B14: a job that is preempted all day is not a job that fails."""
    assert [attempt(error) for _ in range(4)] == [0] * 4
    attempt(RecipeError("x"))
    assert attempt(error) == 1
    assert attempt(RecipeError("x")) == 2


def test_a_new_checkpoint_begins_the_count_anew_and_the_same_one_does_not() -> None:
    assert attempt(RecipeError("x"), committed=4) == 1
    assert attempt(RecipeError("x")) == 2
    assert attempt(RecipeError("x"), committed=4) == 3, "no progress"
    assert attempt(RecipeError("x"), committed=8) == 1


def test_the_process_that_failed_is_noted() -> None:
    error = RecipeError("x")
    error.process = 2
    attempt(error)
    assert status()["process"] == 2
    attempt(RecipeError("x"))
    assert status()["process"] == 0


# ── back to a step ──────────────────────────────────────────────────────────────────────────────


def with_steps(*steps: int) -> None:
    for step in steps:
        folder = RUN / f"step-{step:012d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(str(step))


def test_going_back_moves_what_came_later() -> None:
    with_steps(5, 10, 15)
    (RUN / "metrics.jsonl").write_bytes(b"all\n")
    with closing(Record(RUN)) as record:
        place = record.go_back_to(5)
        assert record.go_back_to(5) is None, "nothing is left to move"
    assert place is not None
    assert sorted(os.listdir(place)) == ["metrics.jsonl", "step-000000000010", "step-000000000015"]
    assert (place / "metrics.jsonl").read_bytes() == b"all\n"
    assert (place / "step-000000000015" / "state.json").read_text() == "15"
    assert [path.name for path in RUN.glob("step-*")] == ["step-000000000005"]
    assert (RUN / "metrics.jsonl").read_bytes() == b"all\n", "`begin` cuts it"


def test_going_back_moves_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, the run is where it was, some steps back, and has no hole."""

    class Killed(BaseException):
        pass

    class Mortal(storage.Disk):
        def rename(self, old: Path, new: Path) -> None:
            if old.name == "step-000000000010":
                raise Killed
            super().rename(old, new)

    with_steps(5, 10, 15)
    with closing(Record(RUN)) as record:
        monkeypatch.setattr(storage, "disk", Mortal())
        with pytest.raises(Killed):
            record.go_back_to(5)
    assert sorted(path.name for path in RUN.glob("step-*")) == [
        "step-000000000005", "step-000000000010",
    ]  # fmt: skip


def test_a_run_without_metrics_goes_back_too() -> None:
    with_steps(5, 10)
    with closing(Record(RUN)) as record:
        place = record.go_back_to(7)
    assert place is not None
    assert os.listdir(place) == ["step-000000000010"]
