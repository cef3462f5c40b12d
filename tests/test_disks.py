"""What a run does with a disk that is full, gone or unreliable: seen from its command."""

import errno
import json
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import command, write_recipe

from launcher import checkpoint, held, storage
from launcher.documents import read_json
from launcher.errors import StorageError

RUN = Path("checkpoints/r")
# Does something at the beginning of a training step, counted from 1.
AT_STEP = """
import shutil
from pathlib import Path

def loss(model, batch):
    global passes
    passes += model.training
    if model.training:
        Path("steps").write_text(str(passes))
    if model.training and passes == {step}:
        {statement}
    return losses.cross_entropy(model, batch)


passes = 0
"""
# At once: a save that is under way would put new files into a folder that is being emptied.
REMOVED = "Path('checkpoints').rename('trash'), shutil.rmtree('trash', ignore_errors=True)"
Use = Callable[[storage.Disk], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return lambda disk: monkeypatch.setattr(storage, "disk", disk)


def trained(*arguments: object, step: int = 0, statement: str = "pass", code: int = 0) -> None:
    path = write_recipe(AT_STEP.format(step=step, statement=statement))
    assert command(path, "name=r", "threads=1", *arguments) == code


def lines() -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    clock = ("seconds", "train/samples_per_s", "train/data_wait")
    found = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in clock} for line in found]


def status() -> dict[str, Any]:
    return read_json(RUN / "status.json")


# ── full from the start ─────────────────────────────────────────────────────────────────────────


class Small(storage.Disk):
    """A disk with little room, of which nothing is used up."""

    def __init__(self, room: int) -> None:
        self.room = room

    def free(self, path: Path) -> int:
        return self.room


