"""The disk: what is written is there whole or not at all, also when any single call fails."""

import errno
import hashlib
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS

from launcher import held, storage
from launcher.errors import StorageError

ROOT = Path(__file__).resolve().parent.parent
METHODS = [name for name in vars(storage.Disk) if not name.startswith("_")]


class FailingDisk(storage.Disk):
    """A disk of which the n-th call of one method fails; it counts all calls.

    With `after` the call does its work first: what a power cut, or a full disk at close, looks
    like.
    """

    def __init__(
        self, method: str = "", number: int = 1, code: int = errno.ENOSPC, *, after: bool = False
    ) -> None:
        self.calls: list[str] = []
        self.failed = False
        for name in METHODS:
            setattr(self, name, self._counted(name, method, number, code, after))

    def _counted(
        self, name: str, method: str, number: int, code: int, after: bool
    ) -> Callable[..., Any]:
        real = getattr(storage.Disk, name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == method and self.calls.count(name) == number:
                self.failed = True
                if after:
                    real(self, *arguments)
                raise OSError(code, os.strerror(code))
            return real(self, *arguments)

        return call


class ShortDisk(storage.Disk):
    """A disk that takes and gives three bytes at a time, as it may."""

    def write(self, descriptor: int, data: memoryview) -> int:
        return super().write(descriptor, data[:3])

    def read(self, descriptor: int, size: int) -> bytes:
        return super().read(descriptor, 3)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[storage.Disk], None]:
    return lambda disk: monkeypatch.setattr(storage, "disk", disk)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which no descriptor of ours stays open."""
    return tmp_path


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ── replace ──────────────────────────────────────────────────────────────────────────────────────


def test_replace_writes_and_replaces(folder: Path) -> None:
    path = folder / "status.json"
    for data in (b"old", b"", b"a longer one\n" * 1000):
        storage.replace(path, data)
        assert path.read_bytes() == data
    assert os.listdir(folder) == ["status.json"]


def calls_of_replace(folder: Path, use: Callable[[storage.Disk], None]) -> list[str]:
    disk = FailingDisk()
    use(disk)
    storage.replace(folder / "probe", b"x" * 10)
    os.unlink(folder / "probe")
    return disk.calls


def test_replace_makes_content_durable_before_the_name_and_the_name_after(
    folder: Path, use: Callable[[storage.Disk], None]
) -> None:
    assert calls_of_replace(folder, use) == [
        *("open", "write", "fsync", "close"),
        "rename",
        *("open", "fsync", "close"),
    ]


@pytest.mark.parametrize(
    ("method", "after"),
    [
        ("open", False),
        ("write", False),
        ("write", True),
        ("fsync", False),
        ("fsync", True),
        ("close", True),
        ("rename", False),
    ],
)
def test_a_replace_that_fails_leaves_the_old_content_and_nothing_else(
    folder: Path, use: Callable[[storage.Disk], None], method: str, after: bool
) -> None:
    path = folder / "status.json"
    storage.replace(path, b"old")
    disk = FailingDisk(method, after=after)
    use(disk)
    with pytest.raises(StorageError, match="No space left") as refused:
        storage.replace(path, b"new")
    assert disk.failed
    assert str(folder) in str(refused.value)
    assert "status.json" in str(refused.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(folder) == ["status.json"]


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_an_error_with_the_new_content(
    folder: Path, use: Callable[[storage.Disk], None], call: str
) -> None:
    """The second open and the second fsync are the folder's: the file is whole, and new."""
    path = folder / "status.json"
    storage.replace(path, b"old")
    use(FailingDisk(call, 2, errno.EIO))
    with pytest.raises(StorageError, match="could not sync the folder"):
        storage.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(folder) == ["status.json"]


def test_writing_in_place_would_lose_the_old_content(folder: Path) -> None:
    """The negative control: the test above fails for who opens the file itself."""
    path = folder / "status.json"
    path.write_bytes(b"old")
    with open(path, "wb"):
        assert path.read_bytes() == b""


def test_a_reader_sees_the_old_or_the_new_content_whole(folder: Path) -> None:
    """Another process replaces as fast as it can, while this one reads."""
    path = folder / "status.json"
    contents = [letter * 50_000 for letter in (b"a", b"b")]
    storage.replace(path, contents[0])
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_write_for_ever, args=(path, contents))
    writer.start()
    try:
        seen = {storage.read(path) for _ in range(300)}
        deadline = time.monotonic() + HANGS
        while len(seen) < 2 and time.monotonic() < deadline:
            seen.add(storage.read(path))
    finally:
        writer.kill()
        writer.join()
        writer.close()
    assert seen == set(contents)


