"""Files from the network: checked, once, and a refusal that says what to do without one."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.errors import DataError
from launcher.sources.cifar10 import cifar10
from launcher.sources.download import Remote, fetch

ROOT = Path(__file__).resolve().parent.parent
CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files` by path, cut to half under /short, slowly under /slow; counts requests."""

    daemon_threads = True
    # A worker blocked in a handler must not keep the test waiting.
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": CONTENT, "/short": CONTENT, "/slow": CONTENT}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests.append(self.path)
        if self.path not in server.files:
            self.send_error(404)
            return
        content = server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/slow":
            time.sleep(1)
        self.wfile.write(content[: len(content) // 2] if self.path == "/short" else content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks lie in the folder for temporary files, of which each test gets one."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where no one listens, and where no one else can while the test runs."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/file.gz"


def left_in(folder: Path) -> set[str]:
    """Names of all files in a folder; none where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_file_is_downloaded_into_a_new_folder(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data" / "MNIST" / "file.gz"
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target) == target
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"file.gz"}
    assert server.requests == ["/file"]


def test_a_file_that_is_there_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    target.write_bytes(b"mine")
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target).read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("path", ["/file", "/short"])
def test_a_file_with_another_checksum_is_refused_and_nothing_is_left(
    server: Server, tmp_path: Path, path: str
) -> None:
    """`/short` ends in the middle, as a broken connection does."""
    wanted = hashlib.md5(b"something else").hexdigest()
    got = CONTENT if path == "/file" else CONTENT[: len(CONTENT) // 2]
    with pytest.raises(DataError) as refusal:
        fetch(Remote("mnist", (server.url(path),), wanted), tmp_path / "file.gz")
    assert hashlib.md5(got).hexdigest() in str(refusal.value)
    assert wanted in str(refusal.value)
    assert server.requests == [path] * 3
    assert not left_in(tmp_path)


def test_without_a_network_the_refusal_says_what_is_missing_where_and_what_to_do(
    nobody: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "MNIST" / "raw"
    with pytest.raises(DataError) as refusal:
        fetch(Remote("mnist", (nobody,), MD5), folder / "file.gz")
    message = str(refusal.value)
    for part in ("dataset=mnist", "no file.gz", str(folder), nobody, "dataset=digits", "3 tries"):
        assert part in message
    assert "refused" in message
    assert message.count(nobody) == 1, "the same failure three times is one thing to read"
    assert not (tmp_path / "data").exists()


def test_a_missing_file_is_refused_with_the_answer_of_the_server(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="Not Found"):
        fetch(Remote("mnist", (server.url("/gone"),), MD5), tmp_path / "file.gz")
    assert server.requests == ["/gone"] * 3


def test_the_second_mirror_is_used_when_the_first_fails(
    server: Server, nobody: str, tmp_path: Path
) -> None:
    for number, first in enumerate((nobody, server.url("/gone"), server.url("/short"))):
        target = tmp_path / str(number) / "file.gz"
        fetch(Remote("mnist", (first, server.url("/file")), MD5), target)
        assert target.read_bytes() == CONTENT
        assert left_in(target.parent) == {"file.gz"}
    assert server.requests.count("/file") == 3


def test_after_a_failure_the_next_run_can_download(server: Server, tmp_path: Path) -> None:
    """The lock is given back."""
    target = tmp_path / "file.gz"
    with pytest.raises(DataError):
        fetch(Remote("mnist", (server.url("/gone"),), MD5), target)
    assert fetch(Remote("mnist", (server.url("/file"),), MD5), target).read_bytes() == CONTENT


READY_GO = """
import sys
from importlib import import_module
from pathlib import Path
from launcher.sources.download import Remote, fetch
{preparation}
print("ready", flush=True)
sys.stdin.readline()
{action}
"""


def at_once(preparation: str, action: str, *arguments: object) -> list[tuple[int, str]]:
    """Run a script in two processes that start together; their exit codes and errors."""
    script = READY_GO.format(preparation=preparation, action=action)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments), str(number)],
            env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=60) for process in processes]
        return [(p.returncode, errors) for p, (_, errors) in zip(processes, ends, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


FETCH = 'fetch(Remote("mnist", (sys.argv[1],), sys.argv[2]), Path(sys.argv[3]))'
NO_LOCK = "from launcher import held; held.Lock.acquire = lambda self, wait: True"


@pytest.mark.parametrize(
    ("preparation", "downloads"), [("", 1), (NO_LOCK, 2)], ids=["lock", "no lock"]
)
def test_two_processes_at_once_download_once(
    server: Server, tmp_path: Path, preparation: str, downloads: int
) -> None:
    """Without the lock, as a negative control, both do."""
    target = tmp_path / "data" / "file.gz"
    ends = at_once(preparation, FETCH, server.url("/slow"), MD5, target)
    assert ends == [(0, "")] * 2
    assert server.requests == ["/slow"] * downloads
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"file.gz"}


# ── the archive of CIFAR-10 ───────────────────────────────────────────────────────────────────

NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def archive() -> bytes:
    """The six files, with a few bytes in each."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in NAMES:
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    return packed.getvalue()


# Unpacking takes a while, as 160 MB do, and the second process comes in the middle of it.
SLOWLY = """
import tarfile, time
module = import_module("launcher.sources.cifar10")
extractall = tarfile.TarFile.extractall
def slowly(self, path, **options):
    for member in self:
        extractall(self, path, [member], **options)
        time.sleep(0.1)
tarfile.TarFile.extractall = slowly
module._ARCHIVE = Remote("cifar10", (sys.argv[1],), sys.argv[2])
"""
INSTALL = """
time.sleep(0.25 * int(sys.argv[4]))
module._install(Path(sys.argv[3]))
names = {path.name for path in (Path(sys.argv[3]) / module.FOLDER).iterdir()}
assert names == set(module.MD5), names
"""


def test_two_processes_at_once_unpack_one_archive(server: Server, tmp_path: Path) -> None:
    """As `torchrun --nproc_per_node 2` does on its first run."""
    server.files["/archive"] = packed = archive()
    md5 = hashlib.md5(packed).hexdigest()
    ends = at_once(SLOWLY, INSTALL, server.url("/archive"), md5, tmp_path / "data")
    assert ends == [(0, "")] * 2
    assert server.requests == ["/archive"]
    assert {"cifar-10-batches-py", "cifar-10-python.tar.gz"} == left_in(tmp_path / "data")


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", archive()[:100], b""],
    ids=["a web page", "truncated", "empty"],
)
def test_a_damaged_archive_that_lies_there_is_refused_with_its_path(
    content: bytes, tmp_path: Path
) -> None:
    """Nothing was downloaded, so nothing was checked: someone put it there, or a disk lost it."""
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        cifar10("test", tmp_path)
    assert str(path) in str(refusal.value)
    assert left_in(tmp_path) == {path.name}


def test_an_archive_of_something_else_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(DataError) as refusal:
        cifar10("test", tmp_path)
    assert str(path) in str(refusal.value)


def test_an_archive_with_other_content_is_refused_before_it_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive())
    with pytest.raises(DataError, match="md5"):
        cifar10("test", tmp_path)