def test_a_disk_that_is_full_is_found_before_training(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    """C2: an hour later it would cost an hour."""
    use(Small(1000))
    trained(code=7)
    assert not Path("steps").exists(), "nothing was trained"
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "has 0.0 MB left, and a checkpoint needs at least 1.0 MB." in said
    assert "Free some space, or train in another folder." in said
    assert sorted(path.name for path in RUN.iterdir()) == [".lock", "owner.json"]
    use(storage.Disk())
    trained()
    assert status()["state"] == "finished"


def test_a_run_that_continues_needs_room_for_what_it_has(use: Use) -> None:
    trained("epochs=1")
    (folder,) = RUN.glob("step-*")
    parts = [(folder / name).stat().st_size for name in (*checkpoint.FILES, "manifest.json")]
    least = sum(parts) + (folder / "COMMIT").stat().st_size + storage.PROBE
    more = ("epochs=2", "--allow-change", "epochs")
    before = sorted(str(path) for path in RUN.rglob("*"))
    use(Small(least - 1))
    trained(*more, code=7)
    assert sorted(str(path) for path in RUN.rglob("*")) == before
    use(Small(least))
    trained(*more)


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    storage.probe(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_wants_its_own_room_too(tmp_path: Path, use: Use) -> None:
    use(Small(100 + storage.PROBE))
    storage.probe(tmp_path, 100)
    with pytest.raises(StorageError, match=r"needs at least 1\.0 MB"):
        storage.probe(tmp_path, 101)


@pytest.mark.parametrize("name", ["open", "write", "fsync", "rename", "mkdir", "listdir", "rmdir"])
def test_a_probe_meets_what_a_save_would(tmp_path: Path, use: Use, name: str) -> None:
    """And leaves nothing where anything can still be removed."""

    class Failing(storage.Disk):
        pass

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    setattr(Failing, name, fail)
    use(Failing())
    with pytest.raises(StorageError, match="Input/output error"):
        storage.probe(tmp_path, 5)
    if name not in ("listdir", "rmdir"):  # without these nothing can be removed
        assert list(tmp_path.iterdir()) == []


def test_free_space_that_nobody_tells_is_a_storage_error(tmp_path: Path) -> None:
    assert storage.free(tmp_path) > 0
    with pytest.raises(StorageError, match="could not ask for the free space of"):
        storage.free(tmp_path / "nowhere")


# ── gone in the middle ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "given", [(), ("checkpoint_every=1",), ("checkpoint_every=1", "log_every=1", "keep=2")]
)
@pytest.mark.parametrize("step", [2, 8])
def test_checkpoints_that_are_removed_during_a_run_end_it_with_a_sentence(
    given: tuple[str, ...], step: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """C7: the lock and the metrics are open files, which nobody would find again."""
    trained(*given, step=step, statement=REMOVED, code=7)
    out, said = capfd.readouterr()
    assert "Traceback" not in out + said
    words = " ".join(said.replace("│", " ").split())
    assert "No such file or directory" in words
    assert "metrics.jsonl" in words
    assert "finished" not in out
    if "checkpoint_every=1" in given and step == 2:
        assert int(Path("steps").read_text()) < 8, "it is noticed at the third save"


def test_a_run_folder_that_was_replaced_is_noticed_too(capfd: pytest.CaptureFixture[str]) -> None:
    statement = "shutil.move('checkpoints', 'old'), shutil.copytree('old', 'checkpoints')"
    trained(step=2, statement=statement, code=7)
    assert "it was replaced by another file" in " ".join(capfd.readouterr().err.split())


# ── unreliable ──────────────────────────────────────────────────────────────────────────────────


class Torn(storage.Disk):
    """A disk that refuses some appends of the main thread, after a part of the data."""

    def __init__(self, refuses: Callable[[int], bool], part: int = 0, truncates: bool = True):
        self.refuses, self.part, self.truncates = refuses, part, truncates
        self.number = count()
        self.failed = 0

    def write(self, descriptor: int, data: memoryview) -> int:
        line = bytes(data[:8]) == b'{"step":'
        if line and threading.current_thread().name != "saver" and self.refuses(next(self.number)):
            self.failed += 1
            if self.part:
                super().write(descriptor, data[: self.part])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, data)


@pytest.mark.parametrize("part", [0, 1, 9, 60])
@pytest.mark.parametrize("every", [2, 3])
def test_lines_survive_a_disk_that_refuses_some_of_them(use: Use, part: int, every: int) -> None:
    trained("log_every=1")
    expected, size = lines(), (RUN / "metrics.jsonl").stat().st_size
    assert len(expected) == 10
    disk = Torn(lambda number: number % every == 0, part)
    use(disk)
    trained("log_every=1", "--fresh")
    assert disk.failed >= 3
    assert lines() == expected
    assert (RUN / "metrics.jsonl").read_bytes().count(b"\n") == 10
    assert abs((RUN / "metrics.jsonl").stat().st_size - size) < 100


def test_lines_that_are_all_refused_come_with_the_checkpoint(use: Use) -> None:
    trained("log_every=1")
    expected = lines()
    use(Torn(lambda number: True, part=5))
    trained("log_every=1", "--fresh")
    assert lines() == expected


def test_an_appender_keeps_the_order_over_refusals_and_torn_lines(tmp_path: Path, use: Use) -> None:
    path = tmp_path / "lines"

    class Now(storage.Disk):
        refuses = cannot_cut = False

        def write(self, descriptor: int, data: memoryview) -> int:
            if self.refuses:
                super().write(descriptor, data[:3])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(descriptor, data[:4])  # short writes are fine

        def truncate(self, descriptor: int, size: int) -> None:
            if self.cannot_cut:
                raise OSError(errno.EIO, "Input/output error")
            super().truncate(descriptor, size)

    disk = Now()
    use(disk)
    appender = held.Appender(path, 0)
    appender.write(b"line 1\n")
    disk.refuses = True
    for line in (b"line 2\n", b"line 3\n"):
        with pytest.raises(StorageError, match="No space left"):
            appender.write(line)
    assert path.read_bytes() == b"line 1\nlin", "torn once, not twice"
    assert appender.size == 7
    with pytest.raises(StorageError):
        appender.sync()
    disk.refuses, disk.cannot_cut = False, True
    with pytest.raises(StorageError, match="Input/output"):
        appender.write(b"line 4\n")
    disk.cannot_cut = False
    appender.write()
    assert path.read_bytes() == b"line 1\nline 2\nline 3\nline 4\n"
    appender.write(b"line 5\n")
    appender.sync()
    assert path.read_bytes().splitlines()[-1] == b"line 5"
    assert appender.size == path.stat().st_size
    appender.close()