def _write_for_ever(path: Path, contents: list[bytes]) -> None:
    while True:
        for content in contents:
            storage.replace(path, content)


def test_what_a_killed_process_left_does_not_hinder_one_with_the_same_number(
    folder: Path,
) -> None:
    """In a container the next attempt often has the process number of the one that was killed."""
    path = folder / "status.json"
    (folder / f".status.json.{os.getpid()}.tmp").write_bytes(b"half")
    storage.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(folder) == ["status.json"]


def test_short_writes_and_reads_are_continued(
    folder: Path, use: Callable[[storage.Disk], None]
) -> None:
    use(ShortDisk())
    storage.replace(folder / "a", b"0123456789")
    assert (folder / "a").read_bytes() == b"0123456789"
    assert storage.read(folder / "a") == b"0123456789"


# ── create, folders, names, rename, remove ───────────────────────────────────────────────────────


def test_create_never_writes_over_a_file(folder: Path) -> None:
    storage.create(folder / "a", [b"first"])
    with pytest.raises(StorageError, match="File exists"):
        storage.create(folder / "a", [b"second"])
    assert (folder / "a").read_bytes() == b"first"


def test_create_does_not_write_through_a_link(folder: Path) -> None:
    os.symlink(folder / "elsewhere", folder / "a")
    with pytest.raises(StorageError):
        storage.create(folder / "a", [b"x"])
    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_and_folders_are_private(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        storage.make_folder(folder / "a" / "b")
        storage.create(folder / "a" / "created", [b"x"])
        storage.replace(folder / "a" / "replaced", b"x")
        held.Appender(folder / "a" / "appended", 0).close()
        held.Lock(folder / "a" / "lock").release()
    finally:
        os.umask(before)
    for name in ("created", "replaced", "appended", "lock"):
        assert mode(folder / "a" / name) == 0o600, name
    assert mode(folder / "a") == mode(folder / "a" / "b") == 0o700


def test_making_a_folder_that_is_there_does_nothing(folder: Path) -> None:
    folder.chmod(0o755)
    storage.make_folder(folder)
    storage.make_folder(folder / "a")
    storage.make_folder(folder / "a")
    assert mode(folder) == 0o755


def test_two_processes_may_make_the_same_folder(
    folder: Path, use: Callable[[storage.Disk], None]
) -> None:
    """The other one was a little faster: ours fails with EEXIST after the fact."""
    use(FailingDisk("mkdir", 1, errno.EEXIST, after=True))
    storage.make_folder(folder / "a")
    assert (folder / "a").is_dir()


def test_a_file_in_the_place_of_a_folder_is_refused(folder: Path) -> None:
    (folder / "a").write_bytes(b"")
    for path in (folder / "a", folder / "a" / "b"):
        with pytest.raises(StorageError, match=f"could not make the folder {folder}/a: "):
            storage.make_folder(path)


@pytest.mark.parametrize("what", [storage.make_folder, storage.names, storage.remove])
def test_a_path_that_is_too_long_is_a_storage_error(
    folder: Path, what: Callable[[Path], object]
) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        what(folder / ("x" * 300))


def test_names_are_sorted_and_a_missing_folder_has_none(folder: Path) -> None:
    for name in ("b", "a", ".c"):
        (folder / name).write_bytes(b"")
    assert storage.names(folder) == [".c", "a", "b"]
    assert storage.names(folder / "none") == []
    assert storage.names(folder / "a") == []


def test_rename_is_durable(folder: Path, use: Callable[[storage.Disk], None]) -> None:
    (folder / "a").mkdir()
    disk = FailingDisk()
    use(disk)
    storage.rename(folder / "a", folder / "b")
    assert disk.calls == ["rename", "open", "fsync", "close"]
    assert os.listdir(folder) == ["b"]


def test_remove_takes_a_tree_and_leaves_what_links_point_to(folder: Path) -> None:
    (folder / "kept").mkdir()
    (folder / "kept" / "file").write_bytes(b"")
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "tree" / "deep" / "file").write_bytes(b"")
    os.symlink(folder / "kept", folder / "tree" / "link")
    os.symlink(folder / "kept", folder / "link")
    for name in ("tree", "link", "none"):
        storage.remove(folder / name)
    assert storage.names(folder) == ["kept"]
    assert storage.names(folder / "kept") == ["file"]


def _append(path: Path) -> None:
    appender = held.Appender(path, 0)
    try:
        appender.write(b"x")
        appender.sync()
    finally:
        appender.close()


OPERATIONS: list[tuple[str, Callable[[Path], object]]] = [
    ("open", lambda path: storage.create(path / "new", [b"x"])),
    ("write", lambda path: storage.create(path / "new", [b"x"])),
    ("fsync", lambda path: storage.create(path / "new", [b"x"])),
    ("open", lambda path: storage.read(path / "file")),
    ("read", lambda path: storage.read(path / "file")),
    ("mkdir", lambda path: storage.make_folder(path / "new")),
    ("fsync", lambda path: storage.make_folder(path / "new")),
    ("listdir", storage.names),
    ("rename", lambda path: storage.rename(path / "file", path / "new")),
    ("fsync", lambda path: storage.rename(path / "file", path / "new")),
    ("unlink", lambda path: storage.remove(path / "file")),
    ("rmdir", lambda path: storage.remove(path / "empty")),
    ("listdir", lambda path: storage.remove(path / "empty")),
    ("open", lambda path: held.Appender(path / "new", 0)),
    ("write", lambda path: _append(path / "new")),
    ("fsync", lambda path: _append(path / "new")),
    ("open", lambda path: held.Lock(path / "new")),
]


@pytest.mark.parametrize(("method", "operation"), OPERATIONS)
def test_every_failure_of_the_disk_is_a_storage_error_that_names_the_path(
    folder: Path,
    use: Callable[[storage.Disk], None],
    method: str,
    operation: Callable[[Path], object],
) -> None:
    (folder / "file").write_bytes(b"x")
    (folder / "empty").mkdir()
    disk = FailingDisk(method, 1, errno.EIO)
    use(disk)
    with pytest.raises(StorageError, match="Input/output error") as refused:
        operation(folder)
    assert disk.failed
    assert str(folder) in str(refused.value)
    assert isinstance(refused.value.__cause__, OSError)


def test_an_appender_that_cannot_cut_its_file_leaves_it_closed(
    folder: Path, use: Callable[[storage.Disk], None]
) -> None:
    use(FailingDisk("truncate", 1, errno.EIO))
    with pytest.raises(StorageError, match="could not open"):
        held.Appender(folder / "a", 0)
    open_here = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert str(folder / "a") not in open_here


def test_a_full_disk_comes_with_advice(folder: Path, use: Callable[[storage.Disk], None]) -> None:
    use(FailingDisk("write", 1, errno.ENOSPC))
    with pytest.raises(StorageError, match="Free some space"):
        storage.create(folder / "a", [b"x"])


# ── read ─────────────────────────────────────────────────────────────────────────────────────────


def test_read_gives_the_whole_file(folder: Path) -> None:
    for size in (0, 1, (1 << 24) + 1):
        (folder / "a").write_bytes(b"x" * size)
        assert len(storage.read(folder / "a")) == size


def test_read_refuses_a_file_that_is_larger_than_expected(folder: Path) -> None:
    (folder / "a").write_bytes(b"x" * 10)
    assert storage.read(folder / "a", most=10) == b"x" * 10
    with pytest.raises(StorageError, match="it has 10 bytes, at most 9 were expected"):
        storage.read(folder / "a", most=9)


def test_read_refuses_what_is_no_regular_file(folder: Path) -> None:
    (folder / "file").write_bytes(b"secret")
    os.symlink(folder / "file", folder / "link")
    os.symlink(folder / "none", folder / "dangling")
    os.mkfifo(folder / "pipe")  # to open it for reading would wait for a writer
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # a socket's path must be short
        server.bind("socket")
        paths = [folder / name for name in ("link", "dangling", "pipe", "socket", ".", "none")]
        for path in [*paths, Path("/dev/zero"), Path("/dev/null")]:
            with pytest.raises(StorageError, match=f"could not read {path}: "):
                storage.read(path)


# ── Appender ─────────────────────────────────────────────────────────────────────────────────────


def test_an_appender_cuts_the_file_and_appends(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\ntorn")
    appender = held.Appender(path, 8)
    assert path.read_bytes() == b"one\ntwo\n"
    appender.write(b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n", "a reader sees it at once"
    assert appender.size == 14
    appender.sync()
    appender.close()


def test_an_appender_makes_its_file(folder: Path) -> None:
    appender = held.Appender(folder / "a", 0)
    appender.write(b"x")
    appender.close()
    assert (folder / "a").read_bytes() == b"x"


def test_a_line_is_one_write(folder: Path, use: Callable[[storage.Disk], None]) -> None:
    disk = FailingDisk()
    use(disk)
    appender = held.Appender(folder / "a", 0)
    appender.write(b"x" * 10_000)
    appender.sync()
    appender.close()
    assert disk.calls == ["open", "truncate", "write", "fsync", "close"]


def test_an_appender_does_not_follow_a_link(folder: Path) -> None:
    (folder / "file").write_bytes(b"kept")
    os.symlink(folder / "file", folder / "link")
    with pytest.raises(StorageError):
        held.Appender(folder / "link", 0)
    assert (folder / "file").read_bytes() == b"kept"


# ── Lock ─────────────────────────────────────────────────────────────────────────────────────────

HOLD = """
import os, sys, time
from pathlib import Path
from launcher import held, storage
lock = held.Lock(Path(sys.argv[1]))
sys.stdout.write("mine\\n" if lock.acquire() else "taken\\n")
sys.stdout.flush()
if "fork" in sys.argv and os.fork() == 0:
    sys.stdout.write(f"{os.getpid()}\\n")
    sys.stdout.flush()
time.sleep(1000)
"""


def holder(path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A process that takes the lock, says so, and then sleeps."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_excludes_another_process_and_is_free_when_that_was_killed(folder: Path) -> None:
    lock = held.Lock(folder / ".lock")
    with holder(folder / ".lock") as other:
        try:
            assert first_line(other) == "mine"
            assert not lock.acquire()
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert lock.acquire()
        finally:
            other.kill()
            lock.release()


def test_a_lock_that_is_ours_is_seen_by_another_process(folder: Path) -> None:
    lock = held.Lock(folder / ".lock")
    assert lock.acquire()
    with holder(folder / ".lock") as other:
        try:
            assert first_line(other) == "taken"
        finally:
            other.kill()
    lock.release()


def test_a_child_does_not_keep_the_lock_of_its_killed_parent(folder: Path) -> None:
    """A forked loader worker that lives a little longer must not block the next attempt."""
    lock = held.Lock(folder / ".lock")
    with holder(folder / ".lock", "fork") as parent:
        child = 0
        try:
            assert first_line(parent) == "mine"
            child = int(first_line(parent))
            parent.kill()
            parent.wait()
            os.kill(child, 0)  # it lives
            assert lock.acquire()
        finally:
            parent.kill()
            if child:
                os.kill(child, signal.SIGKILL)
            lock.release()


def test_a_lock_that_is_waited_for_comes_when_it_is_free(folder: Path) -> None:
    lock = held.Lock(folder / ".lock")
    with holder(folder / ".lock") as other:
        try:
            assert first_line(other) == "mine"
            killer = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {other.pid}"])
            began = time.monotonic()
            assert lock.acquire(wait=True)
            assert time.monotonic() - began > 0.1
            killer.wait()
        finally:
            other.kill()
            lock.release()


def test_a_released_lock_is_free(folder: Path) -> None:
    lock = held.Lock(folder / ".lock")
    assert lock.acquire()
    lock.release()
    with holder(folder / ".lock") as other:
        try:
            assert first_line(other) == "mine"
        finally:
            other.kill()


def test_a_file_system_without_locks_is_a_storage_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    lock = held.Lock(folder / ".lock")
    monkeypatch.setattr("fcntl.lockf", refuse)
    try:
        with pytest.raises(StorageError, match="No locks available"):
            lock.acquire()
    finally:
        lock.release()


# ── one place ────────────────────────────────────────────────────────────────────────────────────


def test_every_call_of_the_disk_can_be_made_to_fail() -> None:
    """A method that these files call and Disk does not have would escape the tests above."""
    source = Path(storage.__file__).read_text() + Path(held.__file__).read_text()
    used = {word.split("(")[0] for word in source.split("disk.")[1:]}
    assert {word for word in used if word.isidentifier()} == set(METHODS)


# ── the hash of what is written ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("disk", [storage.Disk(), ShortDisk()], ids=["whole", "short"])
@pytest.mark.parametrize(
    "parts",
    [[], [b""], [b"abc"], [b"ab", b"", b"cdefgh"], [memoryview(b"abcdefg")[::1], b"h"]],
    ids=["nothing", "an empty part", "one part", "three parts", "a view"],
)
def test_a_file_is_hashed_while_it_is_written(
    folder: Path, use: Callable[[storage.Disk], None], disk: storage.Disk, parts: list[Any]
) -> None:
    use(disk)
    size, digest = storage.create(folder / "f", iter(parts))
    content = (folder / "f").read_bytes()
    assert content == b"".join(parts)
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_hash_is_of_what_was_given_and_not_of_what_the_disk_made_of_it(
    folder: Path, use: Callable[[storage.Disk], None]
) -> None:
    class Lying(storage.Disk):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, memoryview(bytes(len(data))))

    use(Lying())
    _, digest = storage.create(folder / "f", [b"abc"])
    assert digest == hashlib.sha256(b"abc").hexdigest()
    assert (folder / "f").read_bytes() == bytes(3)
